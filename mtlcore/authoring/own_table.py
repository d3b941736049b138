"""What a user's own table of images tells: its columns of images, labels and splits.

The datasets `csv` and `parquet` read the table, so that a run finds the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from attrs import frozen

from ..contracts import Categories, Column, Skipped
from ..data.csv_table import Csv
from ..data.folder import IMAGES
from ..data.parquet import Parquet
from ..data.split_names import split_name
from ..errors import MtlError, nearest
from ..files import is_file, is_folder

SPLIT = "split"  # the usual name of a column of splits
ROWS = 20  # whose values decide whether a column holds paths of images
MOST_CLASSES = 20  # of a column of numbers


@frozen
class OwnTable:
    """What a configuration of this table sets.

    dataset: "csv" or "parquet". path: the column of images. task: of the column of labels.
    categorical: whether numbers in the column of labels are classes.
    split: whether the column `split` names the splits.
    has_validation: whether the table has its own validation split.
    """

    dataset: str
    path: str
    task: str
    categorical: bool
    split: bool
    has_validation: bool


def is_table(file: Path) -> bool:
    """Whether this is a file, or a folder that holds parquet files."""
    return is_file(file) or (is_folder(file) and any(file.rglob("*.parquet")))


def own_table(file: Path, reads: str) -> OwnTable:
    """Read a table whose column `reads` holds the labels.

    file: a csv file, a parquet file, or a folder of parquet files.
    Raises MtlError for a table that can't be read, that lacks a column, or has no row to use.
    """
    dataset: type[Csv | Parquet] = Csv
    if is_folder(file) or file.suffix.lower() == ".parquet":
        dataset = Parquet
    names, path = _csv_columns(file) if dataset is Csv else _parquet_columns(file)
    if path is None:
        raise MtlError(
            f"--data {file}: no column holds paths of images; its columns: {', '.join(names)}. "
            f'Add a column "path" with paths relative to {file.parent}, such as img/1.jpg'
        )
    others = [name for name in names if name != path]
    if reads not in others:
        raise MtlError(f"--reads {reads!r}: {file} has no such column; {nearest(reads, others)}")

    attributes = tuple(name for name in others if name == SPLIT)
    index = dataset(file, path=path, columns={reads: reads}, attributes=attributes).index()
    if not len(index):
        problems = "; ".join(index.skipped.names) or "there is none"
        raise MtlError(f"--data {file}: no row can be used: {problems}")

    splits = _splits(index.attributes.get(SPLIT))
    own_splits = set() if index.split is None else set(index.split.used())
    labels = index.annotations[reads]
    is_class = isinstance(labels, Categories) or _are_classes(labels)
    return OwnTable(
        dataset=dataset.__name__.lower(),
        path=path,
        task="classification" if is_class else "regression",
        categorical=is_class and not isinstance(labels, Categories),
        split="train" in splits,
        has_validation="validation" in splits if "train" in splits else "validation" in own_splits,
    )


def _csv_columns(file: Path) -> tuple[list[str], str | None]:
    """Return all columns, and the one that holds paths of images."""
    table = Csv(file)
    names = table.column_names()

    def cells(name: str) -> Sequence[str]:
        first = table.read_columns([name], Skipped()).cells[name].slice(0, ROWS)
        return list(first.to_pylist())

    return names, _column_of_paths(names, cells, file.parent)


def _parquet_columns(file: Path) -> tuple[list[str], str | None]:
    """Return all columns, and the one that holds images, or paths of images."""
    from pyarrow import types

    from ..data.parquet_columns import is_scalar, texts_of
    from ..data.parquet_files import ParquetFiles

    files = ParquetFiles(file)
    kinds = {field.name: field.type for field in files.schema}
    images: list[str] = []
    for name, kind in kinds.items():
        is_binary = types.is_binary(kind) or types.is_large_binary(kind)
        is_image = types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        if is_binary or is_image:
            images.append(name)
    if images:
        return list(kinds), "image" if "image" in images else images[0]

    def cells(name: str) -> Sequence[str]:
        return list(texts_of(files.column(name).slice(0, ROWS)).to_pylist())

    scalars = [name for name, kind in kinds.items() if is_scalar(kind)]
    texts = [name for name in scalars if not types.is_primitive(kinds[name])]
    return list(kinds), _column_of_paths(texts, cells, file.parent)


def _column_of_paths(
    names: Sequence[str],
    cells: Callable[[str], Sequence[str]],
    root: Path,
) -> str | None:
    """Return "path", or else the first column whose values are paths of images; None without one.

    cells: name of a column -> its first values.
    """
    if "path" in names:
        return "path"
    for name in names:
        values = [value for value in cells(name) if value]
        if values and all(_is_image(value, root) for value in values):
            return name
    return None


def _is_image(value: str, root: Path) -> bool:
    # A long text is no name of a file: `Path.is_file` would raise.
    return value.lower().endswith(IMAGES) or os.path.isfile(root / value)  # noqa: PTH113


def _splits(column: Column | None) -> set[str]:
    """Return the splits that the values of a column name."""
    values = column.used() if isinstance(column, Categories) else []
    names = [split_name(value) for value in values if value]
    return {name for name in names if name}


def _are_classes(numbers: np.ndarray) -> bool:
    """Whether a column of numbers holds classes."""
    # Classes are few whole numbers that repeat. Ages in a short table are few, too, but they hardly
    # repeat. The user sees the choice in the file, with a comment.
    if numbers.ndim > 1:
        return False
    known = numbers[~np.isnan(numbers)]
    distinct = np.unique(known)
    is_whole = bool((distinct == np.round(distinct)).all())
    return is_whole and 0 < len(distinct) <= min(MOST_CLASSES, len(known) // 2)
