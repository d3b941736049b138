"""The tables of docs/which-pretext.md: advice by case, and the gain of each pretext."""

from __future__ import annotations

import re
from collections.abc import Mapping

from attrs import frozen

from mtlcore.registry.catalog import catalog
from mtlcore.study.definition import CONTROLS, Arm
from mtlcore.study.tables import Table

from .protocol import UNKNOWN, Protocol, gain

COLUMNS = {
    "faces: emotion": (("fer2", "main"), ("cpu2", "main")),
    "faces: gender": (("fer2", "gender"), ("cpu2", "gender")),
    "faces: head pose": (("fer2", "head_pose"), ("cpu2", "head_pose")),
    "digits": (("digits", "main"),),
    "objects (CIFAR-10)": (("cifar3", "main"),),
    "objects (CIFAR-10), `vit_small`": (("vit", "main"),),
}
"""The image sets of the pretext table: heading -> protocol and stage, the one to prefer first."""
CASES: tuple[tuple[str, str, tuple[tuple[str, str, str, str], ...]], ...] = (
    (
        "pretrained weights exist for such images",
        "[fine-tune them](finetuning.md), without a pretext",
        (("imagenet", "main", "scratch_strong", "imagenet_strong"),),
    ),
    (
        "few labels, from scratch, faces",
        "`puzzling` as a second view that the supervised head reads, too: `grid=2`, "
        '`head="spatial"`, `weight=1.0`, `views.supervised="both"`',
        (
            ("fer2", "main", "puzzling_both", "sl_long"),
            ("cpu2", "main", "puzzling", "sl_long"),
            ("controls", "main", "puzzling_both", "puzzling_both+views_only"),
        ),
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
        "the same, on the labeled images alone; whether pre-training on all images first adds to "
        "it is not decided",
        (
            ("fer2", "main", "puzzling_both", "pretrain_puzzling_all"),
            ("fer2", "main", "pretrain_puzzling_hybrid", "puzzling_both"),
            ("fer2", "main", "puzzling_both", "fixmatch"),
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
        "few labels, many unlabeled images, a vision transformer from scratch",
        "pre-training by `masked_image` with `drop=true` on all images, then fine-tuning",
        (
            ("vit", "main", "mae_finetune", "sl_long"),
            ("vit", "main", "joint_all", "mae_finetune"),
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
    shown = {name: None for sources in COLUMNS.values() for name, _ in sources}
    by_protocol = {name: _forms(known[name]) for name in shown if name in known}
    forms = {form: None for found in by_protocol.values() for form in found}
    lines = []
    for pretext in sorted(catalog().of_kind("pretext")):
        mine = [form for form in forms if pretext in form.pretexts]
        if not mine:
            lines.append((f"`{pretext}`", "", *[UNKNOWN] * len(COLUMNS)))
        for form in mine:
            cells = [_first_known(known, by_protocol, form, at) for at in COLUMNS.values()]
            lines.append((f"`{pretext}`", form.shown, *cells))
    return Table("", ("pretext", "arm (compute)", *COLUMNS), tuple(lines)).markdown()


def _first_known(
    known: Mapping[str, Protocol],
    by_protocol: Mapping[str, list[Form]],
    form: Form,
    sources: tuple[tuple[str, str], ...],
) -> str:
    """Return the gain of a form, from the first of the sources that knows it."""
    for name, stage in sources:
        found = gain(known, name, form.arm, stage)
        if form in by_protocol.get(name, ()) and found != UNKNOWN:
            return found
    return UNKNOWN


@frozen
class Form:
    """A way to use pretexts. Arms of two protocols with one name may be two forms.

    forwards: images that a run encodes, relative to a run of the baseline.
    unlabeled: whether it reads images without labels.
    """

    arm: str
    pretexts: frozenset[str]
    forwards: float
    unlabeled: bool

    @property
    def shown(self) -> str:
        """Name and compute, as a cell."""
        images = ", unlabeled images too" if self.unlabeled else ""
        return f"`{self.arm}` ({self.forwards:g} x{images})"


def _forms(protocol: Protocol) -> list[Form]:
    """Return the forms of a protocol that have runs, without controls."""
    found = []
    for name in protocol.arms():
        base, _, suffix = name.partition("+")
        arm = protocol.plan.definition.arms.get(base)
        if arm is not None and suffix not in CONTROLS and suffix[:1] != "x":
            text = _settings_of(arm)
            pretexts = frozenset({*arm.pretexts, *re.findall(r"pretext\.(\w+)\.", text)})
            unlabeled = suffix == "all" or 'unlabeled="keep"' in text
            found.append(Form(name, pretexts, _forwards(protocol, name), unlabeled))
    return found


def _settings_of(arm: Arm) -> str:
    """Return the settings of all parts of an arm."""
    pretrained = arm.pretraining.set if arm.pretraining else ()
    return " ".join([*arm.set, *pretrained])


def _forwards(protocol: Protocol, arm: str) -> float:
    """Return the images that a run encodes, relative to a run of the baseline."""
    rows, baseline = protocol.rows(), protocol.plan.definition.baseline
    mine = [row["encoded"] for row in rows if row["arm"] == arm]
    other = [row["encoded"] for row in rows if row["arm"] == baseline]
    return round(sum(mine) / len(mine) / (sum(other) / len(other)), 2)
