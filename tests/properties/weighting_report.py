"""Make the tables of docs/weighting.md from the reports of the conformance kit.

    python tests/properties/weighting_report.py [PAGE]

It prints Markdown. With a PAGE, it replaces the tables of that file, between
`<!-- table: NAME -->` and `<!-- end: NAME -->`.
"""

from __future__ import annotations

import re
import sys
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtlcore import LossWeighting, StepLosses
from mtlcore.rng import KeyedRng
from mtlcore.testing import Conformance, Report, conformance
from mtlcore.testing.weighting.harness import DrawnStep, scaled
from mtlcore.weighting import TorchJD
from mtlcore.weighting.torchjd_methods import METHODS, REFUSED

# label -> the fields that are not at their defaults. The first word of a label is the component.
STRATEGIES: dict[str, dict[str, Any]] = {
    "equal": {},
    "uncertainty": {},
    "schedule": {"pretexts": ((0.0, 1.0), (1.0, 0.0))},
    "cosine_gate": {},
    "cosine_gate (weighted)": {"mode": "weighted"},
    "primary_projection": {},
    "budget": {},
    **{f"torchjd:{method}": {} for method in METHODS},
}
EXAMPLES = 20
TWO = DrawnStep(
    ((1, 0), (0, 1)), (1.0, 1.0), (1.0, 1.0), (True, False)
)  # orthonormal gradients, equal losses
CARRIED = {
    "DWA": "losses of two epochs (TorchJD's own state dict: nothing)",
    "FAMO": "logits, Adam's moments, last losses (TorchJD's: the logits alone)",
    "GradVac": "cosines, by pair of names (TorchJD's: can't be loaded into a fresh one)",
    "UW": "learned scales",
    "IMTLL": "learned scales",
}


def suite(label: str, examples: int = EXAMPLES) -> Conformance:
    """Return the conformance suite of a weighting."""
    return conformance("weighting", label.partition(" ")[0], examples=examples, **STRATEGIES[label])


def component(label: str) -> LossWeighting:
    made: LossWeighting = suite(label).subject.component
    return made


@cache
def reports() -> dict[str, Report]:
    """Return the kit's report on each weighting. Raises AssertionError if a check fails."""
    found = {label: suite(label).report() for label in STRATEGIES}
    broken = [
        o.reason
        for report in found.values()
        for o in report.checks
        if o.status in ("failed", "blocked")
    ]
    assert not broken, "\n".join(broken)
    return found


def distinguishing() -> list[str]:
    """Return the checks that some weightings do not pass: they declare so, or claim nothing."""
    own = [
        name
        for name, check in suite("equal").checks.checks.items()
        if check.group not in ("packaging", "build")
    ]
    ends = {
        name: {o.status for r in reports().values() for o in r.checks if o.name == name}
        for name in own
    }
    return [name for name in own if ends[name] != {"passed"}]


def checks() -> list[str]:
    """Return the table of the kit's checks of weightings."""
    rows = [
        [f"`{c.name}`", c.doc]
        for c in suite("equal").checks.checks.values()
        if c.group != "packaging"
    ]
    return table(["check", "what must hold"], rows)


def properties() -> list[str]:
    """Return the table of weightings x the checks in which they differ, and the reasons."""
    rows, reasons = [], []
    for label, report in reports().items():
        ended = {o.name: o for o in report.checks}
        others = sum(
            o.status == "passed" for name, o in ended.items() if name not in distinguishing()
        )
        rows.append(
            [
                f"`{label}`",
                *(verdict(ended[n].status, ended[n].reason) for n in distinguishing()),
                f"{others} passed",
                pull(label),
            ]
        )
        lacks = [
            o.reason.removeprefix("lacks ") for o in report.checks if o.reason.startswith("lacks ")
        ]
        reasons += [item(f"`{label}`, {reason}.") for reason in lacks]
    names = [name.replace("_", " ") for name in distinguishing()]
    return [
        *table(["strategy", *names, "all other checks", "pull of a loss x 10"], rows),
        "",
        *reasons,
    ]


def verdict(status: str, reason: str) -> str:
    """Return "yes", "no" if the weighting declares it, "-" if it claims nothing."""
    return "yes" if status == "passed" else "no" if reason.startswith("lacks ") else "-"


