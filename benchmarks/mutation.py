"""How much does the conformance kit catch? Mutants of five shipped plugins, made by fixed rules and a seed, not chosen by hand.

    python benchmarks/mutation.py                 # all of them, one after the other; finished ones are kept, so it can be stopped
    python benchmarks/mutation.py --table         # the table of what lies in results/mutation.json

A mutant is a module with ONE change of behaviour: an operator, a comparison, a constant, a condition, a reduction. Left out are
annotations, docstrings and messages, what stands in a class body, and validators (all of that is configuration). Each mutant is
held against the kit alone; one that survives, against the project's own tests of that plugin, too. It runs in a fork of a process
that has imported torch already, with the mutated source in the place of the file's.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import importlib.abc
import importlib.util
import io
import json
import os
import random
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from attrs import frozen

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "mutation.json"
SEED, LIMIT_CPU_S = 0, 180
TIMEOUT = "no answer in time, or a crash"


@frozen
class Target:
    """A plugin: the modules it is made of, how many mutants of each, the variants that the kit is run on, its own tests."""

    kind: str
    name: str
    modules: dict[str, int]  # module -> mutants
    variants: tuple[dict[str, Any], ...]
    tests: tuple[str, ...]


TARGETS = (
    Target(
        "pretext",
        "puzzling",
        {"mtl_pretexts.puzzling": 16},
        (
            {},
            {"grid": 2, "head": "spatial", "shuffled": 0.5},
            {"grid": 2, "rotate": True, "scales": ((1.0, 1.0), (0.6, 0.9))},
        ),
        ("tests/pretexts/test_puzzling.py",),
    ),
    Target(
        "pretext",
        "inpainting",
        {"mtl_pretexts.inpainting": 14},
        ({}, {"perceptual": "ema"}),
        ("tests/pretexts/test_inpainting.py",),
    ),
    Target("pretext", "rotation", {"mtl_pretexts.rotation": 10}, ({},), ("tests/pretexts/test_rotation.py",)),
    Target(
        "task",
        "fer",
        {"mtlcore.tasks.classification": 12},
        ({}, {"emotions": 7, "balance": "inverse"}),
        ("tests/faces/test_emotion.py", "tests/test_classification.py"),
    ),
    Target(
        "task",
        "headpose",
        {"mtl_faces.head_pose": 4, "mtl_faces.rotations": 12},
        ({},),
        ("tests/faces/test_head_pose.py",),
    ),
)

# ------------------------------------------------------------------------------------------------------------- making them

Change = Callable[[ast.AST], ast.AST | None]

_OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_COMPARISONS: dict[type, type] = {
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_PAIRS = (
    ("mean", "sum"),
    ("argmax", "argmin"),
    ("max", "min"),
    ("cos", "sin"),
    ("any", "all"),
    ("zeros", "ones"),
    ("floor", "ceil"),
)
_NAMES = {old: new for pair in _PAIRS for old, new in (pair, pair[::-1])}


def _operator(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return ast.BinOp(node.left, _OPERATORS[type(node.op)](), node.right)
    return None


def _comparison(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISONS:
        return ast.Compare(node.left, [_COMPARISONS[type(node.ops[0])](), *node.ops[1:]], node.comparators)
    return None


def _constant(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        return ast.Constant(not node.value)
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return ast.Constant(node.value + 1)
    return None


def _negation(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not | ast.Invert):
        return node.operand
    if isinstance(node, ast.IfExp):
        return ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
    if isinstance(node, ast.If):
        return ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
    return None


def _reduction(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.Attribute) and node.attr in _NAMES:
        return ast.Attribute(node.value, _NAMES[node.attr], node.ctx)
    return None


RULES: tuple[Change, ...] = (_operator, _comparison, _constant, _negation, _reduction)


def _behaviour(tree: ast.Module) -> Iterator[ast.AST]:
    """The nodes that do something when a function runs."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and not _only_refuses(function):
            yield from _walk(function.body)


def _only_refuses(function: ast.FunctionDef) -> bool:
    """A validator: it gives nothing, and holds a `raise`."""
    inside = list(ast.walk(function))
    gives = any(isinstance(node, ast.Return | ast.Yield) for node in inside)
    return not gives and any(isinstance(node, ast.Raise) for node in inside)


def _walk(body: Sequence[ast.AST]) -> Iterator[ast.AST]:
    for node in body:
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert | ast.FunctionDef | ast.ClassDef):
            continue  # messages; inner functions have their own turn
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        yield node
        children = [c for c in ast.iter_child_nodes(node) if c is not getattr(node, "annotation", None)]
        yield from _walk(children)


@frozen
class Mutant:
    """The `site`-th possible change of a module."""

    module: str
    site: int
    line: int
    before: str
    after: str
    source: str

    @property
    def key(self) -> str:
        return f"{self.module}:{self.line} ({self.site}): {self.before} -> {self.after}"


