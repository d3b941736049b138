"""The table of recipes in README.md: which example to start with, and what it brought."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from mtlcore.study.tables import Table

from .protocol import Protocol, gain


@frozen
class Measured:
    """Where a gain was measured. images: the images and their labels, in words."""

    images: str
    protocol: str
    arm: str

    def line(self, known: Mapping[str, Protocol]) -> str:
        """Return the images, the gain over supervised learning at equal compute, and the verdict.

        The verdict is corrected for all claims of the protocol.
        """
        protocol = known[self.protocol]
        rival = protocol.rival(self.arm)
        assert rival is not None, f"{self.protocol} has no baseline at the compute of {self.arm}"
        compared = protocol.comparisons().get((self.arm, rival))
        verdict = compared.verdict if compared else "one seed: a hint"
        return f"{self.images}: {gain(known, self.protocol, self.arm)}, {verdict}"


@frozen
class Recipe:
    """An example, whose header lists the same gains. have: what its users have, in words."""

    have: str
    example: str
    gains: tuple[Measured, ...]


OBJECTS = "objects, 400 labels per class (CIFAR-10, 32 px)"
FACES = "facial emotion, about 370 labels per class (FER2013, 48 px)"
TOKENS = "objects, 450 labels per class (CIFAR-10, 32 px)"
RECIPES = (
    Recipe(
        "few labels",
        "few_labels.toml",
        (Measured(OBJECTS, "cifar3", "puzzling"), Measured(FACES, "cpu2", "puzzling")),
    ),
    Recipe(
        "few labels, many unlabeled images",
        "few_labels_unlabeled.toml",
        (Measured(OBJECTS, "cifar3", "puzzling_all"),),
    ),
    Recipe(
        "few labels, cropped faces",
        "few_labels_faces.toml",
        (Measured(FACES, "fer2", "puzzling_both"),),
    ),
    Recipe(
        "few labels, a vision transformer",
        "few_labels_vit.toml",
        (Measured(TOKENS, "vit", "joint"),),
    ),
)


def recipes(known: Mapping[str, Protocol]) -> str:
    """Return the table, one row for each recipe."""
    lines = []
    for recipe in RECIPES:
        link = f"[`{recipe.example}`](examples/{recipe.example})"
        gains = "; ".join(measured.line(known) for measured in recipe.gains)
        lines.append((recipe.have, link, gains))
    columns = ("you have", "start with", "points over supervised learning at equal compute")
    return Table("", columns, tuple(lines)).markdown()
