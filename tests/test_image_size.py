"""Images that are not square: configuration, cache, encoders, pretexts, a whole run."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from attrs import evolve
from mtl_pretexts.jigsaw_permutation import JigsawPermutation
from mtl_pretexts.puzzling import Puzzling
from mtl_pretexts.relative_position import RelativePosition
from PIL import Image
from toys import TASKS, Toy, experiment

from mtlcore import Encoder, Features, MtlError, Sample
from mtlcore.config import load, parse
from mtlcore.config.experiment import Experiment, Input, PretextEntry, TaskEntry
from mtlcore.config.write import dump
from mtlcore.data.cache import cache_size, open_images
from mtlcore.data.fingerprint import fingerprint_of
from mtlcore.encoders import ResnetSmall, Timm
from mtlcore.encoders.vision import Resnet18, VitB16
from mtlcore.evaluation.evaluate import evaluate
from mtlcore.evaluation.preview import strips
from mtlcore.evaluation.sheet import sheet
from mtlcore.image_size import image_size, largest_of_ratio, same_ratio, written
from mtlcore.model.inference import SharedEncoder
from mtlcore.registry.catalog import catalog
from mtlcore.testing.pretext.harness import pretext_sheet
from mtlcore.training.trainer import train

DOTS = Path(__file__).resolve().parent / "dots.py"
CONFIG = f"""
plugins = ["{DOTS}"]

[encoder]
width = 4

[task.quarter]
name = "classification"

[data.dots]
side = 40

[input]
size = [24, 32]
batch_size = 16
validation = 0.2

[schedule]
warmup = 0

[train]
steps = 2
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "dots.toml"
    file.write_text(CONFIG)
    return file


def read(table: str) -> Experiment:
    return parse(tomllib.loads(f"[task.kind]\nname = 'classification'\n{table}"))


# ------------------------------------------------------------------------------- configuration


def test_a_size_is_one_number_or_height_and_width():
    assert image_size(64) == (64, 64)
    assert image_size([48, 64]) == (48, 64)
    assert written((64, 64)) == 64
    assert written((48, 64)) == [48, 64]
    assert Input(size=64) == Input(size=(64, 64)) == Input(size=[64, 64])
    assert Input(cache_size=96).cache_size == (96, 96)
    assert Input().cache_size is None


@pytest.mark.parametrize("key", ["size", "cache_size"])
def test_another_value_is_refused_with_what_to_type(key):
    expected = "expected a whole number from 1 to 16384, or a list [height, width] of two"
    for value in ("0", "-3", "3.5", "true", "'a'", "[]", "[1, 2, 3]", "[48, 0]", "1000000000"):
        with pytest.raises(MtlError) as in_file:
            read(f"[input]\n{key} = {value}")
        with pytest.raises(MtlError) as in_python:
            Input(**{key: tomllib.loads(f"v = {value}")["v"]})
        for refused in (in_file, in_python):
            assert str(refused.value).startswith(f"input.{key} = ")
            assert expected in str(refused.value)


def test_a_square_is_written_as_one_number_and_a_rectangle_as_a_list():
    square = read("[input]\nsize = 48\ncache_size = 72")
    wide = read("[input]\nsize = [48, 64]\ncache_size = [72, 96]")
    as_tables = [tomllib.loads(dump(exp))["input"] for exp in (square, wide)]
    assert [(t["size"], t["cache_size"]) for t in as_tables] == [(48, 72), ([48, 64], [72, 96])]
    for exp in (square, wide):
        assert parse(tomllib.loads(dump(exp))) == exp


def test_a_size_can_be_set_on_the_command_line(config):
    assert load(config).input.size == (24, 32)
    assert load(config, ["input.size=[48,64]"]).input.size == (48, 64)
    assert load(config, ["input.size=40"]).input.size == (40, 40)


def test_a_cache_of_another_aspect_ratio_is_refused_with_one_that_fits():
    with pytest.raises(MtlError, match=r"cache_size = 96: .* set input\.cache_size = \[72, 96\]"):
        read("[input]\nsize = [48, 64]\ncache_size = 96")
    with pytest.raises(MtlError, match=r"cache_size = \[72, 96\]: .* set input\.cache_size = 96"):
        read("[input]\nsize = 64\ncache_size = [72, 96]")
    # A side is rounded to whole pixels: 31.5 is 32.
    assert read("[input]\nsize = [21, 64]\ncache_size = [32, 96]").input.cache_size == (32, 96)


