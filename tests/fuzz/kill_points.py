"""Kill a toy run before each of its file operations, resume it, and compare.

    python tests/fuzz/kill_points.py --set-up periods --every 1 --seed 0

The operations are those of the run folder that Python audits: opening a file to write, creating,
renaming and removing. After each kill, the run resumes; every second one is killed once more, at
random. Weights, optimizer, counters, log and results must equal those of an undisturbed run, bit
for bit. The script prints counts, and exits with 1 after a difference.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from attrs import frozen
from kills import HANG_S, differences

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from dots_run import tiny_toml

import mtlcore
from mtlcore import Callback, MtlError
from mtlcore.config import load

# Steps between rows, checkpoints and evaluations, and the step at which a callback ends the run.
SET_UPS: dict[str, tuple[int, int, int, int]] = {
    "periods": (3, 4, 2, 0),
    "every step": (1, 1, 1, 0),
    "last step only": (2, 100, 0, 0),
    "ended at an epoch": (2, 3, 0, 4),
    "ended at an evaluation": (3, 5, 3, 6),
}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
DONE, KILLED = 0, -signal.SIGKILL


@mtlcore.register
@frozen
class Counts(Callback):
    """Counts its calls, adds the counts to the metrics, and ends the run at a step."""

    stop_at: int = 0

    def figures(self, experiment):
        return dict.fromkeys(("epochs", "evaluations", "ends"), True)

    def on_epoch_end(self, run):
        self._count(run, "epochs")

    def on_validation_end(self, run):
        self._count(run, "evaluations")

    def on_train_end(self, run):
        run.add({"ends": 1.0})

    def _count(self, run, name):
        run.state[name] = run.state.get(name, 0) + 1
        run.add({name: float(run.state[name])})
        if run.step == self.stop_at:
            run.stop("enough")


def write_config(folder: Path, name: str) -> Path:
    log, save, evaluate, _ = SET_UPS[name]
    periods = f"log_every = {log}\nsave_every = {save}\neval_every = {evaluate}"
    file = folder / "dots.toml"
    train = f'steps = 8\nema = 0.5\naccelerator = "cpu"\n{periods}'
    file.write_text(tiny_toml(train, n=60, batch_size=12))
    return file


def train(config: Path | None, run: Path, stop_at: int, kill_at: int, report: Path) -> None:
    """Train in this process; without a configuration, resume. It dies at an operation."""
    torch.set_num_threads(1)
    operations: list[str] = []
    kill_before(kill_at, operations)
    experiment = load(config) if config else None
    callbacks = {"counts": Counts(stop_at)}
    try:
        mtlcore.train(experiment, run, resume=config is None, callbacks=callbacks, progress=False)
    except MtlError as error:
        report.write_text(str(error))
        os._exit(2)
    report.write_text(str(len(operations)))


def kill_before(number: int, operations: list[str]) -> None:
    """Kill this process before its operation of this number. 0: only count them."""

    def hook(event: str, args: Sequence[object]) -> None:
        if event == "open" and len(args) > 2:
            path, _, flags = args
            if not (isinstance(flags, int) and flags & WRITES) or "/run" not in str(path):
                return
        elif event not in CHANGES:
            return
        operations.append(event)
        if len(operations) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def start(config: Path | None, run: Path, stop_at: int, kill_at: int = 0) -> tuple[int, str]:
    """Train in a process. -> its exit code, and the message or the number of operations."""
    report = run.parent / "report"
    process = multiprocessing.get_context("fork").Process(
        target=train, args=(config, run, stop_at, kill_at, report)
    )
    process.start()
    process.join(HANG_S)
    code = process.exitcode
    assert code is not None, "the process hangs"
    return code, report.read_text() if code in (DONE, 2) else ""


def after_a_kill(config: Path, run: Path, whole: Path, stop_at: int, kills: list[int]) -> str:
    """Train with these kills and resume. -> what went wrong, or ""."""
    for number in [*kills, 0]:
        begun = (run / "config.toml").exists()
        code, text = start(None if begun else config, run, stop_at, number)
        if code == DONE:
            break
        if code != KILLED:
            return f"exit code {code}: {text}"
    return ", ".join(differences(whole, run))


def try_set_up(name: str, every: int, seed: int) -> Counter[str]:
    """Kill at each `every`-th operation."""
    rng, counts, stop_at = random.Random(f"{seed} {name}"), Counter[str](), SET_UPS[name][3]
    with tempfile.TemporaryDirectory() as parent:
        whole = Path(parent) / "whole" / "run"
        config = write_config(Path(parent), name)
        whole.parent.mkdir()
        code, text = start(config, whole, stop_at)
        assert code == DONE, text
        operations = int(text)
        for number in range(1, operations + 1, every):
            kills = [number, rng.randint(1, operations)] if number % 2 else [number]
            with tempfile.TemporaryDirectory() as folder:
                wrong = after_a_kill(config, Path(folder) / "run", whole, stop_at, kills)
            counts["differ" if wrong else "equal"] += 1
            if wrong:
                print(f"{name}: killed before the operations {kills}: {wrong}", flush=True)
    print(f"{name}: {operations} operations", file=sys.stderr, flush=True)
    return counts


def print_table(found: Mapping[str, Counter[str]]) -> None:
    print("| set-up | log/save/eval every | equal | differ |\n|---|---|---|---|")
    for name, counts in found.items():
        periods = "/".join(map(str, SET_UPS[name][:3]))
        print(f"| {name} | {periods} | {counts['equal']} | {counts['differ']} |")


def main() -> int:
    """Return 1 if a killed run differs from an undisturbed one, or can't resume."""
    parser = argparse.ArgumentParser(description="Kill a run at its file operations; see above.")
    parser.add_argument("--set-up", nargs="+", choices=list(SET_UPS), default=list(SET_UPS))
    parser.add_argument("--every", type=int, default=1, help="try each n-th operation alone")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:  # imports everything, before any fork
        config = write_config(Path(folder), "every step")
        mtlcore.train(config, Path(folder) / "run", progress=False)
    found = {name: try_set_up(name, given.every, given.seed) for name in given.set_up}
    print_table(found)
    return 1 if any(counts["differ"] for counts in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
