"""Kill runs by SIGKILL at random moments, resume them, and compare with uninterrupted runs.

    python tests/fuzz/kills.py --kills 60 --seed 0

The six set-ups are those of benchmarks/bitwise/, on small toy images. In each round, the periods of
log, save and evaluation are random. Weights, optimizer, counters, log and results must be equal,
bit for bit. The script prints a table, and exits with 1 after a difference.

Each training is a process of its own, forked from this one: so nothing is imported again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import tomli_w
import torch
from attrs import define, field, frozen

import mtlcore
from mtlcore.config import load
from mtlcore.runs import RunFolder

TESTS = Path(__file__).resolve().parents[1]
BITWISE = TESTS.parent / "benchmarks" / "bitwise"
SET_UPS = ("sl", "puzzling2", "inpainting_ema", "uncertainty", "upgrad_every5", "consistency")
STEPS = 60
HANG_S = 600  # only ends a process that hangs
CLOCKS = ("cpu_s", "wall_s")
# A pretext with a loss of NaN in some steps: they are skipped, and counted.
SKIPPING = {"puzzling2": 7, "sl": 11}


@frozen
class Periods:
    """Steps between two rows, checkpoints and evaluations."""

    log: int
    save: int
    evaluate: int

    @classmethod
    def draw(cls, rng: random.Random) -> Periods:
        return cls(rng.randint(1, 13), rng.randint(3, 17), rng.choice((0, rng.randint(5, 25))))


@define
class Row:
    """One row of the table. early: kills before the first checkpoint."""

    name: str
    rounds: int = 0
    kills: int = 0
    early: int = 0
    periods: list[str] = field(factory=list)
    differences: list[str] = field(factory=list)


def write_config(folder: Path, name: str, periods: Periods) -> Path:
    """Write a set-up of benchmarks/bitwise, on toy images of 24 x 24 pixels."""
    tables = tomllib.loads((BITWISE / f"{name}.toml").read_text())
    own = {"n": 160, "side": 24}
    kept = {key: tables["data"]["fer2013"].get(key) for key in ("labels", "unlabeled")}
    own |= {key: value for key, value in kept.items() if value is not None}
    tables |= {
        "plugins": [str(TESTS / "dots.py"), str(TESTS / "training" / "failing.py")],
        "task": {"quarter": {"name": "classification", "dropout": 0.3}},
        "data": {"dots": own},
    }
    tables["encoder"]["width"] = 4
    tables["input"] |= {"size": 24, "batch_size": 8}
    tables["input"].pop("cache_size", None)
    if "unlabeled_batch" in tables["input"]:
        tables["input"]["unlabeled_batch"] = 4
    if name in SKIPPING:
        tables.setdefault("pretext", {})["nan"] = {"every": SKIPPING[name]}
    tables["train"] |= {
        "steps": STEPS,
        "log_every": periods.log,
        "save_every": periods.save,
        "eval_every": periods.evaluate,
    }
    file = folder / f"{name}.toml"
    file.write_text(tomli_w.dumps(tables))
    return file


def train(config: Path | None, run: Path) -> None:
    """Train in this process; without a configuration, resume."""
    torch.set_num_threads(1)
    experiment = load(config) if config else None
    mtlcore.train(experiment, run, resume=config is None, progress=False)


def start(config: Path | None, run: Path) -> multiprocessing.process.BaseProcess:
    """Start a process that trains."""
    process = multiprocessing.get_context("fork").Process(target=train, args=(config, run))
    process.start()
    return process


def last_step(run: Path) -> int:
    """The step of the last complete row of the log, 0 if there is none."""
    try:
        lines = (run / "metrics.jsonl").read_text().split("\n")[:-1]
    except FileNotFoundError:
        return 0
    return int(json.loads(lines[-1])["step"]) if lines else 0


def kill_at(
    process: multiprocessing.process.BaseProcess, run: Path, step: int, wait: float
) -> bool:
    """Kill the process `wait` seconds after it has logged a step.

    -> False if it ended before.
    """
    until = time.monotonic() + HANG_S
    while process.is_alive() and last_step(run) < step:
        assert time.monotonic() < until, "the process hangs"
        time.sleep(0.001)
    time.sleep(wait)
    process.kill()
    process.join()
    if process.exitcode not in (0, -9):
        raise RuntimeError(f"training {run} ended with {process.exitcode}")
    return process.exitcode == -9


def finish(process: multiprocessing.process.BaseProcess, run: Path) -> None:
    process.join(HANG_S)
    if process.exitcode != 0:
        raise RuntimeError(f"training {run} ended with {process.exitcode}")


def one_round(row: Row, folder: Path, rng: random.Random, kills: int) -> int:
    """Train with new periods, once whole and once with up to this many kills. -> kills."""
    periods = Periods.draw(rng)
    config = write_config(folder, row.name, periods)
    whole, killed = folder / "whole", folder / "killed"
    finish(start(config, whole), whole)
    step_s = RunFolder(whole).provenance()["cpu_s"] / STEPS / 2

    process, done = start(config, killed), 0
    while done < kills:
        checkpoint = RunFolder(killed).checkpoint()
        saved = checkpoint.step if checkpoint else 0
        target = rng.randint(saved, min(STEPS - 1, saved + 2 * periods.save))
        if not kill_at(process, killed, target, rng.uniform(0, periods.log * step_s)):
            break
        done += 1
        if not (killed / "config.toml").exists():
            process = start(config, killed)
            row.early += 1
            continue
        row.early += RunFolder(killed).checkpoint() is None
        process = start(None, killed)
    finish(process, killed)
    row.rounds += 1
    row.kills += done
    row.periods.append(f"{periods.log}/{periods.save}/{periods.evaluate}")
    row.differences += differences(whole, killed)
    return done


def differences(whole: Path, killed: Path) -> list[str]:
    """What differs between two finished runs."""
    one, two = contents(whole), contents(killed)
    return [name for name in one if not same(one[name], two[name])]


def contents(run: Path) -> dict[str, object]:
    """Everything that must be equal."""
    folder = RunFolder(run)
    last, best = folder.require(), folder.require("best")
    state = last.state()
    for clock in CLOCKS:
        del state["record"][clock]
    rows = folder.log.rows()
    for logged in rows:
        logged.pop("cpu_s", None)
    provenance = folder.provenance()
    return {
        "weights": last.weights(),
        "EMA": last.ema(),
        "best": (best.step, best.weights()),
        "state": state,
        "log": rows,
        "results": {key: provenance[key] for key in ("steps", "encoded", "skipped", "validation")},
    }


def same(a: object, b: object) -> bool:
    """Whether two values are equal, bit for bit; NaN equals NaN."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.isnan(), b.isnan()) and (
            torch.equal(a.nan_to_num(), b.nan_to_num())
        )  # fmt: skip
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) or (a != a and b != b)


