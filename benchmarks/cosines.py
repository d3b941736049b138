"""Do cheaper cosines between gradients predict the exact ones? Measured at every step of a run.

    python benchmarks/cosines.py --root FER2013 --steps 300 --json benchmarks/results/cosines.json

The run learns emotion recognition with puzzling and in-painting on FER2013. For each pair of
losses, the exact cosine is that of their gradients at ALL parameters of the encoder.

Cheaper predictors:

    features       gradients at the features, as `at = "features"` uses them
    last block     gradients at the parameters of the encoder's last block
    stem           gradients at the parameters of the encoder's stem
    N steps old    the exact cosine of N steps ago, as `every = N` uses it

The table has the correlation (Pearson) with the exact cosine over the steps, and in parentheses
how often both have the same sign, that is, agree on whether two losses conflict.

Set-ups: with `views`, each head reads its own view. With `shared`, the emotion head also reads the
views of the pretexts, so that the gradients at the features have samples in common.
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
from mtlcore.data.loader import DirectLoader
from mtlcore.data.sampler import Sampler
from mtlcore.model.plan import training_plan
from mtlcore.model.views import prepare
from mtlcore.networks import frozen_running_statistics
from mtlcore.training.build import build_train_state
from mtlcore.training.devices import fabric_for
from mtlcore.training.step import TrainState, train_step

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "fer2013_low_data.toml"
LABELS = ("fer", "puzzling", "inpainting")
PAIRS = tuple(combinations(LABELS, 2))
AGES = (1, 5, 10, 20)  # steps
SETUPS = {"views": "clean", "shared": "pretext"}  # -> views.supervised

# -------------------------------------------------------------------------------------- measuring


def cosines(gradients: list[tuple[Tensor, ...]]) -> list[float]:
    """Return the cosine of each pair of losses; nan if a gradient is 0.

    gradients: for each loss, those at the same places.
    """
    flat = [torch.cat([g.flatten() for g in per_loss]) for per_loss in gradients]
    return [float(a @ b / (a.norm() * b.norm())) for a, b in combinations(flat, 2)]


def measure(train_state: TrainState, prepared: PreparedBatch) -> dict[str, list[float]]:
    """Return place -> the cosines of one step. The state is not changed."""
    model = train_state.model
    torch.manual_seed(train_state.keyed_rng(0).seed("dropout"))
    with frozen_running_statistics(model.encoder):
        features, points = model.encode(prepared)
        outputs = model.forward_heads(features, prepared)
        losses = [model.compute_losses(label, outputs[label], prepared) for label in LABELS]

    net: Any = model.encoder.net
    places: dict[str, list[Tensor]] = {
        "exact": [p for p in model.encoder.parameters() if p.requires_grad],
        "stem": list(net.stem.parameters()),
        "last block": list(net.stages[-1].parameters()),
        "features": list(points),
    }
    found: dict[str, list[float]] = {}
    for place, tensors in places.items():
        gradients: list[tuple[Tensor, ...]] = []
        for loss in losses:
            grads = torch.autograd.grad(
                loss,
                tensors,
                retain_graph=True,  # all losses and places share one graph
                materialize_grads=True,
            )
            gradients.append(grads)
        found[place] = cosines(gradients)
    return found


def run(root: Path, setup: str, steps: int) -> dict[str, np.ndarray]:
    """Train a set-up. Return place -> its cosines, (steps, pairs)."""
    overrides = [
        f'data.fer2013.root="{root}"',
        f'views.supervised="{SETUPS[setup]}"',
        "pretext.inpainting.weight=0.3",
        f"train.steps={steps}",
    ]
    experiment, data = open_data(load(EXAMPLE, overrides), {"train"})
    fabric = fabric_for(experiment)
    sampler = Sampler(data, experiment)
    loader = DirectLoader(data, sampler, fabric.device)
    plan = training_plan(experiment)
    train_state = build_train_state(experiment, fabric, steps, sampler.steps_per_epoch)

    found: dict[str, list[list[float]]] = {}
    for step in range(steps):
        batch = loader.batch(step, 0)
        prepared = prepare(plan, batch, train_state.keyed_rng(0), train_state.progress)
        for place, values in measure(train_state, prepared).items():
            found.setdefault(place, []).append(values)
        for group in train_state.optimizer.param_groups:
            group["lr"] = train_state.lr_at(step)
        train_step(train_state, [batch])
    return {place: np.array(values) for place, values in found.items()}


# -------------------------------------------------------------------------------------- comparing


def compared(found: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return one row for each predictor and pair."""
    exact = found["exact"]
    # predictor -> its values and the exact values of the same steps
    predictors = {place: (values, exact) for place, values in found.items() if place != "exact"}
    for age in AGES:
        predictors[f"{age} steps old"] = (exact[:-age], exact[age:])

    rows: list[dict[str, Any]] = []
    for name, (guess, truth) in predictors.items():
        for k, pair in enumerate(PAIRS):
            metrics = agreement(guess[:, k], truth[:, k])
            rows.append({"predictor": name, "pair": " - ".join(pair), **metrics})
    return rows


def agreement(guess: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    """Compare a predictor with the exact cosines, (steps,) each.

    correlation: Pearson; None if the predictor is constant, as at the features of different views,
        where it is exactly 0.
    sign: share of the steps where both have the same sign.
    mean, exact mean: means over the steps.
    against: share of the steps where the exact cosine is below 0.
    """
    is_constant = float(guess.std()) <= 1e-12
    correlation = None if is_constant else float(np.corrcoef(guess, truth)[0, 1])
    return {
        "correlation": correlation,
        "sign": float(((guess < 0) == (truth < 0)).mean()),
        "mean": float(guess.mean()),
        "exact mean": float(truth.mean()),
        "against": float((truth < 0).mean()),
    }


def markdown(result: dict[str, Any]) -> str:
    """Return a Markdown table for each set-up: a row for each predictor, a column for each pair."""
    pairs = [" - ".join(pair) for pair in PAIRS]
    lines: list[str] = []
    for setup, rows in result["setups"].items():
        lines.append(f"| `{setup}` | {' | '.join(pairs)} |")
        lines.append("|---|" + "---|" * len(pairs))
        for name in dict.fromkeys(row["predictor"] for row in rows):
            cells = [_cell(row) for row in rows if row["predictor"] == name]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        # Every predictor row has the exact values, too: those of "features" cover all steps.
        exact = [row for row in rows if row["predictor"] == "features"]
        cells = [f"{row['exact mean']:.2f} ({row['against']:.0%})" for row in exact]
        lines.append(f"| exact: mean (share below 0) | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(row: dict[str, Any]) -> str:
    if row["correlation"] is None:
        return "always 0"
    return f"{row['correlation']:.2f} ({row['sign']:.0%})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="the folder of FER2013")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--json", type=Path, help="also write the result as JSON")
    args = parser.parse_args()

    result = {
        "machine": machine(),
        "command": f"python benchmarks/cosines.py --root FER2013 --steps {args.steps}",
        "date": datetime.date.today().isoformat(),
        "setups": {setup: compared(run(args.root, setup, args.steps)) for setup in SETUPS},
    }
    print(markdown(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
