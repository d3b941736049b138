"""How often does a study of equal arms say "better" or "worse"?

    python benchmarks/false_positives.py --json benchmarks/results/false_positives.json

Each simulated study has 8 arms and a baseline, trained with 3 or 8 seeds. All have the same true
mean, so every "better" and "worse" is wrong. A metric is an effect of the seed, which all arms of
the study share, plus the noise of the run:

    normal        both normal, equal standard deviations
    skewed        exponential noise
    heavy tails   noise with Student's t distribution, 3 degrees of freedom
    failed runs   normal noise; 1 run in 10 is worse by 5 standard deviations
    unlike arms   normal noise for the baseline, exponential noise for the arms
    images 1000   the accuracy on the same 1,000 images, 90 % on average
    images 50     the accuracy on the same 50 images, 90 % on average

The table has the share of studies with at least one wrong verdict, with its 95 % interval (Wilson
1927); the same for verdicts by the uncorrected 95 % intervals; and the share of comparisons
without a spread, which are never decided.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from attrs import asdict, frozen
from run import machine

from mtlcore.study.statistics import Comparison, compare_arms

ARMS, SEEDS = 8, (3, 8)
Noise = Callable[[np.random.Generator, int, int], np.ndarray]
"""rng, arms, seeds -> metrics (arms, seeds); the first arm is the baseline."""


@frozen
class Share:
    """Of `n` studies, these had a wrong verdict. low, high: 95 % interval of the share."""

    wrong: int
    n: int

    @property
    def share(self) -> float:
        """wrong / n."""
        return self.wrong / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The interval of Wilson (1927)."""
        z, n, p = 1.959964, self.n, self.share
        middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.share:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


@frozen
class Result:
    """The studies of one kind of noise, with one number of seeds."""

    noise: str
    seeds: int
    corrected: Share
    uncorrected: Share
    without_spread: float


def _with_seed_effect(noise: Noise) -> Noise:
    def metrics(rng: np.random.Generator, arms: int, seeds: int) -> np.ndarray:
        return rng.normal(size=seeds) + noise(rng, arms, seeds)

    return metrics


def _failed_runs(rng: np.random.Generator, arms: int, seeds: int) -> np.ndarray:
    return rng.normal(size=(arms, seeds)) - 5 * (rng.random((arms, seeds)) < 0.1)


def _unlike_arms(rng: np.random.Generator, arms: int, seeds: int) -> np.ndarray:
    noise = rng.exponential(size=(arms, seeds)) - 1
    noise[0] = rng.normal(size=seeds)
    return noise


def _accuracy(images: int) -> Noise:
    def metrics(rng: np.random.Generator, arms: int, seeds: int) -> np.ndarray:
        # Each image is easy or hard for all runs: the logit of its chance to be right.
        logits = rng.normal(4.0, 2.5, images)
        right = rng.random((arms, seeds, images)) < 1 / (1 + np.exp(-logits))
        return right.mean(2)

    return metrics


NOISES: dict[str, Noise] = {
    "normal": _with_seed_effect(lambda rng, arms, seeds: rng.normal(size=(arms, seeds))),
    "skewed": _with_seed_effect(lambda rng, arms, seeds: rng.exponential(size=(arms, seeds))),
    "heavy tails": _with_seed_effect(lambda rng, arms, seeds: rng.standard_t(3, (arms, seeds))),
    "failed runs": _with_seed_effect(_failed_runs),
    "unlike arms": _with_seed_effect(_unlike_arms),
    "images 1000": _accuracy(1000),
    "images 50": _accuracy(50),
}


def study(noise: Noise, seeds: int, rng: np.random.Generator, arms: int = ARMS) -> list[Comparison]:
    """Compare `arms` arms with a baseline, all of them equal in truth."""
    metrics = noise(rng, arms + 1, seeds)
    values = {f"arm {i}": dict(enumerate(row.tolist())) for i, row in enumerate(metrics)}
    return compare_arms(values, "arm 0", higher_is_better=True)


def simulate(name: str, seeds: int, studies: int) -> Result:
    """Count the wrong verdicts of studies with this noise. The draws depend on the name alone."""
    rng = np.random.default_rng([*name.encode(), seeds])
    found = [study(NOISES[name], seeds, rng) for _ in range(studies)]
    corrected = sum(any(c.decided for c in compared) for compared in found)
    uncorrected = sum(any(_excludes_0(c) for c in compared) for compared in found)
    no_spread = np.mean([c.p is None for compared in found for c in compared])
    return Result(
        name, seeds, Share(corrected, studies), Share(uncorrected, studies), float(no_spread)
    )


def _excludes_0(compared: Comparison) -> bool:
    return compared.p is not None and compared.p < 0.05


def table(results: list[Result]) -> str:
    """The results as Markdown."""
    lines = [
        "| noise | seeds | a wrong verdict | by uncorrected intervals | without a spread |",
        "|---|---|---|---|---|",
    ]
    for r in results:
        cells = (r.noise, str(r.seeds), str(r.corrected), str(r.uncorrected))
        lines.append(f"| {' | '.join(cells)} | {100 * r.without_spread:.1f} % |")
    return "\n".join(lines)


def main() -> None:
    """Simulate all kinds of noise, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = [simulate(name, seeds, args.studies) for name in NOISES for seeds in SEEDS]
    print(table(results))
    if args.json:
        content = {
            "machine": machine(),
            "command": f"python benchmarks/false_positives.py --studies {args.studies}",
            "date": datetime.date.today().isoformat(),
            "arms": ARMS,
            "results": [asdict(result) for result in results],
        }
        args.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
