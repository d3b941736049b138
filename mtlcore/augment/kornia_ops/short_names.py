"""`mixup` and `cutmix`: kornia's `RandomMixUpV2` and `RandomCutMixV2` as in their papers.

The share of each sample is drawn from Beta(alpha, alpha), and each sample is mixed with probability
p. kornia draws shares of mixup uniformly, and decides once for the whole batch whether to mix.

- mixup: Zhang, Cisse, Dauphin, Lopez-Paz, ICLR 2018, arXiv:1710.09412.
- cutmix: Yun et al., ICCV 2019, arXiv:1905.04899. As in kornia, the box is completely inside the
  image, so its area is 1 - share, in whole pixels.

Only `catalog` imports this module, when it lists kornia's operations: kornia takes 0.7 s.
"""

from __future__ import annotations

import torch
from kornia.augmentation import RandomCutMixV2, RandomMixUpV2
from kornia.augmentation.random_generator import CutmixGenerator, MixupGenerator
from torch.distributions import Beta

MOST_ALPHA = 100.0  # shares are then 0.5 +- 0.04


class _BetaMixupGenerator(MixupGenerator):
    """Partners, and their shares from Beta(alpha, alpha), or 0 with probability 1 - p."""

    def __init__(self, alpha: float, p: float) -> None:
        super().__init__(p=p)
        self.alpha = alpha

    def make_samplers(self, device: torch.device, dtype: torch.dtype) -> None:
        super().make_samplers(device, dtype)
        alpha = torch.tensor(self.alpha, device=device)
        self.lambda_sampler = Beta(alpha, alpha)


class Mixup(RandomMixUpV2):
    """Blend each image with another one, by shares from Beta(alpha, alpha)."""

    def __init__(self, alpha: float = 0.2, p: float = 1.0) -> None:
        _check(alpha)
        super().__init__()
        self._param_generator = _BetaMixupGenerator(alpha, p)


class Cutmix(RandomCutMixV2):
    """Paste a box of another image into each, whose area has a share from Beta(alpha, alpha)."""

    def __init__(self, alpha: float = 1.0, p: float = 1.0) -> None:
        _check(alpha)
        super().__init__(use_correct_lambda=True)
        self._param_generator = CutmixGenerator(beta=alpha, p=p)


def _check(alpha: float) -> None:
    if not 0 < alpha <= MOST_ALPHA:
        raise ValueError(f"alpha = {alpha}: expected more than 0, and at most {MOST_ALPHA:g}")


SHORT_NAMES = {"mixup": Mixup, "cutmix": Cutmix}
