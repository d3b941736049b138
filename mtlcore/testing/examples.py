"""Run a check on drawn examples. The only module of the kit that imports Hypothesis at its top."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.errors import FlakyFailure
from hypothesis.strategies import SearchStrategy

from .kit import Check, message_of
from .requirements import Skip, Unproven

T = TypeVar("T")


def run_examples(check: Check, subject: object, strategy: SearchStrategy[T], number: int) -> None:
    """Run `check` on at most `number` examples; attach the smallest failing one to the error.

    Raises what the check raises. If every example is unproven it raises Skip, or AssertionError
    if the check `must_prove`.
    """
    last: list[T] = []
    proven: list[T] = []
    unproven: list[str] = []

    # Derandomized and without a database: the same plugin has the same outcome on every machine.
    @settings(
        max_examples=number,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def every(drawn: T) -> None:
        last[:] = [drawn]
        try:
            check.run(subject, drawn)
            proven.append(drawn)
        except Unproven as reason:
            unproven.append(str(reason))

    try:
        every()
    except Skip:
        raise
    except FlakyFailure as flaky:
        raise AssertionError(f"{message_of(flaky.exceptions[0])}, but not in every call") from flaky
    except BaseException as error:
        # Hypothesis runs the smallest example last. There is none if drawing itself fails.
        if last:
            error._example = last[-1]  # type: ignore[attr-defined]
        raise

    if proven:
        return
    if check.must_prove:
        raise AssertionError(f"{unproven[-1]}, in every example")
    raise Skip(unproven[-1])
