"""Let two processes use one run folder at the same time, and compare with one process alone.

    python tests/fuzz/two_processes.py --rounds 3

Each process is a command of `mtl`, forked from this one: so nothing is imported again. The script
prints a table: exit codes, the message of a process that was refused, and whether the log has
doubled rows, or weights or log differ from those of one process. It exits with 1 if they do, or
after a traceback.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from attrs import define, field, frozen
from kills import HANG_S, contents, last_step, same

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from dots_run import tiny_toml

import mtlcore
from mtlcore.cli import main as mtl
from mtlcore.runs import RunFolder

STEPS = 120
TRAIN = f"""steps = {STEPS}
ema = 0.5
accelerator = "cpu"
log_every = 3
save_every = 5
eval_every = 10
"""
CONFIG = tiny_toml(TRAIN, n=60, batch_size=12)


@define
class Row:
    """One row of the table. codes, messages: in the order in which the processes were started."""

    name: str
    codes: list[list[int]] = field(factory=list)
    messages: set[str] = field(factory=set)
    wrong: list[str] = field(factory=list)


@frozen
class Command:
    """A command that runs in a process of its own. stderr: the file of its messages."""

    process: multiprocessing.process.BaseProcess
    stderr: Path

    def join(self) -> int:
        """Wait for its end. -> its exit code, negative after a signal."""
        self.process.join(HANG_S)
        code = self.process.exitcode
        assert code is not None, f"a command hangs: {self.stderr}"
        return code


def run_command(words: list[str], stderr: Path) -> None:
    with stderr.open("w") as file:
        os.dup2(file.fileno(), 2)
        os.dup2(file.fileno(), 1)
        try:
            code = mtl(words)
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def start(folder: Path, *words: str | Path) -> Command:
    """Start `mtl` with these words. folder: for its messages."""
    stderr = folder / f"stderr{time.monotonic_ns()}"
    process = multiprocessing.get_context("fork").Process(
        target=run_command, args=([str(word) for word in words], stderr)
    )
    process.start()
    return Command(process, stderr)


def wait_for_step(run: Path, step: int) -> None:
    """Wait until a run has logged this step."""
    until = time.monotonic() + HANG_S
    while last_step(run) < step:
        assert time.monotonic() < until, f"{run} hangs"
        time.sleep(0.002)


def killed(folder: Path, step: int) -> None:
    """Train a run that is killed after this step."""
    command = start(folder, "train", folder / "dots.toml", "--out", folder / "run")
    wait_for_step(folder / "run", step)
    command.process.kill()
    command.join()


# Each case uses `folder / "run"` and returns its commands. The run may still train, or be stopped:
# it is then resumed to its end.


def two_resume(folder: Path) -> list[Command]:
    killed(folder, 30)
    return [start(folder, "train", "--resume", folder / "run") for _ in range(2)]


def resume_while_it_trains(folder: Path) -> list[Command]:
    first = start(folder, "train", folder / "dots.toml", "--out", folder / "run")
    wait_for_step(folder / "run", 9)
    return [first, start(folder, "train", "--resume", folder / "run")]


def two_train_into_one_folder(folder: Path) -> list[Command]:
    words = ("train", folder / "dots.toml", "--out", folder / "run")
    return [start(folder, *words) for _ in range(2)]


def train_into_a_folder_in_use(folder: Path) -> list[Command]:
    words = ("train", folder / "dots.toml", "--out", folder / "run")
    first = start(folder, *words)
    wait_for_step(folder / "run", 9)
    return [first, start(folder, *words)]


def killed_and_resumed_at_once(folder: Path) -> list[Command]:
    first = start(folder, "train", folder / "dots.toml", "--out", folder / "run")
    wait_for_step(folder / "run", 42)
    first.process.kill()
    return [first, start(folder, "train", "--resume", folder / "run")]


def resume_with_another_setting_while_it_trains(folder: Path) -> list[Command]:
    first = start(folder, "train", folder / "dots.toml", "--out", folder / "run")
    wait_for_step(folder / "run", 9)
    return [
        first,
        start(folder, "train", "--resume", folder / "run", "--set", f"train.steps={STEPS + 9}"),
    ]


def evaluate_while_it_trains(folder: Path) -> list[Command]:
    first = start(folder, "train", folder / "dots.toml", "--out", folder / "run")
    wait_for_step(folder / "run", 12)
    others = []
    while first.process.is_alive():
        which = ("last", "best")[len(others) % 2]
        others.append(start(folder, "eval", folder / "run", "--checkpoint", which))
        others[-1].join()
    return [first, *others]


Case = Callable[[Path], list[Command]]
CASES: tuple[Case, ...] = (
    two_resume,
    resume_while_it_trains,
    resume_with_another_setting_while_it_trains,
    two_train_into_one_folder,
    train_into_a_folder_in_use,
    killed_and_resumed_at_once,
    evaluate_while_it_trains,
)


def try_case(case: Case, rounds: int, expected: dict[str, object]) -> Row:
    """Run a case this many times."""
    row = Row(case.__name__.replace("_", " "))
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "dots.toml").write_text(CONFIG)
            commands = case(folder)
            row.codes.append([command.join() for command in commands])
            last = start(folder, "train", "--resume", folder / "run")
            if last.join():
                row.wrong.append(f"not resumable: {last.stderr.read_text()[-300:]}")
            else:
                row.wrong += wrong(folder / "run", expected)
            for command in (*commands, last):
                text = command.stderr.read_text()
                if "Traceback" in text:
                    row.wrong.append(f"traceback: {text[-500:]}")
                refusals = [line for line in text.splitlines() if line.startswith("mtl: ")]
                row.messages |= set(plain(refusals, folder, commands))
    return row


def plain(lines: Iterable[str], folder: Path, commands: list[Command]) -> Iterable[str]:
    """The lines without names of folders and numbers of processes."""
    for line in lines:
        short = line.replace(f"{folder}/", "").replace(str(folder), "")
        for command in commands:
            short = short.replace(f"process {command.process.pid} ", "process N ")
        yield short[:160]


def wrong(run: Path, expected: dict[str, object]) -> list[str]:
    """What differs from a run of one process."""
    steps = [(row["step"], *sorted(row)) for row in RunFolder(run).log.rows()]
    found = contents(run)
    doubled = ["doubled rows"] if len(steps) != len(set(steps)) else []
    return doubled + [name for name in expected if not same(expected[name], found[name])]


def main() -> int:
    """Return 1 after a difference or a traceback."""
    parser = argparse.ArgumentParser(description="Two processes and one run; see above.")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    bad = False
    with tempfile.TemporaryDirectory() as name:
        config = Path(name) / "dots.toml"
        config.write_text(CONFIG)
        mtlcore.train(config, Path(name) / "run", progress=False)
        expected = contents(Path(name) / "run")
        print("| case | exit codes of each round | messages | doubled rows or differences |")
        print("|---|---|---|---|")
        for case in CASES:
            row = try_case(case, given.rounds, expected)
            bad = bad or bool(row.wrong)
            cells = ("; ".join(map(short_codes, row.codes)), " / ".join(sorted(row.messages)))
            print(f"| {row.name} | {' | '.join(cells)} | {row.wrong or 'none'} |", flush=True)
    return int(bad)


def short_codes(codes: list[int]) -> str:
    """The exit codes of one round; equal ones at the end are counted."""
    end = codes[1:]
    if len(end) > 1 and len(set(end)) == 1:
        return f"{codes[0]}, {len(end)} x {end[0]}"
    return ", ".join(map(str, codes))


if __name__ == "__main__":
    sys.exit(main())
