"""Run a measurement: `python benchmarks/run.py SUITE [--quick] [--json FILE] [--check]`.

A suite compares variants by their process-CPU time, measured alternately in one process. `loader`
compares wall time too, so it needs a quiet machine; it also needs the images that
`benchmarks/loader.py` names, and 5 GB in the folder for temporary files.

    ratio = our CPU time / the CPU time of the baseline; lower is better

Some rows have a gate: the largest ratio that passes. `--check` exits with 1 if a full run misses a
gate. `--quick` takes a few minutes of CPU and only reports.

`run.py hmtl` is different: it trains the arms of a protocol, to see whether hybrid training helps.
So is `run.py gpu`: it measures what only a GPU can show, in one command of at most 8 minutes.
`run.py dense-miou` trains the sides of the suite `dense`, and compares their mIoU.
`run.py robustness` evaluates the runs of a protocol on corrupted images.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# On a busy machine, threads of torch wait for each other. Active waiting would count as CPU time.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).resolve().parent))


def machine() -> dict[str, Any]:
    """Describe the machine of a result."""
    import torch

    return {
        "processor": platform.processor() or platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def markdown(suite: str, rows: list[dict[str, Any]]) -> str:
    """Return the rows of a suite as a Markdown table."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    lines = [
        f"### {suite}",
        "",
        "| row | over | ratio | quartiles | gate | goal |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        missed = row["gate"] is not None and row["ratio"] > row["gate"]
        verdict = " **missed**" if missed else ""
        quartiles = f"{number(row['low'])} - {number(row['high'])}"
        lines.append(
            f"| {row['name']} | {row['baseline']} | {number(row['ratio'])}{verdict} | {quartiles} "
            f"| {number(row['gate'])} | {number(row['goal'])} |"
        )
    return "\n".join(lines)


def run_hmtl(words: list[str]) -> int:
    """Run `run.py hmtl` with these words, and return its exit code."""
    # Some packages are needed only for the final table. Check them before hours of training.
    needed = ("filelock", "scipy", "matplotlib")
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        names = ", ".join(missing)
        print(f'hmtl: not installed: {names}; pip install "mtlcore[bench]"', file=sys.stderr)
        return 2
    from hmtl.main import main as hmtl_main

    return hmtl_main(words)


def run_suite() -> int:
    """Run one suite, print its table, and return the exit code."""
    from suites import SUITES

    from mtlcore import MtlError
    from mtlcore.training.memory import keep_freed_memory

    # As in a training run, for all variants. Page faults would be noise: their number depends on
    # what else is in memory.
    keep_freed_memory()

    description = __doc__.splitlines()[0] if __doc__ else ""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument(
        "--quick", action="store_true", help="a few minutes of CPU; gates are not checked"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a gate is missed")
    args = parser.parse_args()

    try:
        rows = SUITES[args.suite](args.quick)
    except MtlError as error:
        print(f"run.py {args.suite}: {error}", file=sys.stderr)
        return 2
    result = {
        "suite": args.suite,
        "machine": machine(),
        "command": " ".join(["python", "benchmarks/run.py", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "rows": [row.as_json() for row in rows],
    }
    print(markdown(args.suite, result["rows"]))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")

    is_checked = args.check and not args.quick
    missed = any(row.missed for row in rows)
    return 1 if is_checked and missed else 0


def main() -> int:
    """Run the command, and return its exit code."""
    if sys.argv[1:2] == ["hmtl"]:
        return run_hmtl(sys.argv[2:])
    if sys.argv[1:2] == ["gpu"]:
        from gpu.main import main as gpu_main

        return gpu_main(sys.argv[2:])
    if sys.argv[1:2] == ["dense-miou"]:
        from dense_miou import main as dense_miou_main

        return dense_miou_main(sys.argv[2:])
    if sys.argv[1:2] == ["robustness"]:
        from robustness import main as robustness_main

        return robustness_main(sys.argv[2:])
    return run_suite()


if __name__ == "__main__":
    sys.exit(main())
