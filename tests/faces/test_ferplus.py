"""FERPlus: ten votes become one emotion, by the configured rule."""

from __future__ import annotations

import numpy as np
import pytest
from face_files import image
from mtl_faces.sources.ferplus import Ferplus

from mtlcore import MtlError

HEADER = (
    "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
)
ROWS = [
    ("Training", "fer0000000.png", "8,0,0,1,1,0,0,0,0,0"),  # neutral by both rules
    ("Training", "fer0000001.png", "0,5,5,0,0,0,0,0,0,0"),  # a tie
    ("Training", "", "0,0,0,0,0,0,0,0,0,10"),  # no face
    ("PublicTest", "fer0000003.png", "1,1,1,1,1,1,4,0,0,0"),  # fear: the single votes are dropped
    ("PublicTest", "fer0000004.png", "4,3,0,0,0,0,0,0,3,0"),  # four of ten is no majority
    ("PrivateTest", "fer0000005.png", "2,0,0,0,0,0,0,0,8,0"),  # unknown
    ("PrivateTest", "fer0000006.png", "0,0,0,0,0,0,0,6,2,2"),  # contempt: six of ten
    ("PrivateTest", "fer0000007.png", "0,0,0,0,0,0,0,0,1,9"),  # not a face
]
SPLITS = ["train", "train", "val", "val", "test", "test", "test"]
MAJORITY = ["neutral", "", "fear", "", "", "contempt", ""]
PLURALITY = ["neutral", "", "fear", "neutral", "", "contempt", ""]
FOLDERS = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}


def votes(root, rows=ROWS, header=HEADER):
    (root / "fer2013new.csv").write_text(
        "\n".join([header, *(",".join(row) for row in rows)]) + "\n"
    )


@pytest.fixture
def folders(tmp_path):
    votes(tmp_path)
    for number, (usage, name, _) in enumerate(ROWS):
        if name:
            image(tmp_path / FOLDERS[usage] / name, 10 * number, (48, 48))
    return tmp_path


@pytest.fixture
def with_csv(tmp_path):
    root = tmp_path / "csv"
    root.mkdir()
    votes(root)
    pixels = []
    for i, (usage, _, _) in enumerate(ROWS):
        gray = " ".join([str(10 * i)] * 2304)
        pixels.append(f"{i % 7},{gray},{usage}")
    (root / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *pixels]) + "\n")
    return root


def test_votes_become_emotions_by_the_configured_rule(folders):
    for rule, expected in (("majority", MAJORITY), ("plurality", PLURALITY)):
        index = Ferplus(folders, rule=rule).index()
        assert index.annotations["emotion"].tolist() == expected, rule
        assert index.split.tolist() == SPLITS
        assert index.skipped.names == {}
        assert index.skipped.notes == {
            "rows left out, without a name: no face, by the dataset's label": 1,
            f"faces without an emotion: their votes have no {rule}": expected.count(""),
        }


def test_majority_equals_the_authors_rule_on_random_votes(tmp_path):
    rng = np.random.default_rng(0)
    table = rng.multinomial(10, [0.2, 0.3, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.03, 0.02], size=200)
    texts = [",".join(map(str, row)) for row in table]
    votes(tmp_path, [("Training", f"{i}.png", text) for i, text in enumerate(texts)])
    (tmp_path / "FER2013Train").mkdir()
    found = Ferplus(tmp_path).index().annotations["emotion"].tolist()
    names = HEADER.split(",")[2:]
    for row, emotion in zip(table.tolist(), found):
        valid = [vote if vote > 1 else 0 for vote in row]
        best = int(np.argmax(valid))
        expected = names[best] if valid[best] > 0.5 * sum(valid) and best < 8 else ""
        assert emotion == expected


def test_images_come_from_the_folders_or_from_the_rows_of_fer2013_csv(folders, with_csv):
    for dataset in (Ferplus(folders), Ferplus(with_csv)):
        index = dataset.index()
        gray = [int(dataset.decode(index, i).image[0, 0, 0]) for i in range(len(index))]
        assert gray == [10 * i for i in (0, 1, 3, 4, 5, 6, 7)]


def test_the_csv_beside_it_is_matched_by_row_and_checked(with_csv):
    dataset = Ferplus(with_csv)
    index = dataset.index()
    assert index.keys.tolist() == [f"row {i:05d}" for i in (0, 1, 3, 4, 5, 6, 7)]
    assert index.annotations["emotion"].tolist() == MAJORITY
    lines = (with_csv / "fer2013.csv").read_text().splitlines()
    (with_csv / "fer2013.csv").write_text("\n".join([lines[0], *lines[2:], lines[1]]) + "\n")
    with pytest.raises(MtlError, match=r"row 0000\d is .* in fer2013new.csv and .* in fer2013.csv"):
        Ferplus(with_csv).index()


def test_a_row_that_fer2013_csv_lacks_is_counted(with_csv):
    lines = (with_csv / "fer2013.csv").read_text().splitlines()
    (with_csv / "fer2013.csv").write_text("\n".join(lines[:-1]) + "\n")
    skipped = Ferplus(with_csv).index().skipped.names
    assert skipped["a face that fer2013.csv has no readable row for"] == ["row 00007"]


def test_malformed_rows_are_counted(tmp_path):
    (tmp_path / "FER2013Train").mkdir()
    rows = [
        ("Training", "a.png", "10,0"),
        ("Other", "b.png", ROWS[0][2]),
        ("Training", "../c.png", ROWS[0][2]),
    ]
    votes(tmp_path, [*rows, ("Training", "d.png", "x,0,0,0,0,0,0,0,0,0")])
    index = Ferplus(tmp_path).index()
    assert len(index) == 0
    assert index.skipped.names == {
        "not 12 columns": ["row 00000"],
        "unknown usage 'Other'": ["row 00001"],
        "an image's name that is a path": ["row 00002"],
        "votes that are not whole numbers": ["row 00003"],
    }


def test_an_endless_field_is_an_error_and_not_a_traceback(tmp_path):
    votes(tmp_path, [*ROWS[:1], ("Training", '"' + "x" * 200_000, ROWS[0][2])])
    with pytest.raises(MtlError, match=r"fer2013new.csv is not a csv file: line 3"):
        Ferplus(tmp_path).index()


def test_missing_files_are_errors_that_name_them(tmp_path):
    with pytest.raises(MtlError, match=r"fer2013new.csv can't be read"):
        Ferplus(tmp_path).index()
    votes(tmp_path, header=HEADER.replace("contempt,", ""))
    with pytest.raises(MtlError, match="must start with the line Usage,Image name,neutral"):
        Ferplus(tmp_path).index()
    votes(tmp_path)
    with pytest.raises(MtlError, match=r"holds neither fer2013.csv nor the folders FER2013Train"):
        Ferplus(tmp_path).index()
