"""How much does the conformance kit catch? The mutants of `mutants.py`, each held against the kit alone.

    python benchmarks/mutation.py                 # all of them, one after the other; finished ones are kept, so it can be stopped
    python benchmarks/mutation.py --only TEXT     # those with TEXT in their names; the others keep what is known of them
    python benchmarks/mutation.py --table         # the table of what lies in results/mutation.json

One that survives the kit is held against the project's own tests of that plugin, too. Each is judged in a fork of a process that
has imported torch already, with the mutated source in the place of the file's.
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
from types import ModuleType
from typing import Any

from mutants import ROOT, SEED, TARGETS, Mutant, Target, chosen, path_of

RESULT = ROOT / "benchmarks" / "results" / "mutation.json"
LIMIT_CPU_S = 180
TIMEOUT = "no answer in time, or a crash"

# ------------------------------------------------------------------------------------------------------------ killing them


class _Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the mutated source for one module."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self.mutant.module:
            return None
        return importlib.util.spec_from_file_location(name, path_of(name), loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.mutant.source, str(path_of(self.mutant.module)), "exec"), module.__dict__)  # noqa: S102


def forked(work: Callable[[], str], limit_s: int = LIMIT_CPU_S) -> str:
    """What `work` says in a fork of this process; "" is a survivor. limit_s: of CPU time; one that takes longer is caught, too."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        used = int(
            time.process_time()
        )  # CPU time: a busy machine must not pass for a mutant that hangs
        resource.setrlimit(resource.RLIMIT_CPU, (used + limit_s, used + limit_s + 5))
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):  # noqa: PTH123
            try:
                said = work()
            except BaseException as error:  # noqa: BLE001 - whatever a mutant does, it is caught by it
                said = f"{type(error).__name__}: {error}"
        os.write(write, " ".join(said.split())[:300].encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    return said or (TIMEOUT if os.WIFSIGNALED(status) else "")


def by_kit(target: Target, mutant: Mutant | None) -> str:
    """The checks that fail on the first variant where any does; "" where none does."""

    def work() -> str:
        _install(mutant)
        from mtlcore.testing import conformance

        for fields in target.variants:
            report = conformance(target.kind, target.name, **fields).report()
            failed = [o.name for o in report.checks if o.status == "failed"]
            if failed:
                return ", ".join(failed)
        return ""

    return forked(work)


def by_tests(target: Target, mutant: Mutant | None) -> str:
    """The first own test that fails; "" where none does."""

    def work() -> str:
        _install(mutant)
        import pytest

        class First:
            name = ""

            def pytest_runtest_logreport(self, report: Any) -> None:
                if report.failed and not self.name:
                    self.name = report.nodeid

        first, here = First(), io.StringIO()
        with contextlib.redirect_stdout(here):
            code = pytest.main(
                [*target.tests, "-x", "-q", "-p", "no:cacheprovider", "--no-header"],
                plugins=[first],
            )
        return "" if code == 0 else first.name or f"pytest ends with {code}"

    return forked(work)


def _offline(*_: Any) -> None:
    raise OSError("mutants have no network")


def _install(mutant: Mutant | None) -> None:
    os.chdir(ROOT)
    socket.socket.connect = _offline  # type: ignore[method-assign]  # a mutant may ask for weights to download
    if mutant is not None:
        sys.meta_path.insert(0, _Instead(mutant))


# ---------------------------------------------------------------------------------------------------------------- the run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="judge those with this text in their names"
    )
    parser.add_argument("--table", action="store_true", help="print the table of the finished run")
    asked = parser.parse_args()
    if not asked.table:
        run(asked.only)
    print(table(json.loads(RESULT.read_text())))


def run(only: str = "") -> None:
    """Every mutant once, or those named. A verdict is kept as long as nothing that it hangs on has changed.

    Raises SystemExit where no mutant has the text `only` in its name, or a plugin fails without any mutant.
    """
    _import_once()
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {"mutants": {}}
    rows: dict[str, Any] = {}
    for target, asked in _asked(only):
        _require_sound(target)
        for mutant in asked:
            rows[mutant.key] = _verdict(target, mutant, known["mutants"].get(mutant.key, {}))
            _write(known["mutants"] | rows, known.get("date", ""))
    if not only:
        _write(rows, _today())  # what is no mutant any more goes


