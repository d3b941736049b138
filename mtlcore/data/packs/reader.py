"""An opened pack: its index, and its samples by position."""

from __future__ import annotations

import attrs
import numpy as np
from attrs import field, frozen

from ...contracts import Index, Sample
from ...errors import MtlError
from ...sealed import digest
from .columns import Records, from_parquet
from .manifest import AGAIN, INDEX, MANIFEST, Manifest, manifest_of, shard_name
from .records import Coding, crc_of
from .shards import Files


@frozen(eq=False)
class Pack:
    """N samples of a pack.

    start: (N,) int64, where the record of each sample begins in its shard.
    checked: (N,) bool, records whose CRC-32 was compared. Threads may compare one twice.
    """

    files: Files
    manifest: Manifest
    coding: Coding
    records: Records
    start: np.ndarray
    checked: np.ndarray

    @classmethod
    def open(cls, files: Files) -> PackIndex:
        """Open a pack and return its index. No image is decoded.

        Raises MtlError if there is none, if a file is missing, or has another length or checksum.
        """
        manifest = _manifest(files)
        where = files.name(INDEX)
        try:
            data = files.read(INDEX)
        except FileNotFoundError as error:
            raise MtlError(f"{where} is missing: {AGAIN}") from error
        if len(data) != manifest.index.length or digest(data) != manifest.index.sha256:
            raise MtlError(f"{where} is damaged: it does not match its checksum: {AGAIN}")
        plan = manifest.plan
        index, records = from_parquet(data, plan, where)
        if len(index) != plan.samples or len(manifest.shards) != plan.shards:
            raise MtlError(f"{where} has {len(index)} samples; expected {plan.samples}: {AGAIN}")
        files.begin(manifest)
        coding = Coding(plan.size, plan.quality, index.maps, index.points)
        start = starts_of(records.length, plan.per_shard)
        pack = cls(files, manifest, coding, records, start, np.zeros(len(index), bool))
        columns = {name: getattr(index, name) for name in attrs.fields_dict(Index)}
        return PackIndex(**columns, pack=pack)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every image, in pixels."""
        return self.manifest.plan.size

    @property
    def is_plain(self) -> bool:
        """Whether each record is the raw pixels of an image, and nothing else."""
        return self.coding.quality is None and not self.coding.has_labels

    def sample(self, index: Index, i: int) -> Sample:
        """Decode sample i. Raises MtlError if it could not be read when it was packed, or now."""
        if i in self.records.unreadable:
            raise MtlError(self.records.unreadable[i])
        record = memoryview(bytearray(int(self.records.length[i])))
        self.read_into(i, record)
        return self.coding.decode(record, f"{self.files.name(self._file(i))}: {index.keys[i]}")

    def read_into(self, i: int, out: memoryview) -> None:
        """Copy the record of sample i. Raises MtlError if it can't be read or was changed."""
        shard, start = i // self.manifest.plan.per_shard, int(self.start[i])
        self.files.read_into(shard, start, out)
        if self.checked[i] and not self.files.may_change:
            return
        expected = int(self.records.crc32[i])
        if crc_of(out) != expected and self.files.forget(shard, start, len(out)):
            self.files.read_into(shard, start, out)  # the local copy of a remote file was damaged
        if crc_of(out) != expected:
            raise MtlError(
                f"{self.files.name(self._file(i))} was changed: bytes {start:,} to "
                f"{start + len(out):,} do not match their checksum: "
                f"copy the whole pack again, or {AGAIN}"
            )
        self.checked[i] = True

    def copy_into(self, samples: np.ndarray, out: memoryview, length: int) -> None:
        """Copy records of this length, one after the other. samples: (n,) int64.

        Raises MtlError as `read_into` does.
        """
        shards = (samples // self.manifest.plan.per_shard).tolist()
        mapped = self.checked[samples].tolist()
        views: dict[int, memoryview] = {}
        if self.files.may_change:
            mapped = [False] * len(shards)
        else:
            views = {shard: self.files.view(shard) for shard in set(shards)}
        rows = zip(samples.tolist(), shards, self.start[samples].tolist(), mapped)
        for position, (sample, shard, start, is_mapped) in enumerate(rows):
            begin = position * length
            if is_mapped:
                out[begin : begin + length] = views[shard][start : start + length]
            else:
                self.read_into(sample, out[begin : begin + length])

    def prepare(self, samples: np.ndarray) -> None:
        """Get ready to read these samples, (n,) int64. Raises MtlError if a remote fails."""
        if not self.files.may_change:
            return
        shard = samples // self.manifest.plan.per_shard
        ranges = shard.tolist(), self.start[samples].tolist(), self.records.length[samples].tolist()
        self.files.prepare(zip(*ranges))

    def _file(self, i: int) -> str:
        return shard_name(i // self.manifest.plan.per_shard)


@frozen(eq=False)
class PackIndex(Index):
    """The index of a pack, with the pack itself."""

    pack: Pack = field(kw_only=True)

    def label_digest(self) -> str:
        """Return that of the source, so that both have one fingerprint."""
        return self.pack.manifest.plan.source.labels


def starts_of(length: np.ndarray, per_shard: int) -> np.ndarray:
    """Return where each record begins in its shard, (N,) int64, from the lengths in bytes."""
    start = np.zeros(len(length), np.int64)
    for first in range(0, len(length), per_shard):
        of_shard = length[first : first + per_shard]
        np.cumsum(of_shard[:-1], out=start[first + 1 : first + len(of_shard)])
    return start


def _manifest(files: Files) -> Manifest:
    where = files.name(MANIFEST)
    try:
        return manifest_of(files.read(MANIFEST), where)
    except FileNotFoundError as error:
        folder = where.removesuffix(MANIFEST).rstrip("/")
        raise MtlError(
            f"there is no pack in {folder}: pack.json is missing. Is the place right? "
            "`mtl data pack` writes that file last: if it was stopped, call the same command again"
        ) from error
