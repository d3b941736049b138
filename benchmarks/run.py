"""The one door to every measurement: `python benchmarks/run.py SUITE [--quick] [--json FILE] [--check]`.

ratio = our process-CPU time / the rival's, measured interleaved in one process; lower is better. `--check` exits 1 when a gate is
missed; gates are judged on the full run, `--quick` (within a minute of CPU) reports. `run.py hmtl` trains the arms of a protocol:
does hybrid training help?
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

os.environ.setdefault(
    "OMP_WAIT_POLICY", "passive"
)  # a busy neighbor must not turn waiting into CPU time
sys.path.insert(0, str(Path(__file__).resolve().parent))


def machine() -> dict[str, Any]:
    import torch

    return {
        "processor": platform.processor() or platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def markdown(suite: str, rows: list[dict[str, Any]]) -> str:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    lines = [
        f"### {suite}",
        "",
        "| row | over | ratio | quartiles | gate | goal |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        verdict = " **missed**" if r["gate"] is not None and r["ratio"] > r["gate"] else ""
        spread = f"{number(r['low'])} - {number(r['high'])}"
        lines.append(
            f"| {r['name']} | {r['baseline']} | {number(r['ratio'])}{verdict} | {spread} "
            f"| {number(r['gate'])} | {number(r['goal'])} |"
        )
    return "\n".join(lines)


def main() -> int:
    if sys.argv[1:2] == ["hmtl"]:  # evidence, not speed: a door of its own
        # All three are needed in the end: it is told before anything is trained.
        if missing := [
            name for name in ("filelock", "scipy", "matplotlib") if find_spec(name) is None
        ]:
            print(
                f'hmtl: not installed: {", ".join(missing)}; pip install "mtlcore[bench]"',
                file=sys.stderr,
            )
            return 2
        from hmtl.main import main as hmtl

        return hmtl(sys.argv[2:])
    from suites import SUITES

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument(
        "--quick", action="store_true", help="within a minute of CPU; gates are not judged"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result there")
    parser.add_argument("--check", action="store_true", help="exit 1 when a gate is missed")
    asked = parser.parse_args()
    rows = SUITES[asked.suite](asked.quick)
    found = {
        "suite": asked.suite,
        "machine": machine(),
        "command": " ".join(["python", "benchmarks/run.py", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "rows": [r.as_json() for r in rows],
    }
    print(markdown(asked.suite, found["rows"]))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")
    missed = [r.name for r in rows if r.missed]
    return 1 if missed and asked.check and not asked.quick else 0


if __name__ == "__main__":
    sys.exit(main())
