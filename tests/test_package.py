"""`Run.package` and `load_package`: the model of a run, in a folder, without its data."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from dots_run import DOTS, HERE

import mtlcore
from mtlcore import (
    Classification,
    DataEntry,
    Experiment,
    Input,
    MtlError,
    Regression,
    Run,
    Train,
    component,
)
from mtlcore.cli import main
from mtlcore.deployment.model_card import _pipeline_tag, _said, _usage, model_card
from mtlcore.encoders.resnet_small import ResnetSmall
from mtlcore.encoders.timm_nets import Timm
from mtlcore.encoders.vit_small import VitSmall
from mtlcore.evaluation.evaluate import empty_network
from mtlcore.model.preprocess import Preprocess
from mtlcore.prediction.described import described_answers
from mtlcore.prediction.predictor import predictor_of_network
from mtlcore.serve.metadata import metadata_of_predictor
from mtlcore.tasks.dense.dense_regression import DenseRegression
from mtlcore.tasks.dense.landmarks import Landmarks
from mtlcore.tasks.dense.segmentation import Segmentation

STORED = 16


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with an encoder, two tasks and EMA, of the one-file plugin `dots`."""
    experiment = Experiment(
        encoder=component("encoder", "resnet_small", width=4),
        tasks={"quarter": Classification(dropout=0.2)},
        data={"dots": DataEntry(component("dataset", "dots", [DOTS]), license="CC0-1.0")},
        input=Input(size=STORED, batch_size=16, validation=0.2),
        train=Train(steps=3, eval_every=0, ema=0.5),
        plugins=[DOTS],
    )
    return mtlcore.train(experiment, tmp_path_factory.mktemp("runs") / "dots", progress=False)


@pytest.fixture(scope="module")
def package(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.package(tmp_path_factory.mktemp("packages") / "dots", license_name="mit")


def images(n: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 40, 30, 3), dtype=np.uint8)


def test_a_package_predicts_what_the_run_predicts(trained: Run, package: Path) -> None:
    of_run = trained.predictor(device="cpu")(images())
    of_package = mtlcore.load_package(package, device="cpu")(images())
    assert [found.as_dict() for found in of_run] == [found.as_dict() for found in of_package]
    assert len({found.answers["quarter"]["probability"] for found in of_run}) == 5


def test_a_package_holds_the_documented_files_and_no_path_of_this_machine(package: Path) -> None:
    names = {file.name for file in package.iterdir()}
    pages = {"README.md", "responsible-use.md"}
    assert names == {"model.safetensors", "config.json", "preprocessor.json"} | pages
    for name in names - {"model.safetensors"}:
        text = (package / name).read_text()
        assert str(HERE) not in text
        assert str(Path.home()) not in text
    card = (package / "README.md").read_text()
    front = card.split("---")[1]
    assert 'license: "mit"' in front
    assert "one of a, b, c, d" in card
    assert "](responsible-use.md)" in card


def test_the_card_shows_an_evaluation_with_its_counts_and_licenses(
    trained: Run, tmp_path: Path
) -> None:
    evaluation = trained.evaluate("test", device="cpu")
    study = tmp_path / "table.md"
    study.write_text("| SL | 50.6 [49.1, 52.1] |\n")
    package = trained.package(tmp_path / "p", evaluation=evaluation, study=study)
    card = (package / "README.md").read_text()
    assert "## Study\n\n| SL | 50.6 [49.1, 52.1] |\n\n## Intended use" in card
    (n,) = evaluation.n.values()
    assert f"On the split test of dots. Labeled images: {n:,} for quarter." in card
    assert f"| quarter/accuracy | {evaluation.metrics['quarter/accuracy']:.4f} |" in card
    assert "| dots | dots | 100 % | CC0-1.0 |" in card


def test_the_card_shows_the_validation_metrics_of_its_weights(trained: Run, tmp_path: Path) -> None:
    def card(name: str, which: Literal["last", "best"]) -> str:
        package = Run(tmp_path / "run").package(tmp_path / name, checkpoint=which)
        return (package / "README.md").read_text()

    shutil.copytree(trained.path, tmp_path / "run")
    log = tmp_path / "run" / "metrics.jsonl"
    name = "validation/quarter/accuracy"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    best = max(row[name] for row in rows if name in row)
    of_best = card("a", "best")
    assert f"| quarter/accuracy | {best:.4f} |" in of_best
    n = Run(tmp_path / "run").summary["labels"]["quarter"]["validation"]
    assert f"Labeled images: {n} for quarter. They also guided choices" in of_best
    log.write_text(log.read_text().replace(name, "validation/quarter/accurate"))
    with pytest.raises(MtlError, match="lines from before the checkpoint were changed"):
        card("b", "best")
    assert not list(tmp_path.glob("*b*"))


