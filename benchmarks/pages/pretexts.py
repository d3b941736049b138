"""The tables of docs/which-pretext.md: advice by case, and the gain of each pretext."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hmtl.protocols import FOLDER

from mtlcore.registry.catalog import catalog
from mtlcore.study.definition import CONTROLS, Arm
from mtlcore.study.tables import Table

from .protocol import UNKNOWN, Protocol, gain

COLUMNS = {
    ("cpu2", "main"): "faces: emotion",
    ("cpu2", "gender"): "faces: gender",
    ("cpu2", "head_pose"): "faces: head pose",
    ("digits", "main"): "digits",
    ("cifar3", "main"): "objects (CIFAR-10)",
}
"""The image sets of the pretext table: protocol and stage -> heading."""
CASES: tuple[tuple[str, str, tuple[tuple[str, str, str, str], ...]], ...] = (
    (
        "pretrained weights exist for such images",
        "[fine-tune them](finetuning.md), without a pretext",
        (("imagenet", "main", "scratch_strong", "imagenet_strong"),),
    ),
    (
        "few labels, from scratch, faces",
        '`puzzling` as a second view: `grid=2`, `head="spatial"`, `weight=1.0`',
        (("cpu2", "main", "puzzling", "sl_long"), ("cpu2", "main", "puzzling", "sl")),
    ),
    (
        "the same, without compute for a second view",
        "`puzzling` in the one view, with `shuffled=0.2`; the puzzle itself may add nothing",
        (
            ("cpu2", "main", "puzzling_mix", "sl"),
            ("controls", "main", "puzzling_mix", "puzzling_mix+views_only"),
        ),
    ),
    (
        "few labels, many unlabeled images, faces",
        "try pre-training on all images, then fine-tuning, beside hybrid training",
        (
            ("cpu2", "main", "pretrain_puzzling_all", "sl_long"),
            ("cpu2", "main", "puzzling", "pretrain_puzzling_all"),
        ),
    ),
    (
        "few labels, from scratch, objects",
        "`puzzling` as a second view, with the same settings",
        (("cifar3", "main", "puzzling", "sl_long"),),
    ),
    (
        "few labels, many unlabeled images, objects",
        "`puzzling` on the unlabeled images, or pre-training by it",
        (
            ("cifar3", "main", "puzzling_all", "sl_long"),
            ("cifar3", "main", "puzzling_all", "pretrain_puzzling"),
        ),
    ),
    (
        "few labels, many unlabeled small gray images, no faces",
        "pre-training by `inpainting` on all images, then fine-tuning",
        (
            ("digits", "main", "pretrain_inpainting_all", "sl_long"),
            ("digits", "main", "puzzling", "pretrain_inpainting_all"),
        ),
    ),
    (
        "all images are labeled",
        "more steps of supervised learning, first",
        (("cpu2", "labels_100", "puzzling", "sl_long"),),
    ),
    ("anything else", "[a study](study.md) of two or three pretexts", ()),
)
"""Case, advice, and its evidence: protocol, stage, and the two arms of a difference."""


def cases(known: Mapping[str, Protocol]) -> str:
    """Return the advice for each case, with its evidence."""
    lines = []
    for case, advice, pairs in CASES:
        evidence = []
        for name, stage, mine, other in pairs:
            protocol = known.get(name)
            found = protocol.spread(mine, other, stage) if protocol else None
            if found is not None:
                number = f"{found.signed()}, n = {found.n}"
                evidence.append(f"`{mine}` minus `{other}`: {number} (`{name}`)")
        lines.append((case, advice, "; ".join(evidence) or UNKNOWN))
    return Table("", ("your case", "start with", "evidence"), tuple(lines)).markdown()


def pretexts(known: Mapping[str, Protocol]) -> str:
    """Return one row for each pretext and form, one column for each image set."""
    used = {key: title for key, title in COLUMNS.items() if (FOLDER / f"{key[0]}.toml").exists()}
    lines = []
    for pretext in sorted(catalog().of_kind("pretext")):
        forms = [form for form in _forms(known, used) if pretext in form[1]]
        if not forms:
            lines.append((f"`{pretext}`", "", *[UNKNOWN] * len(used)))
        for arm, _, views in forms:
            cells = [gain(known, name, arm, stage) for name, stage in used]
            lines.append((f"`{pretext}`", f"`{arm}` ({views:g} x)", *cells))
    return Table("", ("pretext", "arm (compute)", *used.values()), tuple(lines)).markdown()


def _forms(
    known: Mapping[str, Protocol], used: Mapping[tuple[str, str], str]
) -> list[tuple[str, set[str], float]]:
    """Return name, pretexts and encoder forwards (relative to the baseline) of each arm."""
    found: dict[str, tuple[str, set[str], float]] = {}
    for name in dict.fromkeys(protocol for protocol, _ in used):
        protocol = known.get(name)
        for done in protocol.arms() if protocol else ():
            assert protocol is not None
            base, _, suffix = done.partition("+")
            arm = protocol.plan.definition.arms.get(base)
            if arm is not None and suffix not in CONTROLS and suffix[:1] != "x":
                forwards = _forwards(protocol, done)
                found.setdefault(done, (done, _pretexts_of(arm), forwards))
    return list(found.values())


def _pretexts_of(arm: Arm) -> set[str]:
    """Return the pretexts that an arm trains on, in one of its parts."""
    pretrained = arm.pretraining.set if arm.pretraining else ()
    text = " ".join([*arm.set, *pretrained])
    return {*arm.pretexts, *re.findall(r"pretext\.(\w+)\.", text)}


def _forwards(protocol: Protocol, arm: str) -> float:
    """Return the images that a run encodes, relative to a run of the baseline."""
    rows, baseline = protocol.rows(), protocol.plan.definition.baseline
    mine = [row["encoded"] for row in rows if row["arm"] == arm]
    other = [row["encoded"] for row in rows if row["arm"] == baseline]
    return round(sum(mine) / len(mine) / (sum(other) / len(other)), 1)
