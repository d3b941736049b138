"""The dataset `packed`: the samples of a pack, which `mtl data pack` wrote."""

from __future__ import annotations

import os
from pathlib import Path

from attrs import evolve, field, frozen
from attrs.validators import and_, ge, le

from ..contracts import Dataset, Index, Sample, Skipped
from ..errors import MtlError
from ..files import Location, location
from .packs.reader import Pack, PackIndex
from .packs.remote import RemoteFiles
from .packs.shards import Files, LocalFiles
from .packs.source import note_of_change

GB = 10**9  # bytes


@frozen
class Packed(Dataset):
    """A pack: a dataset that was decoded once, by `mtl data pack`.

    root: the folder of the pack, or its URL: "s3://bucket/pack", "gs://...", "https://...".
    cache_dir: the folder for parts of a remote pack (default: mtlcore/packs in $XDG_CACHE_HOME, or
    in ~/.cache).
    cache_gb: the largest size of this folder, in 10^9 bytes. It serves all packs.
    """

    root: Location = field(converter=location)
    cache_dir: Path | None = None
    cache_gb: float = field(default=50.0, validator=and_(ge(0.001), le(1e6)))

    def index(self) -> Index:
        index = Pack.open(self._files())
        found = note_of_change(index.pack.manifest, index)
        if found is None:
            return index
        note, number = found
        skipped = Skipped(index.skipped.names, {**index.skipped.notes, note: number})
        return evolve(index, skipped=skipped)

    def decode(self, index: Index, i: int) -> Sample:
        if not isinstance(index, PackIndex):
            raise MtlError("packed: `decode` needs the index that `index()` of a pack returned")
        return index.pack.sample(index, i)

    def _files(self) -> Files:
        if isinstance(self.root, Path):
            return LocalFiles(self.root)
        cache = self.cache_dir
        if cache is None:
            # os.path and not pathlib, which raises if there is no home folder.
            default = os.path.expanduser("~/.cache")  # noqa: PTH111
            cache = Path(os.environ.get("XDG_CACHE_HOME") or default) / "mtlcore" / "packs"
        return RemoteFiles(self.root, cache, int(self.cache_gb * GB))
