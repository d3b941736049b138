"""The dataset `csv`: a user's own table."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from toy_datasets import experiment

from mtlcore import Categories, MtlError, Skipped
from mtlcore.config import dump, parse
from mtlcore.config.experiment import DataEntry
from mtlcore.data.csv_table import Csv
from mtlcore.data.dataset import open_data
from mtlcore.data.fingerprint import fingerprint_of
from mtlcore.data.indexed import split_dataset


def table(folder: Path, text: str, name: str = "people.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.fixture
def people(tmp_path: Path) -> Path:
    for i in range(6):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / f"{i}.png")
    rows = [
        f"{i}.png,{20 + i if i != 2 else ''},{'ab'[i % 2] if i != 3 else ''},p{i // 2},{i},{-i}"
        for i in range(6)
    ]
    return table(tmp_path, "\n".join(["path,age,mood,person,x,y", *rows]) + "\n")


def test_a_numeric_and_a_text_column_become_numbers_and_categories(people):
    index = Csv(people, columns={"mood": "mood", "years": "age"}).index()
    assert index.keys.tolist() == [f"{i}.png" for i in range(6)]
    assert index.annotations["mood"].tolist() == ["a", "b", "a", "", "a", "b"]
    np.testing.assert_array_equal(index.annotations["years"], [20, 21, np.nan, 23, 24, 25])
    assert list(index.annotations) == ["mood", "years"]
    assert index.split is None


def test_without_columns_every_other_column_is_an_annotation(people):
    index = Csv(people).index()
    assert list(index.annotations) == ["age", "mood", "person", "x", "y"]
    assert isinstance(index.annotations["person"], Categories)


def test_a_list_of_columns_is_one_annotation_and_a_row_without_one_of_them_has_none(tmp_path):
    file = table(tmp_path, "path,v,a\n1.png,0.5,-1\n2.png,,1\n3.png,0,1e-3\n")
    index = Csv(file, columns={"valence_arousal": ("v", "a")}).index()
    np.testing.assert_array_equal(
        index.annotations["valence_arousal"], [[0.5, -1], [np.nan, np.nan], [0, 1e-3]]
    )
    assert Csv(file, columns={"v": ("v",)}).index().annotations["v"].shape == (3, 1)


def test_every_row_decodes_to_its_own_image_below_the_tables_folder_or_the_root(people, tmp_path):
    dataset = Csv(people)
    index = dataset.index()
    assert [int(dataset.decode(index, i).image[0, 0, 0]) for i in range(6)] == list(range(6))
    (tmp_path / "tables").mkdir()
    moved = Csv(people.rename(tmp_path / "tables" / "people.csv"), root=tmp_path)
    assert int(moved.decode(moved.index(), 4).image[0, 0, 0]) == 4


def test_numeric_codes_are_names_if_the_configuration_lists_them_as_categorical(tmp_path):
    file = table(tmp_path, "path,code\n1.png,0\n2.png,1\n")
    assert Csv(file).index().annotations["code"].tolist() == [0.0, 1.0]
    assert Csv(file, categorical=("code",)).index().annotations["code"].tolist() == ["0", "1"]


def test_a_text_among_numbers_makes_the_column_categorical_or_the_row_malformed(tmp_path):
    file = table(tmp_path, "path,age\n1.png,30\n2.png,old\n3.png,inf\n")
    assert Csv(file).index().annotations["age"].tolist() == ["30", "old", "inf"]
    index = Csv(file, numeric=("age",)).index()
    assert index.annotations["age"].tolist() == [30.0]
    assert index.skipped.names == {
        "no number in the column 'age'": ["2.png ('old')", "3.png ('inf')"]
    }


@pytest.mark.parametrize("delimiter", [";", "\t", ","])
def test_the_delimiter_is_detected_from_the_header(delimiter, tmp_path):
    file = table(tmp_path, f"\ufeffpath{delimiter}mood\n1.png{delimiter}a\n")
    assert Csv(file).index().annotations["mood"].tolist() == ["a"]


def test_split_and_group_are_columns_of_the_table(people):
    text = people.read_text().splitlines()
    fold = ["fold", "train", "train", "train", "train", "test", "test"]
    file = table(
        people.parent, "\n".join(f"{line},{f}" for line, f in zip(text, fold)) + "\n", "folds.csv"
    )
    entry = DataEntry(Csv(file, columns={"kind": "mood"}), split="fold", group="person")
    data = open_data(experiment({"own": entry}, validation=0.0)).data
    assert {
        name: data.keys(indices).tolist() for name, indices in data.split.items() if len(indices)
    } == {
        "train": ["0.png", "1.png", "2.png"],  # the fourth has no label
        "test": ["4.png", "5.png"],
    }


@pytest.mark.parametrize("name", ["{}", "p{}"])  # numbers, and texts
def test_a_sample_without_a_group_is_a_group_of_its_own(name, tmp_path):
    def cell(i: int) -> str:
        return name.format(i // 4) if i < 40 else ""

    def split_of(rows: list[str]) -> dict[str, str]:
        file = table(tmp_path, "path,kind,person\n" + "\n".join(rows) + "\n")
        run = experiment({"own": DataEntry(Csv(file), group="person")})
        found = split_dataset(run, "own", Csv(file).index())
        assert found.report_lines(Skipped()) == [
            "data.own: 60 samples have no group; each of them is a group of its own"
        ]
        return dict(zip(found.index.keys, found.split))

    rows = [f"{i:03d}.png,{'ab'[i % 2]},{cell(i)}" for i in range(100)]
    found = split_of(rows)
    assert split_of(rows[::-1]) == found
    alone = [split for key, split in found.items() if key >= "040.png"]
    assert 6 <= alone.count("test") <= 18
    assert 2 <= alone.count("validation") <= 10
    for i in range(0, 40, 4):
        assert len({found[f"{i + k:03d}.png"] for k in range(4)}) == 1


def test_groups_that_official_splits_divide_are_reported(tmp_path):
    folds = ["train", "test", "train", "train", "holdout", "test", "", "test"]
    people = ["ann", "ann", "ben", "ben", "ben", "eve", "eve", ""]
    rows = [f"{i}.png,a,{row[0]},{row[1]}\n" for i, row in enumerate(zip(folds, people))]
    file = table(tmp_path, "path,kind,fold,person\n" + "".join(rows))
    entry = DataEntry(Csv(file), split="fold", group="person")
    run = experiment({"own": entry}, validation=0.0)
    lines = split_dataset(run, "own", Csv(file).index()).report_lines(Skipped())
    assert lines[1:3] == [
        "data.own: 1 samples have no group; each of them is a group of its own",
        "data.own: 2 groups are in several splits, since official splits stay as they are: "
        "ann, ben",
    ]


def test_a_split_column_may_hold_any_usual_name_and_others_are_reported(people):
    lines = people.read_text().splitlines()
    fold = ["fold", "Training", "TRAIN", "dev", "Val", "holdout", "testing"]
    rows = [f"{line},{name}" for line, name in zip(lines, fold, strict=True)]
    file = table(people.parent, "\n".join(rows) + "\n", "folds.csv")
    entry = DataEntry(Csv(file, columns={"kind": "mood"}), split="fold")
    data = open_data(experiment({"own": entry})).data
    found = {name: data.keys(indices).tolist() for name, indices in data.split.items()}
    assert found == {
        "train": ["0.png", "1.png"],
        "validation": ["2.png", "3.png"],
        "holdout": ["4.png"],
        "test": ["5.png"],
    }
    assert [line for line in data.report if "splits" in line] == [
        "data.own: 1 samples in splits that are neither train, validation nor test, "
        "used by `--split` alone: holdout"
    ]


def test_malformed_rows_are_counted_by_reason(tmp_path):
    rows = [
        "1.png,a",
        "2.png",
        "3.png,a,b",
        ",a",
        "../x.png,a",
        "/etc/passwd,a",
        "1.png,b",
        "",
        "4.png,b",
    ]
    index = Csv(table(tmp_path, "\n".join(["path,mood", *rows]) + "\n")).index()
    assert index.keys.tolist() == ["1.png", "4.png"]
    assert index.skipped.names == {
        "not 2 columns": ["line 3", "line 4"],
        "no path": ["line 5"],
        f"a path that leads out of {tmp_path}": ["../x.png", "/etc/passwd"],
        "listed twice": ["1.png"],
    }


def test_a_link_that_leaves_the_root_is_refused(tmp_path):
    (tmp_path / "root").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (tmp_path / "root" / "link.png").symlink_to(tmp_path / "secret.png")
    dataset = Csv(table(tmp_path / "root", "path\nlink.png\n"))
    with pytest.raises(
        MtlError, match=r"'link.png' leads out of .*root: an image must be inside the root"
    ):
        dataset.decode(dataset.index(), 0)


def test_a_root_that_is_itself_a_link_is_followed(people, tmp_path):
    (tmp_path / "link").symlink_to(people.parent, target_is_directory=True)
    dataset = Csv(tmp_path / "link" / "people.csv")
    assert dataset.decode(dataset.index(), 1).image[0, 0, 0] == 1


def test_an_unknown_column_is_an_error_that_names_the_nearest(people, subtests):
    for options, message in [
        (
            {"path": "file"},
            r"has no column 'file' \(path\); .*known: age, mood, path, person, x, y",
        ),
        (
            {"columns": {"m": "moood"}},
            r"has no column 'moood' \(columns.m\); did you mean 'mood'\?",
        ),
        ({"columns": {"p": ("x", "z")}}, r"has no column 'z' \(columns.p\)"),
        ({"columns": {"scan": "path"}}, r"columns.scan names 'path', which holds the paths"),
        ({"attributes": ("path",)}, r"attributes names 'path', which holds the paths"),
        (
            {"numeric": ("ag",)},
            r"numeric lists 'ag', which is not an annotation; did you mean 'age'\?",
        ),
        ({"numeric": ("age",), "categorical": ("age",)}, "is in numeric and in categorical"),
        (
            {"columns": {"p": ("x", "y")}, "categorical": ("p",)},
            "is a list, which makes it numeric",
        ),
    ]:
        with (
            subtests.test(options=options, message=message),
            pytest.raises(MtlError, match=message),
        ):
            Csv(people, **options).index()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must start with a header line of column names"),
        ("path" * 500_000, "has no line break in its first 1,048,576 bytes"),
        ("path,a,a\n", "has the column 'a' more than once"),
        (
            'path,a\n1.png,b\n2.png,"' + "x,\n" * 4_000_000,
            "is not a csv file: line 3 has more than 4,194,304 bytes: is a quote not closed",
        ),
    ],
)
def test_a_broken_table_is_an_error_and_not_a_traceback(tmp_path, text, message):
    with pytest.raises(MtlError, match=message):
        Csv(table(tmp_path, text)).index()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_utf_8_and_utf_16_are_detected_with_and_without_a_byte_order_mark(encoding, tmp_path):
    (tmp_path / "t.csv").write_bytes("path,mood\n1.png,né\n2.png,nè\n".encode(encoding))
    index = Csv(tmp_path / "t.csv").index()
    assert index.keys.tolist() == ["1.png", "2.png"]
    assert index.annotations["mood"].tolist() == ["né", "nè"]


def test_another_encoding_is_refused_until_it_is_set_and_then_keeps_classes_apart(tmp_path):
    (tmp_path / "t.csv").write_bytes("path,mood\n1.png,né\n2.png,nè\n".encode("cp1252"))
    with pytest.raises(
        MtlError, match=r"t.csv is not UTF-8 text: line 2 .*xe9.*set .*encoding = \"cp1252\""
    ):
        Csv(tmp_path / "t.csv").index()
    index = Csv(tmp_path / "t.csv", encoding="cp1252").index()
    assert index.annotations["mood"].tolist() == ["né", "nè"]
    with pytest.raises(MtlError, match=r"is not ASCII text: line 2"):
        Csv(tmp_path / "t.csv", encoding="ascii").index()
    with pytest.raises(ValueError, match="no encoding 'cp-1252x'"):
        Csv(tmp_path / "t.csv", encoding="cp-1252x")


def test_a_quote_that_is_not_closed_swallows_no_row_without_a_word(tmp_path):
    last = table(tmp_path, 'path,mood\n1.png,a\n2.png,"b\n3.png,c\n4.png,a\n')
    index = Csv(last).index()
    assert index.keys.tolist() == ["1.png"]
    assert index.skipped.names == {
        "a quote that is not closed until the end of the file": ["line 3"]
    }
    first = table(tmp_path, 'path,mood\n1.png,a\n"2.png,b\n3.png,c\n')
    assert list(Csv(first).index().skipped.names) == [
        "not 2 columns, over several lines: is a quote not closed?"
    ]
    closed = table(tmp_path, 'path,mood\n1.png,a\n2.png,"b\n\nc"\n\n')
    assert Csv(closed).index().annotations["mood"].tolist() == ["a", "b\n\nc"]


def test_a_table_without_rows_and_one_without_a_last_line_break_are_read(tmp_path):
    assert len(Csv(table(tmp_path, "path,mood")).index()) == 0
    assert len(Csv(table(tmp_path, "path,mood\n\n")).index()) == 0
    assert Csv(table(tmp_path, "path,mood\n1.png,a")).index().keys.tolist() == ["1.png"]
    assert len(Csv(table(tmp_path, "path\n\n1.png\n\n")).index().skipped) == 0


def test_one_long_cell_does_not_multiply_the_memory_by_the_rows(people):
    lines = [f"{i}.png,{'y' * 3_000_000 if i == 3 else 'ab'[i % 2]}" for i in range(20_000)]
    file = table(people.parent, "path,mood\n" + "\n".join(lines), "long.csv")
    entry = DataEntry(Csv(file, columns={"kind": "mood"}), max_bad=20_000)
    data = open_data(experiment({"own": entry}, batch_size=2), splits=["train"], lazy=True).data
    assert len(data) > 10_000  # 20,000 strings of that width are 240 GB


def test_only_the_columns_that_are_named_are_read_if_attributes_are_set(people):
    index = Csv(people, columns={"kind": "mood"}, attributes=("person",)).index()
    assert list(index.annotations) == ["kind"]
    assert list(index.attributes) == ["mood", "person"]
    assert list(Csv(people, attributes=("x", "y")).index().annotations) == ["age", "mood", "person"]
    with pytest.raises(MtlError, match=r"has no column 'persons' \(attributes\); did you mean"):
        Csv(people, attributes=("persons",)).index()


def test_backslashes_and_wrong_case_in_a_path_get_a_hint(people):
    (people.parent / "Sub").mkdir()
    (people.parent / "0.png").rename(people.parent / "Sub" / "0.png")
    file = table(people.parent, "path\nSub\\0.png\nsub/0.PNG\nother.png\n", "paths.csv")
    dataset = Csv(file)
    messages = []
    for i in range(3):
        with pytest.raises(MtlError) as error:
            dataset.decode(dataset.index(), i)
        assert isinstance(error.value.__cause__, FileNotFoundError)
        messages.append(str(error.value))
    assert messages[0].endswith("did you mean 'Sub/0.png'? (write / instead of \\)")
    assert messages[1].endswith("did you mean 'Sub/0.png'? (upper and lower case differ)")
    assert "mean" not in messages[2]


def test_a_missing_table_and_a_folder_in_its_place_are_errors(tmp_path):
    for file in (tmp_path / "nothing.csv", tmp_path):
        with pytest.raises(MtlError, match="can't be read"):
            Csv(file).index()


def test_a_missing_image_is_reported_by_the_run(people):
    (people.parent / "5.png").unlink()
    data = open_data(
        experiment({"own": DataEntry(Csv(people, columns={"kind": "mood"}))}, validation=0.0)
    ).data
    assert any("1 left out, unreadable" in line and "5.png" in line for line in data.report)


@given(edits=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=6)), min_size=1, max_size=8))
def test_a_mutated_table_gives_an_index_or_an_mtl_error_and_nothing_else(edits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("csv")
    data = b"path,age,mood\n" + b"".join(
        b"%d.png,%d,%s\n" % (i, i, b"ab"[i % 2 : i % 2 + 1]) for i in range(9)
    )
    for position, junk in edits:
        at = int(position * len(data))
        data = data[:at] + junk + data[at + len(junk) // 2 :]
    (folder / "t.csv").write_bytes(data)
    for dataset in (
        Csv(folder / "t.csv"),
        Csv(folder / "t.csv", columns={"a": "age"}, numeric=("a",)),
    ):
        try:
            index = dataset.index()
        except MtlError:
            continue
        for row in range(len(index)):
            with pytest.raises(MtlError):  # there are no images
                dataset.decode(index, row)


def test_columns_are_saved_in_the_configuration_and_read_back(people):
    tables = {
        "task": {"emotion": {"name": "classification"}},
        "data": {
            "own": {
                "name": "csv",
                "file": str(people),
                "columns": {"emotion": "mood", "p": ["x", "y"]},
            }
        },
        "train": {"steps": 1},
    }
    run = parse(tables)
    dataset = run.data["own"].component
    assert dataset == Csv(people, columns={"emotion": "mood", "p": ("x", "y")})
    assert parse(tomllib.loads(dump(run))).data == run.data


# ------------------------------------------------------------ maps and points


def labeled_pixels(folder: Path, rows: str, **options: object) -> Csv:
    """A table with the columns path, mask and spots, and images of 6 x 4 pixels."""
    for name in ("a", "b", "c"):
        Image.new("RGB", (6, 4), "red").save(folder / f"{name}.png")
    palette = Image.fromarray(np.full((4, 6), 2, np.uint8))
    palette.putpalette(range(9))
    palette.save(folder / "mask.png")
    Image.new("L", (5, 4), 2).save(folder / "small.png")
    Image.new("L", (6, 4), 2).save(folder / "mask.jpg")
    np.save(folder / "depth.npy", np.full((4, 6), 1.5, np.float32))
    (folder / "table.csv").write_text(f"path,mask,spots\n{rows}")
    return Csv(folder / "table.csv", **options)


def test_a_column_may_name_maps_and_another_hold_points(tmp_path):
    rows = 'a.png,mask.png,"1 2.5, 3 4"\nb.png,,\nc.png,mask.png,"0 0 1"\n'
    dataset = labeled_pixels(tmp_path, rows, maps={"classes": "mask"}, points={"spots": "spots"})
    index = dataset.index()
    assert index.keys.tolist() == ["a.png", "b.png"]
    assert index.skipped.names == {"not 4 numbers for the points 'spots'": ["c.png"]}
    assert not index.annotations
    assert (index.maps["classes"].dtype, index.maps["classes"].channels) == (np.uint8, None)
    assert index.maps["classes"].present.tolist() == [True, False]
    assert index.points["spots"].count == 2
    sample = dataset.decode(index, 0)
    assert (sample.maps["classes"] == 2).all()
    assert sample.points["spots"].tolist() == [[1, 2.5], [3, 4]]
    assert not dataset.decode(index, 1).maps


def test_two_names_of_maps_may_read_one_column(tmp_path):
    dataset = labeled_pixels(tmp_path, "a.png,mask.png,\n", maps={"one": "mask", "two": "mask"})
    sample = dataset.decode(dataset.index(), 0)
    assert np.array_equal(sample.maps["one"], sample.maps["two"])


def test_points_may_be_columns_of_their_own(tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (6, 4)).save(tmp_path / f"{name}.png")
    (tmp_path / "table.csv").write_text("path,x,y\na.png,1,2\nb.png,,\n")
    index = Csv(tmp_path / "table.csv", points={"nose": ("x", "y")}).index()
    assert index.points["nose"].present.tolist() == [True, False]
    assert not index.attributes


def test_maps_may_be_numpy_files(tmp_path):
    dataset = labeled_pixels(tmp_path, "a.png,depth.npy,\n", maps={"depth": "mask"})
    index = dataset.index()
    assert index.maps["depth"].dtype == np.float32
    assert (dataset.decode(index, 0).maps["depth"] == 1.5).all()


def test_bad_maps_and_points_are_named(tmp_path, subtests):
    cases = {
        "mask.jpg is not a readable map: JPEG changes class ids": "a.png,mask.jpg,",
        "maps.classes: no map can be read": "a.png,nowhere.png,",
        "no row has one": "a.png,,",
    }
    for message, rows in cases.items():
        with subtests.test(message), pytest.raises(MtlError, match=message):
            labeled_pixels(tmp_path, f"{rows}\n", maps={"classes": "mask"}).index()
    with pytest.raises(MtlError, match=r"no column 'masks' \(maps.classes\); did you mean 'mask'"):
        labeled_pixels(tmp_path, "a.png,,\n", maps={"classes": "masks"}).index()
    with pytest.raises(MtlError, match=r"points.spots: 3 numbers; expected an even number"):
        labeled_pixels(tmp_path, "a.png,,1 2 3\n", points={"spots": "spots"}).index()


def test_a_map_outside_of_the_root_is_left_out(tmp_path):
    rows = "a.png,mask.png,\nb.png,../secret.png,\n"
    index = labeled_pixels(tmp_path, rows, maps={"classes": "mask"}).index()
    assert index.keys.tolist() == ["a.png"]


def test_a_map_of_another_size_is_named(tmp_path):
    from mtlcore.data.aligned import decode_sample

    dataset = labeled_pixels(tmp_path, "a.png,small.png,\n", maps={"classes": "mask"})
    with pytest.raises(MtlError, match=r"a.png: the map 'classes' is 5 x 4 pixels, its image"):
        decode_sample(dataset, dataset.index(), 0)


def test_changed_points_and_paths_of_maps_change_the_fingerprint(tmp_path):
    def fingerprint(row: str) -> str:
        maps, points = {"classes": "mask"}, {"spots": "spots"}
        index = labeled_pixels(tmp_path, row, maps=maps, points=points).index()
        return fingerprint_of([split_dataset(run, "own", index)], (4, 6))

    run = experiment({"own": DataEntry(Csv(tmp_path / "table.csv"))}, {})
    first = fingerprint("a.png,mask.png,1 2\n")
    assert fingerprint("a.png,mask.png,1.0 2\n") == first
    assert fingerprint("a.png,mask.png,1 3\n") != first
    (tmp_path / "mask2.png").write_bytes((tmp_path / "mask.png").read_bytes())
    assert fingerprint("a.png,mask2.png,1 2\n") != first
