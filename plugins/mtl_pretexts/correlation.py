"""The cross-correlation of two views over all samples of an evaluation: metrics of Barlow Twins.

Import this module late: torchmetrics takes a second to load.

Shapes: B samples, embeddings of E components.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor
from torchmetrics import Metric

from mtl_pretexts._shared import Pair
from mtl_pretexts.barlow_twins import EPSILON

Moments = tuple[Tensor, Tensor, Tensor, Tensor]
"""Of two views: samples (), mean (2, E), and about it the sums of squares (2, E) and of products
of both views (E, E)."""


class Correlation(Metric):
    """Moments from which the cross-correlation follows, whatever the batch size.

    They are sums about the means: the difference of two large sums would lose the small deviations
    of embeddings that collapse.
    """

    samples: Tensor
    mean: Tensor
    squares: Tensor
    products: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        shapes = {"samples": (), "mean": (2, width), "squares": (2, width)}
        for name, shape in {**shapes, "products": (width, width)}.items():
            # None: the values of the ranks are stacked, and merged in `matrix`.
            self.add_state(name, torch.zeros(shape), None)

    @property
    def moments(self) -> Moments:
        return self.samples, self.mean, self.squares, self.products

    def update(self, output: Pair, target: None) -> None:
        views = torch.stack(output).float()
        mean = views.mean(1)
        a, b = views - mean[:, None]
        squares = torch.stack([a.square().sum(0), b.square().sum(0)])
        batch = (self.samples.new_tensor(len(a)), mean, squares, a.T @ b)
        self.samples, self.mean, self.squares, self.products = merged(self.moments, batch)

    def matrix(self) -> Tensor:
        """Return C, (E, E)."""
        moments = reduce(merged, zip(*self.moments)) if self.samples.ndim else self.moments
        n, _, squares, products = moments
        std_a, std_b = (squares / n + EPSILON).sqrt()
        return products / n / torch.outer(std_a, std_b)


class Invariance(Correlation):
    """The mean of the diagonal, at best 1."""

    higher_is_better = True

    def compute(self) -> Tensor:
        return self.matrix().diagonal().mean()


class Overlap(Correlation):
    """The root mean square off the diagonal, at best 0."""

    higher_is_better = False

    def compute(self) -> Tensor:
        c = self.matrix()
        off_diagonal = c.square().sum() - c.diagonal().square().sum()
        return (off_diagonal / (c.numel() - len(c))).sqrt()


def merged(one: Moments, other: Moments) -> Moments:
    """Return the moments of all samples of two groups: Chan et al. 1979."""
    n, mean, squares, products = one
    m, other_mean, other_squares, other_products = other
    apart = other_mean - mean
    both = (n + m).clamp_min(1)
    return (
        n + m,
        mean + apart * m / both,
        squares + other_squares + apart.square() * n * m / both,
        products + other_products + torch.outer(*apart) * n * m / both,
    )
