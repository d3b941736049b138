"""A sweep: its options, its statistics against numpy, and existing runs; on tiny real runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from study_toys import DOTS, dots_run

from mtlcore import MtlError
from mtlcore.config import load
from mtlcore.runs import RunFolder
from mtlcore.study.axes import Axis
from mtlcore.study.study import Study
from mtlcore.study.sweep import Outcome, outcome, plan_sweep, write_outcome
from mtlcore.training.trainer import train

CONFIG = dots_run(3, "[pretext.puzzling]\ngrid = 2\nweight = 0.5\n")
OVER = Axis.parse("pretext.puzzling.weight=0,0.3")
AT_FEATURES = ["weighting.name=cosine_gate", "weighting.at=features"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(CONFIG)
    return path


def plan(config: Path, *axes: Axis, out: str = "sweep", plugin: Path = DOTS, **options) -> Study:
    return plan_sweep(
        config, axes or (OVER,), config.parent / out, plugin_files=[plugin], **options
    )


def runs(sweep: Study) -> list:
    """The runs of a sweep that have not ended."""
    return sweep.workspace.plan().left()


def run(sweep: Study, axes: int = 1, say=lambda line: None) -> Outcome:
    sweep.train(say=say)
    return outcome(sweep, axes)


def folder(sweep: Study, name: str) -> RunFolder:
    return RunFolder(sweep.workspace.work / f"main-{name}")


# ------------------------------------------------------------ the options


def test_values_are_split_at_commas_outside_of_brackets_and_quotes(subtests) -> None:
    for text, key, values in [
        ("pretext.puzzling.weight=0,0.1,1", "pretext.puzzling.weight", ("0", "0.1", "1")),
        ("augment.crop=[0.5, 0.9],[0.7,1.0]", "augment.crop", ("[0.5, 0.9]", "[0.7,1.0]")),
        ("a.b=[[1, 2], [3]],[]", "a.b", ("[[1, 2], [3]]", "[]")),
        ('augment.name="weak",strong', "augment.name", ('"weak"', "strong")),
        ("""task.x.reads="a,b",'c,\\',d=e""", "task.x.reads", ('"a,b"', "'c,\\'", "d=e")),
        ("w.of={ a = 1, b = [2,3] },{}", "w.of", ("{ a = 1, b = [2,3] }", "{}")),
        ("optimizer.lr=1e-3", "optimizer.lr", ("1e-3",)),
    ]:
        with subtests.test(text=text, key=key, values=values):
            axis = Axis.parse(text)
            assert (axis.key, axis.values) == (key, values)


@given(st.lists(st.lists(st.floats(-9, 9), max_size=3), min_size=1, max_size=4, unique_by=repr))
def test_any_list_of_lists_is_returned_as_it_was_typed(lists) -> None:
    typed = [repr([abs(x) + 0.0 for x in inner]) for inner in lists]
    if len(set(typed)) == len(typed):
        assert Axis.parse("a.b=" + ",".join(typed)).values == tuple(typed)


def test_text_that_is_no_list_of_values_is_an_error(subtests) -> None:
    for text, message in [
        ("optimizer.lr", "expected KEY=VALUE,VALUE"),
        ("optimizer.lr=", "expected KEY=VALUE,VALUE"),
        ("optimizer.lr=1,,2", "expected KEY=VALUE,VALUE"),
        ("optimizer.lr=0.1,0.10", "the value 0.1 is listed twice"),
        ("=1,2", "expected KEY=VALUE"),
    ]:
        with subtests.test(text=text, message=message), pytest.raises(MtlError, match=message):
            Axis.parse(text)


def test_several_keys_are_combined_and_each_run_has_a_readable_folder(config) -> None:
    lr, crop = Axis.parse("optimizer.lr=0.01,0.1"), Axis.parse("augment.crop=[0.5,0.9]")
    sweep = plan(config, OVER, lr, crop, seeds=[3, 1])
    assert len({r.name for r in runs(sweep)}) == 2 * 2 * 1 * 2
    assert [r.seed for r in runs(sweep)] == [3] * 4 + [1] * 4
    first = runs(sweep)[0]
    assert first.name.startswith("main-weight=0_lr=0.01_crop=0.5-0.9-")
    experiments = [load(config, r.overrides, [DOTS]) for r in runs(sweep)[:4]]
    assert [bool(e.pretexts) for e in experiments] == [False, False, True, True]
    assert [e.optimizer.lr for e in experiments] == [0.01, 0.1] * 2
    assert {e.augment.crop for e in experiments} == {(0.5, 0.9)}


def test_keys_with_the_same_last_word_have_their_full_names(config) -> None:
    sweep = plan(config, OVER, Axis.parse("task.quarter.weight=1,2"))
    assert list(sweep.definition.arms)[-1] == "pretext.puzzling.weight=0.3_task.quarter.weight=2"


def test_without_seeds_the_seed_of_the_configuration_is_used(config) -> None:
    assert {r.seed for r in runs(plan(config, overrides=["seed=7"]))} == {7}


def test_an_error_in_the_options_is_raised_before_anything_is_written(config, subtests) -> None:
    for axes, options, message in [
        (["pretext.puzzling.wieght=0,1"], {}, "did you mean 'weight'"),
        (["pretext.puzzling.wieght=0,1"], {}, "from --over pretext.puzzling.wieght=0"),
        (["pretext.puzzling.grid=2,9"], {}, "pretext.puzzling.grid"),
        (["seed=0,1"], {}, "set the seeds with --seeds"),
        (["optimizer.lr=1,2", "optimizer.lr=3"], {}, "appears twice"),
        (["train.devices=1,2"], {}, "on one device"),
        (["train.micro_batches=1,2"], {"overrides": AT_FEATURES}, "its own Gramian"),
        (["optimizer.lr=0.1"], {"overrides": ["train.lrr=1"]}, "from --set train.lrr=1"),
    ]:
        with subtests.test(axes=axes, options=options, message=message):
            with pytest.raises(MtlError, match=message):
                plan(config, *map(Axis.parse, axes), **options)
            assert not (config.parent / "sweep").exists()


# ------------------------------------------------------------ the runs


def test_mean_and_sd_are_those_of_the_runs_and_the_best_mean_is_chosen(config) -> None:
    options = ["train.best=quarter/macro_f1", "optimizer.lr=0.02"]
    sweep = plan(config, seeds=[0, 1, 2], overrides=options)
    run(sweep)
    found, file = write_outcome(sweep, 1)
    assert (found.metric, found.higher_is_better) == ("quarter/macro_f1", True)
    means = []
    for setting, weight in zip(found.settings, ("0", "0.3")):
        folders = [folder(sweep, f"weight={weight}-0-{seed}-3") for seed in (0, 1, 2)]
        logged = [run.log.rows()[-1]["validation/quarter/macro_f1"] for run in folders]
        assert setting.values == {"pretext.puzzling.weight": float(weight)}
        assert setting.n == 3
        assert setting.mean == pytest.approx(np.mean(logged), abs=2e-6)
        assert setting.sd == pytest.approx(np.std(logged, ddof=1), abs=2e-6)
        means.append(np.mean(logged))
    assert found.chosen is found.settings[int(np.argmax(means))]
    assert json.loads((config.parent / "sweep" / "sweep.json").read_text()) == found.as_json()
    again = load(file)
    best = (
        sweep.workspace.work / found.as_json()["settings"][int(np.argmax(means))]["runs"][0]["run"]
    )
    assert again.tasks == load(best / "config.toml").tasks
    assert (again.train, again.seed) == (load(best / "config.toml").train, 0)


def test_a_run_of_a_sweep_equals_the_run_of_train(config) -> None:
    sweep = plan(config, Axis.parse("pretext.puzzling.weight=0.3"))
    run(sweep)
    of_sweep = folder(sweep, "weight=0.3-0-0-3").provenance()["validation"]
    alone = load(config, ["pretext.puzzling.weight=0.3"], [DOTS])
    result = train(alone, config.parent / "alone")
    assert of_sweep == result.measured.metrics


def test_a_finished_run_is_read_and_not_trained_again(config) -> None:
    run(plan(config))
    sweep = config.parent / "sweep"
    stamps = {p: p.stat().st_mtime_ns for p in sweep.glob("runs/main-*/*")}
    further = run(plan(config, Axis.parse("pretext.puzzling.weight=0,0.3,1"), seeds=[0]))
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert [setting.n for setting in further.settings] == [1, 1, 1]


OWN = """
from attrs import frozen
import numpy as np
from mtlcore import Dataset, Index, Sample, hookimpl

