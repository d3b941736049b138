"""`mtl plugins show`: what a person or a program reads of a component."""

from __future__ import annotations

import json

import pytest

from mtlcore.cli import main

FILE = """
from attrs import field, frozen
from attrs.validators import ge
from mtlcore import LossWeighting, hookimpl

@frozen
class Mine(LossWeighting):
    '''Weighs [b]boldly[/b].

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
def plugin(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def test_a_person_reads_keys_ranges_source_and_a_table_to_copy(plugin, capsys):
    assert main(["plugins", "show", "mine", "--plugin", str(plugin)]) == 0
    out = capsys.readouterr().out
    words = " ".join(out.split())
    assert "Weighs [b]boldly[/b]." in words
    assert "source: Somebody 2020, arXiv:2001.00001" in words
    assert "│ power │ a number │ 2.0 │ at least 1.0 │" in words
    assert '[weighting]\nname = "mine"\npower = 2.0\n' in out


def test_json_holds_the_same(plugin, capsys):
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


def test_the_cores_own_keys_stand_beside_the_plugins(capsys):
    assert main(["plugins", "show", "puzzling", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [key["name"] for key in found["core_keys"]] == [
        "weight",
        "supervised",
        "samples",
        "control",
    ]
    assert "grid" in [key["name"] for key in found["keys"]]


def test_what_must_be_given_is_marked(capsys):
    assert main(["plugins", "show", "fer2013"]) == 0
    assert "│ root │ a path (a string) │ needed │" in " ".join(capsys.readouterr().out.split())


def test_a_name_of_two_kinds_needs_the_kind(plugin, capsys):
    assert main(["plugins", "show", "puzzling", "--plugin", str(plugin)]) == 2
    assert "'puzzling' is a pretext and a weighting: say which by --kind" in capsys.readouterr().err
    assert (
        main(
            [
                "plugins",
                "show",
                "puzzling",
                "--plugin",
                str(plugin),
                "--kind",
                "weighting",
                "--json",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["doc"] == "Shares its name with a pretext."


def test_an_augmentation_is_found_by_its_kind(capsys):
    assert main(["plugins", "show", "strong", "--kind", "augmentation", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "augmentation"


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        (["puzling"], "there is no plugin 'puzling'; did you mean 'puzzling'?"),
        (["puzzling", "--kind", "task"], "unknown task 'puzzling'"),
        (["puzzling:3"], "no family of names"),
        (["mine", "--plugin", "absent.py"], "absent.py"),
    ],
)
def test_what_there_is_not_is_told_with_the_nearest_and_code_2(tokens, told, capsys):
    assert main(["plugins", "show", *tokens]) == 2
    assert told in " ".join(capsys.readouterr().err.split())