CARD = {
    "answers": {
        "sight": {"form": "label", "names": ["a|b", "<sea>"], "shape": ""},
        "age": {"form": "values", "names": ["value"], "shape": ""},
    },
    "experiment": {"encoder": {"name": "resnet_small"}},
    "components": {},
    "plugins": {},
    "trained_on": {
        "fingerprint": "f00",
        "samples": {"train": 90, "validation": 30},
        "datasets": {"d": {"name": "csv", "labels": 1.0, "license": "CC0 | none"}},
        "pretexts": {},
    },
    "versions": {"mtlcore": "0.2"},
    "weights": {"step": 3, "ema": False, "sha256": "f00"},
}


def test_a_package_refuses_an_evaluation_of_another_run(trained: Run, tmp_path: Path) -> None:
    evaluation = trained.evaluate("test", device="cpu")
    shutil.copytree(trained.path, tmp_path / "run")
    with pytest.raises(MtlError, match=r"but the package is of .*run, last-00000003"):
        Run(tmp_path / "run").package(tmp_path / "a", evaluation=evaluation)
    with pytest.raises(MtlError, match=r"last-00000003, but the package is of .*, best-00000003"):
        trained.package(tmp_path / "a", evaluation=evaluation, checkpoint="best")
    assert not (tmp_path / "a").exists()


def test_set_alone_is_refused(trained: Run, tmp_path: Path, capsys) -> None:
    command = ["package", str(trained.path), "--out", str(tmp_path / "a"), "--set", "no.such=1"]
    assert main(command) == 2
    assert "--set is for --split and --onnx" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


DETECTOR = """
import numpy as np
from attrs import frozen
from mtlcore import Detections, Detector, hookimpl

@frozen
class Left(Detector):
    def build(self):
        return self.find

    def find(self, image):
        height, width = image.shape[:2]
        return Detections(np.array([[0.0, 0.0, width / 2, height]]), np.array([0.9]))

    def crop(self, image, box):
        return image[:, : image.shape[1] // 2]

@hookimpl
def mtl_components():
    return [Left]
"""


