"""Descriptions of components: ranges from their validators, and example tables."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

import pytest
from attrs import Factory, field, fields, frozen
from attrs.validators import (
    and_,
    deep_iterable,
    ge,
    gt,
    in_,
    instance_of,
    le,
    lt,
    matches_re,
    max_len,
    min_len,
    optional,
)

from mtlcore import LossWeighting, MtlError
from mtlcore.authoring.describe import (
    OWN_RULE,
    component_of,
    describe_component,
    example,
    keys_of,
    needed,
    range_of,
)
from mtlcore.config import parse
from mtlcore.kinds import KINDS
from mtlcore.registry.catalog import catalog

BASE = """
[task.any]
name = "classification"
[data.all]
name = "image_folder"
root = "there"
[train]
steps = 1
"""


def rising(_: Any, __: Any, value: Any) -> None:
    """Each larger than the one before it."""


def test_the_range_of_a_validator_is_text(subtests) -> None:
    for validator, text in [
        (None, ""),
        (ge(1), "at least 1"),
        (gt(0.5), "more than 0.5"),
        (le(2), "at most 2"),
        (lt(3), "less than 3"),
        (and_(ge(0), lt(1)), "at least 0, less than 1"),
        (optional(gt(0)), "more than 0"),
        (optional(and_(gt(0), le(9))), "more than 0, at most 9"),
        (in_((2, 3, "x")), "one of 2, 3, 'x'"),
        (
            deep_iterable(ge(1), [min_len(1), max_len(6)]),
            "each at least 1, at least 1 long, at most 6 long",
        ),
        (deep_iterable(and_(ge(0), le(1))), "each at least 0, at most 1"),
        (matches_re("a+"), "matches a+"),
        (instance_of(int), ""),
        (and_(instance_of(int), ge(4)), "at least 4"),
        (rising, "Each larger than the one before it"),
        (lambda *_: None, OWN_RULE),
        (and_(ge(1), lambda *_: None), "at least 1"),
        (and_(lambda *_: None, lambda *_: None), OWN_RULE),
    ]:
        with subtests.test(validator=validator, text=text):

            @frozen
            class Holder:
                x: Any = field(default=None, validator=validator)

            assert range_of(fields(Holder).x.validator) == text


@frozen
class Every(LossWeighting):
    """One key of every type."""

    needed: int = field(validator=ge(3))
    where: Path = field()
    mode: Literal["a", "b"] = "a"
    pair: tuple[float, float] = (0.5, 1.0)
    off: bool = False
    none: int | None = None
    table: dict[str, int] = field(factory=dict)
    full: dict[str, int] = field(factory=lambda: {"a": 1})
    other: int = Factory(lambda self: self.needed, takes_self=True)
    quoted: str = 'say "so"\\'
    hidden: int = field(init=False, default=3)

    def build(self, names): ...


def test_keys_have_a_type_a_default_and_a_range() -> None:
    found = {key.name: (key.type, key.default, key.range, key.required) for key in keys_of(Every)}
    assert found == {
        "needed": ("a whole number", "", "at least 3", True),
        "where": ("a path (a string)", "", "", True),
        "mode": ("one of 'a', 'b'", '"a"', "", False),
        "pair": ("a list of 2: a number, a number", "[0.5, 1.0]", "", False),
        "off": ("true or false", "false", "", False),
        "none": ("a whole number", "", "", False),
        "table": ("a table", "{}", "", False),
        "full": ("a table", "{ a = 1 }", "", False),
        "other": ("a whole number", "", "", False),
        "quoted": ("a string", '"say \\"so\\"\\\\"', "", False),
    }
    assert needed(Every) == ["needed", "where"]


def test_an_example_sets_required_keys_and_repeats_defaults() -> None:
    table = tomllib.loads(example(Every, "every"))["weighting"]
    assert table == {
        "name": "every",
        "needed": 4,
        "where": "path/to/every",
        "mode": "a",
        "pair": [0.5, 1.0],
        "off": False,
        "full": {"a": 1},
        "quoted": 'say "so"\\',
    }


def test_an_example_has_another_label_if_torch_uses_the_name() -> None:
    text = example(catalog().find("pretext", "rotation"), "get")
    assert tomllib.loads(text)["pretext"]["my_get"]["name"] == "get"


def _configured(kind: str, text: str) -> Any:
    """A whole configuration around one table."""
    tables = tomllib.loads(BASE)
    for section, value in tomllib.loads(text).items():
        if kind == "dataset":
            tables["data"] = value
        elif isinstance(tables.get(section), dict):
            tables[section] |= value
        else:
            tables[section] = value
    return parse(tables)


def test_a_configuration_accepts_the_example_of_every_component(subtests: pytest.Subtests) -> None:
    for kind in [kind.name for kind in KINDS.values() if kind.table]:
        with subtests.test(kind=kind):
            for name in catalog().of_kind(kind):
                _accepts_the_example(kind, name)


def test_the_example_of_a_detector_is_the_command_that_uses_it() -> None:
    shown = describe_component("detector", "whole", catalog()).example
    assert shown == "mtl predict RUN photos/ --detector whole\n"
    shown = describe_component("detector", "faces", catalog()).example
    assert "--detector faces \\\n    --set detector.threshold=0.5 \\\n" in shown


def _accepts_the_example(kind: str, name: str) -> None:
    cls = catalog().find(kind, name)
    e = _configured(kind, describe_component(kind, name, catalog()).example)
    entries = [*e.tasks.values(), *e.pretexts.values(), *e.data.values()]
    components = [e.encoder, e.weighting, e.optimizer, e.augment, *e.callbacks.values()]
    components += [entry.component for entry in entries]
    # The last one of this class: the example comes after the tables of the base.
    component = [c for c in components if type(c) is cls][-1]
    if not needed(cls) and kind != "task":  # a task gets its `reads` from the label
        assert component == cls()


def test_every_component_has_an_origin_a_docstring_and_types_of_its_keys() -> None:
    json_keys = {"name", "kind", "doc", "cites", "keys", "core_keys", "capabilities", "example"}
    problems = []
    for kind, name in catalog().classes:
        found = describe_component(kind, name, catalog())
        if (found.kind, found.name, found.distribution) != (kind, name, "mtlcore"):
            problems.append(f"{kind} {name}: wrong kind, name or distribution: {found}")
        if not found.doc:
            problems.append(f"{kind} {name}: no docstring")
        for key in found.keys:
            if not key.type or "<class" in key.type or "typing." in key.type:
                problems.append(f"{kind} {name}.{key.name}: its type has no words: {key.type!r}")
        for missing in json_keys - set(found.as_json()):
            problems.append(f"{kind} {name}: the JSON lacks {missing!r}")
    assert not problems, "\n".join(problems)


def test_the_keys_of_the_core_are_those_of_the_tables_of_the_kind() -> None:
    def names(kind: str, name: str) -> list[str]:
        return [key.name for key in describe_component(kind, name, catalog()).core_keys]

    assert names("pretext", "puzzling") == ["weight", "supervised", "samples", "control"]
    assert names("task", "fer") == ["weight"]
    assert "labels" in names("dataset", "fer2013")
    assert names("encoder", "resnet_small") == ["freeze"]
    assert names("optimizer", "sgd") == ["encoder_lr", "layer_decay", "groups"]
    assert names("weighting", "equal") == []


def test_the_name_of_a_family_member_sets_its_first_key() -> None:
    found = describe_component("encoder", "timm:vit_tiny_patch16_224", catalog())
    assert '[encoder]\nname = "timm:vit_tiny_patch16_224"\n' in found.example
    assert needed(catalog().find("encoder", "timm"), "timm:resnet18") == []


def test_a_table_becomes_a_component_and_its_errors_name_their_keys() -> None:
    made: Any = component_of("pretext", "puzzling", {"grid": 2}, catalog())
    assert made.grid == 2
    assert component_of("encoder", "timm:resnet18", {}, catalog()).model == "resnet18"
    with pytest.raises(
        MtlError, match=r"girid: unknown key; did you mean 'grid'.*\npretext puzzling\.grid"
    ):
        component_of("pretext", "puzzling", {"grid": 7, "girid": 1}, catalog())
