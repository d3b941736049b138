"""Packs: the dataset again, byte by byte; nothing damaged is read in silence."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from aligned_toys import Scenes
from attrs import evolve, frozen
from PIL import Image
from toy_datasets import experiment

from mtlcore import Classification, Dataset, MtlError
from mtlcore.config.experiment import DataEntry, Experiment
from mtlcore.data.csv_table import Csv
from mtlcore.data.dataset import open_data
from mtlcore.data.folder import ImageFolder
from mtlcore.data.image_mask import ImageMask
from mtlcore.data.packed import Packed
from mtlcore.data.packs.cache import JoinedImageCache, PackCache
from mtlcore.data.packs.plan import PackOptions
from mtlcore.data.packs.writer import Outcome, pack
from mtlcore.data.run_data import RunData

SIZE = 8
SMALL = PackOptions(quality=None, shard_mb=0.0005, jobs=1)  # two samples in a shard
RAW = PackOptions(quality=None, shard_mb=0.0025)  # 13 samples of 8 x 8 pixels in a shard


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """60 images of noise, 12 x 10 pixels, in two classes and two splits; one of them is broken."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(60):
        file = folder / ("test" if i % 5 == 4 else "train") / ("cat", "dog")[i % 2] / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 10, 3), np.uint8)).save(file)
    (folder / "train" / "cat" / "20.png").write_bytes(b"no image")
    return folder


def of(dataset: Dataset, **keys: object) -> Experiment:
    tasks = {"label": Classification(reads="label")}
    return experiment(
        {"own": DataEntry(dataset, **keys)}, tasks, size=SIZE, cache_size=(SIZE, SIZE)
    )


def packed(source: Path, out: Path, options: PackOptions = RAW, **keys: object) -> Outcome:
    return pack(of(ImageFolder(source), **keys), "own", out, options)


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory) -> Path:
    """A raw pack of the photos."""
    out = tmp_path_factory.mktemp("whole") / "pack"
    packed(photos, out)
    return out


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    """A pack that a test may damage."""
    return shutil.copytree(whole, tmp_path / "pack")


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def same_data(a, b) -> None:
    """Two RunData have equal images, targets, splits and fingerprints."""
    assert a.fingerprint == b.fingerprint
    assert a.report == b.report
    assert {k: v.tolist() for k, v in a.split.items()} == {
        k: v.tolist() for k, v in b.split.items()
    }
    every = np.concatenate(list(a.split.values()))
    one, two = a.images.take(every), b.images.take(every)
    assert torch.equal(one.images, two.images)
    assert list(a.targets) == list(b.targets)
    assert all(torch.equal(a.targets[name], b.targets[name]) for name in a.targets)


# ------------------------------------------------------------ the same dataset


def test_a_raw_pack_is_the_dataset_in_memory_again(photos, whole):
    one, two = of(ImageFolder(photos)), of(Packed(whole))
    source, from_pack = open_data(one), open_data(two)
    assert source.experiment.input == from_pack.experiment.input
    same_data(source.data, from_pack.data)
    assert isinstance(from_pack.data.images, PackCache)
    assert from_pack.data.images.is_copy


def test_a_start_on_a_pack_decodes_nothing(whole, monkeypatch):
    monkeypatch.setattr("mtlcore.data.packs.reader.Pack.read_into", None)
    assert len(open_data(of(Packed(whole))).data) == 60


def test_a_jpeg_pack_is_close_to_the_images(photos, tmp_path):
    packed(photos, tmp_path / "pack", PackOptions(quality=100))
    one, two = open_data(of(ImageFolder(photos))), open_data(of(Packed(tmp_path / "pack")))
    every = np.concatenate(list(one.data.split.values()))
    a, b = one.data.images.take(every).images, two.data.images.take(every).images
    assert (a.int() - b.int()).abs().max() <= 4
    assert one.data.fingerprint == two.data.fingerprint


def test_a_larger_pack_is_shrunk_as_its_images_would_be(photos, tmp_path):
    packed(photos, tmp_path / "pack", evolve(RAW, size=(10, 10)))
    data = open_data(of(Packed(tmp_path / "pack"))).data
    assert data.images.take(np.arange(3)).images.shape == (3, 3, SIZE, SIZE)


@pytest.mark.parametrize("quality", [None, 95])
def test_maps_and_points_are_packed_without_loss(quality, tmp_path):
    scenes = Scenes(n=12, every=2)
    size = (20, 32)
    run = experiment({"own": DataEntry(scenes)}, {"kind": Classification(reads="kind")}, size=8)
    pack(run, "own", tmp_path / "pack", PackOptions(size, quality, shard_mb=0.01))
    dataset = Packed(tmp_path / "pack")
    index, source = dataset.index(), scenes.index()
    assert index.maps["depth"].dtype == np.float32
    assert index.maps["classes"].dtype == np.uint16
    for i in range(12):
        sample, original = dataset.decode(index, i), scenes.decode(source, i)
        assert set(sample.maps) == set(original.maps)
        for name, pixels in sample.maps.items():
            picked = original.maps[name][1::2, 1::2].astype(index.maps[name].dtype)
            assert np.array_equal(pixels, picked)
        for name, points in sample.points.items():
            np.testing.assert_allclose(points, original.points[name] / 2, rtol=1e-6)


