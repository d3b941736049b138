"""Prediction: the answers of evaluation, from every kind of source, in order, errors as rows."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from aligned_toys import Classes, Corners
from attrs import frozen
from PIL import Image
from toys import Toy

import mtlcore
from mtlcore import (
    Classification,
    Detections,
    Detector,
    Experiment,
    Input,
    MtlError,
    Predictor,
    Regression,
    Run,
    Train,
)
from mtlcore.augment.levels import Validation
from mtlcore.cli import main
from mtlcore.contracts.answers import AnswerFormat
from mtlcore.data.images import shrink
from mtlcore.evaluation.augmented import in_words
from mtlcore.model.preprocess import Preprocess
from mtlcore.prediction.results import Prediction, answer_in_words
from mtlcore.prediction.sources import items_of, listing
from mtlcore.prediction.tables import parquet_table
from mtlcore.registry.catalog import catalog

SIZE, STORED = 16, 20


class Named(Classes):
    classes = ("sky", "sea")


@frozen
class Halves(Detector):
    """The left and the right half, but nothing in a black image."""

    def build(self):
        return self.find

    def find(self, image):
        h, w = image.shape[:2]
        boxes = np.array([[0.0, 0.0, w / 2, h], [w / 2, 0.0, w, h]])
        number = 2 if image.any() else 0
        return Detections(boxes[:number], np.array([0.9, 0.8])[:number])

    def crop(self, image, box):
        left, top, right, bottom = np.round(box).astype(int)
        return image[top:bottom, left:right]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images of 24 x 30 pixels with a table of labels."""
    folder = tmp_path_factory.mktemp("photos")
    draws = np.random.default_rng(0)
    rows = ["path,mood,size"]
    for i in range(40):
        pixels = draws.integers(0, 256, (30, 24, 3), dtype=np.uint8) // 2 + 60 * (i % 3)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:02d}.png")
        rows.append(f"{i:02d}.png,{('calm', 'glad', 'sad')[i % 3]},{10 + i}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module", autouse=True)
def _toy_is_registered() -> Iterator[None]:
    """For this module alone: other tests list all components."""
    known = catalog()
    before = known._records, known._classes
    mtlcore.register(Toy)
    yield
    known._records, known._classes = before


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    experiment = Experiment(
        encoder=Toy(),
        tasks={"mood": Classification(), "size": Regression()},
        data={"people": mtlcore.component("dataset", "csv", file=photos / "table.csv")},
        augmentations={"validation": mtlcore.component("augmentation", "validation", crop=0.9)},
        input=Input(size=SIZE, cache_size=STORED, batch_size=8, validation=0.4),
        train=Train(steps=3, accelerator="cpu"),
    )
    return mtlcore.train(experiment, tmp_path_factory.mktemp("runs") / "toy", progress=False)


@pytest.fixture
def predictor(run: Run) -> Predictor:
    return run.predictor(device="cpu", batch_size=4)


