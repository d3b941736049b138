"""Packs: a dataset decoded once, in a few large files that are read by byte ranges.

`mtl data pack` writes a pack, and the dataset `packed` reads it. A pack is a folder:

    pack.json          what it holds, and the checksums of the other files (`manifest`)
    index.parquet      a row for each sample: key, labels, split, group, length, CRC-32 (`columns`)
    shard-00000.bin    the records of the samples, one after the other (`records`)

Every shard but the last has the same number of samples. So a shard does not depend on any other
one: it can be written by any thread, process or machine, and written again after a crash.
"""
