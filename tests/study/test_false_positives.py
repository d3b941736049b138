"""Studies of equal arms seldom say "better" or "worse"."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from false_positives import simulate  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 8])
@pytest.mark.parametrize("noise", ["normal", "unlike arms", "images 50"])
def test_at_most_one_study_of_equal_arms_in_twenty_has_a_verdict(noise, seeds) -> None:
    """The uncorrected intervals have one in several times as many studies."""
    found = simulate(noise, seeds, 400)
    assert found.corrected.share <= 0.05
    assert found.uncorrected.share > 0.15