def mutants(module: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its lines."""
    source = path_of(module).read_text(encoding="utf-8")
    count = sum(rule(node) is not None for node in _behaviour(ast.parse(source)) for rule in RULES)
    return [_mutant(module, source, site) for site in range(count)]


def _mutant(module: str, source: str, site: int) -> Mutant:
    tree = ast.parse(source)
    changes = [(node, new) for node in _behaviour(tree) for rule in RULES if (new := rule(node)) is not None]
    old, new = changes[site]
    before, line = ast.unparse(old).splitlines()[0], getattr(old, "lineno", 0)

    class Swap(ast.NodeTransformer):
        def generic_visit(self, node: ast.AST) -> ast.AST:
            return ast.copy_location(new, old) if node is old else super().generic_visit(node)

        visit = generic_visit

    changed = ast.unparse(ast.fix_missing_locations(Swap().visit(tree)))
    return Mutant(module, site, line, before, ast.unparse(new).splitlines()[0], changed)


def chosen(module: str, number: int) -> list[Mutant]:
    """`number` mutants of a module, drawn with the seed."""
    every = mutants(module)
    picked = random.Random(f"{SEED} {module}").sample(every, min(number, len(every)))
    return sorted(picked, key=lambda m: m.site)


def path_of(module: str) -> Path:
    """The file of a module of this project."""
    parts = module.split(".")
    return ROOT.joinpath(*(parts if parts[0] == "mtlcore" else ["plugins", *parts])).with_suffix(".py")


# ------------------------------------------------------------------------------------------------------------ killing them


class _Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the mutated source for one module."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self.mutant.module:
            return None
        return importlib.util.spec_from_file_location(name, path_of(name), loader=self)  # type: ignore[arg-type]

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.mutant.source, str(path_of(self.mutant.module)), "exec"), module.__dict__)  # noqa: S102


def forked(work: Callable[[], str], limit_s: int = LIMIT_CPU_S) -> str:
    """What `work` says in a fork of this process; "" is a survivor. limit_s: of CPU time; one that takes longer is caught, too."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        used = int(time.process_time())  # CPU time: a busy machine must not pass for a mutant that hangs
        resource.setrlimit(resource.RLIMIT_CPU, (used + limit_s, used + limit_s + 5))
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):  # noqa: PTH123
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
            code = pytest.main([*target.tests, "-x", "-q", "-p", "no:cacheprovider", "--no-header"], plugins=[first])
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the table of the finished run")
    if not parser.parse_args().table:
        run()
    print(table(json.loads(RESULT.read_text())))


def run() -> None:
    """Every mutant once. A verdict is kept as long as nothing that it hangs on has changed."""
    import hypothesis
    import kornia
    import lightning_fabric
    import torch
    import torchmetrics  # noqa: F401 - imported once, before the forks

    torch.set_num_threads(1)
    del hypothesis, kornia, lightning_fabric
    known = json.loads(RESULT.read_text())["mutants"] if RESULT.exists() else {}
    rows: dict[str, Any] = {}
    for target in TARGETS:
        for said, what in ((by_kit(target, None), "kit"), (by_tests(target, None), "tests")):
            if said:
                raise SystemExit(f"{target.name}: without any mutant, the {what} fail: {said}")
        for mutant in (m for module, n in target.modules.items() for m in chosen(module, n)):
            ground, before = _ground(target, mutant), known.get(mutant.key, {})
            reason = before.get("reason", "")
            rows[mutant.key] = before if before.get("ground") == ground else _judge(target, mutant, ground, reason)
            _write(rows | {k: v for k, v in known.items() if k not in rows})
    _write(rows)


def _ground(target: Target, mutant: Mutant) -> str:
    """What a verdict hangs on: the mutated source, the kit, the plugin's own tests."""
    files = [*sorted((ROOT / "mtlcore" / "testing").glob("*.py")), *(ROOT / test for test in target.tests)]
    parts = [mutant.source.encode(), *(file.read_bytes() for file in files)]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _judge(target: Target, mutant: Mutant, ground: str, reason: str) -> dict[str, str]:
    start = time.perf_counter()
    kit = by_kit(target, mutant)
    tests = by_tests(target, mutant) if not kit or kit == TIMEOUT else ""
    print(f"{time.perf_counter() - start:5.0f} s  {mutant.key}   kit: {kit or '-'}   tests: {tests or '-'}", flush=True)
    return {"plugin": target.name, "kit": kit, "tests": tests, "reason": reason, "ground": ground}


def _write(rows: dict[str, Any]) -> None:
    about = {"seed": SEED, "command": "python benchmarks/mutation.py", "date": time.strftime("%Y-%m-%d")}
    RESULT.write_text(json.dumps({**about, "mutants": rows}, indent=1) + "\n")


def table(result: dict[str, Any]) -> str:
    """Markdown: a row a plugin, then the survivors with their reasons."""
    lines = ["| plugin | mutants | caught by the kit alone | by kit or own tests |", "|---|---|---|---|"]
    rows = list(result["mutants"].values())
    for name in (*dict.fromkeys(r["plugin"] for r in rows), "all"):
        mine = [r for r in rows if name in (r["plugin"], "all")]
        kit, both = sum(bool(r["kit"]) for r in mine), sum(bool(r["kit"] or r["tests"]) for r in mine)
        lines.append(f"| {name} | {len(mine)} | {kit} ({kit / len(mine):.0%}) | {both} ({both / len(mine):.0%}) |")
    alive = {k: r for k, r in result["mutants"].items() if not r["kit"]}
    lines += ["", "| what the kit alone lets live | its own tests | why |", "|---|---|---|"]
    lines += [f"| `{key}` | {r['tests'] or 'survives'} | {r['reason']} |" for key, r in alive.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
