"""The cells of a table: which are numbers, and which repeat."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..contracts import Categories

if TYPE_CHECKING:
    import pyarrow


def matches(cells: pyarrow.ChunkedArray, pattern: str) -> np.ndarray:
    """Return the positions of the cells that match a pattern, (n,) int."""
    import pyarrow.compute as pc

    return np.flatnonzero(pc.match_substring_regex(cells, pattern).to_numpy())


def first_of_each(cells: pyarrow.ChunkedArray) -> np.ndarray:
    """Return which cells equal no earlier one, (N,) bool."""
    codes = cells.dictionary_encode().combine_chunks().indices.to_numpy()
    is_first = np.zeros(len(codes), dtype=bool)
    if len(codes):
        # Codes rise by the order of first appearance.
        highest = np.maximum.accumulate(codes)
        is_first[0] = True
        is_first[1:] = codes[1:] > highest[:-1]
    return is_first


def join_numeric(columns: list[np.ndarray], is_list: bool) -> np.ndarray:
    """Return (N,) for a single column, (N, D) for a list of columns, or for a column of lists.

    A row that lacks one number of a list counts as lacking all of them.
    """
    if not is_list and columns[0].ndim == 1:
        return columns[0]
    values = np.concatenate([column.reshape(len(column), -1) for column in columns], 1)
    return np.where(np.isnan(values).any(1, keepdims=True), np.nan, values)


def numbers_or_none(cells: Categories) -> np.ndarray | None:
    """Return the numbers of a column (N,), NaN for an empty cell.

    Return None if there is a cell that is not a number, or no number at all.
    """
    numbers = np.full(len(cells.names), math.nan)
    has_number = False
    for i, cell in enumerate(cells.names):
        if cell:
            has_number = True
            try:
                numbers[i] = float(cell)
            except ValueError:
                return None
    return numbers[cells.codes] if has_number else None


def numbers_or_infinity(cells: Categories) -> np.ndarray:
    """Return the numbers of a column (N,), NaN for an empty cell, infinity for no number.

    Rows with an infinite value are skipped later, whether or not the cell says "inf".
    """
    numbers = np.array([_number(cell) for cell in cells.names], dtype=np.float64)
    return np.asarray(numbers[cells.codes])


def _number(cell: str) -> float:
    try:
        return float(cell) if cell else math.nan
    except ValueError:
        return math.inf
