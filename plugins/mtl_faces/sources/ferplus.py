"""FERPlus: FER2013's faces with ten votes each on eight emotions.

Barsoum et al., "Training Deep Networks for Facial Expression Recognition with Crowd-Sourced Label
Distribution", ICMI 2016.

`fer2013new.csv` holds the votes, in the row order of fer2013.csv: `Usage,Image name,neutral,
happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF`. The images come from
`fer2013.csv` beside it, or from the folders `FER2013Train | FER2013Valid | FER2013Test` that the
authors' script writes. Not yet tested on the real dataset.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from attrs import field, frozen

from mtlcore import Dataset, Index, MtlError, Sample, Skipped, hookimpl, read_image

from ..emotions import Emotion
from ._files import emotion_columns, require_folder, text_lines
from .fer2013 import USAGES, Fer2013

VOTES = "fer2013new.csv"
COLUMNS = (
    Emotion.NEUTRAL,
    Emotion.HAPPINESS,
    Emotion.SURPRISE,
    Emotion.SADNESS,
    Emotion.ANGER,
    Emotion.DISGUST,
    Emotion.FEAR,
    Emotion.CONTEMPT,
)
HEADER = ("Usage", "Image name", *(str(e) for e in COLUMNS), "unknown", "NF")
FOLDERS = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}


class _Row(NamedTuple):
    """A row of the votes that has a face. number: its position in the file, from 0."""

    number: int
    image: str
    emotion: str
    usage: str


@frozen(eq=False)
class _PixelIndex(Index):
    """pixels: FER2013's own index. places: (N,), the position of each face there."""

    pixels: Index = field(kw_only=True)
    places: np.ndarray = field(kw_only=True)


@frozen
class Ferplus(Dataset):
    """Read FERPlus: annotation "emotion", "" if the votes do not agree.

    root: the folder that holds fer2013new.csv and the images.
    rule: how ten votes become one emotion. "majority", the authors' rule: emotions with one
    vote lose it; the first must then have more than half of the remaining votes, including those
    for "unknown" and "no face". "plurality": the most votes; a tie gives no label.
    """

    root: Path
    rule: Literal["majority", "plurality"] = "majority"

    def index(self) -> Index:
        require_folder(
            "ferplus", self.root, f"{VOTES}, and fer2013.csv or {', '.join(FOLDERS.values())}"
        )
        skipped = Skipped()
        rows = self._rows(skipped)
        if any((self.root / folder).is_dir() for folder in FOLDERS.values()):
            images = [
                (f"{FOLDERS[row.usage]}/{row.image}", row.emotion, USAGES[row.usage])
                for row in rows
            ]
            return Index(*emotion_columns(images), skipped=skipped)
        if not (self.root / "fer2013.csv").is_file():
            raise MtlError(
                f"ferplus: {self.root} holds neither fer2013.csv nor the folders "
                f"{', '.join(FOLDERS.values())}"
            )
        return self._pixel_index(rows, skipped)

    def decode(self, index: Index, i: int) -> Sample:
        if isinstance(index, _PixelIndex):
            return Fer2013(self.root / "fer2013.csv").decode(index.pixels, int(index.places[i]))
        return Sample(read_image(str(index.keys[i]), self.root))

    def _pixel_index(self, rows: list[_Row], skipped: Skipped) -> Index:
        pixels = Fer2013(self.root / "fer2013.csv").index()
        place_of = {str(key): i for i, key in enumerate(pixels.keys)}
        splits = pixels.split
        found: list[tuple[str, str, str]] = []
        places: list[int] = []
        for row in rows:
            key = f"row {row.number:05d}"
            split = USAGES[row.usage]
            if key not in place_of:
                skipped.add("a face that fer2013.csv has no readable row for", key)
            elif splits is not None and splits[place_of[key]] != split:
                raise MtlError(
                    f"ferplus: {self.root}: {key} is {row.usage} in {VOTES} and another usage in "
                    "fer2013.csv: the files differ"
                )
            else:
                found.append((key, row.emotion, split))
                places.append(place_of[key])
        return _PixelIndex(
            *emotion_columns(found),
            skipped=skipped,
            pixels=pixels,
            places=np.array(places, dtype=np.int64),
        )

    def _rows(self, skipped: Skipped) -> list[_Row]:
        """Read each row that has a face."""
        lines = text_lines("ferplus", self.root / VOTES)
        first = lines[0] if lines else ""
        header = [name.strip().lower() for name in first.split(",")]
        if header != [name.lower() for name in HEADER]:
            raise MtlError(
                f"ferplus: {self.root / VOTES} must start with the line {','.join(HEADER)}"
            )
        rows: list[_Row] = []
        faceless = 0
        for number, cells in enumerate(_cells(self.root / VOTES, lines[1:])):
            try:
                usage, name, votes = _read(cells)
            except ValueError as error:
                skipped.add(str(error), f"row {number:05d}")
                continue
            if name:
                rows.append(_Row(number, name, self._emotion(votes), usage))
            else:
                faceless += 1
        skipped.note("rows left out, without a name: no face, by the dataset's label", faceless)
        skipped.note(
            f"faces without an emotion: their votes have no {self.rule}",
            sum(not row.emotion for row in rows),
        )
        return rows

    def _emotion(self, votes: np.ndarray) -> str:
        """votes: (10,). Returns "" if they do not agree, or agree on no emotion."""
        if self.rule == "majority":
            votes = np.where(votes > 1, votes, 0)
            agreed = votes.max() * 2 > votes.sum()
        else:
            agreed = votes.max() > 0 and (votes == votes.max()).sum() == 1
        winner = int(votes.argmax())
        return str(COLUMNS[winner]) if agreed and winner < len(COLUMNS) else ""


def _cells(path: Path, lines: list[str]) -> Iterator[list[str]]:
    """Yield the cells of each row below the header. Raises MtlError if it is not a csv file."""
    reader = csv.reader(lines)
    try:
        yield from reader
    except csv.Error as error:
        # + 1 for the header, which the reader does not see.
        raise MtlError(
            f"ferplus: {path} is not a csv file: line {reader.line_num + 1}: {error}"
        ) from error


def _read(cells: list[str]) -> tuple[str, str, np.ndarray]:
    """Return usage, image and votes (10,). Raises ValueError with the reason if not valid."""
    if len(cells) != len(HEADER):
        raise ValueError(f"not {len(HEADER)} columns")
    usage, name, *votes = (cell.strip() for cell in cells)
    if usage not in USAGES:
        raise ValueError(f"unknown usage {usage[:20]!r}")
    if not all(vote.isascii() and vote.isdigit() for vote in votes):
        raise ValueError("votes that are not whole numbers")
    if name and Path(name).name != name:
        raise ValueError("an image's name that is a path")
    return usage, name, np.array([int(vote[:4]) for vote in votes])


@hookimpl
def mtl_components() -> list[type]:
    return [Ferplus]
