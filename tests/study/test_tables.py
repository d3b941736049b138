"""Tables of text as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv

import pytest

from mtlcore import MtlError
from mtlcore.study.tables import Table

TABLE = Table(
    "Gain & loss_of 5 %",
    ("arm", "test"),
    (("a|b_c", "71.20 +- 0.41"), ('say "x", y', "+2.4 [-1.0, +5.8]")),
)


def test_markdown_keeps_cells_apart() -> None:
    assert TABLE.markdown().splitlines() == [
        "**Gain & loss_of 5 %**",
        "",
        "| arm | test |",
        "|---|---|",
        r"| a\|b_c | 71.20 +- 0.41 |",
        '| say "x", y | +2.4 [-1.0, +5.8] |',
    ]
    assert Table("", ("a",), ()).markdown() == "| a |\n|---|"


def test_csv_reads_back_as_it_was() -> None:
    assert list(csv.reader(TABLE.csv().splitlines())) == [
        list(TABLE.columns),
        *map(list, TABLE.rows),
    ]


def test_latex_is_escaped_and_has_the_rules_of_booktabs() -> None:
    assert TABLE.latex().splitlines() == [
        r"\begin{table}",
        r"\centering",
        r"\caption{Gain \& loss\_of 5 \%}",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"arm & test \\",
        r"\midrule",
        r"a\textbar{}b\_c & 71.20 $\pm$ 0.41 \\",
        r'say "x", y & +2.4 [-1.0, +5.8] \\',
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(MtlError, match="did you mean 'latex'"):
        TABLE.as_format("latx")


def test_a_row_of_another_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        Table("", ("a", "b"), (("x",),))
