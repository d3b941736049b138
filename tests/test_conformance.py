"""Every shipped pretext keeps its contract: the conformance kit on all of the catalog, and on the fields that change the most."""

from __future__ import annotations

import pytest

import mtlcore.testing as kit
from mtlcore.registry.catalog import catalog

VARIANTS = {
    "puzzling": [
        {"grid": 2, "head": "spatial"},
        {"grid": 4, "rotate": True},
        {"grid": 2, "shuffled": 0.3},
        {"grid": 2, "scales": ((1.01, 1.14), (1.0, 1.0), (0.57, 0.99))},
    ],
    "relative_position": [{"enlarge": False, "colors": "project"}],
    "jigsaw_permutation": [{"grid": 3, "permutations": 30}, {"enlarge": True}],
    "masked_image": [{"grid": 4, "ratio": 0.4}],
    "inpainting": [{"perceptual": "none", "grid": 8}, {"layers": (0,), "ratio": 0.7}],
    "local_rotation": [{"variant": "implicit"}],
    "consistency": [{"teacher": "ema", "label": "soft", "threshold": 0.0}],
}


def _suites() -> list[tuple[str, kit.Conformance]]:
    """One for each shipped pretext, with few examples for each of its variants."""
    shipped = [
        name
        for name, cls in catalog().of_kind("pretext").items()
        if cls.__module__.startswith("mtl_pretexts.")
    ]
    plain = [(name, kit.conformance("pretext", name, examples=5)) for name in shipped]
    other = [
        (f"{name}-{i}", kit.conformance("pretext", name, examples=2, **fields))
        for name in shipped
        for i, fields in enumerate(VARIANTS.get(name, ()), 1)
    ]
    return plain + other


CASES = [
    pytest.param(check, id=f"{name}-{check.name}") for name, suite in _suites() for check in suite
]


@pytest.mark.parametrize("check", CASES)
def test_a_shipped_pretext_keeps_its_contract(check):
    check()


def test_nothing_that_ships_is_excused():
    assert not any(suite.xfail for _, suite in _suites())
    assert {"puzzling", "inpainting"} <= {name for name, _ in _suites()}


@pytest.mark.parametrize("name", sorted(catalog().of_kind("pretext")))
def test_a_shipped_pretext_can_be_shown_on_a_sheet(name):
    from mtlcore.testing.pretext.sheet import sheet

    page = sheet(catalog().find("pretext", name)(), size=48, columns=3)
    assert page.dtype.name == "uint8"
    assert page.shape[2] == 3
    assert page.shape[0] > 3 * 48
