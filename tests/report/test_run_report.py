"""The report of a run: real tiny runs, their pages parsed; runs that lack something."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from mtl_faces.pose_metrics import pose_metrics
from mtl_faces.rotations import to_matrix
from mtl_faces.valence_arousal import ValenceArousal
from PIL import Image
from report_toys import CONFIG, page_of, trained
from torchmetrics import Metric
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassF1Score,
)

import mtlcore
from mtlcore import MtlError, Regression
from mtlcore.cli import main
from mtlcore.report.answers import Answers
from mtlcore.report.blocks import Facts, Page
from mtlcore.report.bootstrap import RESAMPLES, SEED, estimate
from mtlcore.report.calibration import calibration_of
from mtlcore.report.charts import Interval, Series, interval_chart, line_chart
from mtlcore.report.html import write_page
from mtlcore.report.metrics import _ranges
from mtlcore.report.mistakes import _largest_errors
from mtlcore.runs import RunFolder
from mtlcore.tasks.dense.landmark_metrics import landmark_metrics
from mtlcore.tasks.dense.segmentation_metrics import segmentation_metrics

SECTIONS = [
    "data",
    "metrics",
    "curves",
    "errors",
    "calibration",
    "mistakes",
    "pretexts",
    "compute",
    "configuration",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> mtlcore.Run:
    return trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "report.html"
    assert run.report(file) == file
    return page_of(file)


def sections(page) -> list[str | None]:
    return [attributes["id"] for attributes in page.all("section")]


# ------------------------------------------------------------------------------------ the page


def test_a_report_has_all_parts_and_needs_no_network(page) -> None:
    assert sections(page) == SECTIONS
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href"):
            target = attributes.get(name) or "#"
            assert target.startswith(("data:", "#")), (tag, target)
    assert not page.all("script")
    assert "It is complete: 4 steps." in page.text


def test_a_report_can_be_read_without_seeing_it(page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all((attributes["alt"] or "").strip() for attributes in page.all("img"))
    assert len(page.all("h1")) == 1
    headers = page.all("th")
    assert headers
    assert all(attributes.get("scope") for attributes in headers)
    described = [a for _, a in page.elements if a.get("role") == "img"]
    assert len(described) == len(page.all("svg"))
    assert all(
        "from" in (a["aria-label"] or "") or "n =" in (a["aria-label"] or "") for a in described
    )


def test_the_numbers_are_those_of_an_evaluation(run, page) -> None:
    found = run.evaluate("test")
    for name in ("quarter/accuracy", "quarter/macro_f1"):
        assert f"{found.metrics[name]:.4g}" in page.text
    cells = [a for a in page.all("td") if "--share" in (a.get("style") or "")]
    assert len(cells) == 16 + 1  # a confusion matrix of 4 classes, and its corner
    wrong = sum(
        row[b] for a, row in found.tables["quarter/confusion"].items() for b in row if a != b
    )
    assert f"{int(wrong)} of 20 answers are wrong" in page.text


def test_the_data_the_pretexts_and_the_configuration_are_shown(run, page) -> None:
    assert "with a label of quarter 60 20" in page.text
    assert "quarter by color" in page.text  # the data lacks this attribute, and the page says so
    assert "puzzling, view 1 of 1, 16 px" in page.text
    assert "rotation" in page.text
    assert RunFolder.open(run.path).config.read_text().split("\n")[5] in page.text


def test_charts_take_their_colors_from_the_page() -> None:
    chart = line_chart("t", [Series("a", [1, 2], [3.0, 1.0])], "step", log=True)
    again = interval_chart("t", [Interval("<b>$x$", 0.5, 0.4, 0.6)], "m")
    for found in (chart, again):
        assert "var(--" in found.svg
        assert "#0" not in found.svg
    assert "&lt;b&gt;$x$" in again.svg
    assert "a from 3 at 1 to 1 at 2" in chart.alt


# ------------------------------------------------------------------------------------- numbers


def test_a_bootstrap_interval_is_that_of_the_binomial_distribution() -> None:
    n, share = 400, 0.3
    targets = torch.zeros(n, dtype=torch.int64)
    predictions = (torch.arange(n) >= share * n).long()
    found = estimate(MulticlassAccuracy(2, average="micro"), predictions, targets)
    half = 1.96 * (share * (1 - share) / n) ** 0.5
    assert found.value == pytest.approx(share)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.15)
    few = estimate(MulticlassAccuracy(2, average="micro"), predictions[:5], targets[:5])
    assert np.isnan(few.low)


@pytest.mark.slow
def test_a_fast_interval_is_that_of_updates_with_each_resample(subtests) -> None:
    """Of metrics that count classes, of means over samples, and of maps and points."""
    random = torch.Generator().manual_seed(0)
    n, classes = 60, 3
    targets = torch.randint(0, classes, (n,), generator=random)
    probabilities = torch.rand(n, classes, generator=random).softmax(1)
    angles_deg = torch.rand(2, n, 3, generator=random) * 60 - 30
    rotations = [to_matrix(angles) for angles in angles_deg]
    cases: list[tuple[Metric, torch.Tensor, torch.Tensor]] = [
        (MulticlassAccuracy(classes, average="micro"), probabilities, targets),
        (MulticlassAccuracy(classes, average="macro"), probabilities.argmax(1), targets),
        (MulticlassF1Score(classes + 1, average="macro"), probabilities.argmax(1), targets),
        (MulticlassF1Score(classes, average="weighted"), probabilities, targets),
        (MulticlassAccuracy(classes, top_k=2), probabilities, targets),
        (pose_metrics()["mae"], *rotations),
        *_of_maps_and_points(random, n),
    ]
    for metric, predictions, truth in cases:
        with subtests.test(metric=metric):
            found = estimate(metric, predictions, truth)
            rng, slow = np.random.default_rng(SEED), []
            for _ in range(RESAMPLES):
                draw = torch.from_numpy(rng.integers(0, n, n))
                metric.reset()
                metric.update(predictions[draw], truth[draw])
                slow.append(float(metric.compute()))
            expected = np.quantile(slow, [0.025, 0.975])
            assert [found.low, found.high] == pytest.approx(expected, rel=1e-5)


def _of_maps_and_points(
    random: torch.Generator, n: int
) -> Iterator[tuple[Metric, torch.Tensor, torch.Tensor]]:
    """Metrics of n samples whose predictions have many numbers."""
    classes, ignored = 3, 9
    maps = torch.rand(n, classes, 6, 7, generator=random).softmax(1)
    mask = torch.randint(0, classes, (n, 6, 7), generator=random)
    mask[:, :2] = ignored
    mask[0] = ignored  # a sample without a valid pixel
    for name, metric in segmentation_metrics(classes, ignored).items():
        if name != "confusion":
            yield metric, maps, mask
    points, true = torch.rand(2, n, 60, 2, generator=random) * 50
    true[1] = torch.nan
    for metric in landmark_metrics("box", (), 0.5).values():
        yield metric, points, true


def test_the_calibration_error_is_that_of_torchmetrics() -> None:
    logits = 2 * torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    probabilities = logits.softmax(1)
    targets = torch.arange(500) % 4
    found = calibration_of(
        probabilities.max(1).values.double().numpy(), (probabilities.argmax(1) == targets).numpy()
    )
    expected = MulticlassCalibrationError(4, n_bins=10)(probabilities, targets)
    assert found.error == pytest.approx(float(expected), abs=1e-5)
    assert found.n.sum() == 500


def test_ranges_have_round_edges_and_hold_every_sample_once() -> None:
    values = np.linspace(-71, 64, 500)
    found = _ranges(values)
    assert list(found)[:2] == ["-90 to -60", "-60 to -30"]
    assert np.sum(list(found.values()), 0).tolist() == [1] * 500
    assert _ranges(np.zeros(9)) == {}


def test_a_range_with_few_samples_is_merged_with_its_neighbor() -> None:
    values = np.array([0.0, *np.full(20, 25.0), *np.full(4, 33.0), 52.0, *np.full(9, 41.0), np.nan])
    found = _ranges(values)
    assert {name: int(members.sum()) for name, members in found.items()} == {
        "0 to 30": 21,
        "30 to 60": 14,
    }
    assert int(sum(members.sum() for members in _ranges(np.arange(4.0)).values())) == 4


def test_the_metric_of_a_mistake_is_shown_only_if_it_is_an_error() -> None:
    labels = torch.tensor([[0.1, 0.2], [0.3, -0.2], [-0.4, 0.0]])
    answered = labels + torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.0, 0.1]])
    for task, metric, known in ((ValenceArousal(), "ccc", 0), (Regression(), "mae", 3)):
        all_three = np.arange(3), answered, labels
        found = Answers("task", task, "test", 3, {metric: 0.5}, {}, None, None, *all_three)
        worst, errors = _largest_errors(found)
        assert worst[0] == 1
        assert len(errors) == known


# ---------------------------------------------------------------------- runs that lack something


@pytest.fixture
def copy(run, tmp_path) -> Path:
    shutil.copytree(run.path, tmp_path / "copy")
    return tmp_path / "copy"


def reported(folder: Path, **options):
    file = folder.parent / "out.html"
    mtlcore.load_run(folder).report(file, **options)
    return page_of(file)


@pytest.mark.slow
def test_a_run_whose_data_is_gone_shows_its_curves_and_says_why_not_more(tmp_path) -> None:
    images = tmp_path / "images"
    for i in range(40):
        name = images / ("train" if i % 5 else "test") / "ab"[i % 2] / f"{i}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(name)
    text = CONFIG.replace(
        "[data.dots]\nn = 100", f'[data.dots]\nname = "image_folder"\nroot = "{images}"'
    )
    text = text.replace("[task.quarter]", '[task.quarter]\nreads = "label"')
    run = trained(tmp_path, text)
    shutil.rmtree(images)
    page = reported(run.path)
    assert "curves" in sections(page)
    assert "calibration" not in sections(page)
    assert "Not shown: metrics on samples" in page.text
    assert str(images) in page.text
    assert "with a label of quarter" in page.text  # run.json still knows the counts
    assert "Validation at step 4" in page.text


def test_a_run_in_progress_is_evaluated_on_validation(copy) -> None:
    folder = RunFolder.open(copy)
    folder.update_provenance({}, remove=["finished", "validation", "steps"])
    page = reported(copy)
    assert "It is not complete. Its last logged step is 4" in page.text
    assert "its test split was not read" in page.text
    assert "quarter on validation" in page.text


def test_a_run_without_checkpoint_or_log_line_has_a_report(copy) -> None:
    folder = RunFolder.open(copy)
    folder.update_provenance({}, remove=["finished", "validation", "steps", "saved"])
    shutil.rmtree(copy / "checkpoints")
    folder.metrics.unlink()
    page = reported(copy)
    assert "has no 'last' checkpoint yet" in page.text
    assert "The log has no line yet" in page.text
    assert "Samples by split" in page.text


@pytest.mark.slow
def test_a_run_without_validation_says_so(tmp_path) -> None:
    run = trained(tmp_path, input__validation=0.0, task__quarter__by=())
    page = reported(run.path)
    assert "Not shown: validation curves" in page.text
    assert "Not shown: validation metrics" in page.text
    assert "quarter on test" in page.text


@pytest.mark.slow
def test_a_run_without_tasks_shows_its_pretexts(tmp_path) -> None:
    text = CONFIG.replace('[task.quarter]\nname = "classification"\nby = ["color"]\n', "")
    page = reported(trained(tmp_path, text).path)
    assert "The run has no supervised task." in page.text
    assert "pretexts" in sections(page)


@pytest.mark.slow
def test_a_damaged_log_is_named_and_the_rest_is_shown(copy) -> None:
    log = RunFolder.open(copy).metrics
    log.write_text("{broken\n" + log.read_text())
    page = reported(copy)
    assert "Not shown: curves" in page.text
    assert "metrics.jsonl" in page.text
    assert "calibration" in sections(page)


# ------------------------------------------------------------------------------- the command


def test_mistakes_of_the_user_are_named_and_leave_nothing(
    run, tmp_path, capsys, subtests, monkeypatch
) -> None:
    cases = [
        (["--out", "x.txt"], "expected an HTML file, such as"),
        (["--out", "no/x.html"], "is not a folder"),
        (["--out", "."], "it is a folder"),
        (["--out", "x.html", "--split", "tset"], "did you mean 'test'"),
        (["--out", "x.html", "--set", "task.quarter.bye=1"], "bye"),
    ]
    for options, message in cases:
        with subtests.test(options=options):
            options[1] = str(tmp_path / options[1])
            if "--set" in options:
                assert main(["report", str(run.path), *options]) == 0
                assert message in page_of(tmp_path / "x.html").text
                (tmp_path / "x.html").unlink()
            else:
                assert main(["report", str(run.path), *options]) == 2
                assert message in capsys.readouterr().err
            assert list(tmp_path.iterdir()) == []
    not_utf8 = Page("caf\udce9.jpg", "", Facts([]), [], "")
    write_page(not_utf8, tmp_path / "x.html")
    assert "caf\\udce9.jpg" in (tmp_path / "x.html").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["report", ".", "--out", "y.html"]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    with pytest.raises(MtlError, match="is not a run folder"):
        mtlcore.load_run(tmp_path).report(tmp_path / "x.html")


def test_run_json_counts_labels_and_what_was_left_out(run) -> None:
    summary = json.loads((run.path / "run.json").read_text())
    assert summary["labels"] == {"quarter": {"train": 60, "validation": 20}}
    assert summary["data_report"] == []


def test_without_matplotlib_the_message_says_what_to_type(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MtlError, match=r"needs matplotlib: type `pip install 'mtlcore\[report\]'`"):
        run.report(tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