def pull(label: str) -> str:
    """Return how much stronger a loss pulls if it becomes ten times as large.

    There is another loss beside it, and the gradients are orthonormal. 10: as in the sum of losses.
    1: the size of a loss has no influence. Below 1: large losses are damped.
    """
    ratio = []
    for scale in (1.0, 10.0):
        step = scaled(TWO, 1, scale)
        values = torch.tensor(step.losses).requires_grad_()
        component(label).build(step.names)(at_start(step, values)).backward()
        assert values.grad is not None
        pulls = values.grad * torch.tensor(step.sizes)
        ratio.append(float(pulls[1] / pulls[0]))
    if ratio[0] == 0:
        return "-"
    return "takes all" if ratio[1] > 1e6 * ratio[0] else f"x {ratio[1] / ratio[0]:.2g}"


def at_start(step: DrawnStep, values: Tensor) -> StepLosses:
    """Return the losses of the first step of a run."""
    return StepLosses(
        step.names, values, step.gram, step.primary, 0.0, 0, KeyedRng((7,))("weighting")
    )


def strategies() -> list[str]:
    """Return the table of weightings with citation, level, cost and state."""
    rows = []
    for label in STRATEGIES:
        s = component(label)
        torchjd = isinstance(s, TorchJD)
        memory = CARRIED.get(s.method, "none") if isinstance(s, TorchJD) else _own_memory(s)
        cites = s.about.cites if isinstance(s, TorchJD) else s.cites
        solver = (
            "; solver extra"
            if torchjd and label.split(":")[1] in ("UPGrad", "DualProj", "CAGrad")
            else ""
        )
        level, cost = (
            ("losses", "free") if s.at == "losses" else ("Gramian", "K backwards, every N-th step")
        )
        rows.append([f"`{label}`", cites, level, cost + solver, memory])
    return table(["strategy", "citation", "reads", "cost", "state, by task name"], rows)


def _own_memory(strategy: LossWeighting) -> str:
    keys = {key.partition(".")[0] for key in strategy.build(("a", "b")).state_dict()}
    return ", ".join(sorted(keys)) or "none"


def refused() -> list[str]:
    """Return the list of TorchJD's methods that can't be used."""
    return [item(f"`torchjd:{method}`: {why}.") for method, why in REFUSED.items()]


def item(text: str) -> str:
    """Return a wrapped list item."""
    return textwrap.fill(f"- {text}", 100, subsequent_indent="  ", break_on_hyphens=False)


def example() -> list[str]:
    """Return the table of task weights in one step.

    There are a task, a pretext that opposes it, and a longer pretext that agrees.
    """
    jacobian = torch.tensor([[1.0, 0.0], [-0.6, 0.8], [3.0, 3.0]])
    rows = []
    for label in STRATEGIES:
        s, values, primary = (
            component(label),
            torch.ones(3).requires_grad_(),
            torch.tensor([True, False, False]),
        )
        loss_weighting = s.build(("task", "against", "along"))
        loss_weighting(
            StepLosses(
                ("task", "against", "along"),
                values,
                jacobian @ jacobian.T,
                primary,
                0.0,
                0,
                KeyedRng((0,))("w"),
            )
        ).backward()
        assert values.grad is not None
        rows.append([f"`{label}`", *(f"{f:.2f}" for f in values.grad.tolist())])
    return table(["strategy", "task", "pretext against it", "pretext along it, long"], rows)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


TABLES = {
    "strategies": strategies,
    "checks": checks,
    "properties": properties,
    "example": example,
    "refused": refused,
}


def main() -> None:
    made = {name: "\n".join(make()) for name, make in TABLES.items()}
    if len(sys.argv) < 2:
        sys.stdout.write("\n\n".join(made.values()) + "\n")
        return
    page = Path(sys.argv[1])
    text = page.read_text()
    for name, lines in made.items():
        begin, end = f"<!-- table: {name} -->", f"<!-- end: {name} -->"
        text = re.sub(
            f"({begin}\n).*?({end})", lambda m, x=lines: f"{m[1]}{x}\n{m[2]}", text, flags=re.DOTALL
        )
    page.write_text(text)


if __name__ == "__main__":
    main()
