"""Each operation, compared with kornia's function and with manual arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kornia.enhance import adjust_brightness, adjust_contrast
from kornia.filters import gaussian_blur2d
from kornia.geometry import get_affine_matrix2d, rotate, warp_affine
from torch import Tensor

from mtlcore.augment.color import blur, brightness_, contrast_, noise_
from mtlcore.augment.cutout import cutout
from mtlcore.augment.geometry import unchanged_view, warped_view
from mtlcore.geometry import similarity
from mtlcore.rng import Rng

CLOSE = 1e-4


def rng(seed: int = 0) -> Rng:
    return Rng(torch.Generator().manual_seed(seed), torch.device("cpu"))


def smooth(samples: int, height: int, width: int) -> Tensor:
    """Return images in [0, 255] without noise, in which a rounded coordinate hardly matters."""
    y, x = torch.arange(height)[:, None], torch.arange(width)
    waves = [
        127 * (1 + torch.sin(0.2 * x * (r + 1) + 0.3 * y + c))
        for r in range(samples)
        for c in range(3)
    ]
    return torch.stack(waves).view(samples, 3, height, width).round().to(torch.uint8)


def movements(samples: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    angle = (torch.rand(samples, generator=draw) - 0.5) * 0.7
    return angle, 0.6 + 0.4 * torch.rand(samples, generator=draw), torch.arange(samples) % 2 == 1


@given(st.lists(st.floats(0.0, 3.0), min_size=1, max_size=4))
def test_contrast_equals_kornias(factors: list[float]) -> None:
    images, factor = torch.rand(len(factors), 3, 5, 7), torch.tensor(factors)
    assert torch.allclose(
        contrast_(images * 255, factor, 255.0), adjust_contrast(images, factor), atol=CLOSE
    )


@given(st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=4))
def test_brightness_equals_kornias(shifts: list[float]) -> None:
    images, shift = torch.rand(len(shifts), 3, 5, 7), torch.tensor(shifts)
    assert torch.allclose(
        brightness_(images.clone(), shift), adjust_brightness(images, shift), atol=CLOSE
    )


@pytest.mark.parametrize("sigma_px", [0.4, 1.5, 6.0])
def test_blur_equals_kornias_for_chosen_images_and_leaves_the_others_unchanged(
    sigma_px: float,
) -> None:
    images, chosen = torch.rand(4, 3, 9, 7), torch.tensor([True, False, True, False])
    blurred = blur(images, chosen, sigma_px)
    assert torch.allclose(
        blurred[chosen], gaussian_blur2d(images[chosen], 3, (sigma_px, sigma_px)), atol=CLOSE
    )
    assert torch.equal(blurred[~chosen], images[~chosen])


def test_noise_has_the_requested_std_in_each_image_and_mean_zero() -> None:
    std = torch.tensor([0.0, 0.01, 0.05])
    noise = noise_(torch.zeros(3, 3, 64, 64), std, rng()).flatten(1)
    assert torch.allclose(noise.std(1), std, rtol=0.05)
    assert noise.mean(1).abs().max() < 0.002
    assert not torch.equal(noise[2, :4096], noise[2, 4096:8192])  # each channel has its own


@pytest.mark.parametrize(
    ("old", "new"), [((48, 48), (48, 48)), ((60, 60), (44, 44)), ((40, 56), (32, 24))]
)
def test_the_warp_equals_kornias_affine_warp_with_the_same_matrix(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    """kornia's origin is the center of the first pixel, ours its corner: half a pixel apart."""
    images = smooth(8, *old)
    view = warped_view(images, new, *movements())
    matrix = view.geometry.matrix
    half = torch.eye(3)
    half[:2, 2] = 0.5
    theirs = warp_affine(
        images.float(), (torch.linalg.inv(half) @ matrix @ half)[:, :2], new, align_corners=True
    )
    inside = _sources_inside(matrix, old, new)[:, None].expand_as(theirs)
    assert inside.float().mean() > 0.7
    assert (view.images - theirs)[inside].abs().max() / 255 < CLOSE


