"""The doors on one list of checks: a line under pytest, plain callables, and a report for the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from ..contracts import Component
from ..errors import MtlError, nearest
from ..registry.catalog import Catalog, catalog
from ..registry.components import component_name
from .kit import EXAMPLES, BoundCheck, CheckList, Conformance
from .subject import Subject


def lists() -> dict[str, tuple[CheckList, type[Subject]]]:
    """kind -> its checks, and the harness that they are run on."""
    from .augmentation import checks as augmentations
    from .dataset import checks as datasets
    from .encoder import checks as encoders
    from .pretext import checks as pretexts
    from .task import checks as tasks
    from .weighting import checks as weightings

    return {
        module.CHECKS.kind: (module.CHECKS, module.HARNESS)
        for module in (pretexts, tasks, encoders, weightings, datasets, augmentations)
    }


def conformance(
    kind: str,
    plugin: str | type[Component],
    *,
    xfail: Mapping[str, str] | None = None,
    examples: int = EXAMPLES,
    known: Catalog | None = None,
    **fields: Any,
) -> Conformance:
    """One plugin, ready to be held against the checks of its kind.

    plugin: a name ("timm:resnet18" too) of the catalog `known` (default: the installed plugins), or a class. fields: those of the
    component that are not at their defaults. Raises MtlError on unknown names, of plugins, fields or checks.
    """
    if kind not in lists():
        raise MtlError(
            f"there are no conformance checks for the kind {kind!r}; {nearest(kind, lists())}"
        )
    checks, harness = lists()[kind]
    cls = plugin if isinstance(plugin, type) else (known or catalog()).find(kind, plugin)
    name = component_name(cls) if isinstance(plugin, type) else plugin
    _, colon, member = name.partition(":")
    if colon:  # a member of a family: its first field
        fields = {attrs.fields(cls)[0].alias: member, **fields}  # type: ignore[arg-type]
    _require_fields(kind, name, cls, fields)
    subject = harness(name, cls, fields, known or catalog())
    return Conformance(name, checks, subject, subject.lacks, xfail or {}, examples)


def checks(kind: str, plugin: str | type[Component], **options: Any) -> list[BoundCheck]:
    """The checks of one plugin as plain callables, in order. options: as of `conformance`."""
    return list(conformance(kind, plugin, **options))


def test_of(kind: str, plugin: str | type[Component], **options: Any) -> Callable[..., None]:
    """A test function for pytest, with one case a check: `test_conformance = mtlcore.testing.pretext_conformance("rotation")`."""
    import pytest

    bound = checks(kind, plugin, **options)

    @pytest.mark.parametrize("check", bound, ids=[b.name for b in bound])
    def test_conformance(check: BoundCheck) -> None:
        outcome = check.suite.outcome(check.name)
        if outcome.status == "xfailed":
            pytest.xfail(outcome.reason)
        check()

    return test_conformance


def _require_fields(kind: str, name: str, cls: type[Component], fields: Mapping[str, Any]) -> None:
    known = (
        [f.alias or f.name for f in attrs.fields(cls)]
        if attrs.has(cls)
        else list(inspect.signature(cls).parameters)
    )
    for field in fields:
        if field not in known:
            raise MtlError(f"{kind} {name!r} has no field {field!r}; {nearest(field, known)}")


def kinds() -> Sequence[str]:
    """The kinds that have checks."""
    return tuple(lists())
