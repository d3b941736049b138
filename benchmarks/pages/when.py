"""The table of docs/when-it-helps.md: what hybrid training brought, by data, labels and network."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from mtlcore.study.tables import Table

from .protocol import UNKNOWN, Protocol, gain

SMALL = "`resnet_small`, from scratch"


@frozen
class Case:
    """One row: data, labels and network; and the arms of the protocol, "" where there is none.

    labels: labels per class (a mean), and their share of the training images.
    hybrid: labeled images alone. hybrid_all: with the unlabeled ones. rival: pre-training on all
    images, then fine-tuning. on_top: the same pre-training, then hybrid training.
    """

    images: str
    labels: str
    network: str
    protocol: str
    stage: str = "main"
    hybrid: str = ""
    hybrid_all: str = ""
    rival: str = ""
    on_top: str = ""


CASES = (
    Case(
        "faces, emotion (FER2013, 48 px)",
        "370 (10 %)",
        SMALL,
        "cpu2",
        hybrid="puzzling",
        hybrid_all="puzzling+all",
        rival="pretrain_puzzling_all",
    ),
    Case(
        "the same; the head reads both views",
        "370 (10 %)",
        SMALL,
        "fer2",
        hybrid="puzzling_both",
        rival="pretrain_puzzling_all",
        on_top="pretrain_puzzling_hybrid",
    ),
    Case("the same, both views", "180 (5 %)", SMALL, "fer2", "labels_5", hybrid="puzzling_both"),
    Case("the same, both views", "3,700 (all)", SMALL, "fer2", "labels_100", "puzzling_both"),
    Case("the same", "180 (5 %)", SMALL, "cpu2", "labels_5", hybrid="puzzling"),
    Case("the same", "740 (20 %)", SMALL, "cpu2", "labels_20", hybrid="puzzling"),
    Case("the same", "3,700 (all)", SMALL, "cpu2", "labels_100", hybrid="puzzling"),
    Case("faces, gender (UTKFace)", "320 (10 %)", SMALL, "cpu2", "gender", hybrid="puzzling"),
    Case("faces, head pose", "10 % of the images", SMALL, "cpu2", "head_pose", hybrid="puzzling"),
    Case(
        "faces, gender (UTKFace, 64 px)",
        "320 (10 %)",
        "EfficientNet-Lite0, ImageNet weights",
        "finetune",
        hybrid="one_rate_puzzling",
    ),
    Case(
        "digits, gray (8 px)",
        "6 (5 %)",
        SMALL,
        "digits",
        hybrid="puzzling",
        hybrid_all="puzzling+all",
        rival="pretrain_inpainting_all",
    ),
    Case(
        "objects (CIFAR-10)",
        "400 (9 %)",
        SMALL,
        "cifar3",
        hybrid="puzzling",
        hybrid_all="puzzling_all",
        rival="pretrain_puzzling",
        on_top="pretrain_puzzling_hybrid",
    ),
    Case(
        "the same",
        "100 (2 %)",
        SMALL,
        "cifar3",
        "labels_1000",
        hybrid="puzzling",
        hybrid_all="puzzling_all",
        rival="pretrain_puzzling",
        on_top="pretrain_puzzling_hybrid",
    ),
    Case(
        "the same",
        "400 (9 %), 40 % of them wrong",
        SMALL,
        "cifar3",
        "label_noise",
        hybrid="puzzling",
        hybrid_all="puzzling_all",
    ),
    Case(
        "objects (CIFAR-10)",
        "450 (10 %)",
        "`vit_small`, from scratch",
        "vit",
        hybrid="joint",
        hybrid_all="joint_all",
        rival="mae_finetune",
    ),
)


def when_it_helps(known: Mapping[str, Protocol]) -> str:
    """Return the table, one row for each case."""
    lines = []
    for case in CASES:
        arms = (case.hybrid, case.hybrid_all, case.rival, case.on_top)
        cells = [_cell(case, arm, known) for arm in arms]
        lines.append((case.images, case.labels, case.network, f"`{case.protocol}`", *cells))
    columns = (
        "images",
        "labels per class",
        "network",
        "protocol",
        "hybrid",
        "hybrid, with unlabeled images",
        "pre-training on all images, then fine-tuning",
        "that pre-training, then hybrid",
    )
    return Table("", columns, tuple(lines)).markdown()


def _cell(case: Case, arm: str, known: Mapping[str, Protocol]) -> str:
    return gain(known, case.protocol, arm, case.stage) if arm else UNKNOWN
