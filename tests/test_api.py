"""Train, load, evaluate and read runs from Python: `mtlcore.train`, `mtlcore.load_run`, `Run`."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve, frozen
from rich.console import Console

import mtlcore
from mtlcore import (
    Callback,
    Classification,
    Experiment,
    Input,
    MtlError,
    Multilabel,
    PretextEntry,
    Regression,
    Run,
    Train,
    component,
)
from mtlcore.callbacks import bars
from mtlcore.cli import main
from mtlcore.runs import RunFolder
from mtlcore.sealed import seal_json, seal_toml

pytestmark = pytest.mark.timeout(900)

HERE = Path(__file__).resolve().parent
DOTS = str(HERE / "dots.py")
TEST_SAMPLES, TRAIN_SAMPLES, CLASSES = 24, 96, ["a", "b", "c", "d"]


def dots(**changes: Any) -> Experiment:
    """A small experiment in Python; `train` takes a second or two."""
    fields: dict[str, Any] = {
        "encoder": component("encoder", "resnet_small", width=4),
        "tasks": {"quarter": Classification(dropout=0.2)},
        "pretexts": {
            "puzzling": PretextEntry(component("pretext", "puzzling", grid=2), weight=0.3)
        },
        "data": {"dots": component("dataset", "dots", [DOTS])},
        "input": Input(size=16, batch_size=16, validation=0.2),
        "train": Train(steps=5, eval_every=0, log_every=1),
        "plugins": [DOTS],
    }
    return Experiment(**(fields | changes))


def train(out: Path, experiment: Any = None, **options: Any) -> Run:
    return mtlcore.train(
        dots() if experiment is None else experiment, out, progress=False, **options
    )


def weights(run: Run) -> dict[str, torch.Tensor]:
    return RunFolder(run.path).require().weights()


def same_weights(a: Run, b: Run) -> bool:
    mine, other = weights(a), weights(b)
    return mine.keys() == other.keys() and all(torch.equal(mine[k], other[k]) for k in mine)


def problem(call: Any) -> str:
    with pytest.raises(MtlError) as error:
        call()
    return str(error.value)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("runs") / "dots")


# ------------------------------------------------------------------------------------ training


def test_a_toml_file_the_command_line_and_python_give_the_same_run(
    trained: Run, tmp_path: Path
) -> None:
    file = tmp_path / "dots.toml"
    file.write_text(dots().to_toml())
    of_file = train(tmp_path / "file", file)
    assert main(["train", str(file), "--out", str(tmp_path / "cli")]) == 0
    of_command = mtlcore.load_run(tmp_path / "cli")
    assert same_weights(trained, of_file)
    assert same_weights(trained, of_command)
    losses = [
        [r["loss/quarter"] for r in run.metrics() if "lr" in r] for run in (trained, of_command)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 5


def test_overrides_plugins_and_callbacks_complete_the_experiment(tmp_path: Path) -> None:
    stopper = component("callback", "early_stopping")
    run = train(
        tmp_path / "run",
        overrides={"train.steps": 2, "train.eval_every": 2, "pretext.puzzling.weight": 0},
        callbacks={"stopper": stopper},
    )
    assert run.experiment.train.steps == 2
    assert run.experiment.pretexts == {}
    assert run.experiment.callbacks == {"stopper": stopper}
    file = tmp_path / "short.toml"
    file.write_text("[task.quarter]\nname = 'classification'\n[data.dots]\n[input]\nsize = 16")
    words = {"encoder.width": 4, "train.steps": 1, "input.batch_size": 8}
    from_file = train(tmp_path / "2", file, overrides=words, plugins=[DOTS])
    assert from_file.summary["steps"] == 1


@pytest.fixture(autouse=True)
def own_callbacks() -> None:
    """Registered for each test: `conftest` makes the catalog forget them after it."""
    mtlcore.register(Signals)
    mtlcore.register(TrainsAgain)


def test_an_unregistered_class_is_refused_before_training(tmp_path: Path) -> None:
    @frozen
    class Mine(Classification):
        pass

    found = problem(lambda: train(tmp_path / "run", dots(tasks={"quarter": Mine()})))
    assert "mtlcore.register(Mine)" in found
    assert not (tmp_path / "run").exists()


def test_an_experiment_without_tasks_and_pretexts_is_refused(tmp_path: Path) -> None:
    found = problem(lambda: train(tmp_path / "run", dots(tasks={}, pretexts={})))
    assert "nothing to train: expected a table [task.<label>] or [pretext.<label>]" in found
    assert not (tmp_path / "run").exists()


def test_something_else_than_an_experiment_is_refused(tmp_path: Path) -> None:
    found = problem(lambda: train(tmp_path / "run", {"steps": 3}))
    assert "expected an mtlcore.Experiment, or the path of a TOML file" in found
    assert "experiment = None" in problem(lambda: mtlcore.train(None, tmp_path / "run"))


def test_an_existing_run_is_not_overwritten(trained: Run) -> None:
    assert "already holds a run" in problem(lambda: train(trained.path))


# ------------------------------------------------------------------------------------ progress


def test_progress_needs_no_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mtlcore.train(dots(), tmp_path / "run", overrides={"train.steps": 1})
    shown = capfd.readouterr().out
    assert "training" in shown
    assert "\x1b" not in shown


def test_without_progress_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "run", overrides={"train.steps": 1})
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("widgets", [True, False])
def test_a_notebook_shows_bars_with_ipywidgets_and_lines_without(
    widgets: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bars, "_has_widgets", lambda: widgets)
    notebook = Console(file=io.StringIO(), force_jupyter=True)
    reporter = bars.Bars(console=notebook)
    assert reporter.bars.disable is not widgets
    if not widgets:
        with reporter:
            reporter.progress("reading images", 1, 3)
            reporter.progress("reading images", 2, 3)
            reporter.progress("reading images", 3, 3)
        assert capsys.readouterr().out == "reading images 1/3\nreading images 3/3\n"


# ------------------------------------------------------------------------------- stop and resume


@frozen
class Signals(Callback):
    """Stops the process at step 2, as Ctrl-C does, once; records who handles the signal."""

    reads_network = False
    once: bool = True

    def on_log(self, run: Any, row: Any) -> None:
        handler = signal.getsignal(signal.SIGINT)
        (run.folder / "handler").write_text(getattr(handler, "__qualname__", repr(handler)))
        if self.once and row["step"] == 2 and not (run.folder / "stopped").exists():
            (run.folder / "stopped").touch()
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_raises_interrupted_and_the_run_resumes_as_the_same_run(
    trained: Run, tmp_path: Path
) -> None:
    folder, experiment = tmp_path / "run", dots(callbacks={"signals": Signals()})
    with pytest.raises(mtlcore.Interrupted):
        train(folder, experiment)
    assert mtlcore.load_run(folder).metrics()[-1]["step"] == 2
    resumed = train(folder, experiment, resume=True)
    assert resumed.summary["steps"] == 5
    assert same_weights(trained, resumed)


def test_a_run_resumes_without_its_experiment(tmp_path: Path) -> None:
    with pytest.raises(mtlcore.Interrupted):
        train(tmp_path / "run", dots(callbacks={"signals": Signals()}))
    run = mtlcore.train(None, tmp_path / "run", resume=True, progress=False)
    assert run.summary["finished"]


def test_a_run_is_not_resumed_with_another_experiment(trained: Run) -> None:
    other = evolve(dots(), seed=3)
    found = problem(lambda: train(trained.path, other, resume=True))
    assert "seed: 0 in the run, 3 here" in found
    assert found.count("\n") == 1
    keys = {"optimizer.lr": 9.0}
    found = problem(lambda: mtlcore.train(None, trained.path, resume=True, overrides=keys))
    assert "optimizer.lr: 0.001 in the run, 9.0 here" in found


def test_a_run_is_not_resumed_without_one_of_its_labels_or_with_another_one(tmp_path: Path) -> None:
    again = PretextEntry(component("pretext", "puzzling", grid=2), weight=0.1)
    tasks = {"quarter": Classification(), "second": Classification(reads="quarter")}
    run = train(tmp_path / "run", dots(tasks=tasks))
    other = dots(pretexts={**dots().pretexts, "again": again}, tasks={"quarter": tasks["quarter"]})
    found = problem(lambda: train(run.path, other, resume=True))
    assert found.splitlines()[1:] == [
        "  task.second: in the run, missing here",
        "  pretext.again: missing in the run, set here",
    ]


def test_a_cache_size_that_the_run_reduced_is_that_of_its_experiment(tmp_path: Path) -> None:
    small = Input(size=16, batch_size=16, validation=0.2, cache_size=600)
    run = train(tmp_path / "run", dots(input=small))
    assert run.experiment.input.cache_size == (16, 16)
    assert train(tmp_path / "run", dots(input=small), resume=True).summary["finished"]
    smaller = dots(input=evolve(small, size=8, cache_size=8))
    found = problem(lambda: train(tmp_path / "run", smaller, resume=True))
    assert "input.cache_size: 16 in the run, 8 here" in found


def test_resuming_needs_a_run(tmp_path: Path) -> None:
    assert "is not a run folder" in problem(lambda: train(tmp_path / "none", resume=True))


def test_a_thread_trains_the_same_run_and_sets_no_signal_handlers(
    trained: Run, tmp_path: Path
) -> None:
    done: list[Run] = []
    experiment = dots(callbacks={"signals": Signals(once=False)})

    def work() -> None:
        done.append(train(tmp_path / "run", experiment))

    thread = threading.Thread(target=work)
    before = signal.getsignal(signal.SIGINT)
    thread.start()
    thread.join()
    assert same_weights(trained, done[0])
    handler = (tmp_path / "run" / "handler").read_text()
    assert handler == getattr(before, "__qualname__", repr(before))


@frozen
class TrainsAgain(Callback):
    """Starts another run from the log of a run, in this thread and in another one."""

    reads_network = False

    def on_log(self, run: Any, row: Any) -> None:
        out, found = run.folder / "inner", []

        def work() -> None:
            found.append(problem(lambda: train(out)))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        work()
        (run.folder / "found.json").write_text(json.dumps(found))


@pytest.mark.slow
def test_a_process_trains_one_run_at_a_time(tmp_path: Path) -> None:
    run = train(tmp_path / "run", dots(callbacks={"again": TrainsAgain()}))
    found = json.loads((run.path / "found.json").read_text())
    assert len(found) == 2
    assert all("this process trains another run" in each for each in found)
    assert not (run.path / "inner").exists()
    train(tmp_path / "next", overrides={"train.steps": 1})


# ------------------------------------------------------------------------------------- reading


def test_the_log_is_a_list_of_dicts_and_a_frame(trained: Run) -> None:
    rows = trained.metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 5]
    assert "validation/quarter/accuracy" in rows[-1]
    pandas = pytest.importorskip("pandas")
    frame = trained.metrics(frame=True)
    assert isinstance(frame, pandas.DataFrame)
    assert frame["loss/quarter"].dropna().tolist() == [row["loss/quarter"] for row in rows[:-1]]


def test_a_frame_without_pandas_is_one_clear_error(
    trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert "pip install pandas" in problem(lambda: trained.metrics(frame=True))


def test_an_evaluation_names_classes_and_lists_samples(trained: Run) -> None:
    found = trained.evaluate(per_sample=True)
    assert found.n == {"quarter": len(found.samples)} == {"quarter": TEST_SAMPLES}
    table = found.tables["quarter/confusion"]
    assert list(table) == CLASSES
    assert all(list(row) == CLASSES for row in table.values())

    first = found.samples[0]
    assert first["key"] == "dot96"
    assert first["dataset"] == "dots"
    assert first["quarter/target"] == "a"
    assert first["quarter/labeled"] is True
    right = [row["quarter/target"] == row["quarter/prediction"] for row in found.samples]
    assert np.mean(right) == pytest.approx(found.metrics["quarter/accuracy"])
    for row in found.samples:
        assert row["quarter/prediction"] in CLASSES
    counted = sum(
        row["quarter/target"] == "a" and row["quarter/prediction"] == "b" for row in found.samples
    )
    assert table["a"]["b"] == counted
    assert trained.evaluate().samples == ()


def test_the_command_line_prints_the_same_evaluation(
    trained: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(trained.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == trained.evaluate().metrics


def test_the_model_predicts_what_the_evaluation_counts(trained: Run) -> None:
    model = trained.model()
    assert not model.training
    rows = trained.evaluate(per_sample=True).samples
    dataset = trained.experiment.data["dots"].component
    index = dataset.index()
    images = np.stack([dataset.decode(index, i).image for i in range(TRAIN_SAMPLES, len(index))])
    with torch.no_grad():
        outputs = model(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
        features = model.encoder(torch.rand(2, 3, 16, 16))
    assert list(outputs) == ["quarter"]
    task = trained.experiment.tasks["quarter"].component
    # The "validation" augmentation crops, so a few predictions may differ.
    names = task.as_annotation(task.decode(outputs["quarter"])).tolist()
    assert np.mean([n == r["quarter/prediction"] for n, r in zip(names, rows)]) > 0.7
    assert features.pooled.shape == (2, trained.features("test").features.shape[1])


def test_the_model_does_not_touch_the_callers_generator(trained: Run) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    trained.model()
    assert torch.equal(torch.rand(3), expected)


def test_features_have_labels_and_keys(trained: Run) -> None:
    table = trained.features("test")
    assert table.features.shape[0] == TEST_SAMPLES
    assert table.features.dtype == torch.float32
    assert table.labels["quarter"].tolist() == (CLASSES * 6)
    assert table.keys.tolist() == [f"dot{i}" for i in range(96, 120)]
    # They equal the encoder's own on the view of an evaluation, which is the same each time.
    assert torch.equal(table.features, trained.features("test").features)


def test_features_take_overrides_and_report_progress(trained: Run) -> None:
    calls: list[tuple[str, int, int]] = []
    table = trained.features(
        "test",
        overrides={"data.dots.n": 60},
        progress=lambda what, done, total: calls.append((what, done, total)),
    )
    assert 0 < len(table.keys) < TEST_SAMPLES
    found = trained.evaluate("test", overrides={"data.dots.n": 60})
    assert found.n == {"quarter": len(table.keys)}
    assert calls[-1][1:] == (len(table.keys), len(table.keys))
    added = {"data.more.name": "dots", "data.more.n": 80}
    alone = trained.features("test", data="more", overrides=added)
    assert alone.keys.tolist() == [f"dot{i}" for i in range(64, 80)]


def test_features_of_a_run_without_tasks_take_labels_from_the_data(tmp_path: Path) -> None:
    run = train(tmp_path / "run", dots(tasks={}))
    assert run.features("test").labels == {}
    table = run.features("test", annotations=["quarter"])
    assert table.labels["quarter"].tolist() == (CLASSES * 6)
    assert run.model()(torch.rand(2, 3, 16, 16)) == {}
    assert "no supervised task: there is nothing to evaluate" in problem(run.evaluate)


def test_missing_labels_are_empty_or_nan_in_features_and_none_in_samples(tmp_path: Path) -> None:
    from PIL import Image

    lines = ["path,mood,age,marks,split"]
    for i in range(24):
        Image.fromarray(np.full((16, 16, 3), 10 * i, dtype=np.uint8)).save(tmp_path / f"{i}.png")
        split = "test" if i >= 16 else "train"
        mood, age, marks = ["glad", "sad"][i % 2], str(i), ["a|b", "|"][i % 2]
        if i == 16:
            mood, age = "", ""
        lines.append(f"{i}.png,{mood},{age},{marks},{split}")
    (tmp_path / "p.csv").write_text("\n".join(lines))
    people = component(
        "dataset",
        "csv",
        file=str(tmp_path / "p.csv"),
        categorical=["mood", "marks"],
        numeric=["age"],
    )
    tasks = {"mood": Classification(), "age": Regression(), "marks": Multilabel()}
    experiment = dots(
        tasks=tasks,
        pretexts={},
        data={"people": mtlcore.DataEntry(people, split="split")},
        plugins=[],
    )
    run = train(tmp_path / "run", experiment, overrides={"train.steps": 1})

    table = run.features("test")
    assert table.labels["mood"].tolist() == ["", *(["sad", "glad"] * 4)[:7]]
    assert np.isnan(table.labels["age"][0])
    assert table.labels["age"][1:].tolist() == list(range(17, 24))
    assert table.labels["marks"].tolist() == ["a|b", "|"] * 4

    first, second = run.evaluate(per_sample=True).samples[:2]
    assert (first["mood/target"], first["mood/labeled"]) == (None, False)
    assert first["mood/prediction"] in ("glad", "sad")
    assert first["age/target"] is None
    assert second["age/target"] == 17.0
    assert isinstance(second["age/prediction"], float)
    assert first["marks/target"] == "a|b"


def test_tables_of_samples_have_points_and_no_maps(tmp_path: Path) -> None:
    scenes = {"data.scenes.n": 20, "data.scenes.every": 2, "data.scenes.unlabeled": "keep"}
    file = tmp_path / "scenes.toml"
    file.write_text(
        "[encoder]\nwidth = 4\n[task.corners]\n[task.depth]\n[data.scenes]\n"
        "[input]\nsize = 32\nbatch_size = 4\nvalidation = 0.3\n[train]\nsteps = 1\n"
    )
    run = train(tmp_path / "run", file, overrides=scenes, plugins=[HERE / "aligned_toys.py"])
    rows = run.evaluate("validation", per_sample=True).samples
    assert list(rows[0]) == [
        "key", "dataset", "corners/target", "corners/prediction", "corners/labeled"
    ]  # fmt: skip
    for row in rows:
        assert np.shape(row["corners/prediction"]) == (3, 2)
        assert (row["corners/target"] is None) == (not row["corners/labeled"])
    labels = run.features("train").labels
    assert list(labels) == ["corners"]
    assert labels["corners"].shape[1:] == (3, 2)


# ----------------------------------------------------------------------------------- bad input


def test_a_folder_that_is_no_run_is_one_clear_error(tmp_path: Path) -> None:
    found = problem(lambda: mtlcore.load_run(tmp_path))
    assert found.startswith(f"{tmp_path} is not a run folder: it has no config.toml")
    found = problem(lambda: mtlcore.load_run(tmp_path / "none"))
    assert "there is no such folder" in found


def test_a_run_without_checkpoint_is_one_clear_error(trained: Run, tmp_path: Path) -> None:
    for name in ("config.toml", "run.json"):
        (tmp_path / name).write_text((trained.path / name).read_text())
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "dots.py").write_text(Path(DOTS).read_text())
    run = mtlcore.load_run(tmp_path)
    for call in (run.evaluate, run.model, run.features):
        found = problem(call)
        assert (
            f"{tmp_path} has no 'last' checkpoint, although it has saved one: restore it" in found
        )


def test_an_unknown_split_checkpoint_dataset_or_device_is_one_clear_error(trained: Run) -> None:
    known = "known: test, train, validation"
    assert known in problem(lambda: trained.features("tset"))
    assert known in problem(lambda: trained.evaluate("tset"))
    checkpoint: Any = "lst"
    assert "did you mean 'last'?" in problem(lambda: trained.evaluate(checkpoint=checkpoint))
    assert "did you mean 'last'?" in problem(lambda: trained.model(checkpoint))
    assert "the run has no [data.dot]" in problem(lambda: trained.features(data="dot"))
    assert "torch can't use it" in problem(lambda: trained.model(device="gpu"))
    assert "no dataset has the annotation" in problem(lambda: trained.features(annotations=["x"]))


def test_features_of_an_empty_split_are_one_clear_error(trained: Run, tmp_path: Path) -> None:
    run = train(tmp_path / "run", dots(input=Input(size=16, batch_size=16, validation=0.0)))
    found = problem(lambda: run.features("validation"))
    assert "no sample of the split 'validation'" in found


def test_a_run_of_a_missing_package_says_what_to_install(trained: Run, tmp_path: Path) -> None:
    recorded = trained.summary["components"]
    assert recorded["pretext.puzzling"]["package"] == "mtlcore"
    assert recorded["data.dots"]["file"] == "dots.py"

    text = (trained.path / "config.toml").read_text().replace('"puzzling"', '"shredding"')
    (tmp_path / "config.toml").write_text(seal_toml(text.partition("\n")[2]))
    (tmp_path / "plugins").symlink_to(trained.path / "plugins")
    summary = dict(trained.summary)
    origin = {"kind": "pretext", "name": "shredding", "class": "shred.Shredding", "file": None}
    origin |= {"package": "mtl-shred", "version": "1.2"}
    summary["components"] = recorded | {"pretext.puzzling": origin}
    (tmp_path / "run.json").write_bytes(seal_json(summary))
    run = mtlcore.load_run(tmp_path)
    assert run.summary["components"] == summary["components"]
    assert run.metrics() == []
    found = problem(lambda: run.experiment)
    assert "unknown pretext 'shredding'" in found
    assert "unknown pretext 'shredding'" in problem(lambda: run.evaluate())
    assert 'pip install "mtl-shred==1.2"' in found

    origin |= {"package": None, "version": None}
    (tmp_path / "run.json").write_bytes(seal_json(summary))
    found = problem(lambda: mtlcore.load_run(tmp_path).experiment)
    assert "first run the code that defines and registers it (mtlcore.register)" in found


def test_a_run_whose_plugin_file_is_gone_names_the_file(tmp_path: Path) -> None:
    run = train(tmp_path / "run", overrides={"train.steps": 1})
    file = run.path / "plugins" / "dots.py"
    file.unlink()
    assert f"plugin file {file} can't be read" in problem(
        lambda: mtlcore.load_run(run.path).experiment
    )
