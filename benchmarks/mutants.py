"""Make mutants of five plugins, by fixed rules and a seed. `mutation.py` runs them.

A mutant is a module with ONE change of behavior: of an operator, a comparison, a constant, a
condition, or a reduction. These are never changed: annotations, docstrings, messages, class bodies
and validators. They are configuration or text, and the kit does not check them.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen

ROOT = Path(__file__).resolve().parent.parent
SEED = 0


@frozen
class Target:
    """A plugin to mutate.

    modules: its modules -> the number of mutants.
    variants: fields of the plugin; the kit checks each variant.
    tests: files of the plugin's own tests.
    functions: of a module that plugins share, the functions that this plugin uses.
    """

    kind: str
    name: str
    modules: dict[str, int]
    variants: tuple[dict[str, Any], ...]
    tests: tuple[str, ...]
    functions: dict[str, tuple[str, ...]] = field(factory=dict)

    def mutants(self) -> list[Mutant]:
        """Return the mutants that are drawn for this plugin, module by module."""
        drawn: list[Mutant] = []
        for module, number in self.modules.items():
            drawn += chosen(module, number, self.functions.get(module, ()))
        return drawn


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
        {"mtl_pretexts.inpainting": 8, "mtl_pretexts._shared": 6},
        ({}, {"perceptual": "none"}),
        ("tests/pretexts/test_inpainting.py",),
        {
            "mtl_pretexts._shared": (
                "resize_to",
                "grid_mask",
                "hidden_l1",
                "mean_visible_color",
                "hidden_pixel_metrics",
            )
        },
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
        "classification",
        {"mtlcore.tasks.classification": 12},
        ({}, {"classes": ("no", "yes"), "balance": "inverse"}),
        (
            "tests/faces/test_emotion.py",
            "tests/test_classification.py",
            "tests/tasks/test_draw_text.py",
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
"""A rule: the node -> the node in its place, or None if the rule does not apply."""

# -------------------------------------------------------------------------------------------- rules

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
        first, *others = node.ops
        opposite = _COMPARISONS[type(first)]()
        return ast.Compare(node.left, [opposite, *others], node.comparators)
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

# ---------------------------------------------------------------------------- what may be changed


def _behavior(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the nodes that a function executes; validators are left out."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and not _is_validator(function):
            yield from _walk(function.body)


def _is_validator(function: ast.FunctionDef) -> bool:
    """Return whether the function only checks: it returns nothing, and it has a `raise`."""
    inside = list(ast.walk(function))
    returns = any(isinstance(node, ast.Return | ast.Yield) for node in inside)
    raises = any(isinstance(node, ast.Raise) for node in inside)
    return raises and not returns


# Messages do not count as behavior. Inner functions and classes are found by `ast.walk` above.
_SKIPPED = ast.Raise | ast.JoinedStr | ast.Assert | ast.FunctionDef | ast.ClassDef


def _walk(body: Sequence[ast.AST]) -> Iterator[ast.AST]:
    for node in body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, _SKIPPED) or is_docstring:
            continue
        yield node
        annotation = getattr(node, "annotation", None)
        children = [child for child in ast.iter_child_nodes(node) if child is not annotation]
        yield from _walk(children)


# ------------------------------------------------------------------------------------------ mutants


@frozen
class Mutant:
    """The `site`-th possible change of a module.

    line: in the original file.
    before, after: the changed expression.
    source: the whole changed module.
    """

    module: str
    site: int
    line: int
    before: str
    after: str
    source: str

    @property
    def key(self) -> str:
        return f"{self.module}:{self.line} ({self.site}): {self.before} -> {self.after}"


def mutants(module: str, functions: Collection[str] = ()) -> list[Mutant]:
    """Return every mutant of a module.

    functions: only of these functions at the top level of the module; empty means all.
    Raises ValueError if a function does not exist.
    """
    source = path_of(module).read_text(encoding="utf-8")
    tree = ast.parse(source)
    every = [_mutant(module, source, site) for site in range(len(_changes(tree)))]
    if not functions:
        return every
    lines = _lines_of(tree, functions)
    return [mutant for mutant in every if mutant.line in lines]


def _lines_of(tree: ast.Module, functions: Collection[str]) -> set[int]:
    found = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in functions
    ]
    missing = set(functions) - {node.name for node in found}
    if missing:
        raise ValueError(f"no such functions: {', '.join(sorted(missing))}")
    lines: set[int] = set()
    for node in found:
        lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def _changes(tree: ast.Module) -> list[tuple[ast.AST, ast.AST]]:
    """Return every node that a rule changes, with the node in its place."""
    changes: list[tuple[ast.AST, ast.AST]] = []
    for node in _behavior(tree):
        for rule in RULES:
            new = rule(node)
            if new is not None:
                changes.append((node, new))
    return changes


def _mutant(module: str, source: str, site: int) -> Mutant:
    # Parse again for each mutant: the swap changes the tree.
    tree = ast.parse(source)
    old, new = _changes(tree)[site]
    before = ast.unparse(old).splitlines()[0]
    after = ast.unparse(new).splitlines()[0]
    line = getattr(old, "lineno", 0)

    class Swap(ast.NodeTransformer):
        def generic_visit(self, node: ast.AST) -> ast.AST:
            if node is old:
                return ast.copy_location(new, old)
            return super().generic_visit(node)

        visit = generic_visit

    changed = ast.unparse(ast.fix_missing_locations(Swap().visit(tree)))
    return Mutant(module, site, line, before, after, changed)


def chosen(module: str, number: int, functions: Collection[str] = ()) -> list[Mutant]:
    """Draw `number` mutants of a module with the seed. functions: as of `mutants`."""
    every = mutants(module, functions)
    rng = random.Random(f"{SEED} {module}")
    drawn = rng.sample(every, min(number, len(every)))
    return sorted(drawn, key=lambda mutant: mutant.site)


def path_of(module: str) -> Path:
    """Return the file of a module of this project."""
    parts = module.split(".")
    if parts[0] != "mtlcore":
        parts = ["plugins", *parts]
    return ROOT.joinpath(*parts).with_suffix(".py")
