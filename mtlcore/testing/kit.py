"""The conformance kit's engine: a list of checks a kind, run on one plugin, each with a status and a reason.

A check is a function of a subject (the plugin on a bench) and, where it has a second parameter, of drawn shapes and a seed: those
are drawn by Hypothesis, so that a failure is told with the smallest example. Checks never look at message texts.
"""

from __future__ import annotations

import importlib
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal
from unittest import SkipTest

from attrs import define, field, frozen
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.strategies import SearchStrategy

from ..errors import MtlError, nearest


def require(held: bool, said: str) -> None:
    """What a check demands; said: what was found instead. No `assert`, which python -O leaves out."""
    if not held:
        raise AssertionError(said)


Status = Literal["passed", "failed", "skipped", "blocked", "xfailed"]
EXAMPLES = 20


class Skip(SkipTest):
    """Raised by a check that does not apply, with the reason. pytest and unittest know it as a skip.

    No other exception skips a check: a plugin that raises a SkipTest of its own, or exits, has failed it.
    """


class Unproven(Exception):  # noqa: N818 - no error: the other examples go on
    """Raised by a check of drawn examples where one of them proves nothing, with the reason; the others go on.

    Where none proves anything the check is skipped; one that `shows` something fails.
    """


@frozen(eq=False)
class Check:
    """One named check of a kind.

    group: what it looks at ("views", "loss"). why: what goes wrong in training where it fails. mend: how an author mends it.
    needs: checks that must pass first, or this one is blocked. capability: a component may lack it, with a reason (`lacks`).
    core: may not be switched off, neither by `lacks` nor by `xfail`. shows: some example must prove it, or it fails.
    """

    name: str
    group: str
    doc: str
    why: str
    mend: str
    run: Callable[..., None]
    needs: tuple[str, ...] = ()
    capability: str | None = None
    core: bool = False
    shows: bool = False

    @property
    def drawn(self) -> bool:
        """Does it look at drawn examples?"""
        return len(inspect.signature(self.run).parameters) > 1


