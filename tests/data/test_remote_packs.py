"""Packs behind a URL: byte ranges, the local cache, repeated requests, and clear errors."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from toy_datasets import InMemory, cycle, experiment, numbers_of

from mtlcore import MtlError
from mtlcore.config.experiment import DataEntry
from mtlcore.config.strict import converter
from mtlcore.data.dataset import open_data
from mtlcore.data.packed import Packed
from mtlcore.data.packs import remote
from mtlcore.data.packs.blocks import BlockCache, CacheWarning
from mtlcore.data.packs.plan import PackOptions
from mtlcore.data.packs.writer import pack

BYTES = 3 * 8 * 8  # of a record


class Server:
    """Counts and spoils the requests for shards to the memory file system.

    requested: (start, stop) of each. answers: what replaces the next ones, an error or bytes.
    """

    def __init__(self) -> None:
        self.system = fsspec.filesystem("memory")
        self.requested: list[tuple[int, int]] = []
        self.answers: list[Exception | bytes] = []
        self.original = type(self.system).cat_file

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        if path.endswith(".bin"):
            self.requested.append((start, end))
            if self.answers:
                answer = self.answers.pop(0)
                if isinstance(answer, Exception):
                    raise answer
                return answer
        return self.original(self.system, path, start=start, end=end)


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    """A raw pack of 40 images of 8 x 8 pixels, 13 in a shard."""
    out = tmp_path_factory.mktemp("pack")
    run = experiment({"own": DataEntry(InMemory(40, cycle("ab", 40)))}, size=8)
    pack(run, "own", out, PackOptions((8, 8), None, 0.0025))
    return out


@pytest.fixture
def server(local, monkeypatch) -> Iterator[Server]:
    found = Server()
    found.system.store.clear()
    for file in local.iterdir():
        found.system.pipe_file(f"/packs/{file.name}", file.read_bytes())
    monkeypatch.setattr(
        type(found.system), "cat_file", lambda self, *args, **keys: found.cat_file(*args, **keys)
    )
    monkeypatch.setattr(remote.RemoteFiles.__init__, "__defaults__", ((0.0, 0.0),))
    yield found
    found.system.store.clear()


@pytest.fixture
def dataset(server, tmp_path) -> Packed:
    return Packed("memory://packs", cache_dir=tmp_path / "cache")


def test_a_run_reads_a_pack_behind_a_url(dataset, server):
    data = open_data(experiment({"a": DataEntry(dataset)}, size=8, cache_size=(8, 8))).data
    assert not server.requested  # a start reads no image
    assert numbers_of(data.images.take(np.array([39, 0, 14])).images) == [39, 0, 14]
    assert sorted(server.requested) == [(0, BYTES), (0, 13 * BYTES), (0, 13 * BYTES)]
    data.images.take(np.arange(40))
    assert len(server.requested) == 4  # each block once


def test_blocks_stay_for_the_next_process(dataset, server):
    index = dataset.index()
    dataset.decode(index, 0)
    again = pickle.loads(pickle.dumps(index))
    assert dataset.decode(again, 1).image[0, 0, 0] == 1
    assert dataset.decode(dataset.index(), 2).image[0, 0, 0] == 2
    assert len(server.requested) == 1


def test_failed_requests_are_repeated(dataset, server):
    server.answers = [OSError("reset by peer"), b"too short"]
    assert dataset.decode(dataset.index(), 5).image[0, 0, 0] == 5
    assert len(server.requested) == 3


def test_a_server_that_is_gone_stops_the_run(dataset, server):
    index = dataset.index()
    server.answers = [OSError("reset by peer")] * 3
    message = r"memory://packs/shard-00000.bin can't be read \(3 attempts\): reset by peer.*resume"
    with pytest.raises(MtlError, match=message):
        dataset.decode(index, 5)


def test_other_bytes_of_the_server_are_found(dataset, server):
    index = dataset.index()
    server.answers = [bytes(13 * BYTES)]
    assert dataset.decode(index, 5).image[0, 0, 0] == 5  # the second answer was right
    server.system.pipe_file("/packs/shard-00000.bin", bytes(13 * BYTES))
    assert dataset.decode(index, 5).image[0, 0, 0] == 5  # from the local cache
    other = Packed("memory://packs", cache_dir=dataset.cache_dir / "other")
    with pytest.raises(MtlError, match=r"memory://packs/shard-00000.bin was changed: bytes 960 to"):
        other.decode(index=other.index(), i=5)


def test_a_damaged_local_block_is_fetched_again(dataset, server):
    index = dataset.index()
    dataset.decode(index, 5)
    (block,) = (f for f in dataset.cache_dir.rglob("*") if f.is_file())
    block.write_bytes(bytes(13 * BYTES))
    assert dataset.decode(index, 5).image[0, 0, 0] == 5
    block.write_bytes(b"")
    assert dataset.decode(index, 6).image[0, 0, 0] == 6


def test_missing_and_short_shards_are_named_at_the_start(dataset, server):
    server.system.pipe_file("/packs/shard-00001.bin", b"short")
    with pytest.raises(MtlError, match=r"memory://packs/shard-00001.bin has 5 bytes; expected"):
        dataset.index()
    server.system.rm_file("/packs/shard-00001.bin")
    with pytest.raises(MtlError, match=r"memory://packs/shard-00001.bin is missing"):
        dataset.index()
    with pytest.raises(MtlError, match=r"there is no pack in memory://nothing"):
        Packed("memory://nothing").index()


def test_unknown_protocols_are_named(subtests):
    for url in ("nonsense://bucket/pack", "abfs://bucket/pack"):
        with subtests.test(url), pytest.raises(MtlError, match=url):
            Packed(url).index()


def test_the_local_cache_is_bounded(tmp_path):
    thesis = tmp_path / "thesis" / "data.bin"  # a folder that other files share
    thesis.parent.mkdir()
    thesis.write_bytes(bytes(2000))
    cache = BlockCache(tmp_path, "0123456789abcdef", 1000)
    for block in range(30):
        cache.write(0, block, bytes(100))
        files = list((tmp_path / "0123456789abcdef").iterdir())
        assert sum(file.stat().st_size for file in files) <= 1000
    assert cache.has(0, 29)
    assert not cache.has(0, 0)
    assert not cache.read_into(0, 0, 0, memoryview(bytearray(10)))
    assert thesis.exists()


def test_a_full_disk_under_the_cache_costs_no_run(dataset, server, monkeypatch):
    index = dataset.index()
    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.warns(CacheWarning, match="No space left on device: the run goes on"):
        assert dataset.decode(index, 5).image[0, 0, 0] == 5
    assert dataset.decode(index, 6).image[0, 0, 0] == 6


def full(self: Path, data: bytes) -> int:
    raise OSError(28, "No space left on device")


def test_roots_are_folders_or_urls():
    made = converter.structure({"root": "s3://b/x//y"}, Packed)
    assert made.root == "s3://b/x//y"
    assert converter.unstructure(made)["root"] == "s3://b/x//y"
    assert converter.structure({"root": "folder"}, Packed).root == Path("folder").absolute()
    assert converter.structure({"root": "c:/folder"}, Packed).root == Path("c:/folder").absolute()
