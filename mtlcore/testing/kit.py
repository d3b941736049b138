"""The core of the conformance kit: run a list of checks on one plugin.

A check is a function of a subject: the plugin and its toy environment (the "harness"). A check with
a second parameter also receives drawn examples of shapes and seeds. Hypothesis draws them and
shrinks a failure to the smallest example.

This module imports without Hypothesis, so that the lists of checks can be read without it.
"""

from __future__ import annotations

import importlib
import inspect
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from attrs import define, field, frozen

from ..errors import MtlError, nearest
from .requirements import Skip

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

EXAMPLES = 20

Status = Literal["passed", "failed", "skipped", "blocked", "xfailed"]
STATUSES: tuple[Status, ...] = ("passed", "failed", "skipped", "blocked", "xfailed")

CheckFunction = Callable[..., None]
"""(subject) or (subject, example): returns, raises AssertionError, or skips."""


# ------------------------------------------------------------------------------------ declarations


@frozen(eq=False)
class Check:
    """One named check of a kind.

    group: the topic ("views", "loss").
    doc: what must hold, in one line.
    why: what goes wrong in training if the check fails.
    mend: how an author fixes it.
    needs: checks that must pass first. Otherwise this one is blocked. A core check runs after an
    expected failure.
    capability: a component may lack it, with a reason (`lacks`).
    tests_lacks: it also runs if the component lacks the capability. Its failure is then a skip.
    core: neither `lacks` nor `xfail` can switch it off.
    must_prove: it fails, instead of being skipped, if no example proves anything.
    """

    name: str
    group: str
    doc: str
    why: str
    mend: str
    run: CheckFunction
    needs: tuple[str, ...] = ()
    capability: str | None = None
    tests_lacks: bool = False
    core: bool = False
    must_prove: bool = False

    @property
    def drawn(self) -> bool:
        """True if it receives drawn examples."""
        return len(inspect.signature(self.run).parameters) > 1


@define(eq=False)
class Group:
    """Checks that belong together, in the order of their definition."""

    checks: list[Check] = field(factory=list)

    def check(
        self,
        group: str,
        *,
        why: str,
        mend: str,
        needs: str | Sequence[str] = (),
        capability: str | None = None,
        tests_lacks: bool = False,
        core: bool = False,
        must_prove: bool = False,
    ) -> Callable[[CheckFunction], CheckFunction]:
        """Add the decorated function as a check. It provides the name and the doc (first line)."""

        needed = (needs,) if isinstance(needs, str) else tuple(needs)

        def add(run: CheckFunction) -> CheckFunction:
            check = Check(
                name=run.__name__,
                group=group,
                doc=inspect.cleandoc(run.__doc__ or "").splitlines()[0],
                why=why,
                mend=mend,
                run=run,
                needs=needed,
                capability=capability,
                tests_lacks=tests_lacks,
                core=core,
                must_prove=must_prove,
            )
            self.checks.append(check)
            return run

        return add


def _in_order(groups: Sequence[Group]) -> dict[str, Check]:
    """name -> check. Each check follows those that it needs, so there are no cycles."""
    found: dict[str, Check] = {}
    for group in groups:
        for check in group.checks:
            assert check.name not in found, check.name
            assert not set(check.needs) - set(found), (check.name, check.needs)
            found[check.name] = check
    return found


@define(eq=False)
class CheckList:
    """The checks of one kind.

    strategy: returns the Hypothesis strategy of the examples. It is a function, so that a list can
    be read without Hypothesis.
    """

    kind: str
    strategy: Callable[[], SearchStrategy[Any]]
    checks: dict[str, Check] = field(converter=_in_order)

    @property
    def capabilities(self) -> dict[str, str]:
        """capability -> the first line of the check that expects it."""
        return {c.capability: c.doc for c in self.checks.values() if c.capability}


# ----------------------------------------------------------------------------------------- results


@frozen
class Outcome:
    """The result of one check. reason: why it did not pass."""

    name: str
    status: Status
    reason: str
    seconds: float


