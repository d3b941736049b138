"""Measure the memory that a million samples take: indexed, split, with targets, without images.

    python -m benchmarks.index_memory [--coding numpy|categories|arrow] [--samples N]

Each sample has a key of 40 characters, three labels of 10 classes each, and an attribute. The
figure is the peak resident memory of the process, minus its resident memory right after the
imports, in MB (10^6 bytes). It includes what the dataset itself needs to make its columns:

- numpy: arrays of strings of a fixed width;
- categories: `Categories`, and keys as `mtlcore.contracts.texts.Texts`;
- arrow: a memory-mapped Arrow file, which another process has written.

Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
from attrs import frozen

from mtlcore import Categories, Classification, Dataset, Index, Sample
from mtlcore.config.experiment import DataEntry, Experiment, Input, TaskEntry, Train
from mtlcore.data.dataset import open_data

CODINGS = ("numpy", "categories", "arrow")
# Name of a column -> how many different values it has.
VALUES = {"color": 10, "shape": 10, "material": 10, "person": 997}
LABELS = ("color", "shape", "material")
CHUNK = 1 << 12  # keys that are made at a time, so that making them needs little memory


@frozen(eq=False)
class Made(Dataset):
    """`samples` black images of 2 x 2 pixels, with columns in one of the `CODINGS`.

    file: the Arrow file, if that is the coding.
    """

    samples: int
    coding: str
    file: Path

    def index(self) -> Index:
        columns = self._from_file() if self.coding == "arrow" else self._from_memory()
        keys = columns.pop("key")
        people = columns.pop("person")
        return Index(keys, columns, attributes={"person": people})

    def decode(self, index: Index, i: int) -> Sample:
        return Sample(np.zeros((2, 2, 3), dtype=np.uint8))

    def _from_memory(self) -> dict[str, Any]:
        kind: Any = str if self.coding == "numpy" else np.dtypes.StringDType()
        columns: dict[str, Any] = {
            "key": np.concatenate([np.array(texts, dtype=kind) for texts in keys(self.samples)])
        }
        for column in VALUES:
            codes, names = coded(column, self.samples)
            categories = Categories(codes, names)
            columns[column] = np.array(names)[codes] if self.coding == "numpy" else categories
        return columns

    def _from_file(self) -> dict[str, Any]:
        import pyarrow as pa

        with pa.memory_map(str(self.file)) as source:
            table = pa.ipc.open_file(source).read_all()
            return {column: table.column(column) for column in table.column_names}


def keys(n: int) -> Any:
    """Yield the keys of n samples, CHUNK at a time."""
    for start in range(0, n, CHUNK):
        stop = min(n, start + CHUNK)
        yield [f"a folder/another/{i % 1000:06d}/{i:012d}.jpg" for i in range(start, stop)]


def coded(column: str, n: int) -> tuple[np.ndarray, list[str]]:
    """Return the codes (n,) int32 and the names of a column."""
    different = VALUES[column]
    period = list(VALUES).index(column) + 1
    codes = (np.arange(n, dtype=np.int32) // period) % different
    return codes, [f"{column} {number}" for number in range(different)]


def write(file: Path, n: int) -> None:
    """Write the Arrow file."""
    import pyarrow as pa

    columns: dict[str, Any] = {"key": pa.array([key for texts in keys(n) for key in texts])}
    for column in VALUES:
        codes, names = coded(column, n)
        columns[column] = pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(names))
    table = pa.table(columns)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def experiment(dataset: Made) -> Experiment:
    """An experiment with three classifications. The data layer uses no more of it."""
    absent = cast(Any, None)
    return Experiment(
        encoder=absent,
        tasks={name: TaskEntry(Classification(reads=name)) for name in LABELS},
        pretexts={},
        data={"made": DataEntry(dataset)},
        weighting=absent,
        augment=absent,
        augmentations={},
        input=Input(size=2, batch_size=4),
        train=Train(steps=1),
        seed=0,
    )


def memory_mb(key: str) -> float:
    """A line of /proc/self/status in MB: VmRSS (now) or VmHWM (the peak)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024 / 1e6
    raise LookupError(key)


def measure(dataset: Made) -> dict[str, object]:
    """Open the data of this process's only experiment, and return the figures."""
    before = memory_mb("VmRSS")
    data = open_data(experiment(dataset), lazy=True).data
    return {
        "coding": dataset.coding,
        "samples": len(data),
        "peak_mb": round(memory_mb("VmHWM") - before, 1),
        "held_mb": round(memory_mb("VmRSS") - before, 1),
        "fingerprint": data.fingerprint,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the memory of a large index.")
    parser.add_argument("--coding", choices=CODINGS, default="categories")
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--write", type=Path, help="write the Arrow file and measure nothing")
    wanted = parser.parse_args()
    if wanted.write:
        write(wanted.write, wanted.samples)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "made.arrow"
        if wanted.coding == "arrow":
            import pyarrow.compute  # noqa: F401 - an import does not count

            # In another process, whose memory does not count.
            command = [sys.executable, "-m", "benchmarks.index_memory", "--write", str(file)]
            subprocess.run([*command, "--samples", str(wanted.samples)], check=True)
        print(json.dumps(measure(Made(wanted.samples, wanted.coding, file))))


if __name__ == "__main__":
    main()
