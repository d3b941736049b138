"""`python benchmarks/run.py hmtl`: train the runs of a protocol, and write its table.

Runs are trained one after the other. The command can be stopped at any time; the same command
resumes. Several processes may share one --work folder.
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import evolve

from mtlcore import MtlError, nearest
from mtlcore.training.stop import Interrupted

from .old_keys import FORMAT, format_of
from .plan import STAGES, Plan, Row, Run, key_of, name_of
from .protocol import Protocol, load
from .runs import ROOT, Workspace

# Fields of a row that must be equal when the run is trained again.
REPRODUCED = ("set", "encoded", "validation", "validation_best", "test", "test_best", "weights")
# Fields that are printed for both rows.
PROVENANCE = ("commit", "torch", "threads", "device")
WAIT_S = 5.0  # between two looks at the results of other processes


def main(words: list[str]) -> int:
    """Run the command with these words, and return its exit code."""
    args = _parser().parse_args(words)
    try:
        if args.rehearse is None or args.work:
            return _run(args)
        # A rehearsal must not find finished runs: it would prove nothing about today's code.
        with TemporaryDirectory(prefix="hmtl-try-") as args.work:
            return _run(args)
    except MtlError as error:
        print(f"hmtl: {error}", file=sys.stderr)
        return 2
    except (Interrupted, KeyboardInterrupt):
        print("hmtl: stopped; run the same command again to resume", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    description = __doc__.splitlines()[0] if __doc__ else ""
    parser = argparse.ArgumentParser(prog="python benchmarks/run.py hmtl", description=description)
    parser.add_argument("--protocol", default="cpu2", help="a file of benchmarks/protocols")
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="folder that contains the data sets"
    )
    parser.add_argument(
        "--work", type=Path, help="folder of the run folders (default: runs/hmtl-PROTOCOL)"
    )
    parser.add_argument("--arms", nargs="*", default=[], help="only these arms")
    parser.add_argument("--seeds", nargs="*", type=int, default=[], help="only these seeds")
    parser.add_argument(
        "--stages",
        nargs="*",
        default=[],
        help=f"only these stages: {', '.join(STAGES)}, extras, or the name of one extra",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="list the runs and their estimated CPU seconds"
    )
    parser.add_argument(
        "--table",
        action="store_true",
        help="write the table and the plot of the finished runs; train nothing",
    )
    parser.add_argument(
        "--try",
        dest="rehearse",
        nargs="*",
        metavar="SET",
        help="rehearse: train two steps a run, with these extra settings, to see that every run "
        "works here; results go to --work only",
    )
    parser.add_argument(
        "--again",
        metavar="RUN",
        help="train a finished run again (by the name in the log) and compare it with its "
        "committed row",
    )
    return parser


def _run(args: argparse.Namespace) -> int:
    protocol = load(args.protocol)
    results = ROOT / "benchmarks" / "results" / f"hmtl-{protocol.name}"
    if args.rehearse is not None:
        protocol = protocol.rehearsal(tuple(args.rehearse))
    work = Path(args.work or ROOT / "runs" / f"hmtl-{protocol.name}")
    if args.rehearse is not None:
        results = work
    workspace = Workspace(protocol, args.data.absolute(), work.absolute(), results / "runs.jsonl")

    if args.table:
        return _write_table(workspace, results)
    if args.again:
        return _again(workspace, args.again)
    if args.dry_run:
        return _dry_run(workspace, args)

    while left := _left(workspace, args):
        # any() stops after the first run: its result may change which runs are left.
        if not any(_finish(workspace, run) for run in left):
            # Other processes train all of them; their results may add further runs.
            time.sleep(WAIT_S)
    return _write_table(workspace, results)


def _finish(workspace: Workspace, run: Run) -> bool:
    """Train a run unless it is finished. Return False if another process has claimed it."""
    protocol = workspace.protocol
    with workspace.claimed(run) as is_ours:
        if is_ours and workspace.row(run) is None:
            estimate = _estimate_cpu_s(protocol, run)
            print(f"{run.name}: {estimate:.0f} CPU s estimated", flush=True)
            row = workspace.train_and_record(run)
            metric = protocol.metric_of(run.stage)
            value = row["validation"][metric]
            print(
                f"{run.name}: {row['cpu_s']:.0f} CPU s, {metric} {value:.4f}, validation",
                flush=True,
            )
        return is_ours


# --------------------------------------------------------------------------------------- again


def _again(workspace: Workspace, name: str) -> int:
    """Train a finished run again. Return 0 if every metric and every bit of the weights agrees."""
    plan = workspace.plan()
    rows = {name_of(key_of(row)): row for row in plan.results.rows}
    if name not in rows:
        raise MtlError(f"there is no finished run {name!r}; {nearest(name, rows)}")
    before = rows[name]
    workspace.work.mkdir(parents=True, exist_ok=True)
    # A new folder: a folder of the first time would be resumed instead of trained.
    with TemporaryDirectory(dir=workspace.work) as folder:
        now = evolve(workspace, work=Path(folder)).train(plan.run(key_of(before)))

    different = differences(before, now)
    for key in different:
        print(f"{key}: {before[key]} then, {now[key]} now")
    print(f"{name}: {'NOT the same' if different else 'the same, bit for bit'}")
    shown = list(PROVENANCE)
    if format_of(before) < FORMAT:
        shown.append("fingerprint")
    provenance = [f"{key} {before.get(key)} / {now[key]}" for key in shown]
    print(f"then / now: {', '.join(provenance)}")
    if different:
        # A row has the instruction set but not the model of the processor.
        print("note: sums round differently on another processor model, torch or thread count")
    return 1 if different else 0


def differences(before: Row, now: Row) -> list[str]:
    """Return the fields that should be reproduced but differ.

    `before` has today's key names (see `old_keys.read_row`). The fingerprint counts only for rows
    of today's format: earlier ones hashed a configuration with other key names.
    """
    keys = list(REPRODUCED)
    if format_of(before) >= FORMAT:
        keys.append("fingerprint")
    return [key for key in keys if key in before and before[key] != now[key]]


# ---------------------------------------------------------------------------------- what is left


def _left(workspace: Workspace, args: argparse.Namespace) -> list[Run]:
    """Return the selected runs that are not finished, each once.

    Raises MtlError on an unknown arm or stage, or if the protocol has no such run so far.
    """
    plan = workspace.plan()
    stages = _stages(workspace.protocol, args.stages)
    for name in args.arms:
        plan.arm(name)  # raises on an unknown arm
    # Stages overlap: a run may be listed by several of them.
    by_key = {run.key: run for run in plan.runs(stages)}
    runs = [run for run in by_key.values() if _is_selected(run, args)]
    if not runs:
        _raise_no_run(plan, stages, args)
    return [run for run in runs if plan.results.row(run) is None]


def _is_selected(run: Run, args: argparse.Namespace) -> bool:
    if args.arms and run.arm.name not in args.arms:
        return False
    return not args.seeds or run.seed in args.seeds


def _raise_no_run(plan: Plan, stages: list[str], args: argparse.Namespace) -> None:
    selection = [*stages, *args.arms, *(f"seed {seed}" for seed in args.seeds)]
    message = f"there is no run of {', '.join(selection)}: the protocol does not have it"
    pending = plan.pending_stages()
    if pending:
        message += f", or it depends on results that do not exist yet ({', '.join(pending)})"
    raise MtlError(message)


def _stages(protocol: Protocol, names: list[str]) -> list[str]:
    """Replace "extras" by the name of each extra. Raises MtlError on an unknown stage."""
    extras = [extra.name for extra in protocol.extras]
    known = [*STAGES, "extras", *extras]
    stages: list[str] = []
    for name in names:
        if name not in known:
            raise MtlError(f"there is no stage {name!r}; {nearest(name, known)}")
        if name == "extras":
            stages += extras
        else:
            stages.append(name)
    return stages


def _dry_run(workspace: Workspace, args: argparse.Namespace) -> int:
    protocol = workspace.protocol
    estimates = {run.name: _estimate_cpu_s(protocol, run) for run in _left(workspace, args)}
    for name, cpu_s in estimates.items():
        print(f"{cpu_s:8.0f}  {name}")
    total = sum(estimates.values())
    print(f"{total:8.0f}  CPU seconds estimated for the {len(estimates)} runs known so far")
    pending = workspace.plan().pending_stages()
    if pending:
        print(f"Stages that depend on results that do not exist yet: {', '.join(pending)}")
    return 0


def _estimate_cpu_s(protocol: Protocol, run: Run) -> float:
    """Estimate the compute of a run by the number of encoded images.

    It ignores that pre-training encodes one batch a step, whatever the arm's `views` are.
    """
    base = tomllib.loads(protocol.base(run.config).read_text(encoding="utf-8"))
    encoded = run.steps * base["input"]["batch_size"] * run.arm.views
    return float(encoded / protocol.forwards_per_cpu_s)


def _write_table(workspace: Workspace, results: Path) -> int:
    # Imported here: scipy and matplotlib take long to import, and only the table needs them.
    from .report import plot, table

    plan = workspace.plan()
    text = table(plan)
    results.mkdir(parents=True, exist_ok=True)
    (results / "table.md").write_text(text + "\n", encoding="utf-8")
    if any("test" in row for row in plan.results.rows):
        plot(plan, results / "arms.png")
    print(text)
    return 0
