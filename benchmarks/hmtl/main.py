"""`python benchmarks/run.py hmtl`: train what a protocol asks for, one run after the other; stop it and start it as you like."""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import evolve

from mtlcore import MtlError, nearest
from mtlcore.train.trainer import Interrupted

from .plan import STAGES, Run, key_of, name_of
from .protocol import Protocol, load
from .runs import ROOT, Workspace

SAID_AGAIN = ("set", "encoded", "validation", "validation_best", "test", "test_best", "weights")
WAIT_S = 5.0  # for other processes, whose results may name further runs


def main(words: list[str]) -> int:
    """-> the exit code."""
    parser = argparse.ArgumentParser(prog="python benchmarks/run.py hmtl", description=__doc__)
    parser.add_argument("--protocol", default="cpu2", help="a file of benchmarks/protocols")
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="the folder that the sets lie in"
    )
    parser.add_argument(
        "--work", type=Path, help="where run folders go (default: runs/hmtl-PROTOCOL)"
    )
    parser.add_argument("--arms", nargs="*", default=[], help="these alone")
    parser.add_argument("--seeds", nargs="*", type=int, default=[], help="these alone")
    parser.add_argument(
        "--stages",
        nargs="*",
        default=[],
        help=f"these alone: {', '.join(STAGES)}, extras, or the name of one extra",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="tell what would be run, and the estimated CPU seconds",
    )
    parser.add_argument(
        "--table",
        action="store_true",
        help="write the table and the plot of what there is, and train nothing",
    )
    parser.add_argument(
        "--try",
        dest="rehearse",
        nargs="*",
        metavar="SET",
        help="two steps a run, with these settings on top: does all of it run here? Nothing of it stays, but in --work",
    )
    parser.add_argument(
        "--again",
        metavar="RUN",
        help="train a finished run anew (named as the log and `Not run` name them) and hold it against its committed line",
    )
    asked = parser.parse_args(words)
    try:
        if asked.rehearse is None or asked.work:
            return _run(asked)
        with TemporaryDirectory(
            prefix="hmtl-try-"
        ) as asked.work:  # afresh: what was rehearsed before proves nothing now
            return _run(asked)
    except MtlError as error:
        print(f"hmtl: {error}", file=sys.stderr)
        return 2
    except (Interrupted, KeyboardInterrupt):
        print("hmtl: stopped; the same command goes on from here", file=sys.stderr)
        return 130


def _run(asked: argparse.Namespace) -> int:
    protocol = load(asked.protocol)
    if asked.rehearse is not None:
        protocol = protocol.rehearsal(tuple(asked.rehearse))
    work = Path(asked.work or ROOT / "runs" / f"hmtl-{protocol.name}")
    results = (
        ROOT / "benchmarks" / "results" / f"hmtl-{protocol.name}"
        if asked.rehearse is None
        else work
    )
    workspace = Workspace(protocol, asked.data.absolute(), work.absolute(), results / "runs.jsonl")
    if asked.table:
        return _table(workspace, results)
    if asked.again:
        return _again(workspace, asked.again)
    if asked.dry_run:
        return _dry(workspace, asked)
    while left := _left(workspace, asked):
        if not any(
            _done(workspace, run) for run in left
        ):  # all of them are being trained by other processes
            time.sleep(WAIT_S)
    return _table(workspace, results)


def _done(workspace: Workspace, run: Run) -> bool:
    """Whether this run is finished now; False where another process trains it. Any number of processes may share the work."""
    with workspace.claimed(run) as mine:
        if mine and workspace.row(run) is None:
            print(
                f"{run.name}: {_estimate(workspace.protocol, run):.0f} CPU s estimated", flush=True
            )
            row, metric = workspace.do(run), workspace.protocol.metric_of(run.stage)
            print(
                f"{run.name}: {row['cpu_s']:.0f} CPU s, {metric} {row['validation'][metric]:.4f}, validation",
                flush=True,
            )
        return mine


def _again(workspace: Workspace, name: str) -> int:
    """0 where every figure and every bit of the weights is the committed one, 1 with the differences where not."""
    plan = workspace.plan()
    rows = {name_of(key_of(row)): row for row in plan.results.rows}
    if name not in rows:
        raise MtlError(f"there is no finished run {name!r}; {nearest(name, rows)}")
    before = rows[name]
    workspace.work.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(
        dir=workspace.work
    ) as anew:  # never from what is left of the first time
        now = evolve(workspace, work=Path(anew)).trained(plan.run(key_of(before)))
    differ = [key for key in SAID_AGAIN if key in before and before[key] != now[key]]
    for key in differ:
        print(f"{key}: {before[key]} then, {now[key]} now")
    where = ", ".join(
        f"{key} {before.get(key)} / {now[key]}" for key in ("commit", "torch", "threads", "device")
    )
    print(f"{name}: {'NOT the same' if differ else 'the same, bit for bit'}; then / now: {where}")
    return 1 if differ else 0


def _left(workspace: Workspace, asked: argparse.Namespace) -> list[Run]:
    """What is asked for and not yet done; each run once. Raises MtlError where the protocol has no such run (by now)."""
    plan = workspace.plan()
    stages = _stages(workspace.protocol, asked.stages)
    for name in asked.arms:
        plan.arm(name)  # an unknown one is told, not passed over
    runs = [
        run
        for run in {run.key: run for run in plan.runs(stages)}.values()
        if (not asked.arms or run.arm.name in asked.arms)
        and (not asked.seeds or run.seed in asked.seeds)
    ]
    if not runs:
        words = [*stages, *asked.arms, *(f"seed {seed}" for seed in asked.seeds)]
        hanging = (
            f", or it hangs on results that are not there yet ({', '.join(plan.unnamed())})"
            * bool(plan.unnamed())
        )
        raise MtlError(
            f"there is no run of {', '.join(words)}: the protocol does not ask for it{hanging}"
        )
    return [run for run in runs if plan.results.row(run) is None]


def _stages(protocol: Protocol, asked: list[str]) -> list[str]:
    """ "extras" stands for each of them. Raises MtlError on an unknown stage."""
    extras = [extra.name for extra in protocol.extras]
    for name in asked:
        if name not in (known := [*STAGES, "extras", *extras]):
            raise MtlError(f"there is no stage {name!r}; {nearest(name, known)}")
    return [stage for name in asked for stage in (extras if name == "extras" else [name])]


def _dry(workspace: Workspace, asked: argparse.Namespace) -> int:
    costs = {run.name: _estimate(workspace.protocol, run) for run in _left(workspace, asked)}
    for name, cost in costs.items():
        print(f"{cost:8.0f}  {name}")
    print(
        f"{sum(costs.values()):8.0f}  CPU seconds estimated for what can be named by now ({len(costs)} runs)"
    )
    if unnamed := workspace.plan().unnamed():
        print(f"Not named yet, since they hang on results: {', '.join(unnamed)}")
    return 0


def _estimate(protocol: Protocol, run: Run) -> float:
    """By the encoder's forwards; the part on pretexts alone encodes one batch a step."""
    rows = tomllib.loads(protocol.base(run.config).read_text(encoding="utf-8"))["input"][
        "batch_size"
    ]
    return float(run.steps * rows * run.arm.views / protocol.forwards_per_cpu_s)


def _table(workspace: Workspace, results: Path) -> int:
    from .report import plot, table

    plan = workspace.plan()
    results.mkdir(parents=True, exist_ok=True)
    (results / "table.md").write_text(table(plan) + "\n", encoding="utf-8")
    if any("test" in row for row in plan.results.rows):
        plot(plan, results / "arms.png")
    print(table(plan))
    return 0
