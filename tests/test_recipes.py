"""The recipes of docs/ are short, and use public names alone. tests/test_docs.py runs them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import mtlcore

PAGES = sorted((Path(__file__).resolve().parent.parent / "docs" / "recipes").glob("*.md"))
SCRIPT = re.compile(r"^```python file=\S+\n(.*?)^```", re.S | re.M)


def test_a_recipe_has_fewer_than_25_lines_of_public_names(subtests: pytest.Subtests) -> None:
    for page in PAGES:
        with subtests.test(page=page):
            text = page.read_text(encoding="utf-8")
            assert "```console" in text, (
                "tests/test_docs.py runs the commands of console fences alone"
            )
            [script] = SCRIPT.findall(text)
            assert len([line for line in script.splitlines() if line.strip()]) < 25

            names: set[str] = set()
            for node in ast.walk(ast.parse(script)):
                if isinstance(node, ast.ImportFrom):
                    assert not str(node.module).startswith("mtlcore.")
                    if node.module == "mtlcore":
                        names |= {alias.name for alias in node.names}
                if isinstance(node, ast.Attribute):
                    assert not node.attr.startswith("_")
                    if isinstance(node.value, ast.Name) and node.value.id == "mtlcore":
                        names.add(node.attr)
            assert names <= {*mtlcore.__all__}
