"""Experiments that are built in Python: defaults, checks, and equality with those of TOML files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, field, frozen

import mtlcore
from mtlcore import (
    Classification,
    DataEntry,
    Experiment,
    GroupOverride,
    Input,
    MtlError,
    PretextEntry,
    Regression,
    Schedule,
    SupervisedTask,
    TaskEntry,
    Train,
    Views,
    component,
    load_experiment,
)
from mtlcore.augment import Strong, Validation, Weak
from mtlcore.augment.kornia_ops.general import General
from mtlcore.config import dump, load, resolve
from mtlcore.encoders import ResnetSmall
from mtlcore.weighting import Equal

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(
    path
    for folder in ("benchmarks/bitwise", "benchmarks/protocols/bases", "examples")
    for path in (ROOT / folder).glob("*.toml")
)
FACES = ["data.fer2013.root=/faces"]


def read_again(text: str, folder: Path) -> Experiment:
    file = folder / "again.toml"
    file.write_text(text, encoding="utf-8")
    return load_experiment(file)


def problems(build: Any) -> list[str]:
    with pytest.raises(MtlError) as error:
        build()
    return str(error.value).splitlines()


# --------------------------------------------------------------------- equality with TOML files


@pytest.mark.parametrize("folder", sorted({path.parent.name for path in FILES}))
def test_an_experiment_equals_the_one_of_the_toml_it_writes(folder: str, tmp_path: Path) -> None:
    for file in FILES:
        if file.parent.name == folder:
            _equals_the_one_of_its_toml(file, tmp_path)


def _equals_the_one_of_its_toml(file: Path, tmp_path: Path) -> None:
    overrides = FACES if "[data.fer2013]" in file.read_text() else []
    experiment = load(file, overrides)
    text = experiment.to_toml()
    again = read_again(text, tmp_path)
    assert again == experiment
    assert list(again.entries) == list(experiment.entries)
    assert again.to_toml() == text


def siamese() -> Experiment:
    return Experiment(
        encoder=ResnetSmall(width=16, stem_stride=2),
        tasks={"fer": component("task", "fer", emotions=7, dropout=0.3)},
        pretexts={
            "puzzling": PretextEntry(
                component(
                    "pretext",
                    "puzzling",
                    grid=2,
                    scales=[[1.01, 1.14], [1.0, 1.0], [0.57, 0.99]],
                ),
                weight=3.6,
            )
        },
        data={
            "fer2013": DataEntry(
                component("dataset", "fer2013", root="/faces"), labels=0.1, unlabeled="drop"
            )
        },
        input=Input(size=48),
        views=Views(supervised="both", reduce="geometric"),
        augment=Strong(crop=(0.69, 0.99)),
        augmentations={"validation": Validation(crop=1.0)},
        train=Train(steps=3000),
    )


def consistency() -> Experiment:
    return Experiment(
        encoder=component("encoder", "resnet_small", width=8),
        tasks={"fer": component("task", "fer", emotions=7, dropout=0.3)},
        pretexts={
            "consistency": PretextEntry(
                component("pretext", "consistency", threshold=0.2, strong="hard"),
                samples="unlabeled",
            )
        },
        data={
            "fer2013": DataEntry(
                component("dataset", "fer2013", root="/faces"),
                limit=600,
                labels=0.3,
                unlabeled="keep",
            )
        },
        input=Input(size=48, batch_size=32, unlabeled_batch=24),
        augment=Weak(),
        augmentations={"hard": Strong(crop=(0.69, 0.99)), "validation": Validation(crop=1.0)},
        optimizer=component("optimizer", "adamw", lr=2e-3, weight_decay=0.02),
        schedule=Schedule(name="constant", warmup=5),
        train=evolve(
            load(ROOT / "benchmarks/bitwise/consistency.toml", FACES).train, ema=0.9, steps=60
        ),
        callbacks={"early_stopping": component("callback", "early_stopping", patience=1000)},
    )


def digits() -> Experiment:
    plugin = ROOT / "examples" / "digits_source.py"
    return Experiment(
        plugins=[plugin],
        encoder=ResnetSmall(width=16),
        tasks={"digit": Classification()},
        pretexts={"inpainting": PretextEntry(component("pretext", "inpainting"), weight=0.3)},
        data={
            "digits": DataEntry(
                component("dataset", "digits", [plugin]), labels=0.05, unlabeled="keep"
            )
        },
        input=Input(size=16, batch_size=32),
        augment=Validation(crop=1),
        augmentations={"validation": Validation(crop=1)},
        schedule=Schedule(warmup=30),
        train=Train(steps=300, eval_every=100, save_every=100),
        callbacks={"probe": component("callback", "probe", every=50)},
    )


def own_csv() -> Experiment:
    people = component(
        "dataset",
        "csv",
        file=Path("people.csv"),
        columns={"emotion": "emotion", "age": "age"},
    )
    puzzling = component("pretext", "puzzling", grid=2, head="spatial")
    return Experiment(
        encoder=ResnetSmall(stem_stride=2),
        tasks={"emotion": Classification(), "age": Regression()},
        pretexts={"puzzling": PretextEntry(puzzling)},
        views=Views(statistics="clean"),
        data={"people": DataEntry(people, group="person")},
        augment=General(),
        optimizer=component("optimizer", "adamw", lr=5e-3),
        train=Train(steps=2000),
    )


@pytest.mark.parametrize(
    ("build", "file"),
    [
        (siamese, "examples/fer2013_siamese.toml"),
        (consistency, "benchmarks/bitwise/consistency.toml"),
        (digits, "examples/digits.toml"),
        (own_csv, "examples/own_csv.toml"),
    ],
)
def test_an_experiment_by_hand_equals_that_of_a_file(build: Any, file: str, tmp_path: Path) -> None:
    overrides = FACES if "fer2013" in (ROOT / file).read_text() else []
    expected = load(ROOT / file, overrides)
    built = build()
    assert built == expected
    assert built.to_toml() == dump(expected)
    assert read_again(built.to_toml(), tmp_path) == built


# ------------------------------------------------------------------- defaults and short forms


def test_missing_arguments_have_the_defaults_of_a_file(tmp_path: Path) -> None:
    built = Experiment(tasks={"age": Regression()})
    (tmp_path / "run.toml").write_text('[task.age]\nname = "regression"\n')
    assert built == load_experiment(tmp_path / "run.toml")
    assert (built.encoder, built.weighting, built.augment) == (ResnetSmall(), Equal(), Strong())


def test_a_component_may_stand_for_an_entry() -> None:
    built = Experiment(tasks={"age": Regression()})
    assert built.tasks == {"age": TaskEntry(Regression(reads="age"))}
    assert built == Experiment(tasks={"age": TaskEntry(Regression())})


def test_a_task_that_names_its_annotation_keeps_it() -> None:
    built = Experiment(tasks={"years": Regression(reads="age")})
    assert built.tasks["years"].component.reads == "age"


def test_augmentations_without_required_keys_are_available_by_name() -> None:
    built = Experiment(tasks={"age": Regression()}, augmentations={"hard": Strong(mirror=0.0)})
    assert built.augmentation("weak") == Weak()
    assert built.augmentation("hard") == Strong(mirror=0.0)
    assert built == resolve(built)
    with pytest.raises(MtlError, match="unknown augmentation 'weka'; did you mean 'weak'"):
        built.augmentation("weka")


OWN_STRONG = """
from attrs import frozen
from mtlcore import hookimpl
from mtlcore.augment.levels import Strong as Shipped

