"""Write a pack: shard by shard, each of them whole or not at all.

    plan       what the pack will hold; a second call must agree with it
    shards     decoded by threads, encoded, written under a temporary name, flushed, renamed
    join       index.parquet and pack.json, once every shard exists

Everything unfinished is in the folder `.packing`. A shard is a function of the plan and of its own
samples. So after `kill -9`, with any number of threads, and with several packers on one folder, the
files are equal byte by byte. Packers that meet share the work: each shard has a lock.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout

from ...config.experiment import Experiment
from ...contracts import Dataset, Index, Skipped
from ...errors import MtlError, nearest
from ...files import flush_folder, write_atomically, write_errors_as_mtl_error
from ...sealed import digest
from ..aligned import decode_sample
from ..cache import Progress, threads
from ..indexed import IndexedDataset, open_dataset
from .columns import Records, shard_from_parquet, shard_to_parquet, to_parquet
from .manifest import (
    INDEX,
    MANIFEST,
    FileSum,
    Manifest,
    Plan,
    differences,
    manifest_of,
    plan_of,
    shard_name,
    to_bytes,
)
from .plan import PackOptions, plan_for
from .records import Coding, crc_of
from .source import seen_now

PACKING, PLAN = ".packing", "plan.json"
CHUNK = 32  # samples that a thread decodes at a time


class Outcome(NamedTuple):
    """How far a pack is: its plan, and the number of shards that do not exist yet.

    manifest: None if the pack is not complete.
    """

    plan: Plan
    missing: int
    manifest: Manifest | None


def pack(
    experiment: Experiment,
    label: str,
    folder: Path,
    options: PackOptions,
    progress: Progress | None = None,
) -> Outcome:
    """Write the samples of [data.<label>] as a pack into a folder, or complete the pack there.

    Raises MtlError for a folder that holds something else or a pack of other settings, for more
    unreadable images than `max_bad`, and if a file can't be written.
    """
    if label not in experiment.data:
        raise MtlError(f"there is no table [data.{label}]; {nearest(label, experiment.data)}")
    indexed = open_dataset(experiment, label)
    seen = seen_now(indexed.entry.component)
    plan, coding = plan_for(experiment, indexed, options)
    with write_errors_as_mtl_error(folder, ". Finished shards stay: repeat the command"):
        return _Packer(folder, indexed, plan, coding, progress).run(options, seen)


class _Packer:
    """Writes the shards of one pack, and joins them."""

    def __init__(
        self,
        folder: Path,
        indexed: IndexedDataset,
        plan: Plan,
        coding: Coding,
        progress: Progress | None,
    ) -> None:
        self.folder, self.work = folder, folder / PACKING
        self.indexed, self.plan = indexed, plan
        self.encode = partial(_encoded, indexed.entry.component, indexed.index, coding)
        self.progress = progress
        self.unreadable: dict[int, str] = {}
        self.done = 0

    def run(self, options: PackOptions, seen: dict[str, list[int]]) -> Outcome:
        """Write the shards of this part, then join all shards if this part was the last one."""
        manifest = self._complete()
        if manifest is None:
            self._prepare()
            first, step = options.part
            self._write_all(range(first - 1, self.plan.shards, step), options.jobs or threads())
            shards = [self._finished(number) for number in range(self.plan.shards)]
            present = [shard for shard in shards if shard is not None]
            # Another packer may have joined the shards, and deleted `.packing`, at any time.
            manifest = self._complete()
            if manifest is None and len(present) < len(shards):
                return Outcome(self.plan, len(shards) - len(present), None)
            if manifest is None:
                manifest = self._join(present, seen)
        shutil.rmtree(self.work, ignore_errors=True)
        return Outcome(self.plan, 0, manifest)

    # -------------------------------------------------------- the plan

    def _complete(self) -> Manifest | None:
        """Return pack.json if the pack is complete. Raises MtlError if it is another pack."""
        file = self.folder / MANIFEST
        if not file.exists():
            return None
        manifest = manifest_of(file.read_bytes(), str(file))
        self._require_same(manifest.plan)
        return manifest

    def _prepare(self) -> None:
        """Create the folder and its plan, or compare the plan that is there."""
        is_new = not self.folder.exists() or not any(self.folder.iterdir())
        if not is_new and not self.work.is_dir():
            raise MtlError(
                f"--out {self.folder} is not empty: expected a new folder, or one in which "
                "`mtl data pack` was interrupted"
            )
        self.work.mkdir(parents=True, exist_ok=True)
        file = self.work / PLAN
        with FileLock(self.work / "plan.lock"):
            if file.exists():
                self._require_same(plan_of(file.read_bytes(), str(file)))
            else:
                write_atomically(file, to_bytes(self.plan))

    def _require_same(self, earlier: Plan) -> None:
        found = differences(earlier, self.plan)
        if found:
            raise MtlError(
                f"--out {self.folder} holds another pack: {'; '.join(found)}. "
                "Choose another folder, or delete this one"
            )

    # -------------------------------------------------------- shards

    def _write_all(self, shards: range, jobs: int) -> None:
        with ThreadPoolExecutor(jobs, "pack") as pool:
            try:
                waiting = [shard for shard in shards if not self._try(shard, pool, timeout=0)]
                for shard in waiting:  # another packer works on them, or was killed since then
                    self._try(shard, pool, timeout=-1)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _try(self, shard: int, pool: ThreadPoolExecutor, timeout: float) -> bool:
        """Write a shard unless it exists. Return False if another packer is at work on it.

        timeout: seconds to wait for that packer, -1 for any number.
        """
        lock = FileLock(self.work / f"{shard_name(shard)}.lock", timeout=timeout)
        try:
            with lock:
                finished = self._finished(shard)
                if finished is not None:
                    self._refuse_too_many(shard, finished.records)
                    self._report(len(self.plan.samples_of(shard)))
                elif self._complete() is None:
                    self._write(shard, pool)
        except Timeout:
            return False
        return True

    def _finished(self, shard: int) -> _Shard | None:
        """Return a shard that exists, else None."""
        try:
            records, sha256 = shard_from_parquet(self._records_file(shard).read_bytes())
            length = (self.folder / shard_name(shard)).stat().st_size
        except (OSError, LookupError, pa.ArrowException):
            return None
        if length != int(records.length.sum()):
            return None
        return _Shard(FileSum(length, sha256), records)

    def _write(self, shard: int, pool: ThreadPoolExecutor) -> None:
        for left in self.work.glob(f"{shard_name(shard)}.*.tmp"):  # of a packer that was killed
            left.unlink()
        temporary = self.work / f"{shard_name(shard)}.{os.getpid()}.tmp"
        try:
            with temporary.open("wb") as out:
                records, sha256 = self._written(shard, pool, out)
                out.flush()
                os.fsync(out.fileno())
            write_atomically(self._records_file(shard), shard_to_parquet(records, sha256))
            temporary.replace(self.folder / shard_name(shard))
            flush_folder(self.folder)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _written(self, shard: int, pool: ThreadPoolExecutor, out: BinaryIO) -> tuple[Records, str]:
        """Write the records of a shard. Return where they are, and the SHA-256 of all of them."""
        sha256 = hashlib.sha256()
        samples = self.plan.samples_of(shard)
        records = Records(np.zeros(len(samples), np.int64), np.zeros(len(samples), np.uint32))
        for position, record in enumerate(self._records(samples, pool)):
            if isinstance(record, MtlError):
                records.unreadable[position] = str(record)
                self._refuse_too_many(shard, records)
                record = b""
            out.write(record)
            sha256.update(record)
            records.length[position] = len(record)
            records.crc32[position] = crc_of(record)
        return records, sha256.hexdigest()

    def _records(self, samples: range, pool: ThreadPoolExecutor) -> Iterator[bytes | MtlError]:
        chunks = [samples[start : start + CHUNK] for start in range(0, len(samples), CHUNK)]
        for records in pool.map(self.encode, chunks):
            yield from records
            self._report(len(records))

    def _refuse_too_many(self, shard: int, records: Records) -> None:
        """Raise MtlError if more samples than `max_bad` can't be read."""
        if not records.unreadable:
            return
        first = shard * self.plan.per_shard
        self.unreadable |= {first + at: text for at, text in records.unreadable.items()}
        skipped = Skipped({reason: list(names) for reason, names in self.plan.skipped.items()})
        for _, message in sorted(self.unreadable.items()):
            skipped.add("unreadable", message)
        self.indexed.refuse_too_many(skipped)

    def _report(self, samples: int) -> None:
        self.done += samples
        if self.progress:
            self.progress("packing images", self.done, self.plan.samples)

    def _records_file(self, shard: int) -> Path:
        return self.work / f"{shard_name(shard)}.parquet"

    # -------------------------------------------------------- join

    def _join(self, shards: list[_Shard], seen: dict[str, list[int]]) -> Manifest:
        """Write index.parquet and pack.json. Packers that do so at once write the same bytes."""
        records = Records.join([shard.records for shard in shards])
        data = to_parquet(self.indexed.index, records)
        index = FileSum(len(data), digest(data))
        manifest = Manifest(self.plan, index, tuple(shard.file for shard in shards), seen)
        with FileLock(self.work / "join.lock"):
            write_atomically(self.folder / INDEX, data)
            flush_folder(self.folder)
            write_atomically(self.folder / MANIFEST, to_bytes(manifest))
            flush_folder(self.folder)
        return manifest


class _Shard(NamedTuple):
    """A finished shard: the checksum of its file, and where its records are."""

    file: FileSum
    records: Records


def _encoded(
    dataset: Dataset, index: Index, coding: Coding, samples: range
) -> list[bytes | MtlError]:
    """Return the record of each of these samples, or why it can't be read."""
    found: list[bytes | MtlError] = []
    for i in samples:
        try:
            found.append(coding.encode(decode_sample(dataset, index, i)))
        except MtlError as error:
            found.append(error)
    return found
