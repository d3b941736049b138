"""From TOML to experiments: defaults, errors and their messages, overrides, one-file plugins."""

from __future__ import annotations

import hashlib
import os
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from attrs import evolve
from config_toys import (
    Box,
    Color,
    Faces,
    Folder,
    Hub,
    Pose,
    Puzzling,
    ResnetSmall,
    Strong,
    Validation,
    toy_catalog,
)

from mtlcore import Dataset, MtlError, PretextTask
from mtlcore.config import dump, load, parse
from mtlcore.config.experiment import Experiment
from mtlcore.registry.catalog import Catalog
from mtlcore.registry.hooks import PluginWarning

HYBRID = """
[task.faces]
[pretext.puzzling]
grid = 2
weight = 0.3
[data.faces]
name = "folder"
root = "/images"
[train]
steps = 10
"""

PLUGIN = """
from __future__ import annotations
from attrs import frozen
from mtlcore import PretextTask, hookimpl

@frozen
class Rotation(PretextTask):
    angles: tuple[int, ...] = (0, 90)
    def views(self, batch, rng): ...
    def build(self, context): ...

@hookimpl
def mtl_components(): return [Rotation]
"""


@pytest.fixture(scope="module")
def toys() -> Catalog:
    return toy_catalog()


def read(text: str, toys: Catalog) -> Experiment:
    return parse(tomllib.loads(text), toys)


def problems(text: str, toys: Catalog) -> list[str]:
    with pytest.raises(MtlError) as error:
        read(text, toys)
    return str(error.value).splitlines()


def problem(text: str, toys: Catalog) -> str:
    [line] = problems(text, toys)
    return line


# ----------------------------------------------------------------------------------- defaults


def test_missing_keys_have_their_defaults(toys: Catalog) -> None:
    e = read(HYBRID, toys)
    assert e.encoder == ResnetSmall()
    assert type(e.weighting).__name__ == "Equal"
    assert e.augment == Strong()
    assert e.pretexts["puzzling"].component == Puzzling(grid=2)
    assert e.pretexts["puzzling"].weight == 0.3
    assert e.data["faces"].component == Folder(Path("/images"))
    assert (e.seed, e.plugins, e.input.size) == (0, (), (64, 64))


def test_a_label_is_the_default_of_the_name_and_of_what_a_task_reads(toys: Catalog) -> None:
    text = """
    [task.faces]
    [task.mood]
    name = "faces"
    [task.other]
    name = "faces"
    reads = "gender"
    [task.pose]
    """
    tasks = read(text, toys).tasks
    assert {label: t.component.reads for label, t in tasks.items()} == {
        "faces": "faces",
        "mood": "mood",
        "other": "gender",
        "pose": "pose_deg",
    }
    assert type(tasks["pose"].component) is Pose


def test_augmentations_are_the_explicit_ones_and_all_that_need_no_key(toys: Catalog) -> None:
    further = """
    [augment.validation]
    turn_deg = 1
    [augment.mild]
    name = "strong"
    turn_deg = 5.0
    """
    e = read(HYBRID + further, toys)
    assert e.augmentations == {
        "strong": Strong(),
        "validation": Validation(turn_deg=1.0),
        "mild": Strong(turn_deg=5.0),
    }
    dumped = tomllib.loads(dump(e))["augment"]
    tables = {key for key, value in dumped.items() if isinstance(value, dict)}
    assert tables - {"box"} == {"validation", "mild"}  # `box` is a key of the toy itself


