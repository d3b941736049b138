"""How well do cheaper cosines predict those of the exact gradients? A run on FER2013, measured at every step.

    python benchmarks/cosines.py --root FER2013 --steps 300 --json benchmarks/results/cosines.json

Emotion recognition with puzzling and in-painting. Exact: between the losses' gradients at ALL parameters of the encoder. Cheaper:
at the features (what `at = "features"` sees), at the parameters of the last block, at those of the stem, and the exact ones of N
steps ago (what `every = N` keeps). The figure is the correlation (Pearson) over the steps of each pair of losses; in brackets how
often both agree on whether two losses pull against each other. `views`: each head reads its own view. `shared`: the emotion head
reads the pretexts' views, too, so that the gradients at the features have rows in common.
"""

from __future__ import annotations

import argparse
import datetime
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from run import machine
from torch import Tensor

from mtlcore.config import load
from mtlcore.contracts import PreparedBatch
from mtlcore.data.dataset import open_data
from mtlcore.data.sampler import Sampler
from mtlcore.model.views import prepare
from mtlcore.networks import running_statistics_kept
from mtlcore.train.build import build_train_state
from mtlcore.train.devices import fabric_for
from mtlcore.train.optim import lr_at
from mtlcore.train.step import TrainState, train_step

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "fer2013_low_data.toml"
LABELS = ("fer", "puzzling", "inpainting")
PAIRS = tuple(combinations(LABELS, 2))
AGES = (1, 5, 10, 20)
SETUPS = {"views": "clean", "shared": "pretext"}


def cosines(rows: list[list[Tensor | None]]) -> list[float]:
    """One cosine a pair; nan where a gradient is 0."""
    flat = [torch.cat([torch.zeros(1) if g is None else g.flatten() for g in row]) for row in rows]
    return [float(a @ b / (a.norm() * b.norm())) for a, b in combinations(flat, 2)]


def measure(train_state: TrainState, prepared: PreparedBatch) -> dict[str, list[float]]:
    """The cosines of one step, at all three places; changes nothing."""
    model = train_state.model
    torch.manual_seed(train_state.keyed_rng(0).seed("dropout"))
    with running_statistics_kept(model.encoder):
        features, points = model.encode(prepared)
        outputs = model.forward_heads(features, prepared)
        losses = [model.compute_losses(label, outputs[label], prepared) for label in LABELS]
    net: Any = model.encoder.net
    last, stem = list(net.stages[-1].parameters()), list(net.stem.parameters())
    everything = [p for p in model.encoder.parameters() if p.requires_grad]
    places = {"exact": everything, "stem": stem, "last block": last, "features": points}
    grads = {
        place: [
            list(torch.autograd.grad(x, at, retain_graph=True, materialize_grads=True))
            for x in losses
        ]
        for place, at in places.items()
    }
    return {place: cosines(rows) for place, rows in grads.items()}


def run(root: Path, setup: str, steps: int) -> dict[str, np.ndarray]:
    """place -> (steps, pairs)."""
    overrides = [
        f'data.fer2013.root="{root}"',
        f'views.supervised="{SETUPS[setup]}"',
        "pretext.inpainting.weight=0.3",
        f"train.steps={steps}",
    ]
    experiment = load(EXAMPLE, overrides)
    data = open_data(experiment, {"train"})
    fabric = fabric_for(data.experiment)
    sampler = Sampler(data, data.experiment, fabric.world_size)
    train_state = build_train_state(data.experiment, fabric, steps, sampler.steps_per_epoch)
    found: dict[str, list[list[float]]] = {}
    for step in range(steps):
        batch = sampler.batch(step, 0, fabric.device)
        prepared = prepare(
            data.experiment, batch, train_state.keyed_rng(0), progress=train_state.progress
        )
        for place, values in measure(train_state, prepared).items():
            found.setdefault(place, []).append(values)
        for group in train_state.optimizer.param_groups:
            group["lr"] = lr_at(data.experiment.train, step, steps)
        train_step(train_state, [prepared])
    return {place: np.array(values) for place, values in found.items()}


def compared(found: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """One row for each predictor and pair."""
    exact = found["exact"]
    predictors = {place: (values, exact) for place, values in found.items() if place != "exact"}
    predictors |= {f"{age} steps old": (exact[:-age], exact[age:]) for age in AGES}
    return [
        {"predictor": name, "pair": " - ".join(pair), **agreement(guess[:, k], truth[:, k])}
        for name, (guess, truth) in predictors.items()
        for k, pair in enumerate(PAIRS)
    ]


def agreement(guess: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    """Correlation, None where the guess never moves (exactly 0 at features of different views); agreement of the signs."""
    moves = float(guess.std()) > 1e-12
    return {
        "correlation": float(np.corrcoef(guess, truth)[0, 1]) if moves else None,
        "sign": float(((guess < 0) == (truth < 0)).mean()),
        "mean": float(guess.mean()),
        "exact mean": float(truth.mean()),
        "against": float((truth < 0).mean()),
    }


def markdown(result: dict[str, Any]) -> str:
    """A row a predictor, a column a pair: correlation (agreement of signs)."""
    lines = []
    for setup, rows in result["setups"].items():
        lines += [
            f"| `{setup}` | {' | '.join(' - '.join(p) for p in PAIRS)} |",
            "|---|" + "---|" * len(PAIRS),
        ]
        for name in dict.fromkeys(r["predictor"] for r in rows):
            cells = [r for r in rows if r["predictor"] == name]
            said = [
                "always 0"
                if c["correlation"] is None
                else f"{c['correlation']:.2f} ({c['sign']:.0%})"
                for c in cells
            ]
            lines.append(f"| {name} | {' | '.join(said)} |")
        exact = [r for r in rows if r["predictor"] == "features"]
        said = [f"{r['exact mean']:.2f} ({r['against']:.0%})" for r in exact]
        lines += [f"| the exact ones: mean (share below 0) | {' | '.join(said)} |", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="the folder of FER2013")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    command = f"python benchmarks/cosines.py --root FER2013 --steps {asked.steps}"
    about = {"machine": machine(), "command": command, "date": datetime.date.today().isoformat()}
    setups = {setup: compared(run(asked.root, setup, asked.steps)) for setup in SETUPS}
    result = about | {"setups": setups}
    print(markdown(result))
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
