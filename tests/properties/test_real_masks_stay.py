"""Real masks of CamVid stay on their pixels: through the cache and every augmentation.

The image that is augmented shows the mask itself, in gray. So each moved class must be where the
moved image shows its gray.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attrs import evolve

from mtlcore import Sample, Segmentation
from mtlcore.augment.levels import NoAugment, Strong, Validation, Weak
from mtlcore.data.aligned import joined_labels
from mtlcore.data.cache import open_images
from mtlcore.data.image_mask import ImageMask
from mtlcore.registry.catalog import catalog
from mtlcore.rng import KeyedRng

VOID = 11
STEP = 20  # of gray, from class to class
TASK = Segmentation(tuple("abcdefghijk"), ignore_index=VOID)
PLAIN = {
    "none": NoAugment(),
    "weak": Weak(contrast=(1, 1)),
    "validation": Validation(),
    "strong": evolve(
        Strong(), contrast=(1, 1), brightness=0.0, noise=0.0, blur_sigma_px=0.01, cutout=0.0
    ),
}


@pytest.fixture(scope="module")
def cached(unpacked):
    """Twelve masks of both splits, drawn as gray images, through the cache."""
    dataset = ImageMask(unpacked("camvid") / "camvid")
    index = dataset.index()
    assert index.maps["mask"].present.all()
    chosen = np.linspace(0, len(index) - 1, 12).astype(int)

    def decode(number: int) -> Sample:
        sample = dataset.decode(index, int(chosen[number]))
        mask = sample.maps["mask"]
        assert mask.max() <= VOID
        return Sample((mask[..., None] * np.uint8(STEP)).repeat(3, 2), {"mask": mask})

    columns = {"mask": evolve(joined_labels("mask", {"a": index}), present=np.full(12, True))}
    images, unreadable = open_images(decode, 12, (135, 180), columns=columns)
    assert not unreadable
    return images.take(np.arange(12))


def agreement(images: torch.Tensor, mask: torch.Tensor) -> float:
    """Return the share of pixels, away from borders, whose gray is that of their class."""
    gray = images.mean(1) * 255 / STEP
    padded = F.pad(mask[:, None].float(), (2, 2, 2, 2), mode="replicate")
    high, low = F.max_pool2d(padded, 5, 1), -F.max_pool2d(-padded, 5, 1)
    smooth = (high == low)[:, 0]
    assert smooth.float().mean() > 0.3
    return float(((gray - mask).abs() < 0.6)[smooth].float().mean())


def test_real_masks_follow_every_augmentation(cached, subtests):
    for name, augmentation in PLAIN.items():
        for seed in range(3):
            with subtests.test(f"{name} {seed}"):
                view = augmentation.view(cached.images, (90, 132), KeyedRng((seed,))("view"))
                moved = TASK.move(cached.aligned["mask"], view.geometry)
                assert moved.shape == (12, 90, 132)
                assert agreement(view.images, moved) > 0.985


def test_what_an_augmentation_shows_outside_of_the_image_has_no_class(cached):
    general = catalog().find("augmentation", "general")()
    mask = cached.aligned["mask"]
    shares = []
    for seed in range(6):
        geometry = general.view(cached.images, (90, 120), KeyedRng((seed,))("view")).geometry
        moved = TASK.move(mask, geometry)
        outside = geometry.warp(torch.ones(mask.shape)) == 0
        assert (moved[outside] == VOID).all()
        assert torch.equal(moved[~outside], geometry.warp(mask)[~outside])
        shares.append(float(outside.float().mean()))
    assert max(shares) > 0.02
