"""Write the evidence in docs/ and README.md from committed rows.

Run:

    python benchmarks/evidence.py

Each table stands between `<!-- table: NAME -->` and `<!-- end: NAME -->` of its page. Only these
parts are written: the text around them is written by hand.
"""

from __future__ import annotations

from collections.abc import Mapping

from dense_rows import FACES, alone_and_together
from dense_rows import FILE as SIDES
from dense_rows import read as read_sides
from dense_rows import table as sides
from hmtl.protocols import ROOT
from pages.claims import claims
from pages.pretexts import cases, pretexts
from pages.protocol import RESULTS, Protocol, protocols
from pages.protocol_list import protocol_list
from pages.recipes import recipes
from pages.robustness import robustness
from pages.speed import machines, speed, weighting_cost
from pages.weightings import weightings
from pages.when import when_it_helps
from robustness import rows as read_robustness

from mtlcore.study.checks import prepared
from mtlcore.study.read import read
from mtlcore.study.report import Tables
from mtlcore.study.tables import Table
from mtlcore.study.workspace import Workspace

STUDIES = ROOT / "benchmarks" / "studies"
NOT_RUN = "Not run yet."


def study(name: str) -> str:
    """Return the arms and the verdicts of a study that `mtl study run` trained."""
    file = RESULTS / f"study-{name}" / "runs.jsonl"
    if not file.is_file():
        return NOT_RUN
    here = Workspace(prepared(read(STUDIES / f"{name}.toml")), file.parent / "runs", file)
    tables = Tables(here.plan())
    arms = tables.arms()
    shown = Table("", arms.columns[:-1], tuple(row[:-1] for row in arms.rows))  # without devices
    return f"{shown.markdown()}\n\n{tables.verdicts().markdown()}"


def robustness_of(known: Mapping[str, Protocol]) -> str:
    """Return the accuracies on corrupted images, over SL at equal compute."""
    rows = read_robustness()
    if not rows:
        return NOT_RUN

    def rival_of(protocol: str, stage: str, arm: str) -> str | None:
        return known[protocol].rival(arm, stage)

    return robustness(rows, rival_of)


def miou_of_sides() -> str:
    """Return the mIoU of the sides of the suite `dense`."""
    rows = read_sides(SIDES)
    return sides(rows) if rows else NOT_RUN


def tables() -> dict[str, dict[str, str]]:
    """Return page -> name of a table -> its text."""
    known = protocols()
    return {
        "README.md": {"recipes": recipes(known)},
        "docs/results.md": {"claims": claims(known)},
        "docs/protocols.md": {"protocols": protocol_list(known)},
        "docs/which-pretext.md": {"cases": cases(known), "pretexts": pretexts(known)},
        "docs/when-it-helps.md": {
            "when": when_it_helps(known),
            "robustness": robustness_of(known),
        },
        "docs/which-weighting.md": {"gains": weightings(known), "cost": weighting_cost(RESULTS)},
        "docs/dense.md": {
            "camvid": study("camvid"),
            "faces": alone_and_together(read_sides(FACES)),
            "sides": miou_of_sides(),
        },
        "docs/benchmarks.md": {"machines": machines(RESULTS), "speed": speed(RESULTS)},
    }


def filled(page: str, made: Mapping[str, str]) -> str:
    """Return the text of a page with these tables."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, body in made.items():
        begin, end = f"<!-- table: {name} -->\n", f"<!-- end: {name} -->"
        before, found, rest = text.partition(begin)
        assert found, f"{page} lacks {begin}"
        text = before + begin + "\n" + body.strip() + "\n\n" + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    for page, made in tables().items():
        (ROOT / page).write_text(filled(page, made), encoding="utf-8")
