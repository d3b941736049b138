"""Measure how many bugs the conformance kit finds: run it on the mutants of `mutants.py`.

    python benchmarks/mutation.py                 # all mutants; can be stopped and resumed
    python benchmarks/mutation.py --only TEXT     # mutants with TEXT in their names
    python benchmarks/mutation.py --survivors     # those that the kit has missed, and new ones
    python benchmarks/mutation.py --table         # print the table of results/mutation.json

A mutant that survives the kit is also run against the plugin's own tests. Each mutant runs in a
fork of one process that has already imported torch. The fork imports the mutated source instead of
the file.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.abc
import importlib.util
import io
import json
import os
import resource
import socket
import sys
import time
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from mutants import ROOT, SEED, TARGETS, Mutant, Target, path_of

RESULT = ROOT / "benchmarks" / "results" / "mutation.json"
LIMIT_CPU_S = 180  # of one mutant
FEW = 2  # examples of each check: they find most mutants, much sooner than the default number
TIMEOUT = "no answer in time, or a crash"
EQUIVALENT = "equivalent"  # so begins the reason of a mutant that computes the same

# ------------------------------------------------------------------------------- running one mutant


class _MutantImporter(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import the mutated source of one module."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self.mutant.module:
            return None
        return importlib.util.spec_from_file_location(name, path_of(name), loader=self)

    def exec_module(self, module: ModuleType) -> None:
        code = compile(self.mutant.source, str(path_of(self.mutant.module)), "exec")
        exec(code, module.__dict__)  # noqa: S102


def forked(work: Callable[[], str], limit_s: int = LIMIT_CPU_S) -> str:
    """Return what `work` returns in a fork of this process, or the exception that it raises.

    "" means that the mutant survives. A mutant that exceeds `limit_s` CPU seconds is caught, too.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _limit_cpu_s(limit_s)
        os.write(write, _one_line(_run_silently(work)).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        result = pipe.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    if not result and os.WIFSIGNALED(status):
        return TIMEOUT
    return result


def _limit_cpu_s(limit_s: int) -> None:
    # CPU time, not wall time: a busy machine must not make a mutant look as if it hung.
    used = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + limit_s, used + limit_s + 5))


def _run_silently(work: Callable[[], str]) -> str:
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        try:
            return work()
        except BaseException as error:  # noqa: BLE001 - any exception catches the mutant
            return f"{type(error).__name__}: {error}"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def by_kit(target: Target, mutant: Mutant | None) -> str:
    """Return the first check that fails, of the first variant with a failure; "" if none does.

    With few examples first, then with as many as an author's own test has.
    """
    return by_examples(target, mutant, FEW) or by_examples(target, mutant, None)


def by_examples(target: Target, mutant: Mutant | None, examples: int | None) -> str:
    """The same with this number of examples for each check. None: the kit's default."""

    def work() -> str:
        _install(mutant)
        from mtlcore.testing import conformance

        number = {} if examples is None else {"examples": examples}
        for fields in target.variants:
            suite = conformance(target.kind, target.name, **number, **fields)
            for check in suite:
                if suite.outcome(check.name).status == "failed":
                    return check.name
        return ""

    return forked(work)


def by_tests(target: Target, mutant: Mutant | None) -> str:
    """Return the first of the plugin's own tests that fails; "" if there is none."""

    def work() -> str:
        _install(mutant)
        import pytest

        class FirstFailure:
            name = ""

            def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
                if report.failed and not self.name:
                    self.name = report.nodeid

        first = FirstFailure()
        options = ["-x", "-q", "-p", "no:cacheprovider", "--no-header"]
        with contextlib.redirect_stdout(io.StringIO()):
            code = pytest.main([*target.tests, *options], plugins=[first])
        if code == 0:
            return ""
        return first.name or f"pytest exits with {code}"

    return forked(work)


def _install(mutant: Mutant | None) -> None:
    os.chdir(ROOT)
    # A mutant may try to download weights.
    socket.socket.connect = _offline  # type: ignore[method-assign]
    if mutant is not None:
        sys.meta_path.insert(0, _MutantImporter(mutant))


def _offline(*_: Any) -> None:
    raise OSError("mutants have no network")


# ------------------------------------------------------------------------------ running all mutants


def run(only: str = "", survivors: bool = False) -> None:
    """Run all mutants, or those with the text `only` in their names.

    A result is reused as long as nothing that it depends on has changed. With `survivors`, a result
    of a mutant that the kit has caught is reused even so: right if the kit has only gained checks.
    Raises SystemExit if no mutant has this text, or if a plugin fails without any mutant.
    """
    _import_once()
    known: dict[str, Any] = {"mutants": {}}
    if RESULT.exists():
        known = json.loads(RESULT.read_text())
    rows: dict[str, Any] = {}
    for target, mutants in _selected(only):
        is_sound = False
        for mutant in mutants:
            before = known["mutants"].get(mutant.key, {})
            is_caught = survivors and before.get("kit", "") not in ("", TIMEOUT)
            if is_caught or before.get("ground") == _ground(target, mutant):
                rows[mutant.key] = before
                continue
            if not is_sound:
                _require_sound(target)
                is_sound = True
            rows[mutant.key] = _verdict(target, mutant, before)
            # After every mutant, so that the command can be stopped.
            _write(known["mutants"] | rows, known.get("date", ""))
    if not only:
        # Drops the rows of mutants that do not exist any more.
        _write(rows, _today())


