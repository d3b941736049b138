"""Write the evidence in docs/ from committed rows: results, protocols, pretexts, weightings, speed.

Run:

    python benchmarks/evidence.py

Each table stands between `<!-- table: NAME -->` and `<!-- end: NAME -->` of its page. Only these
parts are written: the text around them is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path

from attrs import frozen
from dense_rows import FACES, alone_and_together
from dense_rows import FILE as SIDES
from dense_rows import read as read_sides
from dense_rows import table as sides
from evidence_robustness import robustness
from evidence_speed import machines, speed, weighting_cost
from evidence_when import when_it_helps
from hmtl.protocols import FOLDER, ROOT, load, workspace
from robustness import rows as read_robustness

from mtlcore.registry.catalog import catalog
from mtlcore.study.checks import prepared
from mtlcore.study.definition import CONTROLS, Arm
from mtlcore.study.plan import Plan, Row
from mtlcore.study.read import read
from mtlcore.study.report import Scale, Tables, equal_compute, metric_by_seed
from mtlcore.study.statistics import Comparison, Spread, compare_pairs, paired
from mtlcore.study.tables import Table
from mtlcore.study.workspace import Workspace

DOCS = ROOT / "docs"
RESULTS = ROOT / "benchmarks" / "results"
STUDIES = ROOT / "benchmarks" / "studies"
NOT_RUN = "Not run yet."

COLUMNS = {
    ("cpu2", "main"): "faces: emotion",
    ("cpu2", "gender"): "faces: gender",
    ("cpu2", "head_pose"): "faces: head pose",
    ("digits", "main"): "digits",
    ("cifar3", "main"): "objects (CIFAR-10)",
}
"""The image sets of the pretext table: protocol and stage -> heading."""
UNKNOWN = "not known"

CASES: tuple[tuple[str, str, tuple[tuple[str, str, str, str], ...]], ...] = (
    (
        "pretrained weights exist for such images",
        "[fine-tune them](finetuning.md), without a pretext",
        (("imagenet", "main", "scratch_strong", "imagenet_strong"),),
    ),
    (
        "few labels, from scratch, faces",
        '`puzzling` as a second view: `grid=2`, `head="spatial"`, `weight=1.0`',
        (("cpu2", "main", "puzzling", "sl_long"), ("cpu2", "main", "puzzling", "sl")),
    ),
    (
        "the same, without compute for a second view",
        "`puzzling` in the one view, with `shuffled=0.2`; the puzzle itself may add nothing",
        (
            ("cpu2", "main", "puzzling_mix", "sl"),
            ("controls", "main", "puzzling_mix", "puzzling_mix+views_only"),
        ),
    ),
    (
        "few labels, many unlabeled images, faces",
        "try pre-training on all images, then fine-tuning, beside hybrid training",
        (
            ("cpu2", "main", "pretrain_puzzling_all", "sl_long"),
            ("cpu2", "main", "puzzling", "pretrain_puzzling_all"),
        ),
    ),
    (
        "few labels, many unlabeled small gray images, no faces",
        "pre-training by `inpainting` on all images, then fine-tuning",
        (
            ("digits", "main", "pretrain_inpainting_all", "sl_long"),
            ("digits", "main", "puzzling", "pretrain_inpainting_all"),
        ),
    ),
    (
        "all images are labeled",
        "more steps of supervised learning, first",
        (("cpu2", "labels_100", "puzzling", "sl_long"),),
    ),
    ("anything else", "[a study](study.md) of two or three pretexts", ()),
)
"""Case, advice, and its evidence: protocol, stage, and the two arms of a difference."""


@cache
def rows_of(tables: Tables, stage: str) -> list[Row]:
    """Return the finished rows of a stage, of the trials that were chosen."""
    return tables._rows_of(stage)


@frozen(eq=False)
class Protocol:
    """A committed protocol with its finished rows."""

    name: str
    tables: Tables

    @property
    def plan(self) -> Plan:
        """All runs of the protocol."""
        return self.tables.plan

    def rows(self, stage: str = "main") -> list[Row]:
        """The finished rows of a stage, of the trials that were chosen."""
        return rows_of(self.tables, stage)

    def spread(self, mine: str, other: str | None, stage: str = "main") -> Spread | None:
        """The paired difference of two arms on test; None without a common seed."""
        if other is None:
            return None
        metric = self.plan.definition.metric_of(stage) or self.plan.results.metric
        rows, scale = self.rows(stage), self.scale(stage)
        both = [metric_by_seed(rows, arm, "test", metric, scale) for arm in (mine, other)]
        return paired(*both)

    def scale(self, stage: str) -> Scale:
        """The multiplier of the metric of a stage."""
        extras = {extra.name: Scale(extra.scale) for extra in self.plan.definition.extras}
        return extras.get(stage, self.tables.scale)

    def arms(self, stage: str = "main") -> list[str]:
        """The arms that have finished rows."""
        return list(dict.fromkeys(row["arm"] for row in self.rows(stage)))


def protocols() -> dict[str, Protocol]:
    """Return name -> protocol, for those that have committed rows."""
    found: dict[str, Protocol] = {}
    for file in sorted(RESULTS.glob("hmtl-*/runs.jsonl")):
        name = file.parent.name.removeprefix("hmtl-")
        here = workspace(load(name), Path("data"), Path("runs"), file)
        found[name] = Protocol(name, Tables(here.plan()))
    return found


# ------------------------------------------------------------------------------------------ claims


def claims(known: Mapping[str, Protocol]) -> str:
    """Return the claims of all protocols, one line for each pair of arms."""
    parts: list[str] = []
    for name, protocol in known.items():
        if _question(FOLDER / f"{name}.toml").startswith("SUPERSEDED"):
            continue
        definition = protocol.plan.definition
        metric = protocol.plan.results.metric
        about = f"{metric} on test, in points. Baseline: `{definition.baseline}`. "
        about += f"{definition.full_steps:,} steps."
        parts += [f"### Protocol `{name}`\n", about + "\n", _claims_of(protocol).markdown() + "\n"]
        extras = _claims_of_extras(protocol)
        if extras.rows:
            parts += [f"Secondary experiments of `{name}`:\n", extras.markdown() + "\n"]
        parts += [f"The arms of `{name}`:\n", _settings(protocol).markdown() + "\n"]
    return "\n".join(parts)


def _claims_of_extras(protocol: Protocol) -> Table:
    """Return the differences from the baseline, and from it at equal compute."""
    lines = []
    for extra in protocol.plan.definition.extras:
        rows, baseline = protocol.rows(extra.name), protocol.plan.definition.baseline
        for arm in protocol.arms(extra.name):
            for other in dict.fromkeys([baseline, equal_compute(protocol.plan, rows, arm)]):
                found = protocol.spread(arm, other, extra.name)
                if found is not None and other != arm:
                    metric = protocol.plan.definition.metric_of(extra.name) or ""
                    claim = f"`{arm}` minus `{other}`"
                    lines.append((extra.name, metric, claim, _interval(found), str(found.n)))
    columns = ("experiment", "metric", "claim", "difference, 95 % CI", "seeds")
    return Table("", columns, tuple(lines))


def _claims_of(protocol: Protocol) -> Table:
    rows = protocol.rows()
    decided = {(c.arm, c.baseline): c for c in compare_pairs(protocol.tables._pairs(rows))}
    pairs = dict.fromkeys([*protocol.tables._claims(rows), *_rivals(protocol)])
    lines = []
    for mine, other in pairs:
        found = protocol.spread(mine, other)
        if found is not None:
            claim = f"`{mine}` minus `{other}`"
            verdict = _verdict(found, decided.get((mine, other)))
            lines.append((claim, _interval(found), str(found.n), verdict))
    columns = ("claim", "difference, 95 % CI", "seeds", "corrected for all pairs of the protocol")
    return Table("", columns, tuple(lines))


def _rivals(protocol: Protocol) -> list[tuple[str, str]]:
    """Return each arm with a pretext against each rival, as far as both ran."""
    done = protocol.arms()
    definition = protocol.plan.definition
    mine = [arm for arm in done if _has_pretext(definition.arms.get(arm.removesuffix("+all")))]
    rivals = [arm.name for arm in protocol.plan.of_kind("rival") if arm.name in done]
    return [(arm, rival) for arm in mine for rival in rivals if arm != rival]


def _has_pretext(arm: Arm | None) -> bool:
    return arm is not None and arm.kind in ("hmtl", "arm") and bool(arm.pretexts)


def _verdict(found: Spread, corrected: Comparison | None) -> str:
    if found.n == 1:
        return "one seed: a hint"
    return corrected.text if corrected else "a secondary comparison: not corrected"


def _interval(found: Spread) -> str:
    return found.signed() if found.n > 1 else f"{found.mean:+.2f}, no interval"


def _settings(protocol: Protocol) -> Table:
    """Return what each arm sets, with its chosen trial."""
    lines = []
    for name in protocol.arms():
        arm = protocol.plan.definition.arms.get(name)
        if arm is not None:
            trial = protocol.plan.trial(arm) or 0
            pretrained = arm.pretraining.set if arm.pretraining else ()
            settings = [*arm.set, *arm.trials[min(trial, len(arm.trials) - 1)]]
            settings += [f"first: {setting}" for setting in pretrained]
            text = ", ".join(f"`{setting}`" for setting in settings)
            lines.append((f"`{name}`", f"{arm.factor:g}", text))
    return Table("", ("arm", "steps x", "settings"), tuple(lines))


# ---------------------------------------------------------------------------------------- pretexts


def cases(known: Mapping[str, Protocol]) -> str:
    """Return the advice for each case, with its evidence."""
    lines = []
    for case, advice, pairs in CASES:
        evidence = []
        for name, stage, mine, other in pairs:
            protocol = known.get(name)
            found = protocol.spread(mine, other, stage) if protocol else None
            if found is not None:
                number = f"{found.signed()}, n = {found.n}"
                evidence.append(f"`{mine}` minus `{other}`: {number} (`{name}`)")
        lines.append((case, advice, "; ".join(evidence) or UNKNOWN))
    return Table("", ("your case", "start with", "evidence"), tuple(lines)).markdown()


def pretexts(known: Mapping[str, Protocol]) -> str:
    """Return one row for each pretext and form, one column for each image set."""
    used = {key: title for key, title in COLUMNS.items() if (FOLDER / f"{key[0]}.toml").exists()}
    lines = []
    for pretext in sorted(catalog().of_kind("pretext")):
        forms = [form for form in _forms(known, used) if pretext in form[1]]
        if not forms:
            lines.append((f"`{pretext}`", "", *[UNKNOWN] * len(used)))
        for arm, _, views in forms:
            cells = [_gain(known.get(name), arm, stage) for name, stage in used]
            lines.append((f"`{pretext}`", f"`{arm}` ({views:g} x)", *cells))
    return Table("", ("pretext", "arm (compute)", *used.values()), tuple(lines)).markdown()


def _forms(
    known: Mapping[str, Protocol], used: Mapping[tuple[str, str], str]
) -> list[tuple[str, set[str], float]]:
    """Return name, pretexts and encoder forwards (relative to the baseline) of each arm."""
    found: dict[str, tuple[str, set[str], float]] = {}
    for name in dict.fromkeys(protocol for protocol, _ in used):
        protocol = known.get(name)
        for done in protocol.arms() if protocol else ():
            assert protocol is not None
            base, _, suffix = done.partition("+")
            arm = protocol.plan.definition.arms.get(base)
            if arm is not None and suffix not in CONTROLS and suffix[:1] != "x":
                forwards = _forwards(protocol, done)
                found.setdefault(done, (done, _pretexts_of(arm), forwards))
    return list(found.values())


def _pretexts_of(arm: Arm) -> set[str]:
    """Return the pretexts that an arm trains on, in one of its parts."""
    pretrained = arm.pretraining.set if arm.pretraining else ()
    text = " ".join([*arm.set, *pretrained])
    return {*arm.pretexts, *re.findall(r"pretext\.(\w+)\.", text)}


def _forwards(protocol: Protocol, arm: str) -> float:
    """Return the images that a run encodes, relative to a run of the baseline."""
    rows, baseline = protocol.rows(), protocol.plan.definition.baseline
    mine = [row["encoded"] for row in rows if row["arm"] == arm]
    other = [row["encoded"] for row in rows if row["arm"] == baseline]
    return round(sum(mine) / len(mine) / (sum(other) / len(other)), 1)


def _gain(protocol: Protocol | None, arm: str, stage: str) -> str:
    """Return the difference from SL at equal compute, or at equal steps where that did not run."""
    if protocol is None or arm not in protocol.arms(stage):
        return UNKNOWN
    rows, baseline = protocol.rows(stage), protocol.plan.definition.baseline
    rival = equal_compute(protocol.plan, rows, arm)
    found = protocol.spread(arm, rival, stage)
    note = ""
    if found is None:
        found, note = protocol.spread(arm, baseline, stage), ", equal steps"
    if found is None:
        return UNKNOWN
    unit = "" if protocol.plan.results.higher_is_better(stage) else " degrees"
    return f"{found.signed()}{unit}, n = {found.n}{note}"


def _gain_of(known: Mapping[str, Protocol], name: str, word: str, stage: str) -> str:
    """Return the difference of an arm of a protocol, by its name or its role."""
    protocol = known.get(name)
    arms = protocol.plan.role(word) if protocol else []
    return _gain(protocol, arms[0].name, stage) if arms else UNKNOWN


# --------------------------------------------------------------------------------------- weighting


def weightings(known: Mapping[str, Protocol]) -> str:
    """Return one row for each strategy: its difference from the same arm with `equal`."""
    found: dict[str, list[str]] = {}
    for protocol in known.values():
        for name in protocol.arms():
            strategy, same = _weighted(protocol, name)
            difference = protocol.spread(name, same)
            if difference is not None:
                pair = f"(`{protocol.name}`: `{name}` minus `{same}`)"
                cell = f"{difference.signed()}, n = {difference.n} {pair}"
                found.setdefault(strategy, []).append(cell)
    names = [name for name in sorted(catalog().of_kind("weighting")) if name != "torchjd"]
    lines = []
    for name in [*names, *sorted(set(found) - set(names)), "torchjd:<Name>"]:
        if name != "equal":
            lines.append((f"`{name}`", "; ".join(found.get(name, [UNKNOWN]))))
    return Table("", ("strategy", "points over `equal`"), tuple(lines)).markdown()


def _weighted(protocol: Protocol, name: str) -> tuple[str, str | None]:
    """Return the strategy of an arm, and the arm that differs from it in the strategy."""
    arms = protocol.plan.definition.arms
    strategy = _strategy(arms.get(name))
    if not strategy:
        return "", None
    for other in arms.values():
        alike = other.pretexts == arms[name].pretexts and other.views == arms[name].views
        if alike and not _strategy(other) and other.name in protocol.arms():
            return strategy, other.name
    return strategy, None


def _strategy(arm: Arm | None) -> str:
    found = re.search(r'weighting\.name="([^"]+)"', " ".join(arm.set)) if arm else None
    return found[1] if found else ""


# --------------------------------------------------------------------------------------- protocols


def protocol_list(known: Mapping[str, Protocol]) -> str:
    """Return one row for each protocol: its question, and how far it is."""
    lines = []
    for file in sorted(FOLDER.glob("*.toml")):
        name = file.stem
        link = f"[`{name}`](../benchmarks/protocols/{name}.toml)"
        protocol = known.get(name)
        if protocol is None:
            lines.append((link, _question(file), "0", "all"))
            continue
        done, left = len(protocol.plan.results.rows), len(protocol.plan.left())
        pending = protocol.plan.pending_stages()
        missing = f"{left}, then {', '.join(pending)}" if pending else str(left)
        table = f"[{done}](../benchmarks/results/hmtl-{name}/table.md)"
        lines.append((link, _question(file), table, missing))
    return Table("", ("protocol", "what", "runs done", "left"), tuple(lines)).markdown()


def _question(file: Path) -> str:
    """Return the first sentences of a protocol's comment: up to the first empty line."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if not text:
            break
        lines.append(text)
    return " ".join(lines)


