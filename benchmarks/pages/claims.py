"""The tables of docs/results.md: each difference of two arms, and what the arms set."""

from __future__ import annotations

from collections.abc import Mapping

from hmtl.protocols import FOLDER

from mtlcore.study.definition import Arm
from mtlcore.study.statistics import Comparison, Spread
from mtlcore.study.tables import Table

from .protocol import Protocol, question


def claims(known: Mapping[str, Protocol]) -> str:
    """Return the claims of all protocols, one line for each pair of arms."""
    parts: list[str] = []
    for name, protocol in known.items():
        if question(FOLDER / f"{name}.toml").startswith("SUPERSEDED"):
            continue
        if not protocol.arms():
            continue  # only trials have ended
        definition = protocol.plan.definition
        metric = protocol.plan.results.metric
        about = f"{metric} on test, in points. Baseline: `{definition.baseline}`. "
        about += f"{definition.full_steps:,} steps."
        parts += [f"### Protocol `{name}`\n", about + "\n"]
        owners = {row["protocol"] for row in protocol.rows()}
        if owners and name not in owners:
            listed = ", ".join(f"`{owner}`" for owner in sorted(owners))
            parts.append(f"The main runs and their claims are those of {listed}.\n")
        else:
            parts.append(_claims_of(protocol).markdown() + "\n")
        extras = _claims_of_extras(protocol)
        if extras.rows:
            parts += [f"Secondary experiments of `{name}`:\n", extras.markdown() + "\n"]
        parts += [f"The arms of `{name}`:\n", _settings(protocol).markdown() + "\n"]
    return "\n".join(parts)


def _claims_of_extras(protocol: Protocol) -> Table:
    """Return the differences from the baseline, and from it at equal compute."""
    lines = []
    for extra in protocol.plan.definition.extras:
        baseline = protocol.plan.definition.baseline
        for arm in protocol.arms(extra.name):
            for other in dict.fromkeys([baseline, protocol.rival(arm, extra.name)]):
                found = protocol.spread(arm, other, extra.name)
                if found is not None and other != arm:
                    metric = protocol.plan.definition.metric_of(extra.name) or ""
                    claim = f"`{arm}` minus `{other}`"
                    lines.append((extra.name, metric, claim, _interval(found), str(found.n)))
    columns = ("experiment", "metric", "claim", "difference, 95 % CI", "seeds")
    return Table("", columns, tuple(lines))


def _claims_of(protocol: Protocol) -> Table:
    decided = protocol.comparisons()
    pairs = dict.fromkeys([*protocol.tables.claims(), *_rivals(protocol)])
    lines = []
    for mine, other in pairs:
        found = protocol.spread(mine, other)
        if found is not None:
            claim = f"`{mine}` minus `{other}`"
            verdict = _verdict(found, decided.get((mine, other)))
            lines.append((claim, _interval(found), str(found.n), verdict))
    columns = ("claim", "difference, 95 % CI", "seeds", "corrected for all claims of the protocol")
    return Table("", columns, tuple(lines))


def _rivals(protocol: Protocol) -> list[tuple[str, str]]:
    """Return each arm with a pretext against each rival, as far as both ran."""
    done = protocol.arms()
    definition = protocol.plan.definition
    mine = [arm for arm in done if _has_pretext(definition.arms.get(arm.removesuffix("+all")))]
    rivals = [arm.name for arm in protocol.plan.of_kind("rival") if arm.name in done]
    return [(arm, rival) for arm in mine for rival in rivals if arm != rival]


def _has_pretext(arm: Arm | None) -> bool:
    return arm is not None and arm.kind in ("hmtl", "semi", "arm") and bool(arm.pretexts)


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