@frozen
class Report:
    """The outcomes of all checks of one plugin."""

    plugin: str
    kind: str
    checks: tuple[Outcome, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many checks ended in each status. "ran": those that passed, failed or xfailed."""
        found = Counter(outcome.status for outcome in self.checks)
        ran = found["passed"] + found["failed"] + found["xfailed"]
        return {"ran": ran, **{status: found[status] for status in STATUSES}}

    @property
    def failed(self) -> bool:
        return any(outcome.status == "failed" for outcome in self.checks)

    def of(self, *statuses: Status) -> list[Outcome]:
        """The outcomes with one of these statuses."""
        return [outcome for outcome in self.checks if outcome.status in statuses]

    def not_run(self) -> list[str]:
        """A line for each check that was skipped or blocked, or that failed as expected."""
        outcomes = self.of("skipped", "blocked", "xfailed")
        return [f"{outcome.status} {outcome.name}: {outcome.reason}" for outcome in outcomes]

    def failures(self) -> str:
        """Every failed check with its whole explanation, then the checks that did not run."""
        failed = self.of("failed")
        title = f"{self.kind} {self.plugin!r} fails {len(failed)} of {len(self.checks)} checks"
        parts = [title, *(outcome.reason for outcome in failed)]
        if lines := self.not_run():
            parts.append("\n".join(lines))
        return "\n\n".join(parts)

    def as_json(self) -> dict[str, Any]:
        rows = [
            {"name": o.name, "status": o.status, "reason": o.reason, "seconds": round(o.seconds, 4)}
            for o in self.checks
        ]
        return {"plugin": self.plugin, "kind": self.kind, "checks": rows, "counts": self.counts}


# ------------------------------------------------------------------------------------------ engine


@define(eq=False)
class Conformance:
    """One plugin and the checks of its kind.

    Each check runs once, after those that it needs.

    subject: the argument of the checks. Modules in its `imports` are imported before time is
    measured.
    lacks: capability -> reason, as the component declares it.
    xfail: check -> reason. The check must fail.
    Raises MtlError if `lacks` or `xfail` contains an unknown name, or `xfail` a core check.
    """

    plugin: str
    checks: CheckList
    subject: Any
    lacks: Mapping[str, str] = field(factory=dict)
    xfail: Mapping[str, str] = field(factory=dict)
    examples: int = EXAMPLES
    _outcomes: dict[str, Outcome] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        kind, checks = self.checks.kind, self.checks.checks
        owner = f"{kind} {self.plugin!r}"
        _require_known(self.xfail, checks, f"{owner}: xfail contains the unknown check")
        _require_known(
            self.lacks,
            self.checks.capabilities,
            f"{owner}: lacks contains the unknown capability",
        )
        for name in self.xfail:
            if checks[name].core:
                raise MtlError(f"{owner}: xfail = {name!r}: a core check cannot be switched off")

    def __iter__(self) -> Iterator[BoundCheck]:
        return (BoundCheck(self, check) for check in self.checks.checks.values())

    def report(self, each: Callable[[Outcome], None] = lambda _: None) -> Report:
        """Run all checks that have not run yet. each: called with every outcome in turn."""
        for name in self.checks.checks:
            each(self.outcome(name))
        outcomes = tuple(self.outcome(name) for name in self.checks.checks)
        return Report(self.plugin, self.checks.kind, outcomes)

    def outcome(self, name: str) -> Outcome:
        """The outcome of one check; it runs at the first call."""
        if name not in self._outcomes:
            self._outcomes[name] = self._run(self.checks.checks[name])
        return self._outcomes[name]

    def _run(self, check: Check) -> Outcome:
        for needed in check.needs:
            if self._blocks(needed, check.core):
                return Outcome(check.name, "blocked", f"needs {needed}, which did not pass", 0.0)
        lacked = str(check.capability) if check.capability in self.lacks else ""
        excuse = f"lacks {lacked}: {self.lacks[lacked]}" if lacked else ""
        if excuse and not check.tests_lacks:
            return Outcome(check.name, "skipped", excuse, 0.0)

        for module in getattr(self.subject, "imports", ()):
            importlib.import_module(module)
        start = time.perf_counter()
        status, reason = self._status(check)
        if excuse and status == "failed":
            status, reason = "skipped", excuse
        return Outcome(check.name, status, reason, time.perf_counter() - start)

    def _blocks(self, needed: str, core: bool) -> bool:
        """Whether a check, core or not, can't run because of one that it needs.

        An expected failure blocks no core check, since `xfail` can't switch it off.
        """
        status = self.outcome(needed).status
        if status == "blocked" and core:
            return any(self._blocks(name, core) for name in self.checks.checks[needed].needs)
        return status in ("failed", "blocked") or (status == "xfailed" and not core)

    def _status(self, check: Check) -> tuple[Status, str]:
        expected = self.xfail.get(check.name)
        try:
            self._call(check)
        except Skip as skip:
            return "skipped", str(skip)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a plugin that exits or skips has failed too
            if expected is not None:
                return "xfailed", expected
            return "failed", self._explanation(check, error)
        if expected is not None:
            return "failed", f"{check.name} passes, but xfail expects a failure: {expected}"
        return "passed", ""

    def _call(self, check: Check) -> None:
        if not check.drawn:
            check.run(self.subject)
            return
        from .examples import run_examples

        run_examples(check, self.subject, self.checks.strategy(), self.examples)

    def _explanation(self, check: Check, error: BaseException) -> str:
        found = message_of(error)
        example = getattr(error, "_example", None)

        lines = [
            f"{self.checks.kind} {self.plugin!r} fails {check.name}",
            f"  expected: {check.doc}",
            f"  found:    {' '.join(found.split()) or 'an assertion of the plugin failed'}",
        ]
        if example is not None:
            lines.append(f"  smallest failing example: {example}")
        lines.append(f"  why it matters: {check.why}")
        lines.append(f"  how to mend it: {check.mend}")
        return "\n".join(lines)


@frozen(eq=False)
class BoundCheck:
    """A check of one plugin as a function without arguments.

    It returns, raises AssertionError with the whole explanation, or raises `Skip`.
    """

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


def message_of(error: BaseException) -> str:
    """What an error of a plugin says. One of the kit or of the core needs no type."""
    ours = isinstance(error, AssertionError | MtlError)
    return str(error) if ours else f"{type(error).__name__}: {error}"


def _require_known(names: Mapping[str, str], known: Mapping[str, object], problem: str) -> None:
    for name in names:
        if name not in known:
            raise MtlError(f"{problem} {name!r}; {nearest(name, known)}")