# ----------------------------------------------------------------------------------------- studies


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

    def baseline_of(protocol: str) -> str:
        return known[protocol].plan.role("@equal_compute")[0].name

    return robustness(rows, baseline_of)


def miou_of_sides() -> str:
    """Return the mIoU of the sides of the suite `dense`."""
    rows = read_sides(SIDES)
    return sides(rows) if rows else NOT_RUN


# ------------------------------------------------------------------------------------------- pages


def tables() -> dict[str, dict[str, str]]:
    """Return page -> name of a table -> its text."""
    known = protocols()
    return {
        "results.md": {"claims": claims(known)},
        "protocols.md": {"protocols": protocol_list(known)},
        "which-pretext.md": {"cases": cases(known), "pretexts": pretexts(known)},
        "when-it-helps.md": {
            "when": when_it_helps(partial(_gain_of, known)),
            "robustness": robustness_of(known),
        },
        "which-weighting.md": {"gains": weightings(known), "cost": weighting_cost(RESULTS)},
        "dense.md": {
            "camvid": study("camvid"),
            "faces": alone_and_together(read_sides(FACES)),
            "sides": miou_of_sides(),
        },
        "benchmarks.md": {"machines": machines(RESULTS), "speed": speed(RESULTS)},
    }


def filled(page: str, made: Mapping[str, str]) -> str:
    """Return the text of a page with these tables."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for name, body in made.items():
        begin, end = f"<!-- table: {name} -->\n", f"<!-- end: {name} -->"
        before, found, rest = text.partition(begin)
        assert found, f"docs/{page} lacks {begin}"
        text = before + begin + "\n" + body.strip() + "\n\n" + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    for page, made in tables().items():
        (DOCS / page).write_text(filled(page, made), encoding="utf-8")
