"""The style of the text: no nested comprehensions, short lines, American words."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLAT = ("mtlcore/training", "mtlcore/model", "mtlcore/data")
FOLDERS = ("mtlcore", "plugins", "benchmarks", "tests", "examples", "docs")
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
# Parts of words: "labelled" finds "unlabelled", too.
BRITISH = "labelled,optimiser,colour,normalis,centre,grey,catalogue,licence"
PRIVATE = "picture,weigher,so many rows"
LISTS_OF_WORDS = ("benchmarks/style_counts.py", "tests/test_house_style.py")
ALLOWED = {
    ("mtlcore/rng.py", "labelled"),  # purposes of random draws: data, never renamed
    ("tests/test_rng.py", "labelled"),  # the frozen copy of those purposes
    # Purposes of the renderer's draws: another spelling would give other faces.
    ("plugins/mtl_faces/synth/parameters.py", "colour"),
    ("plugins/mtl_faces/synth/parameters.py", "centre"),
    ("plugins/mtl_faces/synth/parameters.py", "grey"),
    ("benchmarks/hmtl/old_keys.py", "labelled"),  # reads committed results in the new words
    ("benchmarks/bitwise.py", "weigher"),  # compares with checkpoints of older commits
}


def files(folder: str, *suffixes: str) -> list[Path]:
    """The files with these suffixes below a folder that exists, without results."""
    assert (ROOT / folder).is_dir(), f"{folder}/ is missing"
    found = [p for p in sorted((ROOT / folder).rglob("*")) if p.suffix in suffixes]
    assert found, f"{folder}/ has no {' or '.join(suffixes)} file"
    return [p for p in found if ROOT / "benchmarks" / "results" not in p.parents]


def numbered(path: Path) -> dict[int, str]:
    return dict(enumerate(path.read_text(encoding="utf-8").splitlines(), 1))


def faults_at(path: Path, lines: dict[int, str]) -> list[str]:
    return [f"{path.relative_to(ROOT)}:{n}: {line.strip()}" for n, line in lines.items()]


def nested(tree: ast.AST) -> set[int]:
    """The lines of comprehensions that stand inside another one."""
    found: set[int] = set()
    for outer in ast.walk(tree):
        if isinstance(outer, COMPREHENSIONS):
            inner = [x for x in ast.walk(outer) if isinstance(x, COMPREHENSIONS)]
            found.update(x.lineno for x in inner if x is not outer)
    return found


def conditional_arguments(tree: ast.AST) -> set[int]:
    """The lines of conditional expressions that are an argument of a call."""
    found: set[int] = set()
    for call in ast.walk(tree):
        if isinstance(call, ast.Call):
            arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
            found.update(x.lineno for x in arguments if isinstance(x, ast.IfExp))
    return found


def wrappable(path: Path) -> dict[int, str]:
    """The lines that can be wrapped. On a page: no fence, no table row, no address."""
    lines, fenced = numbered(path), False
    for number, line in numbered(path).items() if path.suffix == ".md" else ():
        fence = line.lstrip().startswith("```")
        fenced ^= fence
        if fenced or fence or line.startswith("|") or "http" in line:
            del lines[number]
    return lines


@pytest.mark.parametrize("folder", FLAT)
def test_no_comprehension_is_nested(folder: str) -> None:
    faults: list[str] = []
    for path in files(folder, ".py"):
        lines = numbered(path)
        numbers = sorted(nested(ast.parse(path.read_text(encoding="utf-8"))))
        faults += faults_at(path, {n: lines[n] for n in numbers})
    assert not faults, "\n".join(["nested comprehensions:", *faults])


@pytest.mark.parametrize("folder", FLAT)
def test_no_argument_is_a_conditional_expression(folder: str) -> None:
    faults: list[str] = []
    for path in files(folder, ".py"):
        lines = numbered(path)
        numbers = sorted(conditional_arguments(ast.parse(path.read_text(encoding="utf-8"))))
        faults += faults_at(path, {n: lines[n] for n in numbers})
    assert not faults, "\n".join(["conditional expressions as arguments:", *faults])


def test_lines_are_short(subtests: pytest.Subtests) -> None:
    for folder in FOLDERS:
        with subtests.test(folder=folder):
            pages = [*files("docs", ".md"), ROOT / "README.md"] if folder == "docs" else []
            faults: list[str] = []
            for path in [*files(folder, ".py"), *pages]:
                faults += faults_at(
                    path, {n: x for n, x in wrappable(path).items() if len(x) > 100}
                )
            assert not faults, "\n".join(["lines over 100 characters:", *faults])


def test_words_are_american_and_common(subtests: pytest.Subtests) -> None:
    for word in f"{BRITISH},{PRIVATE}".split(","):
        with subtests.test(word=word):
            paths, faults = [ROOT / "README.md", ROOT / "pyproject.toml"], []
            for folder in FOLDERS:
                paths += files(folder, ".py", ".md", ".toml")
            for path in paths:
                name = path.relative_to(ROOT).as_posix()
                if name not in LISTS_OF_WORDS and (name, word) not in ALLOWED:
                    lines = {0: name} | numbered(path)  # line 0: the name of the file
                    faults += faults_at(path, {n: x for n, x in lines.items() if word in x.lower()})
            assert not faults, "\n".join([f'"{word}":', *faults])
