"""The generated pages of docs/ are current and complete: the reference, the configuration keys."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import attrs

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
from mtlcore.kinds import KINDS
from mtlcore.registry.components import RESERVED, component_name
from mtlcore.registry.hooks import Specs

ROOT = Path(__file__).resolve().parent.parent


def script(name: str) -> ModuleType:
    """A script of docs/, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_reference, make_configuration = script("make_reference"), script("make_configuration")
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
TABLES = (TaskEntry, PretextEntry, DataEntry, Input, Views, Train, Experiment)
HOOKS = [name for name in vars(Specs) if name.startswith("mtl_")]

# What an author must find under a name. Whitespace is not compared.
PHRASES = [
    ("Features", "each (B, C_i, h_i, w_i), from fine to coarse"),
    ("Features", "`pooled`: (B, D)"),
    ("EncoderInfo", "(h, w) of each map"),
    ("StepCounts", "task label -> samples"),
    ("Batch", "(B, 3, H0, W0) uint8"),
    ("Head", "- `choices`: the number of classes"),
    ("Head", "- `ideal(target) -> output`: the output of a perfect prediction"),
    ("PretextTask", "- `undo(images, target) -> images`"),
    ("SupervisedTask", "- `examples(n, rng) -> Annotation`"),
    ("AugmentedBatch", "- `clean: View`: The batch, augmented once"),
    ("AugmentedBatch", "- `progress: float`: Completed share of the run"),
    ("Annotation", "One kind of label for N samples"),
    ("Target", "A tensor, or a tuple, list or dict of tensors"),
]


def one_line(text: str) -> str:
    return " ".join(text.split())


def entry(name: str) -> str:
    """The text of a public name in the reference."""
    [text] = re.findall(rf"^### mtlcore\.{name}\n(.*?)(?=^##)", REFERENCE, re.M | re.S)
    return one_line(text)


def test_the_reference_is_current() -> None:
    assert make_reference.reference() == REFERENCE, "run: python docs/make_reference.py"


def test_the_reference_is_reproducible() -> None:
    assert " at 0x" not in REFERENCE
    assert "a encoder" not in REFERENCE


def test_the_reference_has_shapes_and_optional_members() -> None:
    missing = [f"{name}: {phrase}" for name, phrase in PHRASES if phrase not in entry(name)]
    assert not missing, "\n".join(["the reference lacks:", *missing])


def test_every_public_name_is_documented() -> None:
    missing = []
    for name in mtlcore.__all__:
        documented = make_reference.doc(f"mtlcore.{name}", getattr(mtlcore, name))
        if not documented or f"### mtlcore.{name}\n" not in REFERENCE:
            missing.append(f"mtlcore.{name}")
    for name in make_reference.testing_names():
        if not make_reference.doc(f"mtlcore.testing.{name}", getattr(mtlcore.testing, name)):
            missing.append(f"mtlcore.testing.{name}")
    assert not missing, "\n".join(["without a docstring or an entry in the reference:", *missing])


def test_every_hook_is_documented() -> None:
    pages = [p for p in (ROOT / "docs").rglob("*.md") if p.name != "reference.md"]
    prose = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    missing = []
    for hook in HOOKS:
        if not make_reference.doc(hook, getattr(Specs, hook)):
            missing.append(f"{hook} has no docstring")
        if hook not in prose:
            missing.append(f"no page of docs/ mentions {hook}")
    assert not missing, "\n".join(missing)


def test_every_kind_has_a_page() -> None:
    assert {p.stem for p in (ROOT / "docs" / "plugins").glob("*.md")} == set(KINDS)


# ------------------------------------------------------------ the configuration keys


def section(title: str) -> str:
    """The text of a table in the page of keys: "task.<label>"."""
    pattern = rf"^## `\[{re.escape(title)}\]`\n(.*?)(?=^## |\Z)"
    [text] = re.findall(pattern, CONFIGURATION, re.M | re.S)
    return text


def keys_in(title: str) -> list[str]:
    return re.findall(r"^\| `(\w+)` \|", section(title), re.M)


def test_the_page_of_keys_is_current() -> None:
    found = make_configuration.configuration()
    assert found == CONFIGURATION, "run: python docs/make_configuration.py"


def test_every_key_of_a_table_has_a_description() -> None:
    missing = []
    for cls in TABLES:
        described = make_configuration.meanings(cls)
        missing += [
            f"{cls.__name__}.{f.name}" for f in attrs.fields(cls) if f.name not in described
        ]
    assert not missing, "\n".join(["the docstring lacks a 'key: ...' paragraph:", *missing])


def test_every_section_of_a_configuration_has_a_heading_or_a_row() -> None:
    missing = []
    for name in SECTIONS:
        pattern = rf"^## `\[{name}(\.<\w+>)?\]`$|^\| `{name}` \|"
        if not re.search(pattern, CONFIGURATION, re.M):
            missing.append(name)
    assert not missing, f"docs/configuration.md lacks: {', '.join(missing)}"


def test_every_key_of_the_core_has_a_row_in_its_table() -> None:
    for kind, cls, title in (
        ("task", TaskEntry, "task.<label>"),
        ("pretext", PretextEntry, "pretext.<label>"),
        ("dataset", DataEntry, "data.<label>"),
    ):
        found = keys_in(title)
        assert set(found) == RESERVED[kind], kind
        assert len(found) == len(attrs.fields(cls)), kind
    for title, cls in (("input", Input), ("views", Views), ("train", Train)):
        assert keys_in(title) == [f.name for f in attrs.fields(cls)], title


def test_the_defaults_on_the_page_are_those_of_a_short_configuration() -> None:
    found = parse({"task": {"fer": {}}, "data": {"synthfaces": {}}})
    for name in ("encoder", "weighting", "augment"):
        component = component_name(type(getattr(found, name)))
        assert f"default: `{component}`" in section(name), name
    assert f"a run has {found.train.steps} steps" in section("train")