def test_packs_and_folders_are_joined(photos, whole):
    tasks = {"label": Classification(reads="label")}

    def run(second: Dataset) -> Experiment:
        data = {"own": DataEntry(ImageFolder(photos)), "other": DataEntry(second)}
        return experiment(data, tasks, size=SIZE, cache_size=(SIZE, SIZE))

    one, two = open_data(run(ImageFolder(photos))), open_data(run(Packed(whole)))
    assert isinstance(two.data.images, JoinedImageCache)
    same_data(one.data, two.data)


def test_another_process_reads_the_index_of_the_first(whole):
    dataset = Packed(whole)
    index = dataset.index()
    again = pickle.loads(pickle.dumps(index))
    assert np.array_equal(dataset.decode(again, 3).image, dataset.decode(index, 3).image)


def test_keys_that_are_not_utf_8_stay_as_they_are(tmp_path):
    from mtlcore.contracts.texts import Texts
    from mtlcore.data.packs.columns import _text_array, _texts

    keys = Texts.of(["caf\udce9.jpg", "ü.jpg", ""])
    assert _texts(_text_array(keys)).tolist() == keys.tolist()


# ------------------------------------------------------------ writing


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_pack_does_not_depend_on_the_number_of_threads(jobs, photos, whole, tmp_path):
    packed(photos, tmp_path / "pack", evolve(RAW, jobs=jobs))
    assert content(tmp_path / "pack") == content(whole)


def test_the_last_part_completes_the_pack(photos, whole, tmp_path):
    out = tmp_path / "pack"
    first = packed(photos, out, evolve(RAW, part=(2, 2)))
    assert (first.manifest, first.missing) == (None, 3)
    with pytest.raises(MtlError, match=r"pack.json is missing.*same command again"):
        Packed(out).index()
    assert packed(photos, out, evolve(RAW, part=(1, 2))).manifest
    assert content(out) == content(whole)


def test_a_packing_that_stopped_continues(photos, whole, tmp_path, monkeypatch):
    out = tmp_path / "pack"
    with pytest.raises(MtlError, match="max_bad = 0"):
        packed(photos, out, max_bad=0)
    assert [f.name for f in out.glob("*.bin")] == ["shard-00000.bin"]
    packed(photos, out)
    assert content(out) == content(whole)


@frozen
class SlowFolder(ImageFolder):
    """Images that take 20 ms each."""

    name = "image_folder"  # in pack.json

    def decode(self, index, i):
        time.sleep(0.02)
        return super().decode(index, i)


