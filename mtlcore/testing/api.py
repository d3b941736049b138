"""The entry points to the checks: a pytest test, plain callables, and a report."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ..contracts import Component
from ..errors import MtlError, nearest
from ..registry.catalog import Catalog, catalog
from ..registry.components import component_name
from .kit import EXAMPLES, BoundCheck, CheckList, Conformance
from .subject import Subject

PytestTest = Callable[[Callable[[str, object], None]], None]


def lists() -> dict[str, tuple[CheckList, type[Subject[Any]]]]:
    """kind -> its checks, and the harness that provides their subject. Works without Hypothesis."""
    from .augmentation import checks as augmentations
    from .dataset import checks as datasets
    from .detector import checks as detectors
    from .encoder import checks as encoders
    from .optimizer import checks as optimizers
    from .pretext import checks as pretexts
    from .task import checks as tasks
    from .weighting import checks as weightings

    modules = (
        pretexts,
        tasks,
        encoders,
        weightings,
        optimizers,
        datasets,
        augmentations,
        detectors,
    )
    return {module.CHECKS.kind: (module.CHECKS, module.HARNESS) for module in modules}


def kinds() -> Sequence[str]:
    """The kinds of components that have checks."""
    return tuple(lists())


def conformance(
    kind: str,
    plugin: str | type[Component],
    *,
    xfail: Mapping[str, str] | None = None,
    examples: int = EXAMPLES,
    known: Catalog | None = None,
    **fields: Any,
) -> Conformance:
    """Return one plugin with the checks of its kind, ready to run.

    plugin: a name in the catalog ("timm:resnet18" too), or a class.
    xfail: check -> reason, for checks that are known to fail.
    examples: the number of drawn examples for each check.
    known: the catalog (default: the installed plugins).
    fields: values of the component that differ from their defaults.
    Raises MtlError for unknown plugins, fields or checks, and if Hypothesis is not installed.
    """
    _require_hypothesis()
    if kind not in lists():
        raise MtlError(f"the kit has no checks for the kind {kind!r}; {nearest(kind, lists())}")
    checks, harness = lists()[kind]
    found = known or catalog()

    if isinstance(plugin, type):
        name, cls = component_name(plugin), plugin
    else:
        name, cls = plugin, found.find(kind, plugin)
    _, colon, member = name.partition(":")
    if colon:  # a member of a family is the value of the first field
        first: attrs.Attribute[Any] = attrs.fields(cls)[0]  # type: ignore[arg-type]
        fields = {first.alias or first.name: member, **fields}
    _require_fields(kind, name, cls, fields)
    fields = {field: _absolute(value) for field, value in fields.items()}

    subject = harness(name, cls, fields, found)
    return Conformance(name, checks, subject, subject.lacks, xfail or {}, examples)


def checks(kind: str, plugin: str | type[Component], **options: Any) -> list[BoundCheck]:
    """The checks of one plugin as functions without arguments, in order.

    options: the keywords of `conformance`.
    """
    return list(conformance(kind, plugin, **options))


def test_of(kind: str, plugin: str | type[Component], **options: Any) -> PytestTest:
    """Return ONE pytest test that runs every check of a plugin.

    It fails with the explanations of all failed checks. Otherwise it xfails if checks failed as
    `xfail` expects, and skips if no check ran at all. Each check that did not run is printed with
    its reason (`pytest -rP`), and is a property of the test in JUnit XML.

    options: the keywords of `conformance`.
    """
    suite = conformance(kind, plugin, **options)

    def test_conformance(record_property: Callable[[str, object], None]) -> None:
        import pytest

        report = suite.report()
        for outcome in report.of("skipped", "blocked", "xfailed"):
            record_property(f"{outcome.status} {outcome.name}", outcome.reason)
        lines = "\n".join(report.not_run())
        print(lines)  # noqa: T201 - pytest captures it and shows it with -rP

        if report.failed:
            pytest.fail(report.failures(), pytrace=False)
        if report.counts["xfailed"]:
            pytest.xfail(lines)
        if not report.counts["ran"]:
            pytest.skip(f"no check ran:\n{lines}")

    return test_conformance


def _absolute(value: object) -> object:
    """A path as the reader of a configuration returns it; any other value as it is."""
    return value.expanduser().absolute() if isinstance(value, Path) else value


def _require_hypothesis() -> None:
    try:
        importlib.import_module("hypothesis")
    except ImportError as error:
        raise MtlError(
            f"the conformance checks need Hypothesis ({error}): "
            'install it with `pip install "mtlcore[testing]"`'
        ) from None


def _require_fields(
    kind: str, name: str, cls: type[Component], fields: Mapping[str, object]
) -> None:
    if attrs.has(cls):
        known = [field.alias or field.name for field in attrs.fields(cls)]
    else:
        known = list(inspect.signature(cls).parameters)
    for field in fields:
        if field not in known:
            raise MtlError(f"{kind} {name!r} has no field {field!r}; {nearest(field, known)}")
