"""Mutants of five shipped plugins, made by fixed rules and a seed, not chosen by hand: what `mutation.py` judges.

A mutant is a module with ONE change of behavior: an operator, a comparison, a constant, a condition, a reduction. Left out are
annotations, docstrings and messages, what stands in a class body, and validators (all of that is configuration).
"""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

ROOT = Path(__file__).resolve().parent.parent
SEED = 0


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
    Target(
        "pretext",
        "rotation",
        {"mtl_pretexts.rotation": 10},
        ({},),
        ("tests/pretexts/test_rotation.py",),
    ),
    Target(
        "task",
        "fer",
        {"mtlcore.tasks.classification": 12},
        ({}, {"emotions": 7, "balance": "inverse"}),
        (
            "tests/faces/test_emotion.py",
            "tests/test_classification.py",
            "tests/tasks/test_words.py",
        ),
    ),
    Target(
        "task",
        "headpose",
        {"mtl_faces.head_pose": 4, "mtl_faces.rotations": 12},
        ({},),
        ("tests/faces/test_head_pose.py",),
    ),
)

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
        return ast.Compare(
            node.left, [_COMPARISONS[type(node.ops[0])](), *node.ops[1:]], node.comparators
        )
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


def _behavior(tree: ast.Module) -> Iterator[ast.AST]:
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
        if isinstance(
            node, ast.Raise | ast.JoinedStr | ast.Assert | ast.FunctionDef | ast.ClassDef
        ):
            continue  # messages; inner functions have their own turn
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        yield node
        children = [
            c for c in ast.iter_child_nodes(node) if c is not getattr(node, "annotation", None)
        ]
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
    return [_mutant(module, source, site) for site in range(len(_changes(ast.parse(source))))]


def _changes(tree: ast.Module) -> list[tuple[ast.AST, ast.AST]]:
    """Every node that a rule changes, with what it changes it to."""
    return [
        (node, new) for node in _behavior(tree) for rule in RULES if (new := rule(node)) is not None
    ]


def _mutant(module: str, source: str, site: int) -> Mutant:
    tree = ast.parse(source)
    old, new = _changes(tree)[site]
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
    return ROOT.joinpath(*(parts if parts[0] == "mtlcore" else ["plugins", *parts])).with_suffix(
        ".py"
    )