def close(one: object, other: object) -> bool:
    """Whether two answers are equal, with numbers to 1e-5."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(close(one[k], other[k]) for k in one)
    if isinstance(one, float):
        return one == pytest.approx(other, abs=1e-5, rel=1e-5)
    return one == other


# ---------------------------------------------------------------------------------------- answers


def test_answers_are_those_of_evaluation(run: Run, photos: Path, predictor: Predictor) -> None:
    samples = run.evaluate("validation", per_sample=True, device="cpu").samples
    assert len(samples) > 10
    found = predictor([photos / str(sample["key"]) for sample in samples])
    for sample, prediction in zip(samples, found, strict=True):
        assert prediction.answers["mood"]["label"] == sample["mood/prediction"]
        assert prediction.answers["size"]["value"] == pytest.approx(
            sample["size/prediction"], rel=1e-4
        )


def test_probabilities_are_those_of_the_network_on_the_image_by_hand(
    run: Run, photos: Path, predictor: Predictor
) -> None:
    pixels = np.asarray(Image.open(photos / "07.png").convert("RGB"))
    stored = torch.from_numpy(shrink(pixels, (STORED, STORED)).copy()).permute(2, 0, 1)[None]
    view = run.experiment.augmentation("validation").view(stored, (SIZE, SIZE), None)
    with torch.no_grad():
        logits = run.model()(view.images)["mood"]
    wanted = logits.softmax(1)[0].tolist()
    (found,) = predictor(photos / "07.png")
    answer = found.answers["mood"]
    assert list(answer["probabilities"].values()) == pytest.approx(wanted, abs=1e-5)
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert answer["probability"] == max(answer["probabilities"].values())


def test_run_json_holds_the_way_from_an_image_to_the_encoder(
    run: Run, predictor: Predictor
) -> None:
    saved = run.summary["preprocess"]
    assert (saved["stored"], saved["crop"]) == (STORED, 0.9)
    assert Preprocess.from_data(saved) == predictor.preprocess


def test_points_are_in_the_pixels_of_the_image_and_maps_have_shares() -> None:
    preprocess = Preprocess((20, 20), (16, 16), Validation(crop=0.8))
    height, width = 30, 24
    truth = torch.tensor([[[3.0, 7.0], [20.0, 11.5], [torch.nan, torch.nan]]])
    image = np.zeros((height, width, 3), np.uint8)
    view = preprocess.view(preprocess.stack([preprocess.store(image)]))
    in_stored = (truth - torch.tensor([0.0, 3.0])) * 20 / 24
    found = preprocess.in_image(view.geometry.points(in_stored), view, [(height, width)])
    torch.testing.assert_close(found, truth, equal_nan=True)

    (answer,) = Corners().answer(found)
    assert answer["points"][1] == pytest.approx([20.0, 11.5])
    row = Prediction("a.png", {"corners": answer}).as_row()
    assert row["corners/points/1/x"] == pytest.approx(20.0)

    (answer,) = Named().answer(torch.tensor([[[0, 1], [1, 1]]]))
    assert answer == {"map": [[0, 1], [1, 1]], "shares": {"sky": 0.25, "sea": 0.75}}
    assert "map" not in str(Prediction("", {"classes": answer}).as_row())
    assert answer_in_words(answer) == "map (2), sky 0.25, sea 0.75"


def test_numbers_may_have_the_names_of_other_answers(
    predictor: Predictor, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("label", "labels"):
        (answer,) = Regression(outputs=(name, "b")).answer(torch.tensor([[10.2, 3.0]]))
        assert answer_in_words(answer) == f"{name} 10.2, b 3"
        assert in_words(answer) == f"{name} 10.2 b 3"

    pyarrow = pytest.importorskip("pyarrow.parquet")
    number = AnswerFormat("values", ("label",))
    monkeypatch.setattr(Regression, "answer_format", lambda _: number)
    row = predictor(photos / "00.png")[0].as_row()
    with parquet_table(tmp_path / "t.parquet", predictor.column_types()) as write:
        write(row)
    assert pyarrow.read_table(tmp_path / "t.parquet").to_pylist() == [row]


def test_the_batch_size_and_the_neighbors_do_not_matter(run: Run, photos: Path) -> None:
    one = run.predictor(device="cpu", batch_size=1)(photos)
    other = run.predictor(device="cpu", batch_size=32)(photos)
    assert [prediction.file for prediction in one] == [prediction.file for prediction in other]
    assert all(close(a.answers, b.answers) for a, b in zip(one, other, strict=True))


def test_mirror_averages_the_answers_for_both_images(run: Run, photos: Path) -> None:
    pixels = np.asarray(Image.open(photos / "03.png"))
    plain = run.predictor(device="cpu")
    both = plain([pixels, pixels[:, ::-1]])
    (mean,) = run.predictor(device="cpu", mirror=True)(pixels)
    for name, value in mean.answers["mood"]["probabilities"].items():
        sides = [found.answers["mood"]["probabilities"][name] for found in both]
        assert value == pytest.approx(np.mean(sides), abs=2e-3)


# ---------------------------------------------------------------------------------------- sources


def test_every_kind_of_source_gives_the_same_answer(photos: Path, predictor: Predictor) -> None:
    path = photos / "05.png"
    image = Image.open(path)
    pixels = np.asarray(image)
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    sources = [
        str(path),
        path,
        os.fspath(photos) + "/*05.png",
        image,
        pixels,
        pixels[None],
        np.ascontiguousarray(pixels[:, ::-1])[:, ::-1],
        tensor,
        tensor[None],
        tensor.float() / 255,
        (each for each in [path]),
        [[path], [pixels]],
    ]
    found = predictor(*sources)
    assert len(found) == len(sources) + 1
    assert [bool(prediction.file) for prediction in found][:6] == [True] * 3 + [False] * 3
    assert all(close(found[0].answers, prediction.answers) for prediction in found)


def test_folders_and_tables_are_read_in_order(photos: Path, predictor: Predictor) -> None:
    names = [Path(prediction.file).name for prediction in predictor(photos)]
    assert names == [f"{i:02d}.png" for i in range(40)]
    names = [Path(prediction.file).name for prediction in predictor(photos / "table.csv")]
    assert names == [f"{i:02d}.png" for i in range(40)]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_table_of_images_may_be_utf_16(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "t.csv").write_text("path,note\nfür.png,ü\n", encoding=encoding)
    (item,) = items_of([tmp_path / "t.csv"])
    assert item.name == str(tmp_path / "für.png")


def test_a_table_of_images_is_read_by_the_rules_of_the_dataset(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    table = tmp_path / "t.csv"
    cases = {
        "path;note\n a.png ;x\n": ["a.png"],
        "path,note\na.png,x\n,\n,x\nb.png,1,2\nc.png,y\n": ["a.png", "t.csv", "t.csv", "c.png"],
        'path,note\na.png,x\n"b.png,x\nc.png,y\n': ["a.png", "t.csv"],
    }
    for text, names in cases.items():
        with subtests.test(text):
            table.write_text(text)
            assert [Path(item.name).name for item in items_of([table])] == names
    with pytest.raises(MtlError, match="line 3: not 2 columns, over several lines: is a quote"):
        list(items_of([table]))[1].open()
    for text, message in {
        "path,path\na.png,b.png\n": "the column 'path' more than once",
        "path,note\n": r"t\.csv lists no image",
        "photo\na.png\n": "has the columns photo: expected one of path, image",
    }.items():
        table.write_text(text)
        with subtests.test(text), pytest.raises(MtlError, match=message):
            list(items_of([table]))
    table.write_text("path\nfür.png\n", encoding="cp1252")
    with pytest.raises(MtlError, match=r"not UTF-8 text: line 2 .* Save it as UTF-8$"):
        list(items_of([table]))


def test_links_to_folders_and_folders_that_are_closed_are_named(
    tmp_path: Path, predictor: Predictor, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(photos / "00.png", tmp_path / "in")
    (tmp_path / "in" / "link").symlink_to(photos)
    first, second = predictor(tmp_path / "in")
    assert "link is a link to a folder, which is not followed" in first.error
    assert not second.error

    def closed(_: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "in"))

    monkeypatch.setattr("os.scandir", closed)
    with pytest.raises(MtlError, match="in can't be listed: Permission denied"):
        predictor(tmp_path / "in")


def test_a_glob_reads_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = [Path("g/a/1.png"), Path("g/a/b/2.png"), Path("g/3.png"), Path("g/a/4.txt")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    Path("g/empty").mkdir()
    Path("g/link").symlink_to("a/b")

    def names(pattern: str) -> list[str]:
        return sorted(item.name for item in items_of([pattern]))

    everything = ["g/3.png", "g/a/1.png", "g/a/4.txt", "g/a/b/2.png", "g/link/2.png"]
    assert names("g/**") == everything
    assert names("./g/**/*") == [f"./{name}" for name in everything]
    assert names("g/**/[ab]") == ["g/a/1.png", "g/a/b/2.png"]
    assert names("g/a*") == ["g/a/1.png", "g/a/b/2.png"]
    assert listing(["g/**", "g/a*"]).count == 7
    assert not listing(["g/**"]).passed_over
    assert listing(["g", "g/*"]).passed_over == ["g/a/4.txt"] * 2
    with pytest.raises(MtlError, match="g/empty holds no image"):
        names("g/e*")


def test_parquet_holds_names_of_any_bytes_and_any_class(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow.parquet")
    row = {"file": "caf\udce9.png", "mood/label": "label", "mood/probabilities/label": 0.5}
    with parquet_table(tmp_path / "t.parquet", {k: type(v) for k, v in row.items()}) as write:
        write(row)
    (read,) = pyarrow.read_table(tmp_path / "t.parquet").to_pylist()
    assert read == row | {"file": "caf\\udce9.png"}


def test_a_table_of_images_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(MtlError, match=r"t\.csv can't be read: it is a pipe"):
        list(items_of([tmp_path / "t.csv"]))


def test_gray_arrays_and_transparent_images_are_read_as_their_files(
    tmp_path: Path, predictor: Predictor
) -> None:
    gray = np.arange(400, dtype=np.uint8).reshape(20, 20)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    glass = np.zeros((20, 20, 4), dtype=np.uint8)
    glass[::2] = (200, 30, 90, 255)
    Image.fromarray(glass, "RGBA").save(tmp_path / "glass.png")
    deep = Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 100)
    deep.save(tmp_path / "deep.png")
    files = [tmp_path / f"{name}.png" for name in ("gray", "glass", "deep")]
    from_files = predictor(files)
    from_memory = predictor(gray, Image.fromarray(glass, "RGBA"), deep)
    assert not any(prediction.error for prediction in from_files)
    assert all(close(a.answers, b.answers) for a, b in zip(from_files, from_memory, strict=True))


def test_a_generator_is_read_as_far_as_it_is_needed(photos: Path, predictor: Predictor) -> None:
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield photos / "01.png"

    first = next(iter(predictor.stream(endless())))
    assert first.answers
    assert len(taken) < 200


def test_a_source_that_is_none_is_an_error(predictor: Predictor, subtests: pytest.Subtests) -> None:
    for source, message in [
        (3.5, "can't read an image from float"),
        (np.zeros((4, 4, 3)), "float64: expected uint8"),
        (np.zeros((4, 4, 2), np.uint8), "expected \\(H, W, 3\\)"),
        (torch.zeros(4, 4), "expected \\(3, H, W\\)"),
        (torch.full((3, 4, 4), 2.0), "expected \\[0, 1\\]"),
        (torch.full((3, 4, 4), 300, dtype=torch.int32), "int32: expected uint8"),
        (torch.zeros(3, 4, 4, dtype=torch.bool), "bool: expected uint8"),
        (torch.zeros(3, 4, 4, dtype=torch.complex64), "complex64: expected uint8"),
        (torch.zeros(0, 3, 4, 4), "expected \\(3, H, W\\)"),
        ("nothing/*.png", "no file matches"),
    ]:
        with subtests.test(source=source, message=message), pytest.raises(MtlError, match=message):
            predictor(source)


def test_a_bad_image_is_a_row_with_the_reason_in_its_place(
    photos: Path, tmp_path: Path, predictor: Predictor
) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    cut = (photos / "00.png").read_bytes()[:200]
    (tmp_path / "cut.png").write_bytes(cut)
    found = predictor(
        photos / "00.png", tmp_path / "text.jpg", tmp_path / "missing.png", tmp_path / "cut.png",
        photos / "01.png",
    )  # fmt: skip
    assert [bool(prediction.error) for prediction in found] == [False, True, True, True, False]
    assert "text.jpg is not a readable image" in found[1].error
    assert "missing.png can't be read: No such file" in found[2].error
    assert found[1].answers == {}


# -------------------------------------------------------------------------------------- detectors


def test_a_detector_gives_one_row_for_each_region(run: Run, photos: Path) -> None:
    predictor = run.predictor(device="cpu", detector=Halves(), batch_size=3)
    black = np.zeros((12, 12, 3), np.uint8)
    pixels = np.asarray(Image.open(photos / "02.png"))
    found = predictor(photos / "02.png", black, photos / "none.png", photos / "03.png")
    files = [Path(prediction.file).name for prediction in found]
    assert files == ["02.png", "02.png", "", "none.png", "03.png", "03.png"]
    assert [prediction.score for prediction in found] == [0.9, 0.8, None, None, 0.9, 0.8]
    assert found[1].box == (12.0, 0.0, 24.0, 30.0)
    assert found[2].error == "the detector found nothing"
    (half,) = run.predictor(device="cpu")(pixels[:, 12:])
    assert close(found[1].answers, half.answers)


def test_a_detector_goes_by_its_name(run: Run, photos: Path) -> None:
    (plain,) = run.predictor(device="cpu")(photos / "02.png")
    (whole,) = run.predictor(device="cpu", detector="whole")(photos / "02.png")
    assert whole.answers == plain.answers
    assert (whole.box, whole.score) == ((0.0, 0.0, 24.0, 30.0), 1.0)
    with pytest.raises(MtlError, match="unknown detector 'hole'; did you mean 'whole'"):
        run.predictor(detector="hole")


# ----------------------------------------------------------------------------------- command line


def test_tables_hold_the_rows_in_full_precision(
    run: Run, photos: Path, predictor: Predictor, tmp_path: Path, capsys
) -> None:
    pyarrow = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "bad.png").write_text("no image")
    files = ["--csv", str(tmp_path / "t.csv"), "--parquet", str(tmp_path / "t.parquet")]
    words = ["predict", str(run.path), str(photos / "0*.png"), str(tmp_path / "bad.png"), *files]
    assert main([*words, "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("11 predictions, 1 without an answer\n")
    wanted = [p.as_row() for p in predictor(str(photos / "0*.png"), tmp_path / "bad.png")]
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = ["file", "frame", "left", "top", "right", "bottom", "score", "mood/label"]
    columns += ["mood/probability", *(f"mood/probabilities/{n}" for n in ("calm", "glad", "sad"))]
    columns += ["size/value", "error"]
    assert list(rows[0]) == columns == predictor.columns()
    table = pyarrow.read_table(tmp_path / "t.parquet").to_pylist()
    for row, typed, expected in zip(rows, table, wanted, strict=True):
        assert row["file"] == typed["file"] == expected["file"]
        assert row["mood/label"] == expected.get("mood/label", "")
        if not expected["error"]:
            assert float(row["size/value"]) == pytest.approx(expected["size/value"], rel=1e-6)
            assert typed["mood/probability"] == pytest.approx(
                expected["mood/probability"], abs=1e-6
            )
    assert "not a readable image" in rows[-1]["error"]


def test_a_command_that_reads_no_image_fails(
    run: Run, photos: Path, tmp_path: Path, capsys
) -> None:
    (tmp_path / "bad.png").write_text("no image")
    Image.new("RGB", (9, 9)).save(tmp_path / "faceless.png")
    mtlcore.register(Halves)
    predict = ["predict", str(run.path), "--device", "cpu"]
    assert main([*predict, str(tmp_path / "bad.png"), "--csv", str(tmp_path / "t.csv")]) == 2
    out, err = capsys.readouterr()
    assert out == f"1 prediction, 1 without an answer\nwritten: {tmp_path / 't.csv'}\n"
    assert "no image can be read; the first error: " in err
    assert "bad.png is not a readable image" in err
    # An image in which a detector finds nothing was read.
    assert main([*predict, str(tmp_path / "faceless.png"), "--detector", "halves"]) == 0
    sources = [str(photos / "00.png"), str(tmp_path / "bad.png")]
    assert main(["predict", str(run.path), "--device", "cpu", *sources]) == 0


def test_files_that_are_no_images_are_named(run: Run, photos: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "in" / "cat"
    folder.mkdir(parents=True)
    for name in ("photo.heic", ".hidden", "1.JPE"):
        (folder / name).touch()
    (folder / "loop").symlink_to("loop")
    shutil.copy(photos / "00.png", folder)
    words = ["predict", str(run.path), str(tmp_path / "in"), "--device", "cpu"]
    names = ", ".join(str(folder / name) for name in ("1.JPE", "loop", "photo.heic"))
    assert main([*words, "--csv", str(tmp_path / "t.csv")]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith("3 files are not one of .jpg, ")
    assert last.endswith(f": {names}")
    assert main([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["file"] == str(folder / "00.png")
    assert err == f"mtl: note: {last}\n"


def test_json_lines_and_words(run: Run, photos: Path, capsys) -> None:
    words = ["predict", str(run.path), str(photos / "00.png"), "--device", "cpu"]
    assert main([*words, "--json", "--detector", "whole"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["box"] == [0, 0, 24, 30]
    assert set(row["answers"]) == {"mood", "size"}
    assert main(words) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{photos / '00.png'}  mood: ")
    assert "  size: value " in first
    assert last == "1 prediction, 0 without an answer"


def test_draw_writes_a_page_for_each_readable_image(
    run: Run, photos: Path, tmp_path: Path, capsys
) -> None:
    (tmp_path / "more").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "more" / "00.png")
    (tmp_path / "bad.png").write_text("no image")
    sources = [str(photos / "00.png"), str(tmp_path / "more"), str(tmp_path / "bad.png")]
    words = ["predict", str(run.path), *sources, "--draw", str(tmp_path / "drawn")]
    assert main([*words, "--device", "cpu", "--detector", "whole"]) == 0
    capsys.readouterr()
    assert sorted(p.name for p in (tmp_path / "drawn").iterdir()) == ["00-2.png", "00.png"]
    page = np.asarray(Image.open(tmp_path / "drawn" / "00.png"))
    # The image is enlarged to 256 pixels; beside it are what two tasks draw.
    assert page.shape[0] >= 256
    assert page.shape[1] > 256 + 2 * 192
    assert (page[:, :200] == (230, 25, 75)).all(-1).any()  # the red of the first box


def test_a_page_of_many_regions_and_tiny_or_oblong_images_can_be_drawn(run: Run) -> None:
    @frozen
    class Many(Halves):
        """Thirty equal regions."""

        def find(self, image):
            h, w = image.shape[:2]
            return Detections(np.array([[0.0, 0.0, w, h]] * 30), np.full(30, 0.5))

    predictor = run.predictor(device="cpu", detector=Many())
    for shape in ((1, 1, 3), (3, 900, 3), (900, 3, 3)):
        (image,) = predictor.images(np.full(shape, 90, np.uint8), drawn=True)
        page = image.draw()
        assert page is not None
        assert page.dtype == np.uint8
        assert max(page.shape) < 8000
    (image,) = predictor.images(np.full((9, 9, 3), 90, np.uint8))
    assert image.draw() is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to predict: add images, folders, globs, tables or videos"),
        (["00.png", "--set", "detector.threshold=1"], "there is none: add --detector NAME"),
        (["00.png", "--set", "threshold=1", "--detector", "whole"], "only keys of the detector"),
        (["00.png", "--set", "detector.size=1", "--detector", "whole"], "size: unknown key"),
        (["00.png", "--set", "detector=1", "--detector", "whole"], "name a key of it"),
        (["00.png", "--set", "detector.name=whole"], "there is none: add --detector NAME"),
        (["00.png", "--detector", "hole"], "did you mean 'whole'"),
        (["00.pgn"], "00.pgn can't be read: No such file or directory; did you mean '00.png'?"),
        (["nowhere/0.png"], "nowhere/0.png can't be read: No such file or directory\n"),
        (["nothing/*.png"], "no file matches 'nothing/*.png'"),
        (["00.png", "--batch-size", "0"], "batch_size = 0: expected at least 1"),
    ],
)
def test_a_wrong_command_is_one_message(
    run: Run, photos: Path, words: list[str], message: str, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    assert main(["predict", str(run.path), *words]) == 2
    assert message in capsys.readouterr().err


@frozen
class Unloadable(Halves):
    """Its weights are missing."""

    def build(self):
        raise MtlError("nope.onnx can't be read")


def test_a_detector_that_cannot_be_loaded_leaves_no_output(
    run: Run, photos: Path, tmp_path: Path, capsys
) -> None:
    mtlcore.register(Unloadable)
    outputs = ["--csv", str(tmp_path / "t.csv"), "--draw", str(tmp_path / "drawn")]
    words = ["predict", str(run.path), str(photos), "--device", "cpu", *outputs]
    assert main([*words, "--detector", "unloadable"]) == 2
    assert "nope.onnx can't be read" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_overwritten(run: Run, photos: Path, tmp_path: Path, capsys) -> None:
    for name in ("00.png", "01.png"):
        shutil.copy(photos / name, tmp_path)
    table = tmp_path / "list.csv"
    table.write_text("path\n00.png\n01.png\n")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    predict = ["predict", str(run.path), "--device", "cpu"]
    assert main([*predict, str(tmp_path / "*.csv"), "--csv", str(table)]) == 2
    assert "list.csv exists already: choose another name" in capsys.readouterr().err
    assert main([*predict, str(tmp_path), "--draw", str(tmp_path)]) == 2
    assert "the folder is not empty: choose another one" in capsys.readouterr().err
    assert main([*predict, str(tmp_path), "--draw", str(table)]) == 2
    assert "list.csv is a file: choose a new or empty folder" in capsys.readouterr().err
    same = str(tmp_path / "new.csv"), str(tmp_path / "." / "new.csv")
    for one, other in (("--csv", "--parquet"), ("--csv", "--draw"), ("--parquet", "--draw")):
        assert main([*predict, str(tmp_path), one, same[0], other, same[1]]) == 2
        assert f"{one} and {other} name the same file" in capsys.readouterr().err
    assert main([*predict, str(tmp_path), "--draw", str(tmp_path / "drawn")]) == 2
    assert f"drawn is below the source {tmp_path}, whose" in capsys.readouterr().err
    pattern = str(photos.parent / photos.name.replace("p", "[p]"))
    assert main([*predict, pattern, "--draw", str(photos / "new" / "drawn")]) == 2
    assert f"drawn is below the source {photos}, whose" in capsys.readouterr().err
    in_a_file = ["--csv", str(tmp_path / "new.csv"), "--draw", str(table / "drawn")]
    assert main([*predict, str(photos), *in_a_file]) == 2
    assert "Not a directory" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


# ----------------------------------------------------------------------------------------- videos


def video_of(images: list[np.ndarray], path: Path) -> Path:
    av = pytest.importorskip("av", reason="of the extra video")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        for image in images:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_a_video_is_predicted_frame_by_frame(
    run: Run, tmp_path: Path, predictor: Predictor, capsys
) -> None:
    flat = [np.full((32, 48, 3), 20 * i, np.uint8) for i in range(10)]
    video = video_of(flat, tmp_path / "clip.mp4")
    found = predictor(video)
    assert [prediction.frame for prediction in found] == list(range(10))
    assert {prediction.file for prediction in found} == {str(video)}
    for prediction, image in zip(found, predictor(*flat), strict=True):
        near = image.answers["size"]["value"]  # the codec changes pixels a little
        assert prediction.answers["size"]["value"] == pytest.approx(near, rel=0.05)

    words = ["predict", str(run.path), str(video), "--csv", str(tmp_path / "t.csv")]
    assert main([*words, "--device", "cpu", "--draw", str(tmp_path / "drawn")]) == 0
    assert capsys.readouterr().out.startswith("10 predictions, 0 without an answer\n")
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 11
    assert (tmp_path / "drawn" / "clip-frame000003.png").is_file()


def test_a_broken_video_is_a_row_with_the_reason(tmp_path: Path, predictor: Predictor) -> None:
    pytest.importorskip("av", reason="of the extra video")
    (tmp_path / "clip.mp4").write_text("no video")
    (found,) = predictor(tmp_path / "clip.mp4")
    assert "clip.mp4 can't be decoded from frame 0 on" in found.error


# --------------------------------------------------------------------------------------- progress


def test_images_are_counted_without_decoding_them(photos: Path, tmp_path: Path) -> None:
    sources = [str(photos), str(photos / "0*.png"), str(photos / "table.csv")]
    assert listing(sources).count == 90
    video = video_of([np.zeros((32, 32, 3), np.uint8)] * 7, tmp_path / "clip.mp4")
    assert listing([str(video)]).count == 7


@pytest.mark.slow
def test_ctrl_c_keeps_the_rows_that_were_written(run: Run, photos: Path, tmp_path: Path) -> None:
    code = f"""
