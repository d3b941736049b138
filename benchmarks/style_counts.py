"""Count the style of a checkout: lines, tokens, comprehensions, annotations and private words.

    python benchmarks/style_counts.py [ROOT] [--against OTHER_ROOT] [--cases .venv/bin/python]

It prints a Markdown table. With --against, OTHER_ROOT is the column "before" and ROOT is "after".
Compare two checkouts in one call: tokens differ between versions of Python.

What the figures mean:

- Package code is mtlcore/ and plugins/. A code line holds at least one token that is neither a
  comment nor a docstring.
- A nested comprehension is anywhere inside another one, and counts once. A generator
  expression is a comprehension, too.
- A conditional expression counts once if it is anywhere inside the arguments of a call.
- An annotation belongs to a parameter, a return value, or an assignment (fields included). The
  share of Any is the number of annotations that mention it anywhere, divided by all annotations.
  The first row, "Any in signatures", takes parameters and return values of mtlcore/ without
  mtlcore/testing/. Of the definitions tried it came nearest to the known 8.4 % of old code
  (8.37 %). All annotations of mtlcore/ gave 8.50 % then, and those of the package code 6.76 %.
- Words are counted in .py, .md and .toml files, whatever their case. The parts of an identifier
  are words. "Reading" counts as a name in code only. The two files that list these words are
  left out, and so is benchmarks/results/.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import tokenize
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ("mtlcore", "plugins")
PARTS = {"package": PACKAGE, "tests": ("tests",), "benchmarks": ("benchmarks",)}
FOLDERS = {name: (f"mtlcore/{name}",) for name in ("train", "model*", "data", "views*")}
TEXT = (*PACKAGE, "tests", "benchmarks", "examples", "docs", "*.md", "*.toml")
LISTS_OF_WORDS = ("benchmarks/style_counts.py", "tests/test_house_style.py")
LONGEST = 100
LAYOUT = {
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.COMMENT,
    tokenize.ENDMARKER,
    tokenize.ENCODING,
}
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
WORDS = {
    "picture": r"pictures?",
    "labelled / unlabelled": r"(?:un)?labelled",
    "optimiser": r"optimisers?",
    "colour": r"colours?",
    "normalise*": r"normalise[a-z]*",
    "centre": r"centres?",
    "grey": r"greys?",
    "catalogue": r"catalogues?",
    "licence": r"licences?",
    "observer": r"observers?",
    "recipe": r"recipes?",
    "scene": r"scenes?",
    "weigher": r"weighers?",
    "said": r"said",
    "told": r"told",
    "so many": r"so\s+many",
    "judge": r"judges?",
    "lent / borrowed": r"lent|borrowed",
    "afresh": r"afresh",
    "glance": r"glances?",
    "door": r"doors?",
    "beforehand": r"beforehand",
    "watcher": r"watchers?",
    "hangs on": r"hangs\s+on",
}
Figures = dict[str, str]


class Module(NamedTuple):
    """One Python file, taken apart. tokens: without layout, comments and docstrings."""

    tree: ast.Module
    lines: list[str]
    tokens: list[tokenize.TokenInfo]
    comments: int

    @property
    def code_lines(self) -> int:
        """How many physical lines hold a token."""
        held: set[int] = set()
        for token in self.tokens:
            held.update(range(token.start[0], token.end[0] + 1))
        return len(held)


def files(root: Path, places: Iterable[str], suffix: str) -> list[Path]:
    """The files with this suffix in these folders (or at these paths), without results."""
    found: set[Path] = set()
    for place in places:
        for path in root.glob(place):
            found.update(path.rglob(f"*{suffix}") if path.is_dir() else [path])
    results = root / "benchmarks" / "results"
    return sorted(p for p in found if p.suffix == suffix and results not in p.parents)


@cache
def read(path: Path) -> Module:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    docs = {place for node in ast.walk(tree) for place in docstring_start(node)}
    comments = sum(token.type == tokenize.COMMENT for token in tokens)
    code = [t for t in tokens if t.type not in LAYOUT and t.start not in docs]
    return Module(tree, text.splitlines(), code, comments)


def docstring_start(node: ast.AST) -> Iterator[tuple[int, int]]:
    """Where it starts, if it is a string used as a statement."""
    value = node.value if isinstance(node, ast.Expr) else None
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.lineno, value.col_offset


def modules(root: Path, places: Iterable[str]) -> list[Module]:
    return [read(path) for path in files(root, places, ".py")]


def nested_comprehensions(node: ast.AST, inside: bool = False) -> int:
    """How many comprehensions below this node stand inside another one."""
    is_one = isinstance(node, COMPREHENSIONS)
    total = int(inside and is_one)
    for child in ast.iter_child_nodes(node):
        total += nested_comprehensions(child, inside or is_one)
    return total


def conditionals_in_calls(node: ast.AST, inside: bool = False) -> int:
    """How many conditional expressions below this node stand inside the arguments of a call."""
    total = int(inside and isinstance(node, ast.IfExp))
    for child in ast.iter_child_nodes(node):
        argument = isinstance(node, ast.Call) and child is not node.func
        total += conditionals_in_calls(child, inside or argument)
    return total


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.expr]:
    """The annotations of the parameters and of the return value."""
    a = node.args
    for parameter in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg):
        if parameter is not None and parameter.annotation is not None:
            yield parameter.annotation
    if node.returns is not None:
        yield node.returns


def all_annotations(tree: ast.Module, assignments: bool = True) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from signature(node)
        elif assignments and isinstance(node, ast.AnnAssign):
            yield node.annotation


def share_of_any(read_modules: Iterable[Module], assignments: bool = True) -> str:
    total = with_any = 0
    for module in read_modules:
        for annotation in all_annotations(module.tree, assignments):
            total += 1
            with_any += re.search(r"\bAny\b", ast.unparse(annotation)) is not None
    return f"{100 * with_any / max(1, total):.2f} % ({with_any} of {total})"


def size_figures(root: Path) -> Figures:
    """Lines, tokens and comments of each part."""
    figures: Figures = {}
    for part, places in PARTS.items():
        found = modules(root, places)
        code = sum(m.code_lines for m in found)
        comments = sum(m.comments for m in found)
        figures[f"Python lines, {part}"] = str(sum(len(m.lines) for m in found))
        figures[f"code lines, {part}"] = str(code)
        tokens = sum(len(m.tokens) for m in found)
        figures[f"tokens per code line, {part}"] = f"{tokens / max(1, code):.2f}"
        figures[f"comments, {part}"] = str(comments)
        figures[f"comments per 100 code lines, {part}"] = f"{100 * comments / max(1, code):.2f}"
    testing = modules(root, ("mtlcore/testing",))
    figures["Python lines, mtlcore/testing"] = str(sum(len(m.lines) for m in testing))
    return figures


def shape_figures(root: Path) -> Figures:
    """Nested comprehensions and conditional expressions in calls, by part and by folder."""
    count: dict[str, Callable[[ast.AST], int]] = {
        "nested comprehensions": nested_comprehensions,
        "conditional expressions in calls": conditionals_in_calls,
    }
    named = PARTS | {places[0]: places for places in FOLDERS.values()}
    figures: Figures = {}
    for figure, counted in count.items():
        for name, places in named.items():
            total = sum(counted(m.tree) for m in modules(root, places))
            figures[f"{figure}, {name}"] = str(total)
    return figures


def any_figures(root: Path) -> Figures:
    core = files(root, ("mtlcore",), ".py")
    testing = root / "mtlcore" / "testing"
    plain = [read(path) for path in core if testing not in path.parents]
    figures = {
        "Any in signatures, mtlcore without testing": share_of_any(plain, assignments=False),
        "Any in annotations, mtlcore": share_of_any(modules(root, ("mtlcore",))),
    }
    for part, places in PARTS.items():
        figures[f"Any in annotations, {part}"] = share_of_any(modules(root, places))
    return figures


def long_lines(paths: Iterable[Path]) -> str:
    total = 0
    for path in paths:
        total += sum(len(x) > LONGEST for x in path.read_text(encoding="utf-8").splitlines())
    return str(total)


def length_figures(root: Path) -> Figures:
    named = {f".py, {part}": (places, ".py") for part, places in PARTS.items()}
    named |= {f"{suffix}, all": (TEXT, suffix) for suffix in (".py", ".md", ".toml")}
    figures: Figures = {}
    for name, (places, suffix) in named.items():
        figures[f"lines over {LONGEST}: {name}"] = long_lines(files(root, places, suffix))
    return figures


def words_apart(text: str) -> str:
    """The text with its identifiers split into words."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text).replace("_", " ")