def _asked(only: str) -> list[tuple[Target, list[Mutant]]]:
    """Each target with its mutants that have this text in their names; those without any are left out."""
    every = [
        (t, [m for module, n in t.modules.items() for m in chosen(module, n) if only in m.key])
        for t in TARGETS
    ]
    found = [(target, asked) for target, asked in every if asked]
    if not found:
        raise SystemExit(f"no mutant has {only!r} in its name")
    return found


def _import_once() -> None:
    """What takes seconds to import is imported before the forks."""
    import hypothesis
    import kornia
    import lightning_fabric
    import torch
    import torchmetrics

    torch.set_num_threads(1)
    del hypothesis, kornia, lightning_fabric, torchmetrics


def _require_sound(target: Target) -> None:
    """Without any mutant, nothing may fail."""
    for said, what in ((by_kit(target, None), "kit"), (by_tests(target, None), "tests")):
        if said:
            raise SystemExit(f"{target.name}: without any mutant, the {what} fail: {said}")


def _ground(target: Target, mutant: Mutant) -> str:
    """What a verdict hangs on: the mutated source, the kit, the plugin's own tests."""
    files = [
        *sorted((ROOT / "mtlcore" / "testing").glob("*.py")),
        *(ROOT / test for test in target.tests),
    ]
    parts = [mutant.source.encode(), *(file.read_bytes() for file in files)]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _verdict(target: Target, mutant: Mutant, before: dict[str, str]) -> dict[str, str]:
    """The verdict that is known, or a new one. The reason why it lives was written by hand, and stays."""
    ground = _ground(target, mutant)
    if before.get("ground") == ground:
        return before
    kit, tests = _judge(target, mutant)
    said = {
        "kit": kit,
        "tests": tests,
        "reason": before.get("reason", ""),
        "ground": ground,
        "date": _today(),
    }
    return {"plugin": target.name, **said}


def _judge(target: Target, mutant: Mutant) -> tuple[str, str]:
    """What the kit says, and the own tests where the kit says nothing."""
    start = time.perf_counter()
    kit = by_kit(target, mutant)
    tests = by_tests(target, mutant) if not kit or kit == TIMEOUT else ""
    print(
        f"{time.perf_counter() - start:5.0f} s  {mutant.key}   kit: {kit or '-'}   tests: {tests or '-'}",
        flush=True,
    )
    return kit, tests


def _today() -> str:
    return time.strftime("%Y-%m-%d")


def _write(rows: dict[str, Any], date: str) -> None:
    """date: of the last run of all; a verdict of a later one has its own."""
    about = {"seed": SEED, "command": "python benchmarks/mutation.py", "date": date}
    RESULT.write_text(json.dumps({**about, "mutants": rows}, indent=1) + "\n")


def table(result: dict[str, Any]) -> str:
    """Markdown: a row a plugin, then the survivors with their reasons."""
    lines = [
        "| plugin | mutants | caught by the kit alone | by kit or own tests |",
        "|---|---|---|---|",
    ]
    rows = list(result["mutants"].values())
    for name in (*dict.fromkeys(r["plugin"] for r in rows), "all"):
        mine = [r for r in rows if name in (r["plugin"], "all")]
        kit, both = (
            sum(bool(r["kit"]) for r in mine),
            sum(bool(r["kit"] or r["tests"]) for r in mine),
        )
        lines.append(
            f"| {name} | {len(mine)} | {kit} ({kit / len(mine):.0%}) | {both} ({both / len(mine):.0%}) |"
        )
    alive = {k: r for k, r in result["mutants"].items() if not r["kit"]}
    lines += ["", "| what the kit alone lets live | its own tests | why |", "|---|---|---|"]
    lines += [
        f"| `{key}` | {r['tests'] or 'survives'} | {r['reason']} |" for key, r in alive.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
