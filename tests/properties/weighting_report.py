"""The tables of docs/weighting.md: strategies x properties, each run on drawn steps. `python tests/properties/weighting_report.py`.

It prints Markdown; with a file's name it puts the tables there, between `<!-- table: NAME -->` and `<!-- end: NAME -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from mtlcore import LossWeighting, StepLosses
from mtlcore.rng import Streams
from mtlcore.weighting import TorchJD
from mtlcore.weighting.torchjd_methods import REFUSED

sys.path.insert(0, str(Path(__file__).parent))
from weighting_properties import PROPERTIES, STRATEGIES, Names, asked, response

CASES = 12
CARRIED = {
    "DWA": "losses of two epochs (TorchJD's own state dict: nothing)",
    "FAMO": "logits, Adam's moments, last losses (TorchJD's: the logits alone)",
    "GradVac": "cosines, by pair of names (TorchJD's: can't be loaded into a fresh one)",
    "UW": "learned scales",
    "IMTLL": "learned scales",
}


def cases() -> Iterator[tuple[Names, Tensor, Tensor, Tensor]]:
    """Steps of two to four tasks: full and deficient ranks, gradients of equal and of very different lengths."""
    g = torch.Generator().manual_seed(0)
    for i in range(CASES):
        k, rank = 2 + i % 3, 1 + i % 5
        sizes = 10.0 ** (torch.randint(-1, 2, (k,), generator=g) * (i % 2))
        jacobian = torch.randn(k, rank, generator=g) * sizes[:, None]
        names = ("fer", "pose", "puzzling", "rotation")[:k]
        primary = torch.arange(k) < 1 + i % 2
        yield names, jacobian @ jacobian.T, 0.5 + torch.rand(k, generator=g), primary


def verdict(strategy: LossWeighting, name: str) -> str:
    """ "yes", "no" where the strategy declares it, "-" where it makes no claim. Raises AssertionError where it breaks its word."""
    if not asked(strategy, name):
        return "-"
    if name in strategy.lacks:
        return "no"
    for case in cases():
        PROPERTIES[name](strategy, *case)
    return "yes"


def properties() -> list[str]:
    """Strategies x properties, and the reasons of those that are declared."""
    head = ["strategy", *PROPERTIES, "pull of a loss x 10"]
    rows = [[f"`{label}`", *(verdict(s, name) for name in PROPERTIES), pull(s)] for label, s in STRATEGIES.items()]
    reasons = [f"- `{label}`, {name}: {why}." for label, s in STRATEGIES.items() for name, why in s.lacks.items()]
    return [*table(head, rows), "", *reasons]


def pull(strategy: LossWeighting) -> str:
    """How many times harder a loss pulls that is made ten times larger."""
    power = response(strategy)
    if power != power:
        return "-"
    return "takes all" if power > 6 else f"x {10**power:.2g}"


def strategies() -> list[str]:
    """Strategies with their source, level, cost and memory."""
    rows = []
    for label, s in STRATEGIES.items():
        torchjd = isinstance(s, TorchJD)
        memory = CARRIED.get(s.method, "none") if isinstance(s, TorchJD) else _own_memory(s)
        cites = s.about.cites if isinstance(s, TorchJD) else s.cites
        solver = "; solver extra" if torchjd and label.split(":")[1] in ("UPGrad", "DualProj", "CAGrad") else ""
        level, cost = ("losses", "free") if s.at == "losses" else ("Gramian", "K backwards, every N-th step")
        rows.append([f"`{label}`", cites, level, cost + solver, memory])
    return table(["strategy", "source", "looks at", "cost", "memory, by task name"], rows)


def _own_memory(strategy: LossWeighting) -> str:
    keys = {key.partition(".")[0] for key in strategy.build(("a", "b")).state_dict()}
    return ", ".join(sorted(keys)) or "none"


def refused() -> list[str]:
    """TorchJD's methods that can't be used here."""
    return [f"- `torchjd:{method}`: {why}." for method, why in REFUSED.items()]


def example() -> list[str]:
    """The factors on one step: a task, a pretext that opposes it, a pretext that agrees and is four times as long."""
    jacobian = torch.tensor([[1.0, 0.0], [-0.6, 0.8], [3.0, 3.0]])
    rows = []
    for label, s in STRATEGIES.items():
        values, primary = torch.ones(3).requires_grad_(), torch.tensor([True, False, False])
        weigher = s.build(("task", "against", "along"))
        weigher(
            StepLosses(("task", "against", "along"), values, jacobian @ jacobian.T, primary, 0.0, 0, Streams((0,))("w"))
        ).backward()
        assert values.grad is not None
        rows.append([f"`{label}`", *(f"{f:.2f}" for f in values.grad.tolist())])
    return table(["strategy", "task", "pretext against it", "pretext along it, long"], rows)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


TABLES = {"strategies": strategies, "properties": properties, "example": example, "refused": refused}


def main() -> None:
    made = {name: "\n".join(make()) for name, make in TABLES.items()}
    if len(sys.argv) < 2:
        sys.stdout.write("\n\n".join(made.values()) + "\n")
        return
    page = Path(sys.argv[1])
    text = page.read_text()
    for name, lines in made.items():
        begin, end = f"<!-- table: {name} -->", f"<!-- end: {name} -->"
        text = re.sub(f"({begin}\n).*?({end})", lambda m, x=lines: f"{m[1]}{x}\n{m[2]}", text, flags=re.DOTALL)
    page.write_text(text)


if __name__ == "__main__":
    main()
