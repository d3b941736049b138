"""Real files with flipped, lost and foreign bytes: a row that is counted, a picture, or our own error; nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mtl_faces.sources.aflw2000 import Aflw2000
from mtl_faces.sources.utkface import Utkface
from mtl_faces.sources.w300_lp import W300Lp
from toy_sources import experiment

from mtlcore import Classification, MtlError
from mtlcore.data.dataset import open_data
from mtlcore.experiment import DataEntry

places = st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6)
mutations = st.tuples(places, st.one_of(st.none(), st.floats(0, 1)), st.booleans())
real_files = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


def mutated(data: bytes, how) -> bytes:
    """Bytes overwritten or inserted at some places, then the file cut off."""
    edits, cut, insert = how
    for place, junk in edits:
        at = int(place * len(data))
        data = data[:at] + junk + data[at if insert else at + len(junk) :]
    return data if cut is None else data[: int(cut * len(data))]


def survives(source) -> None:
    """Index and decode; every failure must be ours."""
    try:
        index = source.index()
    except MtlError:
        return
    for row in range(len(index)):
        try:
            image = source.decode(index, row)
        except MtlError:
            continue
        assert image.ndim == 3
        assert image.dtype == np.uint8
        assert image.size < 1 << 26


@pytest.fixture
def face(unpacked, tmp_path) -> Path:
    """One real picture of AFLW2000 with its .mat file."""
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
            survives(Aflw2000(face, crop=crop))
    finally:
        (face / "image00050.mat").write_bytes(whole)


@given(how=mutations)
@real_files
def test_a_mutated_mat_file_of_the_other_layout_is_counted_or_read(headpose_face, how):
    (path,) = (headpose_face / "val").glob("*.mat")
    whole = path.read_bytes()
    try:
        path.write_bytes(mutated(whole, how))
        survives(W300Lp(headpose_face))
    finally:
        path.write_bytes(whole)


@given(how=mutations, name=st.text(st.characters(codec="ascii", exclude_characters="/\0"), max_size=6))
@real_files
def test_a_mutated_picture_and_a_mutated_name_are_counted_or_read(unpacked, tmp_path, how, name):
    real = min((unpacked("utkface") / "utkface").iterdir())
    path = tmp_path / f"2{name}_1_0_2017.jpg.chip.jpg"
    path.write_bytes(mutated(real.read_bytes(), how))
    try:
        survives(Utkface(tmp_path))
    finally:
        path.unlink()


def test_a_run_stops_beyond_max_bad_and_says_why(unpacked, tmp_path):
    for path in sorted((unpacked("utkface") / "utkface").iterdir())[:30]:
        shutil.copy(path, tmp_path / path.name)
    for path in sorted(tmp_path.iterdir())[:4]:
        path.write_bytes(path.read_bytes()[:200])
    shutil.copy(max(tmp_path.iterdir()), tmp_path / "61_1_20170109142408075.jpg.chip.jpg")
    task = {"gender": Classification(reads="gender")}
    data = open_data(experiment({"utk": DataEntry(Utkface(tmp_path), max_bad=5)}, task))
    assert sum(map(len, data.split.values())) == 26
    assert [line.split(" left out")[0] for line in data.report] == ["data.utk: 1", "data.utk: 4"]
    with pytest.raises(
        MtlError, match=r"5 rows are malformed or unreadable, more than max_bad = 4; a name that is not"
    ):
        open_data(experiment({"utk": DataEntry(Utkface(tmp_path), max_bad=4)}, task))
