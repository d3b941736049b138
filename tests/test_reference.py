"""The reference and the page of keys are made from the code, are current, and leave nothing out."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import attrs
import pytest

import mtlcore
from mtlcore.config.experiment import (
    DataEntry,
    Experiment,
    Input,
    PretextEntry,
    TaskEntry,
    Train,
    Views,
)
from mtlcore.config.read import SECTIONS, parse
from mtlcore.registry.catalog import Specs
from mtlcore.registry.components import RESERVED, component_name

ROOT = Path(__file__).resolve().parent.parent


def script(name: str) -> Any:
    """A file of docs/, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_reference, make_configuration = script("make_reference"), script("make_configuration")
PAGE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
KEYS = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
TABLES = (TaskEntry, PretextEntry, DataEntry, Input, Views, Train, Experiment)
HOOKS = [name for name in vars(Specs) if name.startswith("mtl_")]


def test_the_page_is_what_the_docstrings_say():
    assert make_reference.reference() == PAGE, "run: python docs/make_reference.py"


def test_the_page_is_the_same_each_time_it_is_made():
    assert " at 0x" not in PAGE
    assert "a encoder" not in PAGE


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("Features", "each (B, C_i, h_i, w_i), fine first"),
        ("Features", "pooled: (B, D)"),
        ("EncoderInfo", "(h, w) of each map"),
        ("StepCounts", "task label -> rows"),
        ("Batch", "(B, 3, H0, W0) uint8"),
        ("Head", "- `choices`: how many answers"),
        ("Head", "- `ideal(target) -> output`: a perfect answer"),
        ("PretextTask", "- `undo(images, target) -> images`"),
        ("SupervisedTask", "- `examples(n, rng) -> Annotation`"),
        ("AugmentedBatch", "- `clean: View`: The batch augmented once"),
        ("AugmentedBatch", "- `progress: float`: How much of the run is done"),
        ("Annotation", "One label kind of N rows"),
        ("Target", "A tensor, or a tuple, list or dict of tensors"),
    ],
)
def test_an_author_finds_shapes_and_optional_members(entry, said):
    [text] = re.findall(rf"^### mtlcore\.{entry}\n(.*?)(?=^##)", PAGE, re.M | re.S)
    assert said in text


@pytest.mark.parametrize("name", mtlcore.__all__)
def test_every_public_name_is_documented(name):
    assert make_reference.doc(f"mtlcore.{name}", getattr(mtlcore, name)), (
        f"mtlcore.{name} has no docstring"
    )
    assert f"### mtlcore.{name}\n" in PAGE


@pytest.mark.parametrize("name", make_reference.testing_names())
def test_every_name_of_the_kit_is_documented(name):
    thing = getattr(mtlcore.testing, name)
    assert make_reference.doc(f"mtlcore.testing.{name}", thing), (
        f"mtlcore.testing.{name} has no docstring"
    )


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented(hook):
    assert make_reference.doc(hook, getattr(Specs, hook))
    pages = [
        p.read_text(encoding="utf-8")
        for p in (ROOT / "docs").rglob("*.md")
        if p.name != "reference.md"
    ]
    assert any(hook in page for page in pages), f"no page of docs/ tells of {hook}"


def test_every_kind_has_a_page():
    pages = {p.stem for p in (ROOT / "docs" / "plugins").glob("*.md")}
    assert pages == {
        "pretext",
        "task",
        "encoder",
        "weighting",
        "dataset",
        "augmentation",
        "callback",
    }


# ---------------------------------------------------------------------------------------------------- the page of keys


def test_the_page_of_keys_is_what_the_code_says():
    assert make_configuration.configuration() == KEYS, "run: python docs/make_configuration.py"


@pytest.mark.parametrize("cls", TABLES)
def test_every_field_of_a_table_has_words(cls):
    fields = {f.name for f in attrs.fields(cls)}
    assert fields <= set(make_configuration.meanings(cls)), (
        f"{cls.__name__}: the docstring lacks 'key: ...' paragraphs"
    )


def test_every_section_of_a_configuration_has_its_heading_or_row():
    for section in SECTIONS:
        assert re.search(rf"^## `\[{section}(\.<\w+>)?\]`$|^\| `{section}` \|", KEYS, re.M), section


def test_every_key_of_the_core_has_a_row_in_its_table():
    owned = {"task": TaskEntry, "pretext": PretextEntry, "dataset": DataEntry}
    titles = {"task": "task.<label>", "pretext": "pretext.<label>", "dataset": "data.<label>"}
    for kind, cls in owned.items():
        rows = re.findall(r"^\| `(\w+)` \|", part(titles[kind]), re.M)
        assert set(rows) == RESERVED[kind], kind
        assert len(rows) == len(attrs.fields(cls))
    for title, cls in (("input", Input), ("views", Views), ("train", Train)):
        assert re.findall(r"^\| `(\w+)` \|", part(title), re.M) == [
            f.name for f in attrs.fields(cls)
        ]


def test_the_defaults_that_the_page_names_are_those_of_a_short_configuration():
    found = parse({"task": {"fer": {}}, "data": {"synthfaces": {}}})
    for section in ("encoder", "weighting", "augment"):
        assert f"default: `{component_name(type(getattr(found, section)))}`" in part(section)
    assert f"a run has {found.train.steps} steps" in part("train")


def part(title: str) -> str:
    [text] = re.findall(rf"^## `\[{re.escape(title)}\]`\n(.*?)(?=^## |\Z)", KEYS, re.M | re.S)
    return text