@frozen
class Strong(Shipped):
    mirror: float = 0.25

@hookimpl
def mtl_components():
    return [Strong]
"""


@pytest.mark.filterwarnings("ignore:augmentation 'strong' comes from")
def test_a_plugin_file_may_replace_a_default_component(tmp_path: Path) -> None:
    plugin = tmp_path / "own.py"
    plugin.write_text(OWN_STRONG)
    built = Experiment(plugins=[plugin], tasks={"age": Regression()})
    own: Any = built.augment
    assert isinstance(own, Strong)
    assert type(own) is not Strong
    assert own.mirror == 0.25
    assert resolve(built) == built
    config = tmp_path / "run.toml"
    config.write_text(f'plugins = ["{plugin}"]\n[task.age]\nname = "regression"\n')
    assert load(config) == built
    assert Experiment(tasks={"age": Regression()}).augment == Strong()


def test_two_experiments_with_different_augmentations_differ() -> None:
    one = Experiment(augmentations={"weak": Weak(mirror=0.25)})
    assert one != Experiment()
    assert one != Experiment(augmentations={"weak": Weak(mirror=0.75)})
    assert Experiment(augmentations={"weak": Weak()}) == Experiment()


def test_values_are_those_that_a_file_would_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data: Any = {"faces": type(component("dataset", "fer2013", root="x"))(root="faces")}
    init_from: Any = "runs/a"
    built = Experiment(
        data=data,
        schedule=Schedule(milestones=[0.5]),  # type: ignore[arg-type]
        train=Train(steps=3, clip=1, init_from=init_from),
    )
    assert built.data["faces"].component.root == tmp_path / "faces"  # type: ignore[attr-defined]
    assert built.train.init_from == tmp_path / "runs" / "a"
    assert built.schedule.milestones == (0.5,)
    assert type(built.train.clip) is float


def test_evolve_keeps_every_component_and_finds_no_plugins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built = siamese()
    monkeypatch.setattr("mtlcore.registry.lookup.catalog", lambda: pytest.fail("plugins loaded"))
    changed = evolve(built, seed=3)
    assert evolve(changed, seed=0) == built
    assert changed.encoder is built.encoder
    assert all(changed.entries[label] is entry for label, entry in built.entries.items())
    assert changed.data["fer2013"] is built.data["fer2013"]


# ------------------------------------------------------------------------------------- errors


MISTAKES: list[tuple[Any, str]] = [
    (lambda: Input(size="big"), "input.size = 'big': expected a whole number"),
    (lambda: Input(batch_size=3.0), "input.batch_size = 3.0: expected a whole number"),
    (lambda: Input(batch_size=0), "input.batch_size: 'batch_size' must be > 0: 0"),
    (lambda: Train(steps="500"), "train.steps = '500': expected a whole number"),
    (lambda: Train(steps=None, epochs=None), "[train] sets neither steps nor epochs"),
    (lambda: Train(steps=1, precision="16"), "train.precision = '16': expected one of"),
    (lambda: Views(clean=True), "views.clean = True: expected a whole number"),
    (lambda: component("optimizer", "adam"), "did you mean 'adamw'"),
    (lambda: component("optimizer", "torch:Adem"), "did you mean 'Adam'"),
    (lambda: Experiment(freeze="steem"), "did you mean 'stem'"),
    (lambda: Experiment(freeze=0), "at least 1"),
    (lambda: GroupOverride(match="encoder.*"), "set lr or weight_decay"),
    (lambda: Schedule(milestones=(0.9, 0.1)), "schedule.milestones: "),
    (lambda: TaskEntry(Regression(), weight="1"), "task.<label>.weight = '1': expected a"),
    (lambda: Experiment(seed="one"), "seed = 'one': expected a whole number"),
    (lambda: Experiment(input=48), "input = 48: expected mtlcore.Input(...)"),
    (lambda: Experiment(train={"steps": 3}), "expected mtlcore.Train(...)"),
    (lambda: Experiment(tasks=[Regression()]), "expected a dict: label -> component"),
    (
        lambda: Experiment(tasks={"age": Strong()}),
        "expected a component of the kind 'task', or TaskEntry(...)",
    ),
    (
        lambda: Experiment(pretexts={"age": PretextEntry(Regression())}),
        "expected a component of the kind 'pretext'",
    ),
    (lambda: Experiment(encoder=Equal()), "expected a component of the kind 'encoder'"),
    (
        lambda: Experiment(tasks={"age": Regression(loss="l3")}),
        "task.age.loss = 'l3': expected one of",
    ),
    (lambda: Experiment(plugins="a.py"), "plugins = 'a.py': expected a list"),
    (lambda: Experiment(plugins=["no/such.py"]), "no/such.py can't be read"),
    (lambda: Experiment().to_toml(), "nothing to train: expected a table [task.<label>]"),
    (lambda: component("encodr", "x"), "unknown kind 'encodr'; did you mean 'encoder'"),
    (lambda: component("encoder", "resnet_smal"), "did you mean 'resnet_small'"),
    (lambda: component("encoder", "resnet_small", widht=3), "did you mean 'width'"),
    (lambda: component("encoder", "resnet_small", width="3"), "expected a whole number"),
    (lambda: component("dataset", "fer2013"), "fer2013.root is missing: expected a path"),
]  # fmt: skip


def test_a_mistake_has_the_message_of_a_toml_file() -> None:
    for build, line in MISTAKES:
        [found] = problems(build)
        assert line in found


def test_all_mistakes_of_one_object_are_reported() -> None:
    wrong: Any = {"steps": "1", "clip": "2", "ema": 1.5}
    starts = [line.split(" ")[0].rstrip(":") for line in problems(lambda: Train(**wrong))]
    assert starts == ["train.steps", "train.clip", "train.ema"]


# --------------------------------------------------------------------- components and overrides


def test_a_component_of_a_family_is_named_as_in_toml() -> None:
    pytest.importorskip("timm")
    built = component("encoder", "timm:resnet18")
    assert built == component("encoder", "timm", model="resnet18")
    assert 'name = "timm"' in Experiment(encoder=built, tasks={"age": Regression()}).to_toml()


def test_overrides_are_a_dict_with_the_meaning_of_set(subtests: pytest.Subtests) -> None:
    for overrides, expected in [
        ({"train.steps": 500}, ["train.steps=500"]),
        ({"train.epochs": 2}, ["train.epochs=2"]),
        ({"encoder.width": 8, "seed": 3}, ["encoder.width=8", "seed=3"]),
        ({"pretext.puzzling.weight": 0}, ["pretext.puzzling.weight=0"]),
        ({"data.people.file": Path("/a/b.csv")}, ["data.people.file=/a/b.csv"]),
        ({"input.size": (32, 48)}, ["input.size=[32, 48]"]),
        ({"augment": Weak()}, ["augment.name=weak"]),
        ({"data.people.group": None}, []),
    ]:
        with subtests.test(overrides=overrides, expected=expected):
            file = ROOT / "examples" / "own_csv.toml"
            read = load_experiment(file, overrides)
            if not expected:
                assert read.data["people"].group is None
                return
            assert read == load(file, expected)
            assert resolve(load(file), overrides) == read


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"train.stps": 5}, "did you mean 'steps'? known:"),
        ({"input.batch_size": "x"}, "(from overrides['input.batch_size'])"),
        ({"train": 5}, "train = 5: expected a table"),
        ({"train.steps.more": 5}, "overrides['train.steps.more']: train.steps is a value"),
        ({"a b": 5}, """overrides['a b']: expected a key such as "train.steps\""""),
        ("train.steps=5", """expected a dict, such as {"train.steps": 500}"""),
        ({"task": {1: {}}}, "overrides['task']: its key 1 is not a string: expected '1'"),
        (
            {"weighting": {"name": "schedule", "of": {1: [[0, 1]]}}},
            "overrides['weighting'].of: its key 1 is not a string",
        ),
        ({"optimizer.groups": [{2: 3}]}, "overrides['optimizer.groups'][0]: its key 2"),
    ],
)
def test_a_bad_override_of_a_dict_is_named(overrides: Any, line: str) -> None:
    file = ROOT / "examples" / "own_csv.toml"
    assert any(line in found for found in problems(lambda: load_experiment(file, overrides)))
    assert any(line in found for found in problems(lambda: resolve(own_csv(), overrides)))


