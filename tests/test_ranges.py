"""Numbers that no run can have: refused before anything starts, in TOML and in Python."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest

import mtlcore
from mtlcore import Experiment, Input, MtlError, Train
from mtlcore.config.load import load
from mtlcore.config.overrides import read_toml
from mtlcore.config.read import ENTRY_CLASSES, SETTINGS
from mtlcore.config.values import _problems
from mtlcore.registry.catalog import catalog
from mtlcore.runs import RunFolder

TASK = '[task.emotion]\nname = "classification"\n'


def problem_of(file: Path, text: str = TASK, overrides: tuple[str, ...] = ()) -> str:
    file.write_text(text)
    with pytest.raises(MtlError) as error:
        load(file, overrides)
    return str(error.value)


def numeric_fields() -> Mapping[str, attrs.Attribute[object]]:
    """Return path -> field of each whole number and number of the core and its plugins."""
    classes: dict[str, type] = {**SETTINGS, **ENTRY_CLASSES}
    classes |= {f"{kind}:{name}": cls for (kind, name), cls in catalog().classes.items()}
    found: dict[str, attrs.Attribute[object]] = {}
    for path, cls in classes.items():
        attrs.resolve_types(cls)
        for field in attrs.fields(cls):
            if field.type in (int, float, int | None, float | None):
                found[f"{path}.{field.name}"] = field
    return found


def test_every_numeric_field_refuses_a_number_that_no_run_can_have(
    subtests: pytest.Subtests,
) -> None:
    for bad in [10**19, -(10**12), 1e300, float("nan"), float("inf")]:
        with subtests.test(bad=bad):
            any_number = {"dataset:synthfaces.seed"}  # a seed
            for path, field in numeric_fields().items():
                if path in any_number and abs(bad) < 2**63:
                    continue
                if isinstance(bad, float) and field.type in (int, int | None):
                    continue
                try:
                    found = _problems(bad, field, path)
                except AttributeError:  # this validator reads another field of its component
                    continue
                assert found, f"{path} = {bad}"


def test_a_number_out_of_range_is_one_line_about_its_key(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for override, named in [
        ("optimizer.lr=1e300", "optimizer.lr"),
        ("train.devices=1000000", "train.devices"),
        ("input.size=1000000000", "input.size"),
        ("input.batch_size=1000000000", "input.batch_size"),
        ("encoder.width=1000000000", "encoder.width"),
        ("train.clip=inf", "train.clip = inf: expected a finite number"),
        ("seed=99999999999999999999", "expected a whole number between -2^63 and 2^63"),
        ("task.emotion.class_weights=[1.0, -1.0]", "task.emotion: 'class_weights' = [1.0, -1.0]"),
        ("task.emotion.class_weights=[0.0, 0.0]", "at least one above 0"),
    ]:
        with subtests.test(override=override, named=named):
            found = problem_of(tmp_path / "run.toml", overrides=(override,))
            assert named.replace("task.emotion: ", "") in found
            assert f"(from --set {override})" in found
            assert len(found.splitlines()) == 2


def test_python_refuses_the_same_numbers() -> None:
    for build in (
        lambda: Input(size=10**9),
        lambda: Train(steps=10**12),
        lambda: Train(steps=1, devices=10**6),
        lambda: Experiment(seed=10**30),
        lambda: mtlcore.component("task", "classification", class_weights=[-1.0]),
    ):
        with pytest.raises(MtlError):
            build()


# ------------------------------------------------------------------------- texts that are no TOML


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 5000 + "]" * 5000,
        "a = " + "{b = " * 5000 + "1" + "}" * 5000,
        ".".join(["a"] * 20_000) + " = 1",
        "[" + ".".join(['"a"'] * 20_000) + "]",
        ".".join(["a"] * 40) + " = 1",
    ],
    ids=["lists", "tables", "dotted key", "header", "just too deep"],
)
def test_a_file_that_is_nested_too_deep_is_one_message(tmp_path: Path, text: str) -> None:
    assert "nested more than 32 levels deep" in problem_of(tmp_path / "run.toml", text)
    deep: object = 1
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(MtlError, match="nested more than 32 levels deep"):
        load(tmp_path / "run.toml", {"task.emotion.classes": deep})


def test_a_number_of_5000_digits_is_one_message(tmp_path: Path) -> None:
    assert "is not valid TOML" in problem_of(tmp_path / "run.toml", "seed = " + "9" * 5000)
    assert read_toml("a.b = 1.5") == {"a": {"b": 1.5}}


def test_a_path_with_a_nul_character_is_one_message(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    text = TASK + '[data.own]\nname = "image_folder"\nroot = "a\\u0000b"\n'
    assert "data.own.root = 'a\\x00b': expected a string without" in problem_of(file, text)
    assert "expected a string without" in problem_of(file, 'plugins = ["a\\u0000.py"]\n')
    for call in (
        lambda: mtlcore.load_experiment("a\0.toml"),
        lambda: mtlcore.load_run("a\0"),
        lambda: mtlcore.train("a\0.toml", "out"),
        lambda: RunFolder.refuse_existing(Path("out\0")),
    ):
        with pytest.raises(MtlError):
            call()


# ------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("build", "nearest"),
    [
        (lambda: Train(stpes=5), "Train(stpes=...): did you mean 'steps'?"),
        (lambda: Experiment(pretxts={}), "Experiment(pretxts=...): did you mean 'pretexts'?"),
        (lambda: Input(sise=3, btch_size=4), "Input(btch_size=...): did you mean 'batch_size'?"),
        (lambda: mtlcore.component("puzzling", tils=3), 'component("pretext", "puzzling")'),
    ],
)
def test_a_misspelled_argument_has_the_nearest_name(build, nearest: str) -> None:
    with pytest.raises(MtlError) as error:
        build()
    assert nearest in str(error.value)


@pytest.mark.parametrize(
    "override", ["pretext.puzling.weight=0", "data.own.root=/x", "callback.probee.every=2"]
)
def test_an_override_that_adds_a_table_is_named_for_its_problems(
    tmp_path: Path, override: str
) -> None:
    found = problem_of(tmp_path / "run.toml", overrides=(override,))
    assert found.splitlines()[1].endswith(f"(from --set {override})")


def test_an_error_quotes_no_escape_codes() -> None:
    quoted = MtlError(
        "options, \x1b[1mdo those steps\x1b[0m only \x1b]0;title\x07if \x1b[38;5;1mred"
    )
    assert str(quoted) == "options, do those steps only if red"


def test_help_still_shows_the_arguments_of_a_setting() -> None:
    assert "steps" in inspect.signature(Train).parameters
