"""SimCLR: NT-Xent by hand, its bounds, metrics."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from mtl_pretexts.simclr import Simclr, nt_xent
from refusals import assert_refused


def test_nt_xent_is_equation_1_over_all_pairs_in_both_orders():
    a, b = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    # The paper's order: 2k - 1 and 2k are a pair.
    z = F.normalize(torch.stack([a, b], 1).flatten(0, 1), dim=1)
    total = 0.0
    for i in range(10):
        j = i ^ 1
        scores = [math.exp(float(z[i] @ z[k]) / 0.2) for k in range(10)]
        total -= math.log(scores[j] / sum(s for k, s in enumerate(scores) if k != i))
    assert float(nt_xent(a, b, 0.2)) == pytest.approx(total / 10, rel=1e-5)


def test_the_loss_of_equal_embeddings_is_the_log_of_the_number_of_others():
    z = torch.ones(8, 4)
    assert float(nt_xent(z, 3 * z, 0.1)) == pytest.approx(math.log(2 * 8 - 1), rel=1e-5)


def test_the_length_of_an_embedding_does_not_matter():
    a, b = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(nt_xent(5 * a, 0.1 * b, 0.5), nt_xent(a, b, 0.5))


def test_the_loss_is_nearly_0_if_each_pair_is_nearest():
    z = torch.eye(6)
    assert float(nt_xent(z, z, 0.05)) < 1e-6
    assert float(nt_xent(z, z.roll(1, 0), 0.05)) > 10


def test_zeros_and_huge_embeddings_are_finite():
    for dtype in (torch.float32, torch.bfloat16):
        for scale in (0.0, 1e4):
            z = (torch.randn(2, 6, 4) * scale).to(dtype).float().requires_grad_()
            loss = nt_xent(*z, 0.1)
            loss.backward()
            assert loss.isfinite(), (dtype, scale)
            assert z.grad.isfinite().all(), (dtype, scale)


def test_metrics_are_the_mean_cosines_of_pairs_and_of_strangers():
    a, b = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(3))
    metrics = Simclr(width=4).metrics()
    for metric in metrics.values():
        metric.update((a, b), None)
    cosine = F.cosine_similarity(a[:, None], b[None], dim=2)
    assert float(metrics["pairs"].compute()) == pytest.approx(
        float(cosine.diagonal().mean()), abs=1e-5
    )
    others = cosine[~torch.eye(7, dtype=torch.bool)]
    assert float(metrics["strangers"].compute()) == pytest.approx(float(others.mean()), abs=1e-5)


def test_values_out_of_range_are_refused():
    assert_refused(Simclr, {"temperature": 0.0}, {"width": 1})