def try_set_up(name: str, kills: int, seed: int) -> Row:
    """Rounds with new periods until a set-up was killed this many times."""
    row, rng = Row(name), random.Random(f"{seed} {name}")
    while row.kills < kills:
        with tempfile.TemporaryDirectory() as folder:
            one_round(row, Path(folder), rng, min(4, kills - row.kills))
    return row


def print_table(rows: Sequence[Row]) -> None:
    print("| set-up | rounds | log/save/eval every | kills | before a checkpoint | differ |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        differ = ", ".join(row.differences) or "nothing"
        periods = ", ".join(row.periods)
        cells = (row.name, row.rounds, periods, row.kills, row.early, differ)
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def main() -> int:
    """Return 1 if a killed run differs from an uninterrupted one."""
    parser = argparse.ArgumentParser(description="Kill and resume runs; see above.")
    parser.add_argument("--kills", type=int, default=60, help="over all set-ups")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=SET_UPS, default=list(SET_UPS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:  # imports everything, before any fork
        config = write_config(Path(folder), given.only[0], Periods(5, 5, 5))
        mtlcore.train(config, Path(folder) / "run", progress=False)
    each = -(-given.kills // len(given.only))
    rows = []
    for name in given.only:
        rows.append(try_set_up(name, each, given.seed))
        print(f"{name}: {rows[-1].kills} kills", file=sys.stderr, flush=True)
    print_table(rows)
    return 1 if any(row.differences for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