def test_none_removes_a_key_and_adds_no_table() -> None:
    file = ROOT / "examples" / "own_csv.toml"
    overrides = {"pretext.rotation.weight": None, "callback.probe.reads": None}
    assert load_experiment(file, overrides) == load(file)
    assert resolve(load(file), overrides) == resolve(load(file))


def test_the_keys_of_a_table_are_strings() -> None:
    with pytest.raises(MtlError, match=r"schedule\.of: its key 1 is not a string"):
        component("weighting", "schedule", of={1: [[0.0, 1.0]]})


# ------------------------------------------------------------------- classes of one's own


def class_named(name: str, base: type = Classification) -> type[Any]:
    """A task class that is defined anew by each call, as a notebook does."""

    @frozen
    class Mood(base):  # type: ignore[misc, valid-type]
        extra: int = 0

    Mood.name = name
    return Mood


def test_a_field_of_any_type_keeps_its_object() -> None:
    @frozen
    class Wraps(mtlcore.Classification):
        inner: Any = None

    inner = mtlcore.Classification(reads="mood")
    experiment = Experiment(tasks={"mood": Wraps(inner=inner)})
    task = experiment.tasks["mood"].component
    assert isinstance(task, Wraps)
    assert task.inner is inner


def test_a_class_that_is_not_registered_is_refused_with_what_to_type() -> None:
    experiment = Experiment(tasks={"mood": class_named("never_registered")()})
    [line] = problems(experiment.to_toml)
    assert line.startswith("task.mood: the class Mood of ")
    assert "is not registered" in line
    assert "mtlcore.register(Mood)" in line


