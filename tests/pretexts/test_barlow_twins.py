"""Barlow Twins: equation 1 by hand, losses of known embeddings, metrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mtl_pretexts.barlow_twins import BarlowTwins, BarlowTwinsHead, cross_correlation
from refusals import assert_refused


def test_the_cross_correlation_is_numpys():
    a, b = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(0)) * 3 + 7
    expected = np.corrcoef(a.numpy(), b.numpy(), rowvar=False)[:4, 4:]
    np.testing.assert_allclose(cross_correlation(a, b).numpy(), expected, atol=1e-5)


def test_the_loss_is_equation_1_over_the_number_of_components():
    a, b = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(1))
    c = np.corrcoef(a.numpy(), b.numpy(), rowvar=False)[:3, 3:]
    invariance = sum((1 - c[i, i]) ** 2 for i in range(3))
    redundancy = sum(c[i, j] ** 2 for i in range(3) for j in range(3) if i != j)
    head = BarlowTwinsHead(5, BarlowTwins(redundancy=0.02, width=3))
    assert float(head.loss((a, b), None)) == pytest.approx(
        (invariance + 0.02 * redundancy) / 3, rel=1e-4
    )


def test_the_loss_is_0_for_equal_views_of_independent_components_and_4_for_opposite_views():
    z = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]) * torch.tensor([2.0, 5.0])
    head = BarlowTwinsHead(5, BarlowTwins(width=2))
    assert float(head.loss((z, z), None)) == pytest.approx(0, abs=1e-6)
    assert float(head.loss((z, -z), None)) == pytest.approx(4, abs=1e-4)


def test_equal_components_add_lambda_to_the_loss():
    x = torch.tensor([1.0, -1, 1, -1])
    z = torch.stack([x, x, x], 1)
    head = BarlowTwinsHead(5, BarlowTwins(redundancy=0.01, width=3))
    assert float(head.loss((z, z), None)) == pytest.approx(0.01 * 6 / 3, rel=1e-3)


def test_the_projector_is_the_papers_at_the_papers_width():
    head = BarlowTwinsHead(8, BarlowTwins(width=32))
    shapes = [tuple(p.shape) for p in head.parameters() if p.ndim == 2]
    assert shapes == [(32, 8), (32, 32), (32, 32)]
    assert sum(p.numel() for p in head.parameters() if p.ndim == 1) == 4 * 32  # two norms, no bias


def test_metrics_of_agreeing_opposite_and_redundant_views():
    z = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    x = z[:, :1].expand(-1, 2)
    for first, second, invariance, overlap in (
        (z, z, 1, 0),
        (z, -z, -1, 0),
        (x, x, 1, 1),
        (z, z.flip(1), 0, 1),
    ):
        metrics = BarlowTwins(width=2).metrics()
        for metric in metrics.values():
            metric.update((first, second), None)
        assert float(metrics["invariance"].compute()) == pytest.approx(invariance, abs=1e-4)
        assert float(metrics["overlap"].compute()) == pytest.approx(overlap, abs=1e-4)


def test_metrics_of_embeddings_that_collapse_are_those_of_double_precision():
    """The spread is 1 / 1000 of the mean, as at the start of a collapse."""
    g = torch.Generator().manual_seed(0)
    a = 5 + 5e-3 * torch.randn(999, 4, generator=g)
    b = a + 2e-3 * torch.randn(999, 4, generator=g)
    expected = cross_correlation(a.double(), b.double())
    metric = BarlowTwins(width=4).metrics()["invariance"]
    for rows in torch.arange(999).split(64):
        metric.update((a[rows], b[rows]), None)
    assert float(metric.compute()) == pytest.approx(float(expected.diagonal().mean()), abs=1e-3)


def test_metrics_are_the_same_if_two_ranks_measure_them():
    z = torch.randn(2, 10, 3, generator=torch.Generator().manual_seed(1))
    whole, first, second = (BarlowTwins(width=3).metrics()["overlap"] for _ in range(3))
    whole.update(tuple(z), None)
    first.update(tuple(z[:, :3]), None)
    second.update(tuple(z[:, 3:]), None)
    for name in ("samples", "mean", "squares", "products"):  # as torchmetrics gathers them
        setattr(first, name, torch.stack([getattr(first, name), getattr(second, name)]))
    assert float(first.compute()) == pytest.approx(float(whole.compute()), abs=1e-6)


def test_values_out_of_range_are_refused():
    assert_refused(BarlowTwins, {"redundancy": -1.0}, {"width": 1})