def test_every_type_of_field_is_read(
    toys: Catalog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    text = """
    [encoder]
    name = "hub:resnet18"
    weights = "w/net.safetensors"
    [task.faces]
    classes = ["a", "b"]
    count = 7
    smoothing = 1
    color = "green"
    [pretext.puzzling]
    scales = [[0.5, 1], [1, 2]]
    rotate = true
    seed = 4
    tag = 1.5
    [data.folder]
    root = "~/images"
    columns = {path = "file", label = "mood"}
    [augment]
    box = {low = 0.25}
    """
    e = read(text, toys)
    assert e.encoder == Hub("resnet18", tmp_path / "w/net.safetensors")
    assert e.tasks["faces"].component == Faces("faces", ("a", "b"), 7, 1.0, Color.GREEN)
    assert type(e.tasks["faces"].component.smoothing) is float
    assert e.pretexts["puzzling"].component == Puzzling(3, ((0.5, 1.0), (1.0, 2.0)), True, 4, 1.5)
    assert e.data["folder"].component == Folder(
        Path.home() / "images", {"path": "file", "label": "mood"}
    )
    assert e.augment == Strong(Box(low=0.25))


@pytest.mark.parametrize("weight", ["0", "0.0", "-0.0"])
def test_a_table_of_weight_0_is_ignored(toys: Catalog, weight: str) -> None:
    without = read(HYBRID.replace("[pretext.puzzling]\ngrid = 2\nweight = 0.3\n", ""), toys)
    assert read(HYBRID.replace("weight = 0.3", f"weight = {weight}"), toys) == without


def test_a_misspelled_table_of_weight_0_is_still_an_error(toys: Catalog) -> None:
    assert "did you mean 'puzzling'" in problem(HYBRID + "[pretext.puzling]\nweight = 0\n", toys)


def test_one_component_can_be_used_twice_under_different_labels(toys: Catalog) -> None:
    text = """
    [pretext.coarse]
    name = "puzzling"
    grid = 2
    [pretext.fine]
    name = "puzzling"
    grid = 4
    """
    pretexts = read(text, toys).pretexts
    assert pretexts["coarse"].component == Puzzling(grid=2)
    assert pretexts["fine"].component == Puzzling(grid=4)


# ------------------------------------------------------------------------------------- errors


def test_a_mistake_is_reported_with_its_path_and_a_correction(
    toys: Catalog, subtests: pytest.Subtests
) -> None:
    for table, path, facts in [
        ("[pretext.puzzling]\ngird = 3", "pretext.puzzling.gird", ["did you mean 'grid'"]),
        ("[pretext.puzzling]\nwieght = 3", "pretext.puzzling.wieght", ["did you mean 'weight'"]),
        ("[task.pose]\nwieght = 3", "task.pose.wieght", ["did you mean 'weight'"]),
        ("[data.folder]\nroot = 'x'\nlabel = 3", "data.folder.label", ["did you mean 'labels'"]),
        ("[trian]\nsteps = 3", "trian", ["did you mean 'train'"]),
        ("[train]\nsteps = 3\nstps = 3", "train.stps", ["did you mean 'steps'"]),
        ("[augment.box]\nlov = 1.0", "augment.box.lov", ["did you mean 'low'"]),
        (
            "[augment]\nname = 'strnog'",
            "augment",
            ["unknown augmentation 'strnog'", "did you mean 'strong'"],
        ),
        ("[encoder]\nname = 'hub:a'\nmodel = 'b'", "encoder.model", ["hub:a"]),
        ("[encoder]\nname = 'resnet_small:a'", "encoder", ["not a family"]),
        ("[encoder]\nname = 3", "encoder.name", ["3", "a string"]),
        ("[encoder]\nname = 'hub'", "encoder.model", ["missing", "a string"]),
        ("[data.folder]\nlabels = 0.5", "data.folder.root", ["missing", "a path"]),
        ("[encoder]\nwidth = 3.0", "encoder.width", ["3.0", "a whole number"]),
        ("[encoder]\nwidth = true", "encoder.width", ["True", "a whole number"]),
        ("[encoder]\nwidth = '16'", "encoder.width", ["'16'", "a whole number"]),
        ("[encoder]\nwidth = 0", "encoder.width", ["0", "1"]),
        ("[encoder]\ndepths = 2", "encoder.depths", ["2", "a list"]),
        ("[encoder]\ndepths = [2, 2.5]", "encoder.depths[1]", ["2.5", "a whole number"]),
        (
            "[encoder]\nnorm = 'bacth'",
            "encoder.norm",
            ["'batch'", "'none'", "did you mean 'batch'"],
        ),
        ("[task.pose]\nclasses = 'abc'", "task.pose.classes", ["'abc'", "a list"]),
        ("[task.pose]\ncount = 7.0", "task.pose.count", ["7.0", "7, 8"]),
        ("[task.pose]\nsmoothing = false", "task.pose.smoothing", ["False", "a number"]),
        ("[task.pose]\nsmoothing = -1", "task.pose.smoothing", ["-1"]),
        ("[task.pose]\ncolor = 'gren'", "task.pose.color", ["did you mean 'green'"]),
        ("[task.pose]\nweight = -1", "task.pose.weight", ["-1"]),
        ("[task.pose]\nweight = false", "task.pose.weight", ["False", "a number"]),
        ("[pretext.puzzling]\nrotate = 1", "pretext.puzzling.rotate", ["1", "true or false"]),
        ("[pretext.puzzling]\ngrid = 5", "pretext.puzzling.grid", ["5", "(2, 3, 4)"]),
        (
            "[pretext.puzzling]\nscales = [[1, 'x']]",
            "pretext.puzzling.scales[0][1]",
            ["'x'", "a number"],
        ),
        ("[pretext.puzzling]\nscales = [[1, 2, 3]]", "pretext.puzzling.scales[0]", ["a list of 2"]),
        ("[pretext.puzzling]\ntag = [1]", "pretext.puzzling.tag", ["a string or a number"]),
        ("[pretext.puzzling]\nrotate = true\ngrid = 4", "pretext.puzzling", ["can't rotate"]),
        (
            "[pretext.puzzling]\ncontrol = 'view_only'",
            "pretext.puzzling.control",
            ["did you mean 'views_only'"],
        ),
        ("[data.folder]\nroot = 3", "data.folder.root", ["3", "a path"]),
        ("[data.folder]\nroot = ''", "data.folder.root", ["a path"]),
        (
            "[data.folder]\nroot = 'x'\ncolumns = {a = 1}",
            "data.folder.columns[a]",
            ["1", "a string"],
        ),
        ("[augment]\nbox = 3", "augment.box", ["3", "a table"]),
        ("[input]\nsize = 'big'", "input.size", ["'big'", "a whole number"]),
        ("[train]\nclip = 1.0", "[train]", ["neither steps nor epochs"]),
        ("[train]\nsteps = 1\nepochs = 1", "[train]", ["both"]),
        ("[schedule]\nmilestones = [0.9, 0.1]", "schedule.milestones", ["rising"]),
    ]:
        with subtests.test(table=table, path=path, facts=facts):
            line = problem("[task.faces]\n" + table, toys)
            assert line.startswith((f"{path}:", f"{path} "))
            assert [fact for fact in facts if fact not in line] == []


def test_a_value_instead_of_a_table_and_vice_versa_is_an_error(
    toys: Catalog, subtests: pytest.Subtests
) -> None:
    for top in [
        "task = 3",
        "[task]\nfaces = 3",
        "encoder = 'resnet'",
        "augmentations = []",
        "seed = 'one'",
        "plugins = 3",
    ]:
        with subtests.test(top=top):
            lines = problems(top, toys)
            assert lines[0].startswith(top.split(" =")[0].split("\n")[0].strip("[]"))


def test_all_problems_are_listed_on_one_line_each(toys: Catalog) -> None:
    text = """
    color = 1
    [encoder]
    width = 0
    depths = "x"
    [task.facs]
    [pretext.puzzling]
    gird = 3
    grid = 9
    [input]
    size = true
    """
    starts = [line.split(" ")[0].rstrip(":") for line in problems(text, toys)]
    assert sorted(starts) == sorted(
        [
            "color",
            "encoder.width",
            "encoder.depths",
            "task.facs",
            "pretext.puzzling.gird",
            "pretext.puzzling.grid",
            "input.size",
        ]
    )


def test_a_label_that_no_module_can_have_is_an_error(
    toys: Catalog, subtests: pytest.Subtests
) -> None:
    for label in ["train", "type", "keys", "copy", "get", "_modules", '"a-b"', '"a.b"', '"2"']:
        with subtests.test(label=label):
            assert label.strip('"') in problem(f"[task.{label}]\nname = 'faces'\n", toys)


def test_a_label_is_unique_over_tasks_and_pretexts(toys: Catalog) -> None:
    line = problem("[task.same]\nname = 'faces'\n[pretext.same]\nname = 'puzzling'\n", toys)
    assert "task.same" in line
    assert "pretext.same" in line


def test_conflicting_settings_are_reported_with_a_correction(
    toys: Catalog, subtests: pytest.Subtests
) -> None:
    for text, facts in [
        ("[input]\nsize = 4", ["[task.<label>]", "[pretext.<label>]"]),
        ("[pretext.puzzling]\nweight = 0", ["nothing to train"]),
        (
            "[task.faces]\n[views]\nsupervised = 'pretext'",
            ["views.supervised", "[pretext.<label>]", '"clean"'],
        ),
        (
            "[task.faces]\n[pretext.puzzling]\nsupervised = false\n[views]\nsupervised = 'pretext'",
            ["views.supervised"],
        ),
        (
            "[task.faces]\n[pretext.puzzling]\nsamples = 'unlabeled'\n[views]\nsupervised = 'both'",
            ["views.supervised", "no effect", 'samples = "all"'],
        ),
        (
            "[task.faces]\n[pretext.puzzling]\n"
            "[views]\nsupervised = 'pretext'\nstatistics = 'clean'",
            ["views.statistics", "views.supervised", '"all"'],
        ),
        (
            "[pretext.puzzling]\n[views]\nstatistics = 'clean'",
            ["views.statistics", "[task.<label>]"],
        ),
        (
            "[task.faces]\n[train]\nsteps = 1\nbest = 'fases/accuracy'",
            ["train.best", "did you mean 'faces'"],
        ),
        ("[task.faces]\n[train]\nsteps = 1\nbest = 'accuracy'", ["train.best", "<task>/<metric>"]),
        (
            "[pretext.puzzling]\n[train]\nsteps = 1\nbest = 'puzzling/accuracy'",
            ["train.best", "there is no task"],
        ),
        (
            "[task.faces]\n[schedule]\nname = 'cosine'\nmilestones = [0.3]",
            ["schedule.milestones has no effect", '"cosine"', '"step"'],
        ),
        ("[task.faces]\n[schedule]\nname = 'constant'\ngamma = 0.5", ["schedule.gamma"]),
        (
            "[task.faces]\n[augment.validation]\nname = 'strong'",
            ['[augment.validation] name = "strong"', "random numbers", '"validation"'],
        ),
    ]:
        with subtests.test(text=text, facts=facts):
            line = problem(text, toys)
            assert [fact for fact in facts if fact not in line] == []


def test_supervised_views_can_be_both_without_a_pretext(toys: Catalog) -> None:
    assert read("[task.faces]\n[views]\nsupervised = 'both'", toys).views.supervised == "both"


# ------------------------------------------------------------------------ files and overrides


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(HYBRID)
    return path


def test_the_errors_of_a_file_name_it(file: Path, toys: Catalog) -> None:
    file.write_text(HYBRID + "[input]\nsize = 'a'\ncache_size = 'b'\n")
    with pytest.raises(MtlError) as error:
        load(file, catalog=toys)
    first, *lines = str(error.value).splitlines()
    assert first == f"{file}:"
    assert [line.split()[0] for line in lines] == ["input.size", "input.cache_size"]


def test_invalid_toml_is_reported_with_file_and_line(file: Path, toys: Catalog) -> None:
    file.write_text("[task.faces]\nx = \n")
    with pytest.raises(MtlError, match=r"run\.toml.*line 2"):
        load(file, catalog=toys)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_an_unreadable_file_is_named(tmp_path: Path, toys: Catalog, content: bytes | None) -> None:
    path = tmp_path / "odd.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MtlError, match=r"odd\.toml"):
        load(path, catalog=toys)


def faces(e: Experiment) -> Dataset:
    return e.data["faces"].component


def puzzling(e: Experiment) -> PretextTask:
    return e.pretexts["puzzling"].component


def test_an_override_sets_one_key(file: Path, toys: Catalog, subtests: pytest.Subtests) -> None:
    for override, read_back in [
        ("data.faces.root=/some/dir", lambda e: faces(e).root == Path("/some/dir")),
        ("data.faces.root=123", lambda e: faces(e).root == Path.cwd() / "123"),
        ("data.faces.root='/a b'", lambda e: faces(e).root == Path("/a b")),
        ("data.faces.labels=0.1", lambda e: e.data["faces"].labels == 0.1),
        ("data.faces.split=2020-01-01", lambda e: e.data["faces"].split == "2020-01-01"),
        ("pretext.puzzling.weight=0", lambda e: e.pretexts == {}),
        ("pretext.puzzling.tag=7", lambda e: puzzling(e).tag == 7.0),
        ("pretext.puzzling.scales=[[1, 2]]", lambda e: puzzling(e).scales == ((1.0, 2.0),)),
        ("train.precision=32", lambda e: e.train.precision == "32"),
        ("train.precision=bf16-mixed", lambda e: e.train.precision == "bf16-mixed"),
        ("train.steps = 7", lambda e: e.train.steps == 7),
        ("train.epochs=3", lambda e: (e.train.epochs, e.train.steps) == (3.0, None)),
        ("train.clip=1", lambda e: e.train.clip == 1.0),
        ("views.clean=2", lambda e: e.views.clean == 2),
        ("input={size = 32}", lambda e: e.input.size == (32, 32)),
        ("encoder.name=hub:resnet18", lambda e: e.encoder == Hub("resnet18")),
        ("task.pose.weight=0.5", lambda e: list(e.tasks) == ["faces", "pose"]),
        ("seed=5", lambda e: e.seed == 5),
        (
            "task.faces.classes=['x=1', 'y']",
            lambda e: e.tasks["faces"].component.classes == ("x=1", "y"),
        ),
        ('data."faces".limit=3', lambda e: e.data["faces"].limit == 3),
    ]:
        with subtests.test(override=override, read_back=read_back):
            assert read_back(load(file, [override], catalog=toys))


def test_the_last_override_wins(file: Path, toys: Catalog) -> None:
    overrides = ["seed=1", "seed=2", "train.epochs=3", "train.steps=4"]
    plain = load(file, catalog=toys)
    expected = evolve(plain, seed=2, train=evolve(plain.train, steps=4))
    assert load(file, overrides, catalog=toys) == expected


def test_a_bad_override_is_named(file: Path, toys: Catalog, subtests: pytest.Subtests) -> None:
    for override in [
        "seed",
        "=3",
        "a..b=3",
        "a b=3",
        "seed.deep=3",
        "train.steps.more=3",
        "input.size=x",
        "nonsense=1",
    ]:
        with subtests.test(override=override):
            file.write_text("seed = 1\n" + HYBRID)
            with pytest.raises(MtlError) as error:
                load(file, [override], catalog=toys)
            assert f"--set {override}" in str(error.value)


# ---------------------------------------------------------------------------- one-file plugins


def test_a_plugin_file_beside_the_configuration_is_loaded_and_listed_with_its_hash(
    file: Path, toys: Catalog
) -> None:
    plugin = file.parent / "rotation.py"
    plugin.write_text(PLUGIN)
    file.write_text(
        'plugins = ["./rotation.py"]\n' + HYBRID + "[pretext.rotation]\nangles = [0, 180]\n"
    )
    e = load(file, catalog=toys)

    assert e.pretexts["rotation"].component.angles == (0, 180)  # type: ignore[attr-defined]
    assert e.plugins == (f"{plugin}#sha256={hashlib.sha256(PLUGIN.encode()).hexdigest()}",)
    assert ("pretext", "rotation") not in toys.classes
    assert parse(tomllib.loads(dump(e)), toys) == e


def test_a_plugin_file_can_be_passed_as_an_argument_and_twice(
    file: Path, toys: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = file.parent / "rotation.py"
    plugin.write_text(PLUGIN)
    monkeypatch.chdir(file.parent)
    e = load(file, ["pretext.rotation.weight=1"], [plugin, "rotation.py"], toys)
    assert list(e.pretexts) == ["puzzling", "rotation"]
    assert len(e.plugins) == 1


def test_a_changed_plugin_file_is_an_error(file: Path, toys: Catalog) -> None:
    (file.parent / "rotation.py").write_text(PLUGIN)
    file.write_text(f'plugins = ["rotation.py#sha256={"0" * 64}"]\n' + HYBRID)
    with pytest.raises(MtlError, match=r"rotation\.py has changed"):
        load(file, catalog=toys)


def test_a_plugin_file_that_raises_keeps_its_original_error(file: Path, toys: Catalog) -> None:
    (file.parent / "broken.py").write_text("raise ZeroDivisionError('no luck')")
    file.write_text('plugins = ["broken.py"]\n' + HYBRID)
    with pytest.raises(MtlError, match="no luck") as error:
        load(file, catalog=toys)
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_a_configuration_with_a_failed_installed_plugin_keeps_its_original_error(
    file: Path,
) -> None:
    missing = EntryPoint("puzzling", "no_such_module_at_all", "mtlcore")
    with pytest.warns(PluginWarning):
        catalog = Catalog.load([EntryPoint("toys", "config_toys", "mtlcore"), missing], {})
    file.write_text(HYBRID.replace("[pretext.puzzling]", "[pretext.jigsaw]"))
    with pytest.raises(MtlError, match="no_such_module_at_all") as error:
        load(file, catalog=catalog)
    assert isinstance(error.value.__cause__, ModuleNotFoundError)


# ---------------------------------------------------------------------- shipped components


def test_the_shipped_components_make_a_hybrid_experiment() -> None:
    text = """
    [task.fer]
    [pretext.puzzling]
    grid = 2
    [data.fer2013]
    root = "/data"
    [train]
    steps = 1
    """
    e = parse(tomllib.loads(text))
    assert e.tasks["fer"].component.reads == "emotion"
    assert {"none", "weak", "strong", "validation"} <= set(e.augmentations)
    assert parse(tomllib.loads(dump(e))) == e


def test_a_dump_means_the_same_from_any_folder(
    toys: Catalog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    e = read(HYBRID.replace("/images", "images"), toys)
    assert e.data["faces"].component == Folder(Path(os.getcwd()) / "images")
    text = dump(e)
    monkeypatch.chdir(tmp_path)
    assert read(text, toys) == e
