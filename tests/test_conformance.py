"""Every built-in pretext passes the conformance kit, also with the fields that change it most."""

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
PRETEXTS = [
    name
    for name, cls in sorted(catalog().of_kind("pretext").items())
    if cls.__module__.startswith("mtl_pretexts.")
]
CASES = [
    *(pytest.param(name, {}, 5, id=name) for name in PRETEXTS),
    *(
        pytest.param(name, fields, 2, id=f"{name}-{i}")
        for name, variants in VARIANTS.items()
        for i, fields in enumerate(variants, 1)
    ),
]


@pytest.mark.parametrize(("name", "fields", "examples"), CASES)
def test_a_pretext_conforms(name, fields, examples):
    report = kit.conformance("pretext", name, examples=examples, **fields).report()
    assert not report.of("failed", "blocked", "xfailed"), report.failures()
    assert report.counts["ran"] > 35


def test_the_variants_are_of_pretexts_that_exist():
    assert VARIANTS.keys() <= set(PRETEXTS)


def test_every_pretext_can_be_drawn_on_a_sheet():
    from mtlcore.testing.pretext.harness import pretext_sheet

    for name in PRETEXTS:
        page = pretext_sheet(catalog().find("pretext", name)(), size=48, columns=3)
        assert page.dtype.name == "uint8", name
        assert page.shape[2] == 3, name
        assert page.shape[0] > 3 * 48, name
