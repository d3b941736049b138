"""A table of text, written as Markdown, CSV or LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from typing import Literal, get_args

from attrs import frozen

from ..errors import MtlError, nearest

Format = Literal["markdown", "csv", "latex"]

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\n": " ",
}


@frozen
class Table:
    """A table of text.

    title: "" for none. rows: one cell for each column.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __attrs_post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{len(row)} cells for {len(self.columns)} columns: {row}")

    def markdown(self) -> str:
        """The title as a paragraph in bold, then the table."""
        lines = [f"**{_markdown(self.title)}**", ""] if self.title else []
        lines += [_markdown_row(self.columns), "|" + "---|" * len(self.columns)]
        lines += [_markdown_row(row) for row in self.rows]
        return "\n".join(lines)

    def csv(self) -> str:
        """A line with the columns, then one for each row (RFC 4180); without the title."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return text.getvalue().rstrip("\n")

    def latex(self) -> str:
        r"""A `table` with the rules of the package booktabs; the title is its caption."""
        lines = [r"\begin{table}", r"\centering"]
        if self.title:
            lines.append(rf"\caption{{{_latex(self.title)}}}")
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}", r"\toprule"]
        lines += [_latex_row(self.columns), r"\midrule"]
        lines += [_latex_row(row) for row in self.rows]
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
        return "\n".join(lines)

    def as_format(self, name: str) -> str:
        """The table in the format of this name: "markdown", "csv" or "latex"."""
        formats: Mapping[str, Callable[[], str]] = {
            "markdown": self.markdown,
            "csv": self.csv,
            "latex": self.latex,
        }
        if name not in formats:
            raise MtlError(f"format = {name!r}: unknown; {nearest(name, get_args(Format))}")
        return formats[name]()


def _markdown_row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(map(_markdown, cells))} |"


def _markdown(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


def _latex_row(cells: tuple[str, ...]) -> str:
    return rf"{' & '.join(map(_latex, cells))} \\"


def _latex(text: str) -> str:
    parts = [
        "".join(_LATEX.get(character, character) for character in part)
        for part in text.split(" +- ")
    ]
    return r" $\pm$ ".join(parts)
