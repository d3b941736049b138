"""The dataset `packed`: the samples of a pack, which `mtl data pack` wrote."""

from __future__ import annotations

from pathlib import Path

from attrs import field, frozen

from ..contracts import Dataset, Index, Sample
from ..errors import MtlError
from .packs.reader import Pack, PackIndex
from .packs.shards import Files, LocalFiles


@frozen
class Packed(Dataset):
    """A pack: a dataset that was decoded once.

    root: the folder of the pack.
    """

    root: Path = field(converter=Path)

    def index(self) -> Index:
        pack, index = Pack.open(self._files())
        names = ("keys", "annotations", "split", "group", "attributes", "skipped", "maps", "points")
        return PackIndex(**{name: getattr(index, name) for name in names}, pack=pack)

    def decode(self, index: Index, i: int) -> Sample:
        if not isinstance(index, PackIndex):
            raise MtlError("packed: `decode` needs the index that `index()` of a pack returned")
        return index.pack.sample(index, i)

    def _files(self) -> Files:
        return LocalFiles(self.root)
