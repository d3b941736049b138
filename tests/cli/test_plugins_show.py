"""`mtl plugins show`: the description of a component, as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mtlcore.cli import main

FILE = """
from attrs import field, frozen
from attrs.validators import ge
from mtlcore import LossWeighting, hookimpl

@frozen
class Mine(LossWeighting):
    '''Weigh [b]boldly[/b].

    power: how boldly.
    '''

    cites = "Somebody 2020, arXiv:2001.00001"
    power: float = field(default=2.0, validator=ge(1.0))

    def build(self, names): ...

@frozen
class Puzzling(LossWeighting):
    '''Shares its name with a pretext.'''

    def build(self, names): ...

@hookimpl
def mtl_components():
    return [Mine, Puzzling]
"""


@pytest.fixture
def plugin(tmp_path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def test_text_has_the_keys_the_ranges_the_source_and_a_table_to_copy(plugin, capsys) -> None:
    assert main(["plugins", "show", "mine", "--plugin", str(plugin)]) == 0
    out = capsys.readouterr().out
    words = " ".join(out.split())
    assert "Weigh [b]boldly[/b]." in words
    assert "source: Somebody 2020, arXiv:2001.00001" in words
    assert "│ power │ a number │ 2.0 │ at least 1.0 │" in words
    assert '[weighting]\nname = "mine"\npower = 2.0\n' in out


def test_json_has_the_same(plugin, capsys) -> None:
    assert main(["plugins", "show", "mine", "--plugin", str(plugin), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["name"], found["distribution"]) == ("weighting", "mine", None)
    assert found["origin"] == str(plugin)
    assert found["keys"] == [
        {
            "name": "power",
            "type": "a number",
            "default": "2.0",
            "range": "at least 1.0",
            "required": False,
        }
    ]


def test_the_keys_of_the_core_are_listed_beside_those_of_the_plugin(capsys) -> None:
    assert main(["plugins", "show", "puzzling", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    core_keys = [key["name"] for key in found["core_keys"]]
    assert core_keys == ["weight", "supervised", "samples", "control"]
    assert "grid" in [key["name"] for key in found["keys"]]


def test_a_required_key_is_marked(capsys) -> None:
    assert main(["plugins", "show", "fer2013"]) == 0
    assert "│ root │ a path (a string) │ required │" in " ".join(capsys.readouterr().out.split())


def test_a_name_of_two_kinds_needs_the_kind(plugin, capsys) -> None:
    tokens = ["plugins", "show", "puzzling", "--plugin", str(plugin)]
    assert main(tokens) == 2
    message = "'puzzling' is the name of several kinds, pretext, weighting: select one with --kind"
    assert message in capsys.readouterr().err
    assert main([*tokens, "--kind", "weighting", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["doc"] == "Shares its name with a pretext."


def test_an_augmentation_is_found_by_its_kind(capsys) -> None:
    assert main(["plugins", "show", "strong", "--kind", "augmentation", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "augmentation"


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["puzling"], "there is no plugin 'puzling'; did you mean 'puzzling'?"),
        (["puzzling", "--kind", "task"], "unknown task 'puzzling'"),
        (["puzzling:3"], "not a family of names"),
        (["mine", "--plugin", "absent.py"], "absent.py"),
    ],
)
def test_an_unknown_name_is_one_message_with_the_nearest_and_exits_2(
    tokens, message, capsys
) -> None:
    assert main(["plugins", "show", *tokens]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