# --------------------------------------------------------------------------------- image cache


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_cache_holds_the_largest_central_crop_of_its_ratio_shrunk_once(subtests):
    for memory in [None, 0]:
        for image, size, box in [
            ((100, 60), (48, 64), (0, 27, 60, 72)),  # left, top, right, bottom: 60 x 45 of 60 x 100
            ((60, 100), (48, 64), (10, 0, 90, 60)),
            ((60, 100), (64, 48), (27, 0, 72, 60)),
            ((96, 128), (48, 64), (0, 0, 128, 96)),
            ((60, 100), (48, 48), (20, 0, 80, 60)),
        ]:
            with subtests.test(image=image, size=size, box=box, memory=memory):
                raw = photo(*image)
                images, unreadable = open_images(
                    lambda index, raw=raw: Sample(raw), 1, size, memory=memory
                )
                left, top, right, bottom = box
                cropped = Image.fromarray(np.ascontiguousarray(raw[top:bottom, left:right]))
                wanted = cropped.resize(
                    (size[1], size[0]), Image.Resampling.BICUBIC, reducing_gap=3.0
                )
                found = images.take(np.array([0])).images
                assert not unreadable
                assert images.size == size
                assert np.array_equal(found[0].permute(1, 2, 0).numpy(), np.asarray(wanted))


def test_an_image_of_the_caches_size_is_stored_as_it_is():
    raw = photo(48, 64)
    images, _ = open_images(lambda index: Sample(raw), 1, (48, 64))
    assert np.array_equal(images.take(np.array([0])).images[0].permute(1, 2, 0).numpy(), raw)


@pytest.mark.parametrize(
    ("image", "configured", "expected"),
    [
        ((500, 500), None, (72, 96)),  # 1.5 x [48, 64]
        ((500, 500), (60, 80), (60, 80)),
        ((60, 500), None, (60, 80)),  # never enlarged: both sides by one factor
        ((500, 64), None, (48, 64)),
        ((40, 40), (72, 96), (30, 40)),
        ((50, 50), None, (38, 50)),
    ],
)
def test_the_size_of_the_cache_keeps_the_ratio_of_the_input(image, configured, expected):
    def decode(index: int) -> Sample:
        return Sample(np.zeros((*image, 3), np.uint8))

    assert cache_size(decode, 20, (48, 64), configured) == expected
    # The resolved size is saved with the run: opening the same data again changes nothing.
    assert cache_size(decode, 20, (48, 64), expected) == expected


@pytest.mark.parametrize("ratio", [(48, 64), (21, 64), (64, 7), (33, 50)])
def test_a_resolved_cache_size_is_a_valid_configuration(ratio):
    for height in range(9, 120, 7):
        for width in range(9, 120, 11):
            shape = (height, width, 3)
            size = cache_size(lambda index, s=shape: Sample(np.zeros(s, np.uint8)), 1, ratio, None)
            assert same_ratio(size, ratio)


def test_the_largest_size_of_a_ratio_lies_within_the_image():
    for height in range(1, 40):
        for width in range(1, 40):
            found = largest_of_ratio((height, width), (3, 4))
            assert 1 <= found[0] <= height
            assert 1 <= found[1] <= width
            assert found[0] == height or found[1] == width
            assert largest_of_ratio((height, width), (7, 7)) == (min(height, width),) * 2


def test_the_fingerprint_of_a_square_cache_is_that_of_its_side_alone():
    # blake2b of "72" with 16 bytes, as before sizes had two sides.
    assert fingerprint_of([], (72, 72)) == "8daa057ac26c1f9413bac4515f6cf6f9"
    assert fingerprint_of([], (72, 96)) != fingerprint_of([], (96, 72))


# -------------------------------------------------------------------------- encoders, pretexts


@pytest.mark.parametrize("encoder", [ResnetSmall(width=4), Resnet18(), Toy()])
def test_an_encoder_measures_its_maps_on_images_of_the_runs_height_and_width(encoder):
    info = SharedEncoder(encoder, (48, 64)).info
    assert info.image_size == (48, 64)
    heights, widths = zip(*info.map_sizes)
    assert all(h < w for h, w in zip(heights[:-1], widths[:-1]))


@pytest.mark.parametrize("model", ["resnet10t", "vit_tiny_patch16_224"])
def test_networks_of_timm_read_rectangles(model):
    pytest.importorskip("timm", reason="timm is an extra")
    assert SharedEncoder(Timm(model), (32, 48)).info.image_size == (32, 48)


def test_a_network_for_squares_refuses_other_images_and_says_what_to_set():
    with pytest.raises(MtlError, match=r"size = \[48, 64\]: vit_b_16 reads square .* such as 64"):
        SharedEncoder(VitB16(), (48, 64))
    pytest.importorskip("timm", reason="timm is an extra")
    with pytest.raises(MtlError, match=r"\[32, 50\]: .*the width is 50; .*multiple of 16"):
        SharedEncoder(Timm("vit_tiny_patch16_224"), (32, 50))


