"""Plots of comparisons: files in each format, what they draw, and their errors."""

from __future__ import annotations

import math
import sys

import pytest

from mtlcore import MtlError
from mtlcore.study.plots import plot_comparison
from mtlcore.study.statistics import compare_arms

VALUES = {
    "base": {0: 0.70, 1: 0.71, 2: 0.69},
    "cost_$5_and_$6": {0: 0.80, 1: 0.82, 2: 0.80},
    "one seed": {0: 0.6},
    "diverged": {0: math.nan, 1: 0.7},
    "later": {},
}
COMPARED = compare_arms(VALUES, "base", higher_is_better=True)
STARTS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.mark.parametrize("suffix", STARTS)
def test_a_plot_is_a_file_of_its_format_and_the_same_each_time(tmp_path, suffix) -> None:
    files = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for file in files:
        plot_comparison(file, VALUES, COMPARED, "fer/accuracy", scale=100)
    first, second = (file.read_bytes() for file in files)
    assert first.startswith(STARTS[suffix])
    if suffix == ".png":
        assert first == second


def test_another_suffix_and_a_folder_that_is_missing_are_errors(tmp_path) -> None:
    with pytest.raises(MtlError, match=r"plot.jpg: can't write a plot as '.jpg': use .png"):
        plot_comparison(tmp_path / "plot.jpg", VALUES, COMPARED, "m")
    with pytest.raises(MtlError, match="nowhere"):
        plot_comparison(tmp_path / "nowhere" / "plot.png", VALUES, COMPARED, "m")


def test_without_matplotlib_the_message_says_what_to_type(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MtlError, match=r"pip install 'mtlcore\[study\]'"):
        plot_comparison(tmp_path / "plot.png", VALUES, COMPARED, "m")