def packing(source: Path, out: Path) -> int:
    """Pack in a process of its own -> its number."""
    child = os.fork()
    if not child:
        try:
            pack(of(SlowFolder(source)), "own", out, SMALL)
        finally:
            os._exit(0)
    return child


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_packing_that_is_killed_ten_times_writes_the_same_pack(photos, tmp_path):
    pack(of(ImageFolder(photos)), "own", tmp_path / "whole", SMALL)
    kills = 0
    for seed in range(10):
        child = packing(photos, tmp_path / "pack")
        time.sleep(0.03 + 0.01 * seed)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        kills += os.WIFSIGNALED(status)
    assert kills == 10
    pack(of(ImageFolder(photos)), "own", tmp_path / "pack", SMALL)
    assert content(tmp_path / "pack") == content(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_two_packers_at_once_write_one_pack(photos, tmp_path):
    pack(of(ImageFolder(photos)), "own", tmp_path / "whole", SMALL)
    children = [packing(photos, tmp_path / "pack") for _ in range(3)]
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    assert content(tmp_path / "pack") == content(tmp_path / "whole")


def test_a_second_packer_finds_the_pack_complete(photos, copy):
    before = {file: file.stat().st_mtime_ns for file in copy.iterdir()}
    assert packed(photos, copy).manifest
    assert {file: file.stat().st_mtime_ns for file in copy.iterdir()} == before


def test_another_pack_is_not_overwritten(photos, copy, tmp_path):
    with pytest.raises(MtlError, match=r"another pack: quality was null, now 90"):
        packed(photos, copy, evolve(RAW, quality=90))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(MtlError, match="mine is not empty: expected a new folder"):
        packed(photos, tmp_path / "mine")


# ------------------------------------------------------------ bad input


def change(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def test_a_changed_byte_is_found_when_it_is_read(copy):
    change(copy / "shard-00001.bin", 192 + 5)
    dataset = Packed(copy)
    index = dataset.index()
    dataset.decode(index, 13)
    with pytest.raises(MtlError, match=r"shard-00001.bin was changed: bytes 192 to 384"):
        dataset.decode(index, 14)


def test_damaged_packs_are_refused_at_the_start(copy, subtests):
    shard, manifest = copy / "shard-00002.bin", copy / "pack.json"
    edited = manifest.read_text().replace('"samples": 60', '"samples": 61')
    damages = {
        "2.bin has 100 bytes; expected 2,496": lambda: shard.write_bytes(bytes(100)),
        "2.bin is missing": shard.unlink,
        "index.parquet is damaged": lambda: change(copy / "index.parquet", 40),
        "index.parquet is missing": (copy / "index.parquet").unlink,
        "pack.json is damaged": lambda: manifest.write_text(edited),
        "pack.json can't be read: it is not JSON": lambda: manifest.write_text("{"),
    }
    for message, damage in damages.items():
        with subtests.test(message):
            damage()
            with pytest.raises(MtlError, match=message.replace(".", r"\.")):
                Packed(copy).index()


def test_a_shard_that_is_cut_short_later_is_named(copy):
    dataset = Packed(copy)
    index = dataset.index()
    images = open_data(of(dataset)).data.images
    images.take(np.arange(13))
    images.take(np.arange(13))  # from a map: reading beyond its end would end the process
    (copy / "shard-00000.bin").write_bytes(bytes(100))
    with pytest.raises(MtlError, match=r"shard-00000.bin has 100 bytes; expected 192"):
        dataset.decode(index, 0)
    with pytest.raises(MtlError, match=r"shard-00000.bin has 100 bytes; expected 2,496"):
        images.take(np.arange(13))


def test_unreadable_images_count_towards_max_bad_of_the_run(whole):
    with pytest.raises(MtlError, match=r"20.png is not a readable image"):
        open_data(of(Packed(whole), max_bad=0))


def test_a_changed_source_is_named(photos, tmp_path):
    source, out = shutil.copytree(photos, tmp_path / "photos"), tmp_path / "pack"
    packed(source, out)
    assert not Packed(out).index().skipped.notes
    shutil.copy(source / "train" / "cat" / "00.png", source / "train" / "dog" / "99.png")
    (note,) = Packed(out).index().skipped.notes.items()
    assert note[1] == 1
    assert f"differ from the source {source}" in note[0]
    assert "train/dog/99.png" in note[0]
    with pytest.raises(MtlError, match="the source had 60 samples, now 61"):
        packed(source, out)
    shutil.rmtree(source)  # the pack needs no source
    assert not Packed(out).index().skipped.notes


def test_a_change_in_a_deep_folder_is_named(tmp_path):
    source, out = tmp_path / "photos", tmp_path / "pack"
    for kind in ("cat", "dog"):
        (source / "train" / kind / "2024" / "05").mkdir(parents=True)
        Image.new("RGB", (6, 4), "red").save(source / "train" / kind / "2024" / "05" / "1.png")
    (source / "train" / "cat" / "2024" / "all").symlink_to(source)
    packed(source, out)
    assert not Packed(out).index().skipped.notes
    Image.new("RGB", (6, 4), "red").save(source / "train" / "cat" / "2024" / "05" / "2.png")
    (note,) = Packed(out).index().skipped.notes
    assert "train/cat/2024/05/2.png" in note


def test_a_pack_of_changed_points_is_named(tmp_path):
    table = tmp_path / "table.csv"
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")

    def open_own(dataset: Dataset) -> RunData:
        return open_data(experiment({"own": DataEntry(dataset)}, {}, size=4)).data

    table.write_text("path,eye,kind\na.png,1 2,cat\n")
    source, out = Csv(table, points={"eye": "eye"}), tmp_path / "pack"
    run = experiment({"own": DataEntry(source)}, {}, size=4)
    pack(run, "own", out, RAW)
    assert pack(run, "own", out, RAW).manifest
    assert open_own(Packed(out)).fingerprint == open_own(source).fingerprint
    table.write_text("path,eye,kind\na.png,1 2.5,cat\n")
    (note,) = Packed(out).index().skipped.notes.items()
    assert "such as its points, or the paths of its maps: pack it again" in note[0]
    with pytest.raises(MtlError, match="the points of the source, or the paths of its maps, chang"):
        pack(run, "own", out, RAW)


def test_a_source_with_other_settings_is_another_pack(tmp_path):
    for folder, color in (("images", "gray"), ("masks", "red")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        Image.new("RGB", (6, 4), color).save(tmp_path / "data" / folder / "a.png")

    def packed_with(colors: dict[str, tuple[int, int, int]], folder: str = "data") -> Outcome:
        source = ImageMask(tmp_path / folder, colors=colors)
        run = experiment({"own": DataEntry(source)}, {}, size=4)
        return pack(run, "own", tmp_path / "pack", RAW)

    colors = {"red": (255, 0, 0), "blue": (0, 0, 255)}
    packed_with(colors)
    (tmp_path / "data").rename(tmp_path / "moved")
    assert packed_with(colors, "moved").manifest
    with pytest.raises(MtlError, match=r"another pack: colors of the source was .*red.*, now .*bl"):
        packed_with(dict(reversed(colors.items())), "moved")
