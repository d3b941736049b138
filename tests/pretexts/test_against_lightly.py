"""Our losses against lightly's on the same inputs: values and gradients.

Two definitions differ by a factor. Our Barlow Twins is a mean over the E components (lightly: a
sum). Our BYOL is equation 2 in both directions, (2 - 2 cos) + (2 - 2 cos) for each image (lightly:
-cos in one direction, averaged over images).
"""

from __future__ import annotations

import pytest
import torch
from mtl_pretexts.barlow_twins import BarlowTwins, BarlowTwinsHead
from mtl_pretexts.byol import ByolHead
from mtl_pretexts.simclr import nt_xent
from mtl_pretexts.vicreg import Vicreg, VicregHead

lightly = pytest.importorskip("lightly.loss", reason="lightly is in the dev extra")

SHAPES = ((8, 16), (32, 5), (2, 3))  # samples, width


def pair(samples: int, width: int) -> list[torch.Tensor]:
    """Return correlated embeddings of two views, neither centered nor of unit length."""
    g = torch.Generator().manual_seed(100 * samples + width)
    same = torch.randn(samples, width, generator=g, dtype=torch.float64)
    noise = torch.randn(2, samples, width, generator=g, dtype=torch.float64) / 2
    return [(same + noise[i] + i).requires_grad_() for i in range(2)]


def assert_same(ours, theirs, z: list[torch.Tensor]) -> None:
    """Assert equal values and equal gradients with respect to z."""
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    for mine, its in zip(torch.autograd.grad(ours, z), torch.autograd.grad(theirs, z)):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-5 * float(its.abs().max()))


@pytest.mark.parametrize("redundancy", [5e-3, 0.3])
def test_barlow_twins_times_its_width_is_lightlys(redundancy):
    for samples, width in SHAPES:
        z = pair(samples, width)
        head = BarlowTwinsHead(4, BarlowTwins(redundancy=redundancy, width=width))
        theirs = lightly.BarlowTwinsLoss(redundancy)(*z)
        assert_same(width * head.loss(tuple(z), None), theirs, z)


@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (1.0, 2.0, 3.0)])
def test_vicreg_is_lightlys(weights):
    for samples, width in SHAPES:
        z = pair(samples, width)
        head = VicregHead(4, Vicreg(*weights, width=width))
        assert_same(head.loss(tuple(z), None), lightly.VICRegLoss(*weights)(*z), z)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_is_lightlys(temperature):
    for samples, width in SHAPES:
        z = pair(samples, width)
        assert_same(nt_xent(*z, temperature), lightly.NTXentLoss(temperature)(*z), z)


def test_byol_is_four_plus_twice_lightlys_of_both_directions():
    cosine = lightly.NegativeCosineSimilarity()
    for samples, width in SHAPES:
        a, b = pair(samples, width)
        of_b, of_a = (x.detach() for x in pair(samples, width)[::-1])
        output = {"predicted": torch.stack([a, b], 1), "target": torch.stack([of_b, of_a], 1)}
        ours = ByolHead.loss(None, output, None)
        assert ours.shape == (samples,)
        theirs = 4 + 2 * cosine(a, of_b) + 2 * cosine(b, of_a)
        assert_same(ours.mean(), theirs, [a, b])
