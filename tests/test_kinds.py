"""The one table of the kinds of components, and all who list them."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from mtlcore import testing
from mtlcore.authoring.scaffold import TEMPLATES
from mtlcore.config.read import ENTRY_CLASSES, SECTIONS, SINGLE_KEYS
from mtlcore.contracts import BASES
from mtlcore.kinds import KINDS, CheckedKind, KindName
from mtlcore.registry.components import RESERVED


def test_every_kind_has_a_base_class_and_a_table() -> None:
    assert tuple(KINDS) == get_args(KindName)
    assert set(KINDS) == set(BASES)
    assert {kind.table for kind in KINDS.values() if kind.table} < set(SECTIONS)


def test_a_detector_takes_no_part_in_training_so_it_has_no_table() -> None:
    assert [kind.name for kind in KINDS.values() if not kind.table] == ["detector"]


def test_the_core_reads_keys_of_some_tables() -> None:
    assert {*ENTRY_CLASSES, "encoder", "optimizer"} == set(RESERVED)
    assert all(KINDS[kind].labeled for kind in ENTRY_CLASSES)
    for section, keys in SINGLE_KEYS.items():
        assert {"name", *keys} == RESERVED[section]


def test_every_checked_kind_has_checks_a_conformance_test_and_a_template() -> None:
    checked = set(get_args(CheckedKind))
    assert checked == set(testing.kinds())
    assert checked == {p.name for p in Path(TEMPLATES).iterdir() if p.is_dir()} - {
        "common",
        "__pycache__",
    }
    for kind in checked:
        assert hasattr(testing, f"{kind}_checks")
        assert hasattr(testing, f"{kind}_conformance")


def test_the_heading_of_a_table_has_a_label_where_the_user_chooses_one(
    subtests: pytest.Subtests,
) -> None:
    for kind, title in [
        ("task", "[task.mine]"),
        ("dataset", "[data.mine]"),
        ("augmentation", "[augment]"),
        ("encoder", "[encoder]"),
        ("callback", "[callback.mine]"),
    ]:
        with subtests.test(kind=kind, title=title):
            assert KINDS[kind].title("mine") == title