@define(eq=False)
class Group:
    """Checks that belong together, in the order in which they were written."""

    checks: list[Check] = field(factory=list)

    def check(
        self,
        group: str,
        *,
        why: str,
        mend: str,
        needs: str | Sequence[str] = (),
        capability: str | None = None,
        core: bool = False,
        shows: bool = False,
    ) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Add a function as a check: its name names it, the first line of its docstring says what must hold."""

        def add(run: Callable[..., None]) -> Callable[..., None]:
            before = (needs,) if isinstance(needs, str) else tuple(needs)
            doc = inspect.cleandoc(run.__doc__ or "").splitlines()[0]
            self.checks.append(
                Check(run.__name__, group, doc, why, mend, run, before, capability, core, shows)
            )
            return run

        return add


def _in_order(groups: Sequence[Group]) -> dict[str, Check]:
    """name -> check; prerequisites come first, so there are no circles."""
    found: dict[str, Check] = {}
    for check in (check for group in groups for check in group.checks):
        assert check.name not in found, check.name
        assert not set(check.needs) - set(found), (check.name, check.needs)
        found[check.name] = check
    return found


@define(eq=False)
class CheckList:
    """The checks of one kind, group by group. draws: the strategy of their second argument."""

    kind: str
    draws: SearchStrategy[Any]
    checks: dict[str, Check] = field(converter=_in_order)

    @property
    def capabilities(self) -> dict[str, str]:
        """capability -> the first line of the check that expects it."""
        return {c.capability: c.doc for c in self.checks.values() if c.capability}


@frozen
class Outcome:
    """How one check ended. reason: why it did not pass."""

    name: str
    status: Status
    reason: str
    seconds: float


@frozen
class Report:
    """Every check's outcome."""

    plugin: str
    kind: str
    checks: tuple[Outcome, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many checks ended in each status; how many ran (passed, failed or failed as said)."""
        by = {
            s: sum(o.status == s for o in self.checks)
            for s in ("passed", "failed", "skipped", "blocked", "xfailed")
        }
        return {"ran": by["passed"] + by["failed"] + by["xfailed"], **by}

    @property
    def failed(self) -> bool:
        return any(o.status == "failed" for o in self.checks)

    def as_json(self) -> dict[str, Any]:
        rows = [
            {"name": o.name, "status": o.status, "reason": o.reason, "seconds": round(o.seconds, 4)}
            for o in self.checks
        ]
        return {"plugin": self.plugin, "kind": self.kind, "checks": rows, "counts": self.counts}


@define(eq=False)
class Conformance:
    """One plugin held against the checks of its kind. Each check runs once; a prerequisite runs before what needs it.

    subject: what the checks are given; modules that it names in `imports` are imported before the clock starts. lacks: capability
    -> reason, of the component. xfail: check -> reason: it must fail.
    Raises MtlError where `lacks` or `xfail` name what there is not, or a core check.
    """

    plugin: str
    checks: CheckList
    subject: Any
    lacks: Mapping[str, str] = field(factory=dict)
    xfail: Mapping[str, str] = field(factory=dict)
    examples: int = EXAMPLES
    _outcomes: dict[str, Outcome] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        whose = f"{self.checks.kind} {self.plugin!r}"
        _require_known(self.xfail, self.checks.checks, f"{whose}: xfail names no check")
        _require_known(
            self.lacks,
            self.checks.capabilities,
            f"{whose}: lacks names no capability of a {self.checks.kind}",
        )
        for name in self.xfail:
            if self.checks.checks[name].core:
                raise MtlError(f"{whose}: xfail = {name!r}: a core check can't be switched off")

    def __iter__(self) -> Iterator[BoundCheck]:
        return (BoundCheck(self, check) for check in self.checks.checks.values())

    def report(self, each: Callable[[Outcome], None] = lambda _: None) -> Report:
        """Run all that has not run yet. each: told of every outcome in turn."""
        for name in self.checks.checks:
            each(self.outcome(name))
        return Report(
            self.plugin, self.checks.kind, tuple(self.outcome(name) for name in self.checks.checks)
        )

    def outcome(self, name: str) -> Outcome:
        if name not in self._outcomes:
            self._outcomes[name] = self._run(self.checks.checks[name])
        return self._outcomes[name]

    def _run(self, check: Check) -> Outcome:
        for needed in check.needs:
            if self.outcome(needed).status in ("failed", "blocked", "xfailed"):
                return Outcome(check.name, "blocked", f"needs {needed}, which did not pass", 0.0)
        if check.capability in self.lacks:
            reason = f"lacks {check.capability}: {self.lacks[str(check.capability)]}"
            return Outcome(check.name, "skipped", reason, 0.0)
        self._import()
        start = time.perf_counter()
        status, reason = self._held(check)
        return Outcome(check.name, status, reason, time.perf_counter() - start)

    def _import(self) -> None:
        """What takes seconds to import belongs to no check."""
        for module in getattr(self.subject, "imports", ()):
            importlib.import_module(module)

    def _held(self, check: Check) -> tuple[Status, str]:
        expected = self.xfail.get(check.name)
        try:
            _call(check, self.subject, self.checks.draws, self.examples)
        except Skip as skip:
            return "skipped", str(skip)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a plugin raises is its failure: an exit and a skip too
            return (
                ("failed", self._explained(check, error))
                if expected is None
                else ("xfailed", expected)
            )
        return (
            ("passed", "")
            if expected is None
            else ("failed", f"it passes, though xfail says: {expected}")
        )

    def _explained(self, check: Check, error: BaseException) -> str:
        said = (
            str(error)
            if isinstance(error, AssertionError | MtlError)
            else f"{type(error).__name__}: {error}"
        )
        example = getattr(error, "_example", None)
        lines = [
            f"{self.checks.kind} {self.plugin!r} fails {check.name}",
            f"  expected: {check.doc}",
            f"  found:    {' '.join(said.split()) or 'the assertion does not hold'}",
            *([f"  smallest failing example: {example}"] if example is not None else []),
            f"  why it matters: {check.why}",
            f"  how to mend it: {check.mend}",
        ]
        return "\n".join(lines)


@frozen(eq=False)
class BoundCheck:
    """A check of one plugin, as a plain callable: it returns, raises AssertionError with the whole story, or skips."""

    suite: Conformance
    check: Check

    @property
    def name(self) -> str:
        return self.check.name

    @property
    def capability(self) -> str | None:
        return self.check.capability

    @property
    def doc(self) -> str:
        return self.check.doc

    def __call__(self) -> None:
        outcome = self.suite.outcome(self.check.name)
        if outcome.status == "failed":
            raise AssertionError(outcome.reason)
        if outcome.status != "passed":
            raise Skip(f"{outcome.status}: {outcome.reason}")


def _call(check: Check, subject: Any, draws: SearchStrategy[Any], examples: int) -> None:
    if not check.drawn:
        check.run(subject)
        return
    last: list[Any] = []
    proven: list[Any] = []
    unproven: list[str] = []

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    @given(draws)
    def every(drawn: Any) -> None:
        last[:] = [drawn]
        try:
            check.run(subject, drawn)
            proven.append(drawn)
        except Unproven as said:
            unproven.append(str(said))

    try:
        every()
    except Skip:
        raise
    except BaseException as error:
        if last:  # nothing was drawn where drawing itself fails
            error._example = last[-1]  # type: ignore[attr-defined]  # Hypothesis runs the smallest example last
        raise
    if not proven:
        raise (
            AssertionError(f"{unproven[-1]}, in every example")
            if check.shows
            else Skip(unproven[-1])
        )


def _require_known(named: Mapping[str, str], known: Mapping[str, Any], said: str) -> None:
    for name in named:
        if name not in known:
            raise MtlError(f"{said} {name!r}; {nearest(name, known)}")