def test_a_registered_class_is_written_and_read_again(tmp_path: Path) -> None:
    mood = mtlcore.register(class_named("registered_mood"))
    experiment = Experiment(tasks={"mood": mood(extra=3)})
    again = read_again(experiment.to_toml(), tmp_path)
    assert again == experiment
    assert type(again.tasks["mood"].component) is mood
    assert component("task", "registered_mood") == mood()


def test_a_class_that_is_defined_again_replaces_its_old_self() -> None:
    old = mtlcore.register(class_named("mood_again"))
    new = mtlcore.register(class_named("mood_again"))
    assert mtlcore.register(new) is new
    assert type(component("task", "mood_again")) is new
    [line] = problems(Experiment(tasks={"mood": old()}).to_toml)
    assert "was defined again later: create the component again, from the new class" in line


@pytest.mark.parametrize(
    ("cls", "fact"),
    [
        (class_named("regression"), "set another `name` in the class"),
        (class_named("Bad Name"), "expected lower-case letters"),
        (SupervisedTask, "does not implement build, target"),
        (int, "expected a class derived from Encoder"),
    ],
)
def test_a_class_that_is_no_component_or_whose_name_is_taken_is_refused(
    cls: Any, fact: str
) -> None:
    [line] = problems(lambda: mtlcore.register(cls))
    assert "can't be registered" in line
    assert fact in line
    assert component("task", "regression") == Regression()


def test_a_class_of_a_plugin_file_that_is_not_listed_is_refused() -> None:
    [line] = problems(evolve(digits(), plugins=()).to_toml)
    assert line.startswith("data.digits: the class ")
    assert f"add plugins=['{ROOT / 'examples' / 'digits_source.py'}']" in line


def test_a_value_that_toml_cannot_hold_is_refused_when_it_is_written() -> None:
    @frozen
    class Odd(Classification):
        name = "odd_value"
        hook: Any = field(default=None)

    odd = mtlcore.register(Odd)
    experiment = Experiment(tasks={"odd": odd(hook=object())})
    [line] = problems(experiment.to_toml)
    assert "TOML" in line


# ------------------------------------------------------------------------------- public names


def test_importing_mtlcore_does_not_import_torch() -> None:
    code = "import mtlcore, sys; assert 'torch' not in sys.modules; assert mtlcore.__version__"
    subprocess.run([sys.executable, "-c", code], check=True)
