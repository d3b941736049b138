"""Every fence of docs/ is executed by tests/test_docs.py, or is checked here without running it.

- `toml` without a file: known tables and keys.
- `python` without a file: it parses. `json`: it parses.
- Commands in other fences: `mtl` knows the command, its options and its number of arguments; the
  extras of `pip install` exist; scripts and targets of `make` exist.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mtlcore import MtlError
from mtlcore.cli import _options, app
from mtlcore.config.read import parse

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```", re.S | re.M)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CHECKED = ("", "sh", "toml", "python", "json", "console")
"""Languages of fences. Those with a file, and consoles, are run by tests/test_docs.py."""
STUDY_KEYS = ("arms", "extras", "config", "seeds", "controls")


class Fence(NamedTuple):
    """One fence. language: "" for none. where: its page, for messages."""

    where: str
    language: str
    body: str


def fences() -> Iterator[Fence]:
    """Yield the fences that are not run: those without a file that are no console."""
    for page in [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        for info, body in FENCE.findall(page.read_text(encoding="utf-8")):
            language, _, file = info.partition(" ")
            assert not file or file.startswith("file="), f"{page.name}: {info}"
            if not file and language != "console" and page.name != "reference.md":
                yield Fence(page.relative_to(ROOT).as_posix(), language, body)


@pytest.fixture(autouse=True)
def files_of_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configurations that commands name need not be there."""
    monkeypatch.setattr(_options, "require_there", lambda _: None)


def test_every_fence_that_is_not_run_is_checked(subtests: pytest.Subtests) -> None:
    for fence in fences():
        with subtests.test(where=fence.where, begins=fence.body.partition("\n")[0]):
            assert fence.language in CHECKED
            if fence.language == "toml":
                check_toml(fence.body)
            elif fence.language == "python":
                ast.parse(fence.body)
            elif fence.language == "json":
                json.loads(fence.body)
            else:
                check_commands(fence.body)


def check_toml(body: str) -> None:
    """Check the tables of a fragment, as part of a small configuration."""
    tables = tomllib.loads(body)
    if any(key in tables for key in STUDY_KEYS):
        return
    small = {"task": {"fer": {}}, "data": {"synthfaces": {}}}
    for name, table in tables.items():
        labels = small.get(name, {}) if name in ("task", "data") else {}
        small[name] = {**labels, **table} if isinstance(table, dict) else table
    parse(small)


def check_commands(body: str) -> None:
    """Check the commands of a fence; other lines are output, or a drawing."""
    for line in re.sub(r"\\\n", " ", body).splitlines():
        try:
            words = shlex.split(line.strip().removeprefix("$ "), comments=True)
        except ValueError:
            continue
        if words[:3] == ["python", "-m", "mtlcore"]:
            words = ["mtl", *words[3:]]
        if words and words[0] == "mtl":
            check_mtl(words[1:])
        elif "pip" in words[:3] and "install" in words:
            check_extras(words)
        elif words and words[0] == "make":
            check_target(words)
        elif words and words[0] == "python" and len(words) > 1 and words[1][0] != "-":
            known = (ROOT / words[1]).is_file()
            assert known, f"there is no {words[1]}"


def check_mtl(words: list[str]) -> None:
    """Check the command and its options; words in CAPITALS stand for what a user types."""
    typed = [word for word in words if word not in ("...", "|", "[")]
    if any(word[0] in "[|" for word in typed):
        return  # a synopsis
    app.parse_args(typed, print_error=False, exit_on_error=False)


def check_extras(words: list[str]) -> None:
    """Check that the extras exist."""
    for extras in re.findall(r"(?:mtlcore|\.)\[([^]]+)\]", " ".join(words)):
        unknown = set(extras.split(",")) - set(PROJECT["optional-dependencies"])
        assert not unknown, unknown


def check_target(words: list[str]) -> None:
    """Check that a target of `make` exists."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words[1:]:
        assert "=" in word or re.search(rf"^{re.escape(word)}:", makefile, re.M), word


def test_a_wrong_fence_is_noticed() -> None:
    with pytest.raises(MtlError, match="puzzling"):
        check_toml("[pretext.puzling]\n")
    with pytest.raises(Exception, match="stepz"):
        check_commands("mtl train my.toml --stepz 3\n")
    with pytest.raises(AssertionError):
        check_commands('pip install "mtlcore[nothing]"\n')
