"""UTKFace: labels from file names."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from face_files import image
from mtl_faces.sources.utkface import Utkface

from mtlcore import MtlError

NAMES = [
    "25_0_0_20170116174525125.jpg.chip.jpg",
    "1_1_4_20161219154724341.jpg",
    "116_1_2_20170120134639935.JPG.chip.jpg",
]
MALFORMED = [
    "61_1_20170109142408075.jpg.chip.jpg",
    "39_1__20170116174525125.jpg.chip.jpg",
    "_0_1_20170116174525125.jpg.chip.jpg",
    "25_2_1_20170116174525125.jpg.chip.jpg",
    "25_1_5_20170116174525125.jpg.chip.jpg",
    "117_1_1_20170116174525125.jpg.chip.jpg",
    "-3_1_1_20170116174525125.jpg.chip.jpg",
    "face.jpg",
]


@pytest.fixture
def root(tmp_path):
    for i, name in enumerate([*NAMES, *MALFORMED]):
        image(tmp_path / name, 20 * i)
    (tmp_path / "list.txt").write_text("x")
    return tmp_path


def test_names_become_gender_age_race_and_age_band(root):
    index = Utkface(root).index()
    order = [index.keys.tolist().index(name) for name in NAMES]
    assert index.annotations["gender"][order].tolist() == ["male", "female", "female"]
    assert index.annotations["age"][order].tolist() == [25.0, 1.0, 116.0]
    assert index.attributes["race"][order].tolist() == ["white", "other", "asian"]
    assert index.attributes["age_band"][order].tolist() == ["20-29", "0-9", "70+"]
    assert index.split is None


def test_malformed_names_are_counted_and_never_guessed(root):
    skipped = Utkface(root).index().skipped.names
    assert sorted(skipped["a name that is not <age>_<gender>_<race>_<date>"]) == sorted(MALFORMED)
    assert skipped["not an image"] == ["list.txt"]


def test_every_sample_decodes_to_its_own_image(root):
    dataset = Utkface(root)
    index = dataset.index()
    for i, key in enumerate(index.keys.tolist()):
        assert abs(int(dataset.decode(index, i).image[0, 0, 0]) - 20 * NAMES.index(key)) <= 1


def test_a_root_without_such_images_is_an_error(tmp_path):
    with pytest.raises(MtlError, match="holds no image with a name such as"):
        Utkface(tmp_path).index()
    with pytest.raises(MtlError, match="is not a folder"):
        Utkface(tmp_path / "nowhere").index()


def test_the_real_dataset_has_its_known_counts(unpacked):
    index = Utkface(unpacked("utkface") / "utkface").index()
    assert len(index) == 8763
    assert len(index.skipped) == 2
    assert Counter(index.annotations["gender"].tolist()) == {"female": 4845, "male": 3918}
    assert Counter(index.attributes["race"].tolist()) == {
        "white": 4725,
        "asian": 1389,
        "indian": 1307,
        "other": 985,
        "black": 357,
    }
    ages = index.annotations["age"]
    assert (np.nanmin(ages), np.nanmax(ages)) == (1.0, 110.0)
