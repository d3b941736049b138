"""The tables of docs/weighting.md, from the conformance kit's reports: `python tests/properties/weighting_report.py [PAGE]`.

It prints Markdown; with a file's name it puts the tables there, between `<!-- table: NAME -->` and `<!-- end: NAME -->`.
"""

from __future__ import annotations

import re
import sys
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

# label -> the fields that are not at their defaults; the label's first word names the component.
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


def held(label: str, examples: int = EXAMPLES) -> Conformance:
    """A strategy, ready to be held against the kit's checks."""
    return conformance("weighting", label.partition(" ")[0], examples=examples, **STRATEGIES[label])


def component(label: str) -> LossWeighting:
    made: LossWeighting = held(label).subject.component
    return made


@cache
def reports() -> dict[str, Report]:
    """What the kit says of each. Raises AssertionError where one breaks its word."""
    found = {label: held(label).report() for label in STRATEGIES}
    broken = [
        o.reason
        for report in found.values()
        for o in report.checks
        if o.status in ("failed", "blocked")
    ]
    assert not broken, "\n".join(broken)
    return found


def telling() -> list[str]:
    """The checks of weightings that some strategy does not pass, because it declares so or makes no such claim."""
    own = [
        name
        for name, check in held("equal").checks.checks.items()
        if check.group not in ("packaging", "build")
    ]
    ends = {
        name: {o.status for r in reports().values() for o in r.checks if o.name == name}
        for name in own
    }
    return [name for name in own if ends[name] != {"passed"}]


def checks() -> list[str]:
    """The kit's checks of weightings."""
    rows = [
        [f"`{c.name}`", c.doc]
        for c in held("equal").checks.checks.values()
        if c.group != "packaging"
    ]
    return table(["check", "what must hold"], rows)


def properties() -> list[str]:
    """Strategies x those checks on which they differ, and the reasons of what is declared."""
    rows, reasons = [], []
    for label, report in reports().items():
        ended = {o.name: o for o in report.checks}
        others = sum(o.status == "passed" for name, o in ended.items() if name not in telling())
        rows.append(
            [
                f"`{label}`",
                *(verdict(ended[n].status, ended[n].reason) for n in telling()),
                f"{others} passed",
                pull(label),
            ]
        )
        lacks = [
            o.reason.removeprefix("lacks ") for o in report.checks if o.reason.startswith("lacks ")
        ]
        reasons += [f"- `{label}`, {reason}." for reason in lacks]
    names = [name.replace("_", " ") for name in telling()]
    return [
        *table(["strategy", *names, "all other checks", "pull of a loss x 10"], rows),
        "",
        *reasons,
    ]


def verdict(status: str, reason: str) -> str:
    """ "no" where the strategy declares it, "-" where it makes no claim."""
    return "yes" if status == "passed" else "no" if reason.startswith("lacks ") else "-"


def pull(label: str) -> str:
    """How many times harder a loss pulls that is made ten times larger, beside another one, on orthonormal gradients.

    10: as in a plain sum. 1: its size does not count. Below 1: large losses are held back.
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
    """The losses of a run's first step, as drawn."""
    return StepLosses(
        step.names, values, step.gram, step.primary, 0.0, 0, KeyedRng((7,))("weighting")
    )


def strategies() -> list[str]:
    """Strategies with their dataset, level, cost and memory."""
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
    return table(["strategy", "dataset", "looks at", "cost", "memory, by task name"], rows)


def _own_memory(strategy: LossWeighting) -> str:
    keys = {key.partition(".")[0] for key in strategy.build(("a", "b")).state_dict()}
    return ", ".join(sorted(keys)) or "none"


def refused() -> list[str]:
    """TorchJD's methods that can't be used here."""
    return [f"- `torchjd:{method}`: {why}." for method, why in REFUSED.items()]


def example() -> list[str]:
    """The task weights on one step: a task, a pretext that opposes it, a pretext that agrees and is four times as long."""
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
