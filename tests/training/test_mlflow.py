"""The MLflow callback, against a local file store."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from dots_run import DOTS, REPORTERS, tiny_toml

pytest.importorskip("mlflow", reason="needs mlflow-skinny: the extra mlflow")

from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from mtlcore import Interrupted, MtlError
from mtlcore.callbacks.mlflow import legal
from mtlcore.callbacks.progress import SilentReporter
from mtlcore.config import load
from mtlcore.config.experiment import Experiment
from mtlcore.runs import RunFolder
from mtlcore.training.resume import experiment_to_resume
from mtlcore.training.trainer import train

FAILING = Path(__file__).with_name("failing.py")
TRAIN = """
steps = 6
eval_every = 3
save_every = 2
log_every = 2
accelerator = "cpu"
"""


@pytest.fixture(autouse=True)
def file_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


def experiment(folder: Path, tables: str = "", *overrides: str) -> Experiment:
    file = folder / "dots.toml"
    own = f'[callback.mlflow]\ntracking_uri = "{folder / "mlflow"}"\n'
    plugins = (DOTS, REPORTERS, FAILING)
    file.write_text(tiny_toml(TRAIN, plugins=plugins, tables=own + tables))
    return load(file, overrides)


def resume(run: Path, *overrides: str) -> None:
    given = RunFolder.open(run).experiment(overrides)
    train(experiment_to_resume(given, run), run, resume=True)


def client(folder: Path) -> MlflowClient:
    return MlflowClient(str(folder / "mlflow"))


def logged(folder: Path) -> Run:
    """The only run in the store."""
    found = client(folder).get_experiment_by_name("mtlcore")
    [run] = client(folder).search_runs([found.experiment_id])
    return run


def history(folder: Path, metric: str) -> list[tuple[int, float]]:
    points = client(folder).get_metric_history(logged(folder).info.run_id, metric)
    return [(point.step, point.value) for point in points]


def lose(store: Path) -> None:
    """Make a store useless."""
    for file in store.rglob("meta.yaml"):
        file.unlink()


def rows(run: Path, name: str) -> list[tuple[int, float]]:
    found = RunFolder.open(run).log.rows()
    return [(row["step"], row[name]) for row in found if name in row]


def test_mlflow_gets_parameters_metrics_by_step_final_metrics_and_the_configuration(tmp_path):
    out = tmp_path / "hmtl"
    train(experiment(tmp_path), out)
    run = logged(tmp_path)
    assert (run.info.run_name, run.info.status) == ("hmtl", "FINISHED")
    assert run.data.params["train.steps"] == "6"
    assert run.data.params["encoder.name"] == "resnet_small"
    assert run.data.params["task.quarter.classes"].startswith('["')  # what was learned, too
    for name in ("loss/quarter", "lr", "validation/quarter/accuracy"):
        assert history(tmp_path, name) == rows(out, name)
    final = RunFolder.open(out).provenance()["validation"]
    assert {name: run.data.metrics[f"validation/{name}"] for name in final} == final
    [artifact] = client(tmp_path).list_artifacts(run.info.run_id)
    saved = Path(client(tmp_path).download_artifacts(run.info.run_id, artifact.path))
    assert saved.read_text() == (out / "config.toml").read_text()


def test_an_interrupted_run_is_closed_and_goes_on_in_the_same_mlflow_run(tmp_path):
    out = tmp_path / "hmtl"
    with pytest.raises(Interrupted):
        train(experiment(tmp_path, "[callback.journal]\nsignal_at = 2\n"), out)
    first = logged(tmp_path).info
    assert first.status == "KILLED"
    assert first.end_time
    resume(out, "train.steps=8")
    last = logged(tmp_path)
    assert (last.info.run_id, last.info.status) == (first.run_id, "FINISHED")
    assert history(tmp_path, "loss/quarter") == rows(out, "loss/quarter")
    assert [step for step, _ in history(tmp_path, "loss/quarter")] == [2, 4, 6, 8]


def test_metrics_of_groups_are_stored_under_names_that_mlflow_allows(tmp_path):
    store = client(tmp_path)
    run_id = store.create_run(store.create_experiment("own")).info.run_id
    names = ["validation/gender/f1[race=white]", "loss/a+b", "lr"]
    store.log_batch(run_id, metrics=[Metric(legal(name), 0.5, 0, 1) for name in names])
    stored = store.get_run(run_id).data.metrics
    assert stored.keys() == {"validation/gender/f1/race-white", "loss/a_b", "lr"}


@pytest.mark.slow
def test_a_run_that_fails_is_closed_as_failed(tmp_path):
    with pytest.raises(ZeroDivisionError):
        train(experiment(tmp_path, "[pretext.raises]\n"), tmp_path / "hmtl")
    assert logged(tmp_path).info.status == "FAILED"


def test_training_goes_on_after_a_request_that_fails_and_says_so_once(tmp_path):
    class Notes(SilentReporter):
        notes: list[str] = []  # noqa: RUF012

        def note(self, text: str) -> None:
            self.notes.append(text)

        def on_train_start(self, run):
            # The last callback of the event: the MLflow run exists.
            lose(tmp_path / "mlflow")

    out = tmp_path / "hmtl"
    train(experiment(tmp_path), out, reporter=Notes())
    [note] = [text for text in Notes.notes if "callback.mlflow failed" in text]
    assert "failed in on_log; the run continues" in note
    assert RunFolder.open(out).provenance()["callback_failures"]["mlflow"]["times"] == 1


def test_a_run_that_cannot_log_does_not_begin(tmp_path, monkeypatch, subtests):
    given = experiment(tmp_path)
    with subtests.test("a folder without MLflow's switch"):
        monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
        with pytest.raises(MtlError, match=r"callback\.mlflow: MLflow can't use tracking_uri = .*"):
            train(given, tmp_path / "hmtl")
    with subtests.test("without the package"):
        monkeypatch.setitem(sys.modules, "mlflow", None)
        with pytest.raises(MtlError, match=r'it needs mlflow: type `pip install "mtlcore\[mlflow'):
            train(given, tmp_path / "hmtl")
    assert not (tmp_path / "hmtl").exists()


@pytest.mark.slow
def test_a_resumed_run_trains_while_the_store_is_away(tmp_path):
    out = tmp_path / "hmtl"
    train(experiment(tmp_path), out)
    lose(tmp_path / "mlflow")
    resume(out, "train.steps=8")
    provenance = RunFolder.open(out).provenance()
    assert provenance["finished"]
    assert provenance["callback_failures"]["mlflow"]["times"] == 1