def _sources_inside(matrix: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Return which pixels of a view come from inside of the old image, (B, h, w) bool."""
    y, x = torch.meshgrid(torch.arange(new[0]) + 0.5, torch.arange(new[1]) + 0.5, indexing="ij")
    source = torch.einsum(
        "bij,jhw->bihw", torch.linalg.inv(matrix), torch.stack([x, y, torch.ones_like(x)])
    )
    limits = torch.tensor([old[1], old[0]])[:, None, None]
    return ((source[:, :2] > 0.51) & (source[:, :2] < limits - 0.51)).all(1)


def test_the_matrix_equals_kornias_rotation_and_scaling_about_the_center() -> None:
    """`get_affine_matrix2d` rotates clockwise for positive angles, unlike kornia's `rotate`."""
    angle, crop, _ = movements()
    center = torch.tensor([[24.0, 24.0]]).expand(8, 2)
    zoom = (1 / crop)[:, None].expand(8, 2)
    theirs = get_affine_matrix2d(torch.zeros(8, 2), center, zoom, -torch.rad2deg(angle))
    ours = similarity(angle, crop, torch.zeros(8, dtype=torch.bool), (48, 48), (48, 48))
    assert torch.allclose(ours, theirs, atol=CLOSE)


@pytest.mark.parametrize("degrees", [-20.0, 7.0, 90.0])
def test_the_direction_of_rotation_is_that_of_kornias_rotate(degrees: float) -> None:
    images = smooth(2, 33, 33)
    seen = warped_view(
        images, (33, 33), torch.full((2,), math.radians(degrees)), torch.ones(2), torch.zeros(2) > 0
    )
    theirs = rotate(images.float(), torch.full((2,), degrees))
    middle = (slice(None), slice(None), slice(9, 24), slice(9, 24))
    assert (seen.images - theirs)[middle].abs().max() / 255 < CLOSE


@given(st.floats(-3.1, 3.1), st.floats(0.4, 1.0), st.booleans())
def test_a_coordinate_ramp_moves_as_the_matrix_does(angle: float, crop: float, flip: bool) -> None:
    """The image holds its own coordinates, which linear interpolation keeps exact.

    So the view must hold matrix^-1 (x, y).
    """
    old, new = (40, 48), (20, 16)
    y, x = torch.meshgrid(torch.arange(old[0]) + 0.5, torch.arange(old[1]) + 0.5, indexing="ij")
    ramp = torch.stack([x, y, torch.zeros_like(x)])[None]
    view = warped_view(ramp, new, torch.tensor([angle]), torch.tensor([crop]), torch.tensor([flip]))
    new_y, new_x = torch.meshgrid(
        torch.arange(new[0]) + 0.5, torch.arange(new[1]) + 0.5, indexing="ij"
    )
    places = torch.stack([new_x, new_y, torch.ones_like(new_x)]).double()
    expected = torch.einsum(
        "ij,jhw->ihw", torch.linalg.inv(view.geometry.matrix[0].double()), places
    )
    inside = _sources_inside(view.geometry.matrix, old, new)[0]
    assert (view.images[0, :2] - expected[:2])[:, inside].abs().max() < 1e-3


def test_the_center_stays_the_center_and_a_mirror_swaps_left_and_right() -> None:
    angle, crop, flip = movements()
    matrix = similarity(angle, crop, flip, (40, 56), (20, 28))
    assert torch.allclose(
        matrix @ torch.tensor([28.0, 20.0, 1.0]), torch.tensor([14.0, 10.0, 1.0]), atol=CLOSE
    )
    mirror = similarity(torch.zeros(1), torch.ones(1), torch.tensor([True]), (8, 10), (8, 10))[0]
    assert torch.allclose(
        mirror @ torch.tensor([1.0, 2.0, 1.0]), torch.tensor([9.0, 2.0, 1.0]), atol=1e-6
    )


def test_outside_of_the_image_its_mirror_image_is_read() -> None:
    """Rotated by 90 degrees in a wide frame: the outer pixels come from outside of the image."""
    images = smooth(1, 8, 16)
    seen = warped_view(
        images, (8, 16), torch.tensor([math.pi / 2]), torch.ones(1), torch.tensor([False])
    ).images
    stretched = warped_view(
        images, (8, 16), torch.zeros(1), torch.ones(1), torch.tensor([False])
    ).images
    assert seen.min() >= images.min()
    assert torch.allclose(stretched, images.float(), atol=1e-2)
    column = seen[0, 0, :, 0]  # comes from a row 4 pixels above the first: mirrored, row 3
    assert torch.allclose(column, images[0, 0, 3, 4:12].flip(0).float(), atol=0.05)


def test_the_unchanged_view_is_the_image_with_the_identity_geometry() -> None:
    images = smooth(2, 6, 9)
    assert torch.equal(unchanged_view(images).images, images.float())
    assert torch.equal(unchanged_view(images).geometry.matrix, torch.eye(3).expand(2, 3, 3))


@given(st.integers(0, 2**31), st.floats(0.05, 0.95), st.integers(4, 40), st.integers(4, 40))
def test_cutout_hides_one_gray_rectangle_of_the_right_area(
    seed: int, share: float, height: int, width: int
) -> None:
    images = torch.full((3, 3, height, width), 0.9)
    hidden = cutout(images, share, rng(seed)) == 0.5
    area = round(share * height) * round(share * width)
    assert hidden.flatten(2).sum(2).tolist() == [[area] * 3] * 3
    assert bool((hidden[:, 0] == hidden[:, 2]).all())
    rows, columns = hidden[:, 0].any(2), hidden[:, 0].any(1)
    assert torch.equal(
        hidden[:, 0], rows[:, :, None] & columns[:, None, :]
    )  # a rectangle, not scattered pixels
    assert bool((images == 0.9).all())  # the input did not change


def test_every_position_of_the_cutout_is_equally_likely() -> None:
    hidden = cutout(torch.ones(4000, 1, 6, 6), 0.5, rng())[:, 0] == 0.5
    first = hidden.any(2).float().argmax(1) * 4 + hidden.any(1).float().argmax(1)
    counts = torch.bincount(first, minlength=16)
    assert len(counts) == 16
    assert 190 < counts.min() <= counts.max() < 310  # 250 expected, sd 15
