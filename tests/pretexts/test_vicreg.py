"""VICReg: each of its three terms by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mtl_pretexts.vicreg import Vicreg, VicregHead, covariance_term, variance_term
from refusals import assert_refused


def test_the_variance_term_is_the_mean_shortfall_of_std_below_one():
    z = torch.tensor([[0.0, 10, 0.3], [0, -10, -0.3]])  # std 0, 14.1, 0.424
    expected = np.maximum(0, 1 - np.sqrt(z.numpy().var(0, ddof=1) + 1e-4)).mean()
    assert float(variance_term(z)) == pytest.approx(expected, rel=1e-5)
    assert expected == pytest.approx((0.99 + 0 + 0.5756) / 3, abs=1e-3)


def test_the_covariance_term_equals_numpys():
    z = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)) + 5
    c = np.cov(z.numpy(), rowvar=False)
    expected = (np.square(c).sum() - np.square(np.diag(c)).sum()) / 4
    assert float(covariance_term(z)) == pytest.approx(expected, rel=1e-4)


def test_the_loss_weighs_the_three_terms():
    a, b = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1))
    head = VicregHead(5, Vicreg(invariance=7.0, variance=3.0, covariance=2.0, width=3))
    distance = float((a - b).square().mean())
    variance = float(variance_term(a) + variance_term(b)) / 2
    covariance = float(covariance_term(a) + covariance_term(b))
    expected = 7 * distance + 3 * variance + 2 * covariance
    assert float(head.loss((a, b), None)) == pytest.approx(expected, rel=1e-5)


def test_the_loss_is_0_for_equal_decorrelated_views_and_the_variance_weight_for_a_collapse():
    z = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    head = VicregHead(5, Vicreg(width=2))
    assert float(head.loss((z, z), None)) == 0
    assert float(head.loss((0 * z, 0 * z), None)) == pytest.approx(25 * 0.99, rel=1e-5)


def test_defaults_are_the_papers():
    task = Vicreg()
    assert (task.invariance, task.variance, task.covariance) == (25.0, 25.0, 1.0)


def test_metrics_distinguish_a_collapse_from_agreement():
    z = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    for first, second, distance, std in ((z, z, 0, 1), (z, -z, 4, 1), (0 * z + 3, 0 * z + 3, 0, 0)):
        metrics = Vicreg(width=2).metrics()
        for metric in metrics.values():
            metric.update((first, second), None)
        assert float(metrics["distance"].compute()) == pytest.approx(distance, abs=1e-5)
        assert float(metrics["std"].compute()) == pytest.approx(std, abs=1e-3)


def test_values_out_of_range_are_refused():
    assert_refused(
        Vicreg, {"invariance": -1.0}, {"variance": -1.0}, {"covariance": -1.0}, {"width": 1}
    )
