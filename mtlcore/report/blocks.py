"""What a page of a report holds. The template `page.html` draws each kind of block.

Every text is plain: the template escapes it. Only `Chart.svg` is markup, made by `charts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from attrs import field, frozen


@frozen
class Text:
    """A paragraph. quiet: a remark, in small letters."""

    kind: ClassVar[str] = "text"
    text: str
    quiet: bool = False


@frozen
class Missing:
    """Says what can't be shown, and why."""

    kind: ClassVar[str] = "missing"
    what: str
    why: str


@frozen
class Facts:
    """Names with short values, side by side: the numbers that a reader looks for first."""

    kind: ClassVar[str] = "facts"
    pairs: Sequence[tuple[str, str]]


@frozen
class Table:
    """Text in rows and columns. The first cell of a row is its header.

    numbers: align all other cells to the right. folded: show the caption alone until it is opened.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: bool = True
    folded: bool = False


@frozen
class Matrix:
    """A matrix of numbers, such as a confusion matrix: true classes as rows, predicted as columns.

    shares: (K, K) in [0, 1], how dark each cell is.
    """

    kind: ClassVar[str] = "matrix"
    caption: str
    row_axis: str
    column_axis: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[str]]
    shares: Sequence[Sequence[float]]


@frozen
class Chart:
    """A chart as SVG. alt: what it shows, in words. legend: name of each series, by color.

    table: the numbers of the chart.
    """

    kind: ClassVar[str] = "chart"
    title: str
    svg: str = field(repr=False)
    alt: str
    legend: Sequence[str] = ()
    table: Table | None = None


@frozen
class Charts:
    """Charts side by side, as many as fit."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[Chart]


@frozen
class Columns:
    """Tables and matrices side by side, as many as fit."""

    kind: ClassVar[str] = "columns"
    blocks: Sequence[Table | Matrix]


@frozen
class Image:
    """An image with its caption. url: a data URL. alt: what it shows, in words.

    width: pixels; a narrow screen shows it smaller.
    """

    kind: ClassVar[str] = "image"
    url: str = field(repr=False)
    alt: str
    caption: str
    width: int


@frozen
class Gallery:
    """Images side by side, as many as fit.

    wide: one below the other, each as a strip. pairs: images of double width.
    """

    kind: ClassVar[str] = "gallery"
    caption: str
    images: Sequence[Image]
    wide: bool = False
    pairs: bool = False


@frozen
class Heading:
    """A heading inside a section."""

    kind: ClassVar[str] = "heading"
    text: str


@frozen
class Code:
    """Preformatted text behind its title, which opens it."""

    kind: ClassVar[str] = "code"
    title: str
    text: str


Block = (
    Text
    | Missing
    | Facts
    | Table
    | Matrix
    | Columns
    | Chart
    | Charts
    | Image
    | Gallery
    | Heading
    | Code
)


@frozen
class Section:
    """A section of a page. name: its anchor, such as "metrics"."""

    name: str
    title: str
    blocks: Sequence[Block]


@frozen
class Page:
    """A report. title: of what. summary: one paragraph. made: when, and with what."""

    title: str
    summary: str
    facts: Facts
    sections: Sequence[Section]
    made: str
