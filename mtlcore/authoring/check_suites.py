"""The conformance suites of one component or of all, with the keys of an experiment.

The kit is imported late: describing a component needs no Hypothesis.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from ..errors import MtlError
from ..registry.lookup import catalog_of, catalog_with, kind_of

if TYPE_CHECKING:
    from ..config.experiment import Experiment
    from ..contracts import Component
    from ..registry.catalog import Catalog
    from ..testing import Conformance

Row = dict[str, object]
"""One row of `mtl plugins check --json`."""


@frozen(eq=False)
class Suites:
    """The check suites to run.

    suites: one per component.
    unchecked: a JSON row per component that needs values, and per plugin that failed to load.
    experiment: the one of --config.
    """

    suites: list[Conformance]
    unchecked: list[Row]
    experiment: Experiment | None

    @classmethod
    def of(
        cls,
        name: str | None,
        kind: str | None,
        files: Sequence[Path],
        config: Path | None,
        overrides: Sequence[str],
        examples: int | None,
    ) -> Suites:
        """The suites of one component, or of all components where `name` is None."""
        from ..config import load

        experiment = None
        if config is None:
            catalog = catalog_with(files)
        else:
            experiment = load(config, (), files)
            catalog = catalog_of(experiment.plugins)
        builder = _Builder(catalog, experiment, examples)
        if name is None:
            return cls(*builder.all(kind), experiment)
        suite = builder.suite(kind_of(name, kind, catalog), name, overrides)
        return cls([suite], [], experiment)


@frozen(eq=False)
class _Builder:
    """Builds the suites from a catalog and an experiment. examples: None for the kit's default."""

    catalog: Catalog
    experiment: Experiment | None
    examples: int | None

    def all(self, kind: str | None) -> tuple[list[Conformance], list[Row]]:
        """The suites of all components (of this kind), and the rows of what can't be checked."""
        from ..testing import kinds

        suites: list[Conformance] = []
        unchecked: list[Row] = []
        for each_kind, name in sorted(self.catalog.classes):
            if each_kind not in kinds() or kind not in (None, each_kind):
                continue
            missing = self._missing(each_kind, name)
            if missing:
                needs = f"needs {', '.join(missing)}"
                unchecked.append(_row(name, each_kind, "needs values", needs))
            else:
                suites.append(self.suite(each_kind, name, ()))
        for row in self.catalog.records():
            # A plugin that failed to load has no kind: it may hold components of any kind.
            if row["status"] == "failed" and (kind is None or row["kind"] in (None, kind)):
                unchecked.append(_row(row["name"], row["kind"], "failed", row["reason"] or ""))
        return suites, unchecked

    def suite(self, kind: str, name: str, overrides: Sequence[str]) -> Conformance:
        """The suite of one component. overrides: the values of --set."""
        from ..testing import conformance

        fields = self._fields(kind, name, overrides)
        if self.examples is None:
            return conformance(kind, name, known=self.catalog, **fields)
        return conformance(kind, name, known=self.catalog, examples=self.examples, **fields)

    def _fields(self, kind: str, name: str, overrides: Sequence[str]) -> dict[str, Any]:
        """The fields of the component: those of its table in the experiment, then the overrides.

        Raises MtlError where a field without a default has no value.
        """
        import attrs

        from ..authoring.describe import component_of, needed
        from ..config.overrides import apply
        from ..config.strict import converter

        cls = self.catalog.find(kind, name)
        used = self._used(cls)
        table: dict[str, object] = {}
        if used is not None:
            written = converter.unstructure(used)
            table = {key: value for key, value in written.items() if value is not None}
        if ":" in name:
            # The name sets the first key: "timm:resnet18" is model = "resnet18".
            table.pop(next(iter(table), ""), None)
        apply(table, overrides)
        missing = [key for key in needed(cls, name) if key not in table]
        if missing:
            raise MtlError(
                f"{kind} {name!r} needs {', '.join(missing)}: "
                f"set it with --set {missing[0]}=VALUE, or with --config FILE"
            )
        if not table and ":" not in name:
            # The kit then builds the component from its defaults, and reports any error of that.
            return {}
        component = component_of(kind, name, table, self.catalog)
        # The registry accepts attrs classes only, which mypy cannot see.
        fields = attrs.fields(cls)  # type: ignore[arg-type]
        return {f.alias: getattr(component, f.name) for f in fields if f.init}

    def _missing(self, kind: str, name: str) -> list[str]:
        """The keys of a component that need a value and have none."""
        from ..authoring.describe import needed

        cls = self.catalog.find(kind, name)
        return needed(cls) if self._used(cls) is None else []

    def _used(self, cls: type[Component]) -> Component | None:
        """The first component of exactly this class in the experiment; None where there is none."""
        from ..config.resolve import components_of

        if self.experiment is None:
            return None
        components = (component for _, component in components_of(self.experiment))
        return next((c for c in components if type(c) is cls), None)


def _row(name: str | None, kind: str | None, status: str, reason: str) -> Row:
    """The JSON row of a component without checks."""
    from ..testing import Report

    empty = Report(name or "", kind or "", ())
    return {**empty.as_json(), "status": status, "reason": reason}