@frozen
class Own(Dataset):
    def index(self):
        numbers = np.arange(60)
        split = np.array(["train", "train", "validation", "test"])[numbers % 4]
        labels = np.array(["a", "b"])[numbers // 4 % 2]
        return Index(numbers.astype(str), {"quarter": labels}, split=split)
    def decode(self, index, i):
        return Sample(np.full((16, 16, 3), 40 * (i // 4 % 2), dtype=np.uint8))

@hookimpl
def mtl_components():
    return [Own]
"""


def test_without_a_validation_split_nothing_is_trained(config) -> None:
    with pytest.raises(
        MtlError, match=r"input.validation = 0: arms are compared on the .*set input.validation"
    ):
        plan(config, overrides=["input.validation=0"])
    with pytest.raises(MtlError, match=r"input.validation = 0: "):
        plan(config, Axis.parse("input.validation=0.25,0"))
    assert not (config.parent / "sweep").exists()


def test_the_validation_split_of_a_dataset_is_enough(config) -> None:
    plugin = config.parent / "own.py"
    plugin.write_text(OWN)
    config.write_text(CONFIG.replace("[data.dots]\nn = 60", "[data.own]"))
    sweep = plan(config, plugin=plugin, overrides=["input.validation=0"])
    assert [setting.n for setting in run(sweep).settings] == [1, 1]


TASK = '[task.quarter]\nname = "classification"\n'


def test_a_loss_that_the_swept_weight_scales_is_an_error_before_training(config) -> None:
    config.write_text(CONFIG.replace(TASK, ""))
    with pytest.raises(MtlError, match=r"pretext.puzzling.weight is a factor of it"):
        plan(config, Axis.parse("pretext.puzzling.weight=0.1,1"))
    assert not (config.parent / "sweep").exists()
    # The weight of a dataset scales no loss: it sets how often its samples are drawn.
    assert len(runs(plan(config, Axis.parse("data.dots.weight=1,2")))) == 2


def test_settings_with_different_main_metrics_are_an_error_before_training(config) -> None:
    with pytest.raises(
        MtlError, match=r"=0: the validation loss; .*=1: the first metric of task.quarter"
    ):
        plan(config, Axis.parse("task.quarter.weight=0,1"))
    config.write_text(
        CONFIG.replace(TASK, TASK + TASK.replace("quarter", "other") + 'reads = "quarter"\n')
    )
    with pytest.raises(MtlError, match=r"different main metrics .*first metric of task.other"):
        plan(config, Axis.parse("task.quarter.weight=0,1"))
    assert not (config.parent / "sweep").exists()
    assert plan(
        config, Axis.parse("task.quarter.weight=0,1"), overrides=["train.best=other/accuracy"]
    )


def test_a_metric_of_a_callback_can_be_the_main_metric_of_runs_without_tasks(config) -> None:
    config.write_text(CONFIG.replace(TASK, "") + '[callback.probe]\nreads = ["quarter"]\n')
    over = Axis.parse("pretext.puzzling.weight=0.1,1")
    sweep = plan(config, over, overrides=["train.best=probe/quarter/knn"])
    found = run(sweep)
    assert (found.metric, found.higher_is_better) == ("probe/quarter/knn", True)
    rows = folder(sweep, "weight=1-0-0-3").log.rows()
    assert found.settings[1].mean == pytest.approx(
        rows[-1]["validation/probe/quarter/knn"], abs=1e-6
    )


def test_a_weighting_that_cannot_be_built_is_an_error_with_its_setting(config) -> None:
    config.write_text(
        CONFIG + '[weighting]\nname = "schedule"\nof = { puzzling = [[0.0, 1.0], [1.0, 0.0]] }\n'
    )
    with pytest.raises(
        MtlError,
        match=r"--over pretext.puzzling.weight=0: weighting.of.puzzling.*to `pretexts`",
    ):
        plan(config)
    named = ["weighting={name='torchjd:CAGrad'}"]
    with pytest.raises(MtlError, match=r"--over weighting.options.c=-1: .*must be non-negative"):
        plan(config, Axis.parse("weighting.options.c=0.4,-1"), overrides=named)
    assert not (config.parent / "sweep").exists()
    assert plan(
        config, overrides=["weighting.of={}", "weighting.pretexts=[[0.0, 1.0], [1.0, 0.0]]"]
    )


DRAWS = """
import torch
from attrs import frozen
from mtlcore import LossWeighting, hookimpl

class Drawn(torch.nn.Linear):
    def forward(self, losses):
        return losses.values.sum()

@frozen
class Draws(LossWeighting):
    def build(self, names):
        return Drawn(len(names), 1)

@hookimpl
def mtl_components():
    return [Draws]
"""


def test_planning_draws_nothing_from_the_global_generator(config) -> None:
    (config.parent / "draws.py").write_text(DRAWS)
    config.write_text(f'plugins = ["draws.py"]\n{CONFIG}[weighting]\nname = "draws"\n')
    before = torch.get_rng_state()
    plan(config)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (
            ["pretext.puzzling.weight=0,0.0"],
            r"weight=0.0 is the same experiment as --over pretext.puzzling.weight=0:",
        ),
        (
            ["pretext.puzzling.weight=0,1", "pretext.puzzling.grid=2,3"],
            r"weight=0 --over pretext.puzzling.grid=3 is the",
        ),
    ],
)
def test_the_same_experiment_twice_is_an_error(config, axes, message) -> None:
    with pytest.raises(MtlError, match=message):
        plan(config, *map(Axis.parse, axes))
    assert not (config.parent / "sweep").exists()


HOT = [
    "train.max_skipped=2",
    "train.log_every=1",
    "train.steps=20",
    "optimizer.weight_decay=1000",
    'optimizer.name="sgd"',
]


def test_a_setting_that_diverges_is_marked_and_neither_chosen_nor_trained_again(config) -> None:
    lr = Axis.parse("optimizer.lr=1000,0.01")
    notes: list[str] = []
    sweep = plan(config, lr, overrides=HOT)
    run(sweep, say=notes.append)
    found, file = write_outcome(sweep, 1)
    assert found.chosen.values == {"optimizer.lr": 0.01}
    assert load(file).optimizer.lr == 0.01
    hot_setting = found.settings[0]
    last = folder(sweep, "lr=1000-0-0-20").log.rows()[-1]
    assert hot_setting.diverged == 1
    assert np.isnan(hot_setting.mean)
    assert hot_setting.rows[0]["cpu_s"] == pytest.approx(last["cpu_s"], abs=0.06)
    assert any("main-lr=1000-0-0-20 has no result" in note for note in notes)
    written = found.as_json()["settings"]
    assert written[0]["mean"] is None
    assert [setting["runs"][0]["diverged"] for setting in written] == [True, False]
    notes.clear()
    assert run(plan(config, lr, overrides=HOT), say=notes.append).as_json() == found.as_json()
    assert not notes


def test_if_all_settings_diverge_there_is_nothing_to_choose(config) -> None:
    sweep = plan(config, Axis.parse("optimizer.lr=1000"), overrides=HOT)
    run(sweep)
    with pytest.raises(MtlError, match="nothing to choose"):
        write_outcome(sweep, 1)


def test_the_lowest_mean_is_chosen_if_lower_is_better(config) -> None:
    config.write_text(CONFIG.replace('[task.quarter]\nname = "classification"\n', ""))
    found = run(plan(config, Axis.parse("optimizer.lr=0.0001,0.01")))
    means = [setting.mean for setting in found.settings]
    assert (found.metric, found.higher_is_better) == ("loss", False)
    assert found.chosen is found.settings[int(np.argmin(means))]


WITNESS = """
import numpy as np
from attrs import frozen
from pathlib import Path
from mtlcore import Dataset, Index, Sample, hookimpl

@frozen
class Witness(Dataset):
    log: Path
    def index(self):
        numbers = np.arange(60)
        split = np.where(numbers < 48, "train", "test")
        labels = np.array(["a", "b"])[numbers % 2]
        return Index(numbers.astype(str), {"quarter": labels}, split=split)
    def decode(self, index, i):
        with self.log.open("a") as file:
            file.write(f"{index.split[i]}\\n")
        return Sample(np.full((16, 16, 3), 40 * (i % 2), dtype=np.uint8))

@hookimpl
def mtl_components():
    return [Witness]
"""


def test_no_image_of_the_test_split_is_read(config) -> None:
    plugin, log = config.parent / "witness.py", config.parent / "log"
    plugin.write_text(WITNESS)
    config.write_text(CONFIG.replace("[data.dots]\nn = 60", f'[data.witness]\nlog = "{log}"'))
    sweep = plan(config, plugin=plugin)
    run(sweep)
    write_outcome(sweep, 1)
    read = log.read_text().split()
    assert len(read) >= 48
    assert set(read) == {"train"}
