"""Every built-in pretext passes the conformance kit, also with the fields that change it most.

`make test` runs the paper's two pretexts and one of each family; all others are slow.
"""

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
    "masked_image": [{"grid": 4, "ratio": 0.4}, {"grid": 2, "ratio": 0.5, "drop": True}],
    "inpainting": [{"perceptual": "none", "grid": 8}, {"layers": (0,), "ratio": 0.7}],
    "local_rotation": [{"variant": "implicit"}],
    "consistency": [{"teacher": "ema", "label": "soft", "threshold": 0.0}],
}
PRETEXTS = [
    name
    for name, cls in sorted(catalog().of_kind("pretext").items())
    if cls.__module__.startswith("mtl_pretexts.")
]
FAMILIES = ("puzzling", "inpainting", "rotation", "consistency")


def case(name: str, fields: dict[str, object], examples: int, number: int = 0):
    """Return the parameters of a test; number: of the variant, 0 for the defaults."""
    is_quick = name in FAMILIES and not number
    marks = [] if is_quick else [pytest.mark.slow]
    return pytest.param(
        name, fields, examples, id=f"{name}-{number}" if number else name, marks=marks
    )


CASES = [
    *(case(name, {}, 5) for name in PRETEXTS),
    *(
        case(name, fields, 2, i)
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
