"""`python benchmarks/run.py hmtl`: train the runs of a protocol, and write its table.

Runs are trained one after the other. The command can be stopped at any time; the same command
resumes. Several processes may share one --work folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from mtlcore import MtlError, nearest
from mtlcore.study.again import again
from mtlcore.study.definition import Definition
from mtlcore.study.plan import STAGES, Plan
from mtlcore.study.remaining import remaining
from mtlcore.study.report import Tables, report
from mtlcore.study.results import Run
from mtlcore.study.working import Work
from mtlcore.study.workspace import Workspace
from mtlcore.training.stop import Interrupted

from .protocols import ROOT, load, workspace


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
    folder = Path(args.work or ROOT / "runs" / f"hmtl-{protocol.name}").absolute()
    if args.rehearse is not None:
        results = folder
    here = workspace(protocol, args.data.absolute(), folder, results / "runs.jsonl")

    if args.table:
        return _write_table(here, results)
    if args.again:
        repeated = again(here, args.again)
        print("\n".join(repeated.lines()))
        return 0 if repeated.same else 1
    if args.dry_run:
        return _dry_run(here, args)

    work = Work(here, say=lambda line: print(line, flush=True))
    work.run(lambda plan: _left(plan, args))
    return _write_table(here, results)


# ---------------------------------------------------------------------------------- what is left


def _left(plan: Plan, args: argparse.Namespace) -> list[Run]:
    """Return the selected runs that are not finished, each once.

    Raises MtlError on an unknown arm or stage, or if the protocol has no such run so far.
    """
    stages = _stages(plan.definition, args.stages)
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


def _stages(protocol: Definition, names: list[str]) -> list[str]:
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


def _dry_run(here: Workspace, args: argparse.Namespace) -> int:
    plan = here.plan()
    print(remaining(plan, here.sorted_rows(), _left(plan, args)))
    return 0


def _write_table(here: Workspace, results: Path) -> int:
    plan = here.plan()
    name = plan.definition.name
    text = str(report(plan, f"python benchmarks/run.py hmtl --protocol {name}"))
    results.mkdir(parents=True, exist_ok=True)
    (results / "table.md").write_text(text + "\n", encoding="utf-8")
    if any("test" in row for row in plan.results.rows):
        Tables(plan).plot(results / "arms.png")
    print(text)
    return 0