def word_figures(root: Path) -> Figures:
    """How often each private word occurs, and their sum."""
    skipped = {root / name for name in LISTS_OF_WORDS}
    patterns = {word: re.compile(rf"\b(?:{p})\b", re.I) for word, p in WORDS.items()}
    counts: Counter[str] = Counter(dict.fromkeys((*WORDS, "Reading (class)"), 0))
    for suffix in (".py", ".md", ".toml"):
        for path in files(root, TEXT, suffix):
            if path in skipped:
                continue
            text = words_apart(path.read_text(encoding="utf-8"))
            counts.update({word: len(p.findall(text)) for word, p in patterns.items()})
            if suffix == ".py":
                counts["Reading (class)"] += sum(t.string == "Reading" for t in read(path).tokens)
    figures = {f'word "{word}"': str(n) for word, n in counts.items()}
    return figures | {"private words, sum": str(sum(counts.values()))}


def collected_cases(root: Path, python: str) -> Figures:
    """How many cases pytest collects with this Python; a relative path is taken from the root."""
    command = [str(root / python), "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    found = re.search(r"^(?:\d+/)?(\d+) tests? collected", done.stdout, re.M)
    return {"test cases": found[1] if found else f"none: pytest ended with {done.returncode}"}


def figures_of(root: Path, python: str | None) -> Figures:
    figures = size_figures(root) | shape_figures(root) | any_figures(root)
    figures |= length_figures(root) | word_figures(root)
    return figures | (collected_cases(root, python) if python else {})


def table(columns: dict[str, Figures]) -> str:
    """The figures of each checkout as a Markdown table."""
    first = next(iter(columns.values()))
    lines = ["| figure | " + " | ".join(columns) + " |", "|---" + "|---:" * len(columns) + "|"]
    for name in first:
        values = " | ".join(figures[name] for figures in columns.values())
        lines.append(f"| {name} | {values} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Count the style of a checkout.")
    parser.add_argument("root", nargs="?", type=Path, default=ROOT, help="default: this checkout")
    parser.add_argument("--against", type=Path, metavar="OTHER_ROOT", help="the checkout before")
    parser.add_argument("--cases", metavar="PYTHON", help="count test cases with this Python")
    given = parser.parse_args()
    roots = {"now": given.root}
    if given.against:
        roots = {"before": given.against, "after": given.root}
    columns = {name: figures_of(root.absolute(), given.cases) for name, root in roots.items()}
    print(table(columns))


if __name__ == "__main__":
    main()
