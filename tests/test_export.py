"""`mtl export` and `mtl benchmark`: a file gives the answers of its run, or is not written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import frozen
from PIL import Image
from test_api import DOTS
from toys import Plain

import mtlcore
from mtlcore import Classification, Experiment, Input, MtlError, Multilabel, Run, Train, component
from mtlcore.cli import main
from mtlcore.contracts import AnswerFormat
from mtlcore.deployment.export import agreement_of
from mtlcore.deployment.graph import load_graph, read_metadata
from mtlcore.deployment.some_samples import random_images

ROOT = Path(__file__).resolve().parents[1]


def train(out: Path, **changes: Any) -> Run:
    fields: dict[str, Any] = {
        "encoder": component("encoder", "resnet_small", width=4, depths=(1,)),
        "tasks": {"quarter": Classification()},
        "data": {"dots": component("dataset", "dots", [DOTS])},
        "input": Input(size=12, cache_size=16, batch_size=16, validation=0.2),
        "train": Train(steps=2, eval_every=0),
        "plugins": [DOTS],
    }
    return mtlcore.train(Experiment(**(fields | changes)), out, progress=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    two = {"quarter": Classification(), "images": Multilabel(reads="quarter")}
    return train(tmp_path_factory.mktemp("runs") / "dots", tasks=two)


@pytest.fixture(scope="module")
def onnx_file(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("files") / "dots.onnx"
    done = run.export(file, data_samples=20)
    assert done.images == "20 images of the run's data (validation, test)"
    assert all(one.holds and one.n == 20 for one in done.agreement.values())
    assert done.bytes == file.stat().st_size
    return file


def problem(call: Any) -> str:
    with pytest.raises(MtlError) as error:
        call()
    return str(error.value)


# ---------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("n", [1, 5])
def test_an_onnx_file_gives_the_answers_of_the_predictor_for_any_batch(run, onnx_file, n):
    images = random_images((16, 16), n)
    expected = run.predictor(device="cpu")(images)
    numbers = load_graph(onnx_file, "onnx", ("quarter", "images"))(images)
    for label, task in run.experiment.tasks.items():
        found = task.component.answer_format().answers(numbers[label])
        for own, other in zip(expected, found, strict=True):
            assert own.answers[label]["probabilities"] == pytest.approx(other["probabilities"])


def test_the_metadata_say_what_a_reader_needs(run, onnx_file):
    found = read_metadata(onnx_file, "onnx")
    # A task is named "images", so the input has another name.
    assert found["input"] == {"name": "images_", "shape": ["batch", 3, 16, 16], "dtype": "uint8"}
    assert found["preprocess"] == run.predictor(device="cpu").preprocess.as_data()
    assert found["tasks"]["quarter"] == {
        "component": "classification",
        "form": "label",
        "names": ["a", "b", "c", "d"],
        "unit": "probability",
        "shape": "",
    }
    assert found["tasks"]["images"]["form"] == "labels"
    assert found["data"] == {"dots": {"component": "dots", "license": "not stated"}}
    assert found["data_fingerprint"] == run.summary["data_fingerprint"]
    assert found["trained_with"]["torch"] == torch.__version__.partition("+")[0]
    assert found["checkpoint"] == "last-00000002"


@pytest.mark.slow
def test_without_the_data_random_images_are_checked_and_torch_runs_the_file_alone(
    run, tmp_path, capsys
):
    file = tmp_path / "dots.pt2"
    words = ["export", str(run.path), "--out", str(file)]  # .pt2 means torch-export
    assert main([*words, "--set", "data.dots.n=0", "--data-samples", "8"]) == 0
    out = capsys.readouterr().out
    assert "checked on 8 random images, since the run's data can't be opened" in out
    assert "quarter: largest difference 0, 8 of 8 answers equal" in out

    images = random_images((16, 16), 3)
    found = torch.export.load(file).module()(images)
    (first, *_) = run.predictor(device="cpu")(images)
    names = dict(zip("abcd", found["quarter"][0].tolist()))
    assert first.answers["quarter"]["probabilities"] == pytest.approx(names)
    assert read_metadata(file, "torch-export")["tasks"]["quarter"]["names"] == list("abcd")


def test_an_existing_file_is_not_overwritten(run, tmp_path, capsys):
    file = tmp_path / "mine.onnx"
    file.write_text("mine")
    assert main(["export", str(run.path), "--out", str(file)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert file.read_text() == "mine"


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(("name", "given"), [("m.pt2", "onnx"), ("m.onnx", "torch-export")])
def test_a_format_that_contradicts_the_ending_is_refused(run, tmp_path, name, given, capsys):
    words = ["export", str(run.path), "--out", str(tmp_path / name), "--format", given]
    assert main(words) == 2
    assert f"but the format is {given}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@frozen
class Shifty(Classification):
    """Computes something else while it is exported."""

    name = "shifty"

    def decode(self, output):
        return super().decode(output) * (0.0 if torch.compiler.is_exporting() else 1.0)


@frozen
class Untraceable(Classification):
    """Leaves torch."""

    name = "untraceable"

    def decode(self, output):
        return super().decode(output) if output.sum().item() > 0 else output


def test_a_file_that_answers_otherwise_than_the_run_is_not_written(tmp_path):
    mtlcore.register(Shifty)
    run = train(tmp_path / "run", tasks={"mood": Shifty(reads="quarter")})
    file = tmp_path / "out.pt2"
    mine = tmp_path / "out.pt2.unchecked"
    mine.write_text("a file of the user")
    message = problem(lambda: run.export(file, "torch-export", data_samples=16))
    assert "is not written" in message
    assert "task mood: largest difference" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == [mine.name, "run"]
    assert mine.read_text() == "a file of the user"


@pytest.mark.slow
def test_a_task_that_cannot_be_traced_is_named_with_what_to_do(tmp_path):
    mtlcore.register(Untraceable)
    two = {"quarter": Classification(), "mood": Untraceable(reads="quarter")}
    run = train(tmp_path / "run", tasks=two)
    message = problem(lambda: run.export(tmp_path / "out.pt2", "torch-export"))
    assert message.startswith("[task.mood] (Untraceable): its `decode` or `answer_numbers` can't")
    assert "no .item()" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_validation_augmentation_of_a_plugin_is_refused(tmp_path):
    mtlcore.register(Plain)
    run = train(tmp_path / "run", augmentations={"validation": Plain()})
    message = problem(lambda: run.export(tmp_path / "out.pt2", "torch-export"))
    assert "[augment.validation] is Plain" in message


def test_a_missing_package_is_one_message_that_says_what_to_type(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    message = problem(lambda: run.export(tmp_path / "out.onnx"))
    assert 'pip install "mtlcore[export]"' in message


# ------------------------------------------------------------------------------------ agreement


def test_agreement_counts_equal_answers_and_scales_values_above_one():
    a, b = torch.tensor([[0.6, 0.4], [0.6, 0.4]]), torch.tensor([[0.6, 0.4], [0.4, 0.6]])
    one = agreement_of(AnswerFormat("label"), a, b)
    assert (round(one.largest, 6), one.equal, one.n, one.holds) == (0.2, 1, 2, False)
    years = torch.tensor([[100.0], [20.0]])
    one = agreement_of(AnswerFormat("values"), years, years + 0.005)
    assert one.largest == pytest.approx(5e-5, rel=0.01)
    assert one.holds
    assert not agreement_of(AnswerFormat("values"), years, years + 0.05).holds
    assert not agreement_of(AnswerFormat("values"), years, years * float("nan")).holds
    assert not agreement_of(AnswerFormat("values"), years, years[:, 0]).holds


# ------------------------------------------------------------------------------------ benchmark


@pytest.mark.slow
def test_a_benchmark_measures_each_format_with_the_accuracy_of_mtl_eval(run, capsys):
    words = ["benchmark", str(run.path), "--formats", "torch", "torch-export", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 24
    expected = run.evaluate(device="cpu").metrics["quarter/accuracy"]
    assert [one["format"] for one in found["results"]] == ["torch", "torch-export"]
    for one in found["results"]:
        assert one["metrics"]["quarter/accuracy"] == pytest.approx(expected)
        assert sorted(one["ms"]) == ["1", "32"]
        assert one["bytes"] > 1000
        assert not one["error"]


def test_a_format_that_does_not_work_here_leaves_the_others_measured(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["benchmark", str(run.path), "--formats", "torch", "onnx", "--n", "8"]) == 0
    out = capsys.readouterr().out
    assert "0." in out
    assert "onnx: not measured: the format onnx needs" in out


def test_a_benchmark_refuses_an_unknown_split_that_is_named(run, capsys):
    words = ["benchmark", str(run.path), "--formats", "torch", "--n", "8"]
    assert main([*words, "--split", "tests"]) == 2
    assert "no sample of the split 'tests'; did you mean 'test'?" in capsys.readouterr().err


# ---------------------------------------------------------------------------------- the example


@pytest.mark.slow
def test_the_example_gives_the_same_answers_in_an_environment_without_torch(
    run, onnx_file, tmp_path
):
    uv = Path(sys.executable).with_name("uv")
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, tmp_path / "venv"], check=True)
    packages = ["onnxruntime", "numpy", "pillow"]
    subprocess.run([uv, "pip", "install", "-q", "--python", python, *packages], check=True)
    no_torch = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False)
    assert no_torch.returncode == 1

    files: list[str] = []
    rng = np.random.default_rng(0)
    for number, (shape, mode) in enumerate(
        [((16, 16, 3), "RGB"), ((40, 90, 3), "RGB"), ((33, 21, 4), "RGBA"), ((9, 7), "L")]
    ):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6  # rotated
        files.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(pixels, mode).save(files[-1], exif=exif)
    deep = rng.integers(0, 65536, (20, 30), dtype=np.uint16)
    files.append(str(tmp_path / "16_bit.png"))
    Image.fromarray(deep).save(files[-1])
    script = ROOT / "examples" / "onnx_predict.py"
    done = subprocess.run(
        [python, script, onnx_file, *files], capture_output=True, text=True, check=True
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    expected = run.predictor(device="cpu")(files)
    for row, own in zip(rows, expected, strict=True):
        assert row["file"] == own.file
        for label, answer in own.answers.items():
            found = row["answers"][label]
            assert found.get("label") == answer.get("label")
            assert found.get("labels") == answer.get("labels")
            assert found["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-5)