def test_the_detector_of_a_package_goes_by_its_name(package: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "halves.py"
    plugin.write_text(DETECTOR)
    found = mtlcore.load_package(package, plugins=[plugin], detector="left", device="cpu")
    assert [one.box for one in found(images(1))] == [(0.0, 0.0, 15.0, 40.0)]
    with pytest.raises(MtlError, match="no_such"):
        mtlcore.load_package(package, detector="no_such")


def test_a_card_of_validation_counts_the_labels_of_each_task_and_escapes_names() -> None:
    labels = {"sight": {"train": 40, "validation": 12}, "age": {"validation": 7}}
    provenance = {"labels": labels, "samples": {"validation": 30}}
    card = model_card(CARD, {"size": [16, 16]}, provenance, {"age/mae": 3.0}, "")
    assert "On the validation split. Labeled images: 12 for sight, 7 for age. They also" in card
    assert r"| sight | one of a\|b, &lt;sea&gt; |" in card
    assert "| age | numbers: value |" in card
    assert r"| d | csv | 100 % | CC0 \| none |" in card
    assert "on supervised tasks. Inference" in card
    assert 'tags: ["mtlcore", "sight", "age"]' in card
    assert 'pipeline_tag: "image-classification"' in card


def test_a_unit_in_brackets_is_no_group_in_a_card() -> None:
    metrics = {"age/mae": 3.0, "age/mae_x [mm]": 1.0, "age/mae_y [mm]": 2.0}
    provenance = {"labels": {"sight": {}, "age": {}}}
    card = model_card(CARD, {"size": [16, 16]}, provenance, metrics, "")
    assert "| age/mae_x [mm] | 1.0000 |\n| age/mae_y [mm] | 2.0000 |" in card
    assert "by group" not in card
    metrics |= {f"{name}[sex=f]": value for name, value in metrics.items()} | {"age/n[sex=f]": 4.0}
    card = model_card(CARD, {"size": [16, 16]}, provenance, metrics, "")
    assert "| group | mae | mae_x [mm] | mae_y [mm] | n |" in card
    assert "| sex=f | 3.0000 | 1.0000 | 2.0000 | 4 |" in card


def test_a_card_names_maps_and_points_and_gets_no_tag_of_another_task() -> None:
    tasks = {
        "places": Segmentation(reads="places", classes=("sky", "sea")),
        "depth": DenseRegression(reads="depth"),
        "eyes": Landmarks(reads="eyes", points=2),
        "sizes": Regression(outputs=("width", "depth"), mean=(0.0, 0.0), std=(1.0, 1.0)),
    }
    experiment = Experiment(
        encoder=component("encoder", "resnet_small", width=4),
        tasks=tasks,
        data={"dots": component("dataset", "dots", [DOTS])},
        input=Input(size=STORED, cache_size=STORED),
        train=Train(steps=1),
    )
    net, preprocess = empty_network(experiment), Preprocess.of(experiment)
    predictor = predictor_of_network(net, experiment, preprocess, None, 1, False)
    answers = described_answers(predictor)
    said = {label: _said(answer) for label, answer in answers.items()}
    assert said == {
        "places": "a map of sky, sea",
        "depth": "a map of numbers",
        "eyes": "points: x and y in pixels of the image",
        "sizes": "numbers: width, depth",
    }
    tags = {label: _pipeline_tag({"answers": {label: a}}) for label, a in answers.items()}
    assert tags == {
        "places": {"pipeline_tag": "image-segmentation"},
        "depth": {},
        "eyes": {"pipeline_tag": "keypoint-detection"},
        "sizes": {},
    }

    of_labels = "as in the labels of the training data"
    shapes = {"places": "map", "depth": "map", "eyes": "points", "sizes": ""}
    units = {
        "places": ("number of the class, from 0", "probability"),
        "depth": (of_labels, of_labels),
        "eyes": ("pixels of the image", "pixels of input.size"),
        "sizes": (of_labels, of_labels),
    }
    exported = described_answers(predictor, exported=True)
    assert {label: answer["shape"] for label, answer in exported.items()} == shapes
    assert exported["places"]["names"] == ["sky", "sea"]
    for label, (answered, in_file) in units.items():
        assert (answers[label]["unit"], exported[label]["unit"]) == (answered, in_file)
    assert metadata_of_predictor(predictor)["tasks"]["places"] == {
        "component": "segmentation",
        **answers["places"],
    }


def test_the_card_installs_each_package_and_names_plugin_files() -> None:
    core = {"package": "mtlcore", "version": "0.1.0"}
    components: dict[str, dict[str, str]] = {
        "encoder": {"package": "swirls", "version": "1.2", "extra": ""},
        "task.fer": core,
    }
    usage = _usage({"plugins": {"mine.py": "0f"}, "components": components})
    assert 'pip install "mtlcore==0.1.0" "swirls==1.2"' in usage
    assert "mtl predict FOLDER photo.jpg --plugin mine.py" in usage
    components["encoder"] = core | {"extra": "timm"}
    usage = _usage({"plugins": {}, "components": components})
    assert 'pip install "mtlcore[timm]==0.1.0"\n' in usage


def test_the_card_installs_the_extra_that_the_encoder_needs(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert VitSmall.needs_extra == Timm.needs_extra == "timm"
    monkeypatch.setattr(ResnetSmall, "needs_extra", "timm")
    card = (trained.package(tmp_path / "p") / "README.md").read_text()
    assert f'pip install "mtlcore[timm]=={mtlcore.__version__}"\n' in card


@pytest.mark.slow
def test_it_loads_in_a_process_that_lacks_the_data(package: Path, tmp_path: Path) -> None:
    code = (
        "import sys, numpy, mtlcore\n"
        "found = mtlcore.load_package(sys.argv[1])(numpy.zeros((16, 16, 3), 'uint8'))\n"
        "print(found[0].answers['quarter']['label'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, package], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("a", "b", "c", "d")


def copy_of(package: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in package.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_flipped_bit_in_the_weights_is_noticed(package: Path, tmp_path: Path) -> None:
    damaged = copy_of(package, tmp_path / "damaged")
    data = bytearray((damaged / "model.safetensors").read_bytes())
    data[-7] ^= 1
    (damaged / "model.safetensors").write_bytes(data)
    with pytest.raises(MtlError, match="is damaged"):
        mtlcore.load_package(damaged)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{}", "has the format None"),
        ("config.json", "[1]", "expected a JSON object"),
        ("config.json", '{"format": 1, "experiment": {"encoder": 3}}', "encoder = 3"),
        ("preprocessor.json", '{"size": 16}', "preprocessing is not valid"),
        ("preprocessor.json", "not json", "mtl package"),
    ],
)
def test_a_changed_file_is_one_message(
    package: Path, tmp_path: Path, name: str, content: str, message: str
) -> None:
    changed = copy_of(package, tmp_path / "changed")
    (changed / name).write_text(content)
    with pytest.raises(MtlError, match=message):
        mtlcore.load_package(changed)


def test_a_component_that_is_not_installed_is_named_with_its_package(
    package: Path, tmp_path: Path
) -> None:
    changed = copy_of(package, tmp_path / "changed")
    config = json.loads((changed / "config.json").read_text())
    config["experiment"]["encoder"] = {"name": "swirl"}
    config["components"]["encoder"] |= {"name": "swirl", "package": "swirls", "version": "1.2"}
    (changed / "config.json").write_text(json.dumps(config))
    with pytest.raises(MtlError, match=r'pip install "swirls==1.2"'):
        mtlcore.load_package(changed)


PLUGIN = '''
from attrs import frozen
from mtlcore import Classification, hookimpl


@frozen
class Reversed(Classification):
    """Classification with the probabilities in the reverse order."""

    reads: str = "quarter"

    def decode(self, output):
        return super().decode(output).flip(1)


@hookimpl
def mtl_components():
    return [Reversed]
'''


def test_a_one_file_plugin_must_be_given_with_the_hash_of_training(tmp_path: Path) -> None:
    plugin = tmp_path / "backward.py"
    plugin.write_text(PLUGIN)
    experiment = Experiment(
        encoder=component("encoder", "resnet_small", width=4),
        tasks={"quarter": component("task", "reversed", [plugin])},
        data={"dots": component("dataset", "dots", [DOTS])},
        input=Input(size=STORED, batch_size=16, validation=0.2),
        train=Train(steps=1, eval_every=0),
        plugins=[DOTS, plugin],
    )
    run = mtlcore.train(experiment, tmp_path / "run", progress=False)
    package = run.package(tmp_path / "package")
    assert not list(package.glob("*.py"))
    with pytest.raises(MtlError, match=r"backward\.py with the SHA-256"):
        mtlcore.load_package(package)
    predictor = mtlcore.load_package(package, plugins=[plugin], device="cpu")
    assert predictor(images(1))[0].answers == run.predictor(device="cpu")(images(1))[0].answers
    plugin.write_text(PLUGIN.replace("flip(1)", "flip(0)"))
    with pytest.raises(MtlError, match=r"backward\.py with the SHA-256"):
        mtlcore.load_package(package, plugins=[plugin])


@pytest.mark.slow
def test_a_package_with_onnx_has_a_checked_graph(trained: Run, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="of the extra export")
    runtime = pytest.importorskip("onnxruntime", reason="of the extra export")
    package = trained.package(tmp_path / "package", onnx=True)
    predictor = mtlcore.load_package(package, device="cpu")
    stored = images(3)[:, :STORED, :STORED]
    session = runtime.InferenceSession(package / "model.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    (found,) = session.run(None, {name: stored.transpose(0, 3, 1, 2)})
    expected = [list(p.answers["quarter"]["probabilities"].values()) for p in predictor(stored)]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_another_checkpoint_of_a_package_is_an_error(package: Path, tmp_path: Path, capsys) -> None:
    image = tmp_path / "x.png"
    image.touch()
    assert main(["predict", str(package), str(image), "--checkpoint", "best"]) == 2
    assert "is a package, which holds one checkpoint" in capsys.readouterr().err


def test_an_existing_folder_is_not_overwritten(trained: Run, package: Path) -> None:
    with pytest.raises(MtlError, match="already exists"):
        trained.package(package)


def test_answers_have_the_real_units_and_names() -> None:
    numbers = torch.tensor([[1.5, -2.0]])
    both = Regression(outputs=("width", "depth"), mean=(0.0, 0.0), std=(1.0, 1.0))
    assert both.answer(numbers) == [{"width": 1.5, "depth": -2.0}]
    one = Regression(mean=(0.0,), std=(1.0,), outputs=("0",))
    assert one.answer(torch.tensor([[3.25]])) == [{"value": 3.25}]
    classes = Classification(classes=("cat", "dog"))
    assert classes.answer(torch.tensor([[0.25, 0.75]])) == [
        {"label": "dog", "probability": 0.75, "probabilities": {"cat": 0.25, "dog": 0.75}}
    ]
    several = mtlcore.Multilabel(classes=("hat", "beard", "scarf"))
    assert several.answer(torch.tensor([[0.5, 0.25, 1.0]])) == [
        {"labels": ["hat", "scarf"], "probabilities": {"hat": 0.5, "beard": 0.25, "scarf": 1.0}}
    ]
