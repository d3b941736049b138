"""Plugins that are broken on purpose, each in one way. They prove that the kit notices it."""

from __future__ import annotations

from collections.abc import Callable

from mtlcore.testing import Conformance
from mtlcore.testing.kit import CheckList


class Broken(dict[str, type]):
    """check -> the class that fails this check and no other.

    also: (check, class) of other ways to fail a check.
    """

    def __init__(self) -> None:
        super().__init__()
        self.also: list[tuple[str, type]] = []

    def fails(self, check: str, *, also: bool = False) -> Callable[[type], type]:
        """Register a class as the one that fails this check, or as another one."""

        def register(cls: type) -> type:
            assert also or check not in self, check
            if also:
                self.also.append((check, cls))
            else:
                self[check] = cls
            return cls

        return register


def unexpected(suite: Conformance, check: str) -> str:
    """How the report differs from "fails `check` only, and blocks what needs it"; "" if not."""
    report = suite.report()
    failed = {outcome.name for outcome in report.of("failed")}
    blocked = {outcome.name for outcome in report.of("blocked")}
    expected = dependents(suite.checks, check)
    if failed == {check} and blocked == expected:
        return ""
    others = [outcome.reason for outcome in report.of("failed") if outcome.name != check]
    status = suite.outcome(check).status
    lines = [f"{check} is {status}", f"blocked {sorted(blocked)}; expected {sorted(expected)}"]
    return "\n".join([*lines, *others])


def dependents(checks: CheckList, name: str) -> set[str]:
    """The checks that need this one, directly or through others."""
    found = {name}
    for check in checks.checks.values():  # each follows those that it needs
        if found & set(check.needs):
            found.add(check.name)
    return found - {name}
