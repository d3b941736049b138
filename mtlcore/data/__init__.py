"""From files to batches: datasets, image decoding, splits, the image cache, the sampler.

There are no worker processes. Images are decoded once, by threads, and then read from memory.
"""
