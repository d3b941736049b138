"""Mutated files: each sample is counted, decoded, or an MtlError; nothing else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from face_files import marks, pose_mat, ramp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mtl_faces.sources.affectnet import Affectnet
from mtl_faces.sources.aflw2000 import Aflw2000
from mtl_faces.sources.biwi import Biwi
from mtl_faces.sources.celeba import ATTRIBUTES, Celeba
from mtl_faces.sources.ferplus import Ferplus
from mtl_faces.sources.rafdb import Rafdb
from mtl_faces.sources.utkface import Utkface
from mtl_faces.sources.w300_lp import W300Lp
from toy_datasets import experiment

from mtlcore import Classification, Dataset, MtlError, Regression
from mtlcore.config.experiment import DataEntry
from mtlcore.data.dataset import open_data

SCALE = {"outputs": ("yaw", "pitch", "roll"), "mean": (0.0,) * 3, "std": (1.0,) * 3}

# Where to write (as a share of the file) and what; where to cut the file off; insert or overwrite.
junk_bytes = st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8))
places = st.lists(junk_bytes, min_size=1, max_size=6)
mutations = st.tuples(places, st.one_of(st.none(), st.floats(0, 1)), st.booleans())
real_files = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


def mutated(data: bytes, how) -> bytes:
    """Overwrite or insert bytes at some places, then cut the file off."""
    edits, cut, insert = how
    for place, junk in edits:
        at = int(place * len(data))
        rest = at if insert else at + len(junk)
        data = data[:at] + junk + data[rest:]
    return data if cut is None else data[: int(cut * len(data))]


def index_and_decode(dataset) -> None:
    """Index and decode everything; the only error that may occur is an MtlError."""
    try:
        index = dataset.index()
    except MtlError:
        return
    for i in range(len(index)):
        try:
            image = dataset.decode(index, i).image
        except MtlError:
            continue
        assert image.ndim == 3
        assert image.dtype == np.uint8
        assert image.size < 1 << 26


@pytest.fixture
def face(unpacked, tmp_path) -> Path:
    """Copy one real image of AFLW2000 with its .mat file."""
    root = next(unpacked("aflw2000_sample").rglob("image*.mat")).parent
    for end in ("jpg", "mat"):
        shutil.copy(root / f"image00050.{end}", tmp_path / f"image00050.{end}")
    return tmp_path


@pytest.fixture
def headpose_face(unpacked, tmp_path) -> Path:
    root = next(unpacked("headpose").rglob("val"))
    first = min(root.glob("*.mat"))
    (tmp_path / "val").mkdir()
    for path in (first, first.with_suffix(".jpg")):
        shutil.copy(path, tmp_path / "val" / path.name)
    return tmp_path


@given(how=mutations)
@real_files
def test_a_mutated_mat_file_is_counted_or_read(face, how):
    whole = (face / "image00050.mat").read_bytes()
    try:
        (face / "image00050.mat").write_bytes(mutated(whole, how))
        for crop in ("square", "hopenet"):
            index_and_decode(Aflw2000(face, crop=crop))
    finally:
        (face / "image00050.mat").write_bytes(whole)


@given(how=mutations)
@real_files
def test_a_mutated_mat_file_of_the_other_layout_is_counted_or_read(headpose_face, how):
    (path,) = (headpose_face / "val").glob("*.mat")
    whole = path.read_bytes()
    try:
        path.write_bytes(mutated(whole, how))
        index_and_decode(W300Lp(headpose_face))
    finally:
        path.write_bytes(whole)


@given(
    how=mutations, name=st.text(st.characters(codec="ascii", exclude_characters="/\0"), max_size=6)
)
@real_files
def test_a_mutated_image_with_a_mutated_name_is_counted_or_read(unpacked, tmp_path, how, name):
    real = min((unpacked("utkface") / "utkface").iterdir())
    path = tmp_path / f"2{name}_1_0_2017.jpg.chip.jpg"
    path.write_bytes(mutated(real.read_bytes(), how))
    try:
        index_and_decode(Utkface(tmp_path))
    finally:
        path.unlink()


def test_more_bad_samples_than_max_bad_are_an_error_with_the_reasons(unpacked, tmp_path):
    for path in sorted((unpacked("utkface") / "utkface").iterdir())[:30]:
        shutil.copy(path, tmp_path / path.name)
    for path in sorted(tmp_path.iterdir())[:4]:
        path.write_bytes(path.read_bytes()[:200])
    shutil.copy(max(tmp_path.iterdir()), tmp_path / "61_1_20170109142408075.jpg.chip.jpg")
    task = {"gender": Classification(reads="gender")}
    data = open_data(experiment({"utk": DataEntry(Utkface(tmp_path), max_bad=5)}, task)).data
    assert sum(map(len, data.split.values())) == 26
    assert [line.split(" left out")[0] for line in data.report] == ["data.utk: 1", "data.utk: 4"]
    with pytest.raises(
        MtlError,
        match=r"5 samples are malformed or unreadable, more than max_bad = 4; a name that is not",
    ):
        open_data(experiment({"utk": DataEntry(Utkface(tmp_path), max_bad=4)}, task))


def test_samples_left_out_by_a_benchmarks_rule_are_reported_and_not_bad(tmp_path):
    for number, yaw in enumerate((0.0, 5.0, 120.0, 130.0)):
        ramp(tmp_path / f"image{number:05d}.jpg")
        pose_mat(tmp_path / f"image{number:05d}.mat", yaw, 0, 0, pt3d_68=marks(30, 40, 70, 60))
    entry = DataEntry(Aflw2000(tmp_path), max_bad=0)
    task = {"pose": Regression(reads="pose_deg", **SCALE)}
    data = open_data(experiment({"aflw": entry}, task), {"test"}).data
    (line,) = data.report
    assert line == "data.aflw: 2 faces left out, an angle beyond 99 degrees, as in the benchmark"


# ------------------------------------------------------------------------------------------ tables


# Each writes a small dataset, and returns it with the path of one table.


def _ferplus(root: Path) -> tuple[Dataset, Path]:
    (root / "FER2013Train").mkdir()
    head = (
        "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    )
    rows = [f"Training,fer{i:07d}.png,8,0,0,1,1,0,0,0,0,0" for i in range(3)]
    return Ferplus(root), _written(root / "fer2013new.csv", [head, *rows])


def _rafdb(root: Path) -> tuple[Dataset, Path]:
    (root / "Image" / "aligned").mkdir(parents=True)
    lines = [f"train_{i:05d}.jpg {i % 7 + 1}" for i in range(4)]
    return Rafdb(root), _written(root / "list_patition_label.txt", lines)


def _celeba(root: Path) -> tuple[Dataset, Path]:
    (root / "img_align_celeba").mkdir()
    _written(root / "list_eval_partition.txt", [f"{i:06d}.jpg {i % 3}" for i in range(3)])
    rows = [f"{i:06d}.jpg {' '.join(['1'] * len(ATTRIBUTES))}" for i in range(3)]
    return Celeba(root), _written(root / "list_attr_celeba.txt", ["3", " ".join(ATTRIBUTES), *rows])


def _affectnet(root: Path) -> tuple[Dataset, Path]:
    face = "face_x,face_y,face_width,face_height,facial_landmarks"
    lines = [f"subDirectory_filePath,{face},expression,valence,arousal"]
    lines += [f"1/{i}.jpg,1,2,9,9,1;2,{i},0.5,-0.5" for i in range(4)]
    return Affectnet(root), _written(root / "training.csv", lines)


def _biwi(root: Path) -> tuple[Dataset, Path]:
    ramp(root / "01" / "frame_00003_rgb.png")
    lines = ["1 0 0", "0 1 0", "0 0 1", "", "0 0 1000"]
    return Biwi(root), _written(root / "01" / "frame_00003_pose.txt", lines)


def _biwi_camera(root: Path) -> tuple[Dataset, Path]:
    dataset, _ = _biwi(root)
    lines = ["517 0 320", "0 517 240", "0 0 1", "", "0 0 0 0", ""]
    lines += ["1 0 0", "0 1 0", "0 0 1", "", "0 0 0", "", "640 480"]
    return dataset, _written(root / "01" / "rgb.cal", lines)


def _written(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


NUMBERS = ("nan", "inf", "-1", "-2", "8.5", "1e308", "1e999", "9" * 30, "\u0663")
TEXTS = ("", '"', "\0", "../x", "/", "x" * 300, "\r", ",", " ")
# Line (as a share of the file), column, cell.
junk_cell = st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(NUMBERS + TEXTS))
table_mutations = st.one_of(
    mutations.map(lambda edits: (mutated, edits)),
    st.lists(junk_cell, min_size=1, max_size=4).map(lambda edits: (with_other_cells, edits)),
)
MAKERS = (_ferplus, _rafdb, _celeba, _affectnet, _biwi, _biwi_camera)


def with_other_cells(data: bytes, edits) -> bytes:
    """Replace some cells of a table."""
    for place, column, cell in edits:
        lines = data.split(b"\n")
        at = min(int(place * len(lines)), len(lines) - 1)
        cells = re.split(rb"([, ])", lines[at])
        cells[2 * column % len(cells)] = cell.encode()
        lines[at] = b"".join(cells)
        data = b"\n".join(lines)
    return data


@given(how=table_mutations)
@real_files
def test_a_mutated_table_is_counted_or_read(tmp_path, how):
    change, edits = how
    for make in MAKERS:
        root = tmp_path / make.__name__
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        dataset, path = make(root)
        path.write_bytes(change(path.read_bytes(), edits))
        index_and_decode(dataset)
