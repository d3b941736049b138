"""Our losses against lightly's on the same inputs: values and gradients.

Where the definitions differ, by a factor alone: our Barlow Twins is a mean over the E components (lightly: a sum), our BYOL is
equation 2 in both directions, (2 - 2 cos) + (2 - 2 cos) for each image (lightly: -cos, one direction, averaged over images).
"""

from __future__ import annotations

import pytest
import torch
from mtl_pretexts.barlow_twins import BarlowTwins, BarlowTwinsHead
from mtl_pretexts.byol import ByolHead
from mtl_pretexts.simclr import nt_xent
from mtl_pretexts.vicreg import Vicreg, VicregHead

lightly = pytest.importorskip("lightly.loss", reason="lightly is in the dev extra")

SHAPES = pytest.mark.parametrize(("samples", "width"), [(8, 16), (32, 5), (2, 3)])


def pair(samples: int, width: int) -> list[torch.Tensor]:
    """Two views' embeddings that have something in common, neither centered nor of unit length."""
    g = torch.Generator().manual_seed(100 * samples + width)
    same = torch.randn(samples, width, generator=g, dtype=torch.float64)
    noise = torch.randn(2, samples, width, generator=g, dtype=torch.float64) / 2
    return [(same + noise[i] + i).requires_grad_() for i in range(2)]


def agree(ours, theirs, z: list[torch.Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    for mine, its in zip(torch.autograd.grad(ours, z), torch.autograd.grad(theirs, z)):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-5 * float(its.abs().max()))


@SHAPES
@pytest.mark.parametrize("redundancy", [5e-3, 0.3])
def test_barlow_twins_times_its_width_is_lightlys(samples, width, redundancy):
    z, head = (
        pair(samples, width),
        BarlowTwinsHead(4, BarlowTwins(redundancy=redundancy, width=width)),
    )
    agree(width * head.loss(tuple(z), None), lightly.BarlowTwinsLoss(redundancy)(*z), z)


@SHAPES
@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (1.0, 2.0, 3.0)])
def test_vicreg_is_lightlys(samples, width, weights):
    z, head = pair(samples, width), VicregHead(4, Vicreg(*weights, width=width))
    agree(head.loss(tuple(z), None), lightly.VICRegLoss(*weights)(*z), z)


@SHAPES
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_is_lightlys(samples, width, temperature):
    z = pair(samples, width)
    agree(nt_xent(*z, temperature), lightly.NTXentLoss(temperature)(*z), z)


@SHAPES
def test_byol_is_four_and_twice_lightlys_of_both_directions(samples, width):
    a, b = pair(samples, width)
    wanted = [x.detach() for x in pair(samples, width)[::-1]]
    ours = ByolHead.loss(
        None, {"said": torch.stack([a, b], 1), "wanted": torch.stack(wanted, 1)}, None
    )
    assert ours.shape == (samples,)
    cosine = lightly.NegativeCosineSimilarity()
    agree(ours.mean(), 4 + 2 * cosine(a, wanted[0]) + 2 * cosine(b, wanted[1]), [a, b])
