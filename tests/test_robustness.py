"""The corruptions and the wrong labels of the evidence are what their docstrings say."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import mtlcore
from mtlcore import Categories, Index

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "benchmarks" / "protocols")]

import noisy_labels  # noqa: E402
import robustness  # noqa: E402
from pages.robustness import robustness as table  # noqa: E402
from robustness import CORRUPTIONS, corrupted  # noqa: E402

SIDE = 32


def photos(n: int = 4) -> np.ndarray:
    """(n, SIDE, SIDE, 3) uint8, smooth like photos: what JPEG is made for."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    waves = [np.sin(3 * (k + 1) * x + 2 * y + c) for k in range(n) for c in range(3)]
    return (255 * (0.5 + 0.4 * np.stack(waves))).astype(np.uint8).reshape(n, 3, SIDE, SIDE)


IMAGES = torch.from_numpy(photos())


def test_contrast_scales_the_differences_from_the_mean_of_each_channel():
    pixels = IMAGES.numpy() / 255
    mean = pixels.mean((2, 3), keepdims=True)
    for corruption, factor in zip(CORRUPTIONS["contrast"], (0.75, 0.4, 0.15), strict=True):
        expected = np.rint(255 * (mean + factor * (pixels - mean)))
        assert np.abs(corrupted(IMAGES, corruption).numpy() - expected).max() <= 1


def test_blur_is_that_of_scipy():
    ndimage = pytest.importorskip("scipy.ndimage", reason="scipy is not installed")
    for corruption, sigma in zip(CORRUPTIONS["blur"], (0.4, 0.7, 1.0), strict=True):
        blurred = ndimage.gaussian_filter(
            IMAGES.numpy().astype(float), (0, 0, sigma, sigma), mode="mirror", truncate=4
        )
        assert np.abs(corrupted(IMAGES, corruption).numpy() - blurred).max() < 1.5


def test_noise_has_its_sigma_and_is_the_same_in_each_run():
    gray = torch.full((8, 3, SIDE, SIDE), 128, dtype=torch.uint8)
    for corruption, sigma in zip(CORRUPTIONS["noise"], (0.04, 0.08, 0.10), strict=True):
        found = corrupted(gray, corruption)
        assert (found.float() - 128).std().item() == pytest.approx(255 * sigma, rel=0.03)
        assert torch.equal(found, corrupted(gray, corruption))


def test_jpeg_is_close_to_a_real_codec():
    for corruption, quality in zip(CORRUPTIONS["jpeg"], (80, 58, 40), strict=True):
        found = corrupted(IMAGES, corruption).permute(0, 2, 3, 1).numpy()
        for image, mine in zip(IMAGES.permute(0, 2, 3, 1).numpy(), found):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", quality=quality)
            theirs = np.asarray(Image.open(file)).astype(float)
            assert np.abs(mine - theirs).mean() < 3


def test_a_run_is_measured_on_the_images_of_its_test_split(tmp_path):
    rng = np.random.default_rng(0)
    for split, n in (("train", 8), ("test", 10)):
        for number, kind in enumerate(("dark", "light")):
            folder = tmp_path / "data" / split / kind
            folder.mkdir(parents=True)
            for i in range(n):
                noise = rng.integers(0, 120, (SIDE, SIDE, 3)) + 100 * number
                Image.fromarray(noise.astype(np.uint8)).save(folder / f"{i}.png")
    (tmp_path / "run.toml").write_text(
        f"""
        [encoder]
        name = "resnet_small"
        width = 4
        [task.label]
        name = "classification"
        [data.folders]
        name = "image_folder"
        root = "{(tmp_path / "data").as_posix()}"
        [input]
        size = {SIDE}
        batch_size = 8
        [train]
        steps = 12
        """
    )
    run = mtlcore.train(tmp_path / "run.toml", tmp_path / "run", progress=False)
    found = robustness.measured(run.path)
    assert found["clean"] == pytest.approx(100 * run.evaluate().metrics["label/accuracy"])
    assert found.keys() == {"clean", "ece", "noise", "blur", "contrast", "jpeg"}
    assert {len(found[name]) for name in CORRUPTIONS} == {3}

    # ECE by hand: 15 bins of the confidence.
    predictions = run.predictor(device="cpu")(str(tmp_path / "data" / "test"))
    sure = [max(one.answers["label"]["probabilities"].values()) for one in predictions]
    right = [one.answers["label"]["label"] == Path(one.file).parent.name for one in predictions]
    bins = np.clip(np.ceil(np.array(sure) * 15).astype(int) - 1, 0, 14)
    gaps = [
        abs(np.mean(np.array(right)[bins == b]) - np.mean(np.array(sure)[bins == b]))
        * np.mean(bins == b)
        for b in set(bins.tolist())
    ]
    assert found["ece"] == pytest.approx(100 * sum(gaps), abs=1e-3)


def test_the_table_compares_means_of_strengths_by_seed_within_a_stage():
    def row(arm: str, seed: int, clean: float, noise: list[float]) -> dict[str, object]:
        others = {name: [50.0, 40.0, 30.0] for name in ("blur", "contrast", "jpeg")}
        return {
            "protocol": "p", "stage": "main", "arm": arm, "seed": seed,
            "clean": clean, "noise": noise, "ece": 10.0, **others,
        }  # fmt: skip

    rows = [
        row("hybrid", 1, 64.0, [60.0, 50.0, 40.0]),
        row("hybrid", 2, 66.0, [60.0, 50.0, 40.0]),
        row("sl", 0, 60.0, [50.0, 40.0, 30.0]),
        row("sl", 1, 62.0, [50.0, 40.0, 30.0]),
        row("alone", 1, 10.0, [5.0, 5.0, 5.0]) | {"stage": "label_noise"},
    ]
    rivals = {"hybrid": "sl", "alone": "sl"}
    noise, sl, hybrid = table(rows, lambda _p, _s, arm: rivals.get(arm)).splitlines()[-3:]
    assert sl.startswith("| `p` | main | `sl` | 2 | 61.0 | 40.0 | 40.0 |")
    shown = "65.0 (+2.0, n = 1) | 50.0 (+10.0, n = 1)"
    assert hybrid.startswith(f"| `p` | main | `hybrid` | 2 | {shown}")
    assert noise.startswith("| `p` | label_noise | `alone` | 1 | 10.0 | 5.0 | 40.0 |")


# ------------------------------------------------------------------------------------ wrong labels


@given(
    labels=st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=6, max_size=60),
    noise=st.floats(0, 0.99),
)
def test_a_share_of_the_training_labels_is_another_class_and_no_other_label_changes(labels, noise):
    names = np.array(["a", "b", "c", *labels])
    split = np.array(["train", "train", "test"] * len(names))[: len(names)]
    keys = np.arange(len(names)).astype(str)
    index = Index(keys, {"kind": names}, split=split)
    found = noisy_labels.with_noise(index, "kind", noise)
    after = np.asarray(found.annotations["kind"])

    may_change = (split == "train") & (names != "")
    changed = after != names
    assert changed.sum() == round(noise * may_change.sum())
    assert not changed[~may_change].any()
    assert set(after[changed]) <= {"a", "b", "c"}
    again = noisy_labels.with_noise(index, "kind", noise).annotations["kind"]
    assert isinstance(again, Categories)
    assert np.array_equal(after, np.asarray(again))