import sys
import mtlcore
from toys import Toy
mtlcore.register(Toy)
from mtlcore.cli import main
sys.exit(main(["predict", {str(run.path)!r}, *[{str(photos)!r}] * 300,
               "--csv", {str(tmp_path / "t.csv")!r}, "--parquet", {str(tmp_path / "t.parquet")!r},
               "--device", "cpu"]))
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    # Whatever started the tests may ignore Ctrl-C.
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=env,
        stderr=subprocess.PIPE,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    table = tmp_path / "t.csv"
    for _ in range(600):
        if table.is_file() and table.stat().st_size > 10_000:
            break
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors.decode()
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 50
    assert all(row["mood/label"] for row in rows)
    pyarrow = pytest.importorskip("pyarrow.parquet")
    # The signal may come between the two writers of a row.
    assert abs(pyarrow.read_table(tmp_path / "t.parquet").num_rows - len(rows)) <= 1


# -------------------------------------------------------------------------------------- odd files


@pytest.mark.slow
def test_three_hundred_odd_files_raise_nothing(
    run: Run, photos: Path, predictor: Predictor, tmp_path: Path
) -> None:
    draws = np.random.default_rng(0)
    whole = []
    for i in range(300):
        h, w = draws.integers(1, 300, 2)
        pixels = draws.integers(0, 256, (h, w, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        kind = i % 15
        path = tmp_path / f"{i:03d}.jpg"
        if kind == 0:
            image.convert("L").save(path)
        elif kind == 1:
            image.convert("CMYK").save(path)
        elif kind == 2:
            image.convert("RGBA").save(path := path.with_suffix(".png"))
        elif kind == 3:
            deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
            deep.save(path := path.with_suffix(".png"))
        elif kind == 4:
            exif = Image.Exif()
            exif[0x0112] = int(1 + i % 8)
            image.save(path, exif=exif)
        elif kind == 5:
            Image.new("RGB", (4000, 3000), "teal").save(path)
        elif kind == 6:
            image.convert("P").save(path := path.with_suffix(".gif"))
        elif kind == 7:
            image.save(path := path.with_suffix(".webp"))
        elif kind == 8:
            image.convert("1").save(path := path.with_suffix(".tiff"))
        elif kind == 9:
            path.write_text("no image")
        elif kind == 10:
            path.touch()
        elif kind == 11:
            image.save(path)
            path.write_bytes(path.read_bytes()[: 100 + i])
        elif kind == 12:
            path.write_bytes(draws.bytes(500))
        elif kind == 13:
            image.save(path := path.with_suffix(".png"))
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 255
            path.write_bytes(bytes(data))
        else:
            path.mkdir()
            Image.fromarray(pixels).save(path / "a.bmp")
        whole.append(path)
    for detector in (None, Halves()):
        one = run.predictor(device="cpu", detector=detector)
        found = one(whole)
        files = {prediction.file for prediction in found}
        assert len(files) == 300
        bad = {prediction.file for prediction in found if not prediction.answers}
        assert all(prediction.error for prediction in found if not prediction.answers)
        assert 60 <= len(bad) <= 120