def _selected(only: str) -> list[tuple[Target, list[Mutant]]]:
    """Return each target with its mutants that have this text in their names."""
    selected: list[tuple[Target, list[Mutant]]] = []
    for target in TARGETS:
        mutants = [mutant for mutant in target.mutants() if only in mutant.key]
        if mutants:
            selected.append((target, mutants))
    if not selected:
        raise SystemExit(f"no mutant has {only!r} in its name")
    return selected


def _import_once() -> None:
    """Import the slow packages before the forks."""
    import hypothesis
    import kornia
    import lightning_fabric
    import torch
    import torchmetrics

    torch.set_num_threads(1)
    del hypothesis, kornia, lightning_fabric, torchmetrics


def _require_sound(target: Target) -> None:
    """Raise SystemExit if the kit or the tests fail without any mutant."""
    for name, failure in (("kit", by_kit(target, None)), ("tests", by_tests(target, None))):
        if failure:
            raise SystemExit(f"{target.name}: without any mutant, the {name} fails: {failure}")


def _ground(target: Target, mutant: Mutant) -> str:
    """Hash what a result depends on: the mutated source, the kit, the plugin's own tests."""
    kit = sorted((ROOT / "mtlcore" / "testing").rglob("*.py"))
    tests = [ROOT / test for test in target.tests]
    sha256 = hashlib.sha256(mutant.source.encode())
    for file in (*kit, *tests):
        sha256.update(file.read_bytes())
    return sha256.hexdigest()[:16]


def _verdict(target: Target, mutant: Mutant, before: dict[str, str]) -> dict[str, str]:
    """Run a mutant and return its result.

    before: its last result. The reason why a mutant survives is written by hand; it is never
    overwritten.
    """
    kit, tests = _run_checks(target, mutant)
    return {
        "plugin": target.name,
        "kit": kit,
        "tests": tests,
        "reason": before.get("reason", ""),
        "ground": _ground(target, mutant),
        "date": _today(),
    }


def _run_checks(target: Target, mutant: Mutant) -> tuple[str, str]:
    """Return what the kit finds and what the plugin's own tests find.

    The tests run only if the kit finds nothing, or exceeds its time.
    """
    begin = time.perf_counter()
    kit = by_kit(target, mutant)
    tests = ""
    if not kit or kit == TIMEOUT:
        tests = by_tests(target, mutant)
    seconds = time.perf_counter() - begin
    print(f"{seconds:5.0f} s  {mutant.key}   kit: {kit or '-'}   tests: {tests or '-'}", flush=True)
    return kit, tests


def _today() -> str:
    return time.strftime("%Y-%m-%d")


def _write(rows: dict[str, Any], date: str) -> None:
    """Write the results. date: of the last full run; later results have their own dates."""
    result = {
        "seed": SEED,
        "command": "python benchmarks/mutation.py",
        "date": date,
        "mutants": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


# -------------------------------------------------------------------------------------------- table


def table(result: dict[str, Any]) -> str:
    """Return Markdown: a row for each plugin, then the mutants that survive the kit."""
    lines = [
        "| plugin | mutants | equivalent | caught by the kit alone | by kit or own tests |",
        "|---|---|---|---|---|",
    ]
    rows = list(result["mutants"].values())
    for name in dict.fromkeys(row["plugin"] for row in rows):
        lines.append(_plugin_line(name, [row for row in rows if row["plugin"] == name]))
    lines.append(_plugin_line("all", rows))

    lines += ["", "| survives the kit alone | own tests | why |", "|---|---|---|"]
    for key, row in result["mutants"].items():
        if not row["kit"]:
            lines.append(f"| `{key}` | {row['tests'] or 'survives'} | {row['reason']} |")
    return "\n".join(lines)


def _plugin_line(name: str, rows: list[dict[str, str]]) -> str:
    """A row of the table. Shares are of the mutants that are not equivalent to the code."""
    equivalent = sum(row["reason"].startswith(EQUIVALENT) for row in rows)
    n = len(rows) - equivalent
    kit = sum(bool(row["kit"]) for row in rows)
    either = sum(bool(row["kit"] or row["tests"]) for row in rows)
    caught = f"{kit} ({kit / n:.0%}) | {either} ({either / n:.0%})"
    return f"| {name} | {len(rows)} | {equivalent} | {caught} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="run the mutants with this text in their names"
    )
    parser.add_argument(
        "--survivors", action="store_true", help="leave out the mutants that the kit has caught"
    )
    parser.add_argument("--table", action="store_true", help="print the table of the finished run")
    args = parser.parse_args()
    if not args.table:
        run(args.only, args.survivors)
    print(table(json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main()