def test_an_encoder_that_fails_on_a_rectangle_is_named_with_its_error():
    class SquareNet(torch.nn.Module):
        def forward(self, x):
            return Features((x,), (x @ x).mean((2, 3)), x)  # a matrix product of squares

    class SquaresOnly(Encoder):
        def build(self, size):
            return SquareNet()

    SharedEncoder(SquaresOnly(), (8, 8))
    with pytest.raises(MtlError, match=r"\[6, 8\]: the encoder SquareNet can't read .*size = 8"):
        SharedEncoder(SquaresOnly(), (6, 8))


def test_images_too_small_for_an_encoder_are_told_and_a_bug_of_it_is_not_hidden():
    class Net(torch.nn.Module):
        def __init__(self, smallest):
            super().__init__()
            self.smallest = smallest

        def forward(self, x):
            if x.shape[-1] < self.smallest:
                raise RuntimeError("kernel size can't be greater")
            return Features((x,), x.mean((2, 3)), x)

    class Deep(Encoder):
        def __init__(self, smallest):
            self.smallest = smallest

        def build(self, size):
            return Net(self.smallest)

    with pytest.raises(MtlError, match=r"size = 16: the encoder Net .*set a larger input.size"):
        SharedEncoder(Deep(32), (16, 16))
    with pytest.raises(RuntimeError, match="kernel size"):
        SharedEncoder(Deep(10**6), (16, 16))


SQUARE = r"needs square images, got a height of 24 and a width of 32: .*size = 32"
REFUSALS = {"rotation": SQUARE, "four_rotations": SQUARE}


@pytest.mark.parametrize("name", sorted(catalog().of_kind("pretext")))
def test_every_pretext_trains_on_rectangles_or_refuses_them(name, config, tmp_path):
    run = load(config, [f"pretext.{name}.weight=0.5"])
    if name in REFUSALS:
        with pytest.raises(MtlError, match=REFUSALS[name]):
            train(run, tmp_path / "run")
        return
    result = train(run, tmp_path / "run")
    assert result.steps == 2
    assert np.isfinite(result.measured.metrics["quarter/accuracy"])
    page = pretext_sheet(run.pretexts[name].component, size=(24, 32), columns=2)
    assert page.dtype == np.uint8


@pytest.mark.parametrize(
    "task",
    [Puzzling(grid=3), Puzzling(grid=2, scales=((0.5, 1.2),)), JigsawPermutation(enlarge=True)],
)
def test_views_of_rectangles_keep_their_ratio(task):
    raw = torch.randint(0, 256, (2, 3, 60, 80), dtype=torch.uint8)
    exp = evolve(experiment((), size=(48, 64)), pretexts={"views": PretextEntry(task)})
    for strip in strips(exp, raw)[2:]:
        height, width = strip.images.shape[-2:]
        if "view 1 of" in strip.label:
            assert abs(height - width * 48 / 64) <= 1


def test_turned_tiles_need_squares():
    raw = torch.randint(0, 256, (2, 3, 60, 80), dtype=torch.uint8)
    exp = evolve(experiment((), size=(48, 64)), pretexts={"p": PretextEntry(Puzzling(rotate=True))})
    with pytest.raises(MtlError, match=r"rotate = true .*needs square images.* rotate = false"):
        strips(exp, raw)


def test_patches_lie_within_a_rectangle():
    """A patch beyond the image would be an index error; all nine places are drawn here."""
    raw = torch.randint(0, 256, (64, 3, 50, 90), dtype=torch.uint8)
    task = RelativePosition(jitter=0.3)
    exp = evolve(experiment((), size=(40, 72)), pretexts={"patches": PretextEntry(task)})
    assert strips(exp, raw)[-1].images.shape[-2:] == (120, 216)


def test_a_sheet_shows_rectangles_without_distortion():
    exp = evolve(experiment((), size=(24, 32)), tasks={"fer": TaskEntry(TASKS["fer"])})
    raw = torch.randint(0, 256, (2, 3, 24, 32), dtype=torch.uint8)
    found = strips(exp, raw)
    page = sheet(found[:1], (24, 32))
    assert found[0].label == "raw\n[24, 32] px"
    shown = page[4 : 4 + 96, -(128 + 8) :][:, :128]  # four times as large
    blocks = raw[1].repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert np.array_equal(shown, blocks.permute(1, 2, 0).numpy())


# --------------------------------------------------------------------------------- a whole run


def test_a_run_on_rectangles_trains_is_saved_and_evaluated(config, tmp_path):
    run = load(config, ["pretext.puzzling.grid=2", "train.steps=3"])
    result = train(run, tmp_path / "run")
    assert result.steps == 3
    saved = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert saved["input"]["size"] == [24, 32]
    assert saved["input"]["cache_size"] == [30, 40]  # of images of 40 x 40 pixels
    assert load(tmp_path / "run" / "config.toml").input == evolve(run.input, cache_size=(30, 40))
    found = evaluate(tmp_path / "run", device="cpu")
    assert 0 <= found.metrics["quarter/accuracy"] <= 1
