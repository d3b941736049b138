"""The reference is made from the docstrings, is current, and leaves nothing out."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import mtlcore
from mtlcore.registry import Specs

ROOT = Path(__file__).resolve().parent.parent
SPEC = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
assert SPEC is not None and SPEC.loader is not None  # noqa: PT018
make_reference = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_reference)
HOOKS = [name for name in vars(Specs) if name.startswith("mtl_")]


def test_the_page_is_what_the_docstrings_say():
    assert make_reference.reference() == (ROOT / "docs" / "reference.md").read_text(encoding="utf-8"), (
        "run: python docs/make_reference.py"
    )


@pytest.mark.parametrize("name", mtlcore.__all__)
def test_every_public_name_is_documented(name):
    assert make_reference.doc(getattr(mtlcore, name)), f"mtlcore.{name} has no docstring"
    assert f"### mtlcore.{name}\n" in (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", make_reference.testing_names())
def test_every_name_of_the_kit_is_documented(name):
    assert make_reference.doc(getattr(mtlcore.testing, name)), f"mtlcore.testing.{name} has no docstring"


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented(hook):
    assert make_reference.doc(getattr(Specs, hook))
    pages = [p.read_text(encoding="utf-8") for p in (ROOT / "docs").rglob("*.md") if p.name != "reference.md"]
    assert any(hook in page for page in pages), f"no page of docs/ tells of {hook}"


def test_every_kind_has_a_page():
    pages = {p.stem for p in (ROOT / "docs" / "plugins").glob("*.md")}
    assert pages == {"pretext", "task", "encoder", "weighting", "source", "recipe", "observer"}
