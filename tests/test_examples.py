"""Every example trains and is evaluated, on tiny folders in the layouts of the real datasets."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from face_files import marks, pose_mat
from mtl_faces.emotion import mtl_examples
from PIL import Image

from mtlcore.config import load
from mtlcore.evaluation.evaluate import evaluate
from mtlcore.training.trainer import train

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SIZE = 56


def photo(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(file))).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


def fer2013(root: Path) -> str:
    names = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
    for split, name, i in itertools.product(("train", "test"), names, range(4)):
        photo(root / split / name / f"{split}_{i}.jpg")
    return f"data.fer2013.root={root}"


def utkface(root: Path) -> str:
    for i in range(24):
        photo(root / f"{20 + i}_{i % 2}_{i % 5}_2017011620{i:02d}.jpg.chip.jpg")
    return f"data.utkface.root={root}"


def w300_lp(root: Path) -> str:
    for split, person, frame in itertools.product(("train", "val"), range(4), range(2)):
        photo(root / split / f"AFW_{split}{person}_{frame}.jpg")
        pose_mat(
            root / split / f"AFW_{split}{person}_{frame}.mat",
            10.0 * frame,
            5.0,
            0.0,
            pt2d=marks(8, 8, 48, 48),
        )
    return f"data.300w_lp.root={root}"


def camvid(root: Path) -> str:
    for split, i in itertools.product(("train", "val"), range(14)):
        photo(root / split / "images" / f"{i}.png")
        mask = np.random.default_rng(i).integers(0, 12, (SIZE, SIZE), dtype=np.uint8)
        file = root / split / "masks" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(file)
    return f"data.camvid.root={root}"


def photos(root: Path) -> str:
    for name, i in itertools.product(("cat", "dog"), range(10)):
        photo(root / name / f"{i}.png")
    return f"data.photos.root={root}"


def more(root: Path) -> str:
    for i in range(30):
        photo(root / f"folder{i % 3}" / f"{i}.png")
    return f"data.more.root={root}"


def pretrained(root: Path) -> str:
    """Return the setting of a file of weights: a test downloads none."""
    from torchvision.models import resnet18

    torch.save(resnet18().state_dict(), root / "resnet18.pth")
    return f"encoder.weights={root / 'resnet18.pth'}"


def people(root: Path) -> str:
    lines = ["path,age,emotion,person"]
    for i in range(20):
        photo(root / f"{i}.png")
        lines.append(f"{i}.png,{20 + i},{('happiness', 'sadness')[i % 2]},p{i}")
    (root / "people.csv").write_text("\n".join(lines))
    return f"data.people.file={root / 'people.csv'}"


EVALUATED = {"three_sets": "utkface", "few_labels_unlabeled": "photos"}
MAKERS = {
    "fer2013": fer2013,
    "utkface": utkface,
    "300w_lp": w300_lp,
    "photos": photos,
    "camvid": camvid,
    "more": more,
    "people": people,
}


FILES = [*sorted(EXAMPLES.glob("*.toml")), mtl_examples()["demo"]]
QUICK = {"fer2013_puzzling_rotation", "few_labels", "own_csv"}
CASES = [
    pytest.param(file, marks=() if file.stem in QUICK else pytest.mark.slow, id=file.stem)
    for file in FILES
]


def test_every_example_loads():
    assert len([load(file) for file in FILES]) == len(CASES)


@pytest.mark.parametrize("file", CASES)
def test_the_experiment_trains_two_steps_and_is_evaluated(file, tmp_path):
    labels = load(file).data
    roots = [MAKERS[label](tmp_path / label) for label in labels if label in MAKERS]
    small = (
        ["data.synthfaces.train=48", "data.synthfaces.test=16"] if "synthfaces" in labels else []
    )
    if file.stem == "own_folders_pretrained":
        small += [pretrained(tmp_path), "input.size=64"]
    if file.stem == "camvid":
        small = ["input.size=[36,48]"]
    experiment = load(file, [*roots, *small, "train.steps=2", "input.batch_size=12"])
    result = train(experiment, tmp_path / "run")
    assert result.skipped == 0
    for label in experiment.tasks:
        assert any(name.startswith(f"{label}/") for name in result.measured.metrics)
    splits = {"300w_lp": "val", "camvid": "validation"}
    split = splits.get(next(iter(labels)), "test")
    assert evaluate(tmp_path / "run", data=EVALUATED.get(file.stem), split=split).metrics
