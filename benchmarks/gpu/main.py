"""`run.py gpu`: start a process that measures, show its rows, and write them as they come.

    python benchmarks/run.py gpu --json FILE            at most 8 minutes on one GPU
    python benchmarks/run.py gpu --parts d,e            some parts
    python benchmarks/run.py gpu --device cpu --tiny    does everything run? No speed is measured

The file is complete after every row, so a run that is cut leaves what it has measured. A part that
hangs or breaks its process is ended, and the next one runs in a new process.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from .worker import BUDGETS_S, PREFIX, TINY_S, TITLES, work

RUN = Path(__file__).resolve().parents[1] / "run.py"
START_S = 120.0  # the most that a process may take until its first part
GRACE_S = 25.0  # what a part may take beyond its budget: its last case
TOTAL_S = 470.0


def main(words: list[str]) -> int:
    """Run `run.py gpu` with these words. Return 1 if something failed, 2 without a GPU."""
    args = _arguments(words)
    if args.worker:
        return work(args.parts, args.device, args.tiny)
    if args.device == "cuda" and not _has_gpu():
        print("run.py gpu: torch finds no GPU; --device cpu --tiny tries the code", file=sys.stderr)
        return 2
    suite = Suite(args, words)
    suite.run()
    rows = suite.result["rows"]
    failed = [f"{row['part']} {row['name']}" for row in rows if has_failed(row)]
    print(f"\n{len(rows)} rows, {len(failed)} failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def has_failed(row: dict[str, Any]) -> bool:
    """Return whether a row is an error, a check that failed, or an unknown host sync."""
    waits = "syncs" in row.get("unit", "") and row["value"] > 0 and "note" not in row
    return "error" in row or row.get("value") is False or waits


def _arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("run.py gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy sizes: does everything run?")
    parser.add_argument(
        "--parts",
        type=_parts,
        default=[*BUDGETS_S],
        help="letters, such as d,e; default: all, "
        + "; ".join(f"{k}: {v}" for k, v in TITLES.items()),
    )
    parser.add_argument(
        "--seconds", type=float, default=TOTAL_S, help=f"of the whole suite (default {TOTAL_S:g})"
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def _parts(text: str) -> list[str]:
    found = [letter.strip() for letter in text.split(",")]
    for letter in found:
        if letter not in BUDGETS_S:
            raise argparse.ArgumentTypeError(f"{letter!r}: expected some of {','.join(TITLES)}")
    return [letter for letter in BUDGETS_S if letter in found]


class Suite:
    """The processes of one run of the suite, and what they report."""

    def __init__(self, args: argparse.Namespace, words: list[str]) -> None:
        self.args = args
        self.end_s = time.monotonic() + (len(BUDGETS_S) * TINY_S if args.tiny else args.seconds)
        self.left: list[str] = list(args.parts)
        self.current: str | None = None
        self.limit_s = 0.0
        self.result: dict[str, Any] = {
            "suite": "gpu",
            "machine": {},
            "command": " ".join(["python", "benchmarks/run.py", "gpu", *words]),
            "date": datetime.date.today().isoformat(),
            "rows": [],
        }

    def run(self) -> None:
        while self.left:
            if time.monotonic() >= self.end_s:
                for part in self.left:
                    self._add({"part": part, "name": "all", "skipped": "no time was left"})
                return
            before = list(self.left)
            code, killed = self._one_process()
            if not self.left:
                return
            # A process that ended early: its part is over, and the next one starts anew.
            if killed or self.left == before or self.current is not None:
                part = self.current or self.left[0]
                reason = f"stopped after {killed:.0f} s" if killed else f"ended with code {code}"
                self._add({"part": part, "name": "process", "error": f"the process was {reason}"})
                self.left.remove(part)
            self.current = None

    def _one_process(self) -> tuple[int, float]:
        """Run the parts that are left, until the process ends. -> exit code, seconds if killed."""
        command = [sys.executable, str(RUN), "gpu", "--worker", "--parts", ",".join(self.left)]
        command += ["--device", self.args.device, *(["--tiny"] if self.args.tiny else [])]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        self.current, self._began_s = None, time.monotonic()
        self.limit_s = START_S
        killed: list[float] = []
        ended = threading.Event()
        watch = threading.Thread(target=self._watch, args=(process, killed, ended), daemon=True)
        watch.start()
        try:
            for line in process.stdout:
                self._read(line.rstrip("\n"))
            code = process.wait()
        finally:
            ended.set()
            if process.poll() is None:
                process.kill()
                process.wait()
        watch.join()
        return code, killed[0] if killed else 0.0

    def _watch(
        self, process: subprocess.Popen[str], killed: list[float], ended: threading.Event
    ) -> None:
        """Kill the process when its part, or the whole suite, takes too long."""
        while not ended.wait(0.2):
            now_s = time.monotonic()
            if now_s - self._began_s > self.limit_s or now_s > self.end_s:
                killed.append(now_s - self._began_s)
                process.kill()
                return

    def _read(self, line: str) -> None:
        """Understand one line of the process."""
        if not line.startswith(PREFIX):
            print(line, flush=True)
            return
        kind, _, text = line.removeprefix(PREFIX).partition(" ")
        if kind == "MACHINE":
            self.result["machine"] = json.loads(text)
            self._write()
        elif kind == "PART":
            self.current, self._began_s = text, time.monotonic()
            budget_s = TINY_S if self.args.tiny else BUDGETS_S[text]
            self.limit_s = budget_s + GRACE_S
            print(f"\n({text}) {TITLES[text]}", flush=True)
        elif kind == "ROW":
            self._add(json.loads(text))
        elif kind == "DONE":
            self.left.remove(text)
            self.current = None

    def _add(self, row: dict[str, Any]) -> None:
        self.result["rows"].append(row)
        print(shown(row), flush=True)
        self._write()

    def _write(self) -> None:
        if self.args.json is None:
            return
        # Replaced as a whole: a run that is cut while it writes leaves the rows before.
        new = self.args.json.with_name(self.args.json.name + ".new")
        new.write_text(json.dumps(self.result, indent=2) + "\n")
        os.replace(new, self.args.json)  # noqa: PTH105 - as everywhere here


def shown(row: dict[str, Any]) -> str:
    """Return a row as one line."""
    name = f"  {row['part']} {row['name']:<34}"
    if "error" in row:
        return f"{name} ERROR {row['error']} [{row.get('where', '')}]"
    if "skipped" in row:
        return f"{name} skipped: {row['skipped']}"
    rest = {
        key: value
        for key, value in row.items()
        if key not in ("part", "name", "value", "unit", "seconds") and value is not None
    }
    more = ", ".join(f"{key} {value}" for key, value in rest.items())
    return f"{name} {row['value']} {row['unit']}" + (f" ({more})" if more else "")
