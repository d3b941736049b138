"""The augmentation levels: their draws, their costs, and the independence of samples."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mtlcore.augment import NoAugment, Strong, Validation, Weak
from mtlcore.augment.color import blur
from mtlcore.contracts import Augmentation
from mtlcore.rng import Rng

SIZE = (24, 24)
AUGMENTATIONS = [NoAugment(), Weak(), Strong(), Validation()]
by_name = pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=lambda r: type(r).__name__)


def rng(seed: int = 0) -> Rng:
    return Rng(torch.Generator().manual_seed(seed), torch.device("cpu"))


def made_images(samples: int = 6, height: int = 32, width: int = 32, seed: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (samples, 3, height, width), dtype=torch.uint8, generator=draw)


def augmented(augmentation: Augmentation, images: Tensor, seed: int = 0) -> Tensor:
    """Return what the encoder reads: `view`, then `finish`."""
    return augmentation.finish(augmentation.view(images, SIZE, rng(seed)).images, rng(seed + 1))


class Calls(TorchDispatchMode):
    """Counts the aten operations that reach the device."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.of[func.name()] += 1
        return func(*args, **(kwargs or {}))


def calls(augmentation: Augmentation, samples: int) -> Counter[str]:
    images = made_images(samples)
    blur(
        torch.rand(1, 3, 4, 4), torch.tensor([True]), 1.5
    )  # importing kornia runs operations that must not count
    with Calls() as counted:
        augmented(augmentation, images)
    return counted.of


@by_name
def test_a_view_has_float_images_in_0_to_1_of_the_requested_size_and_a_geometry(
    augmentation: Augmentation,
) -> None:
    view = augmentation.view(made_images(5, 32, 40), (24, 16), rng())
    assert view.images.shape == (5, 3, 24, 16)
    assert view.images.dtype == torch.float32
    assert 0 <= view.images.min() < view.images.max() <= 1
    assert view.geometry is not None
    assert view.geometry.matrix.shape == (5, 3, 3)


@by_name
def test_each_image_is_interpolated_exactly_once(augmentation: Augmentation) -> None:
    counted = calls(augmentation, 6)
    assert (
        sum(n for name, n in counted.items() if "grid_sampler" in name or "upsample" in name) == 1
    )


@by_name
def test_nothing_is_copied_to_the_host_and_no_size_depends_on_values(
    augmentation: Augmentation,
) -> None:
    names = " ".join(calls(augmentation, 6))
    for forbidden in (
        "_local_scalar_dense",
        "is_nonzero",
        "nonzero",
        "masked_select",
        "unique",
        "equal",
        "assert_async",
    ):
        assert f"aten::{forbidden}" not in names


@by_name
def test_a_larger_batch_needs_no_more_operations(augmentation: Augmentation) -> None:
    assert calls(augmentation, 2) == calls(augmentation, 31)


def test_the_weak_augmentation_runs_at_most_100_operations_and_the_strong_one_at_most_160() -> None:
    assert sum(calls(Weak(), 8).values()) <= 100
    assert sum(calls(Strong(), 8).values()) <= 160


@by_name
def test_a_sample_does_not_depend_on_its_neighbors_pixels(augmentation: Augmentation) -> None:
    images = made_images()
    others = images.clone()
    others[[0, 2, 3, 4, 5]] = 255 - others[[0, 2, 3, 4, 5]]
    before, after = augmented(augmentation, images), augmented(augmentation, others)
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[0], after[0])


@by_name
def test_the_raw_images_do_not_change(augmentation: Augmentation) -> None:
    images = made_images()
    augmented(augmentation, images)
    assert torch.equal(images, made_images())


@pytest.mark.parametrize("augmentation", AUGMENTATIONS[:3], ids=lambda r: type(r).__name__)
def test_the_same_seed_gives_the_same_view_and_another_seed_another(
    augmentation: Augmentation,
) -> None:
    images = made_images()
    assert torch.equal(augmented(augmentation, images, 3), augmented(augmentation, images, 3))
    assert not torch.equal(augmented(augmentation, images, 3), augmented(augmentation, images, 4))


@by_name
def test_the_global_generator_is_not_used(augmentation: Augmentation) -> None:
    images = made_images()
    torch.manual_seed(5)
    state, first = torch.get_rng_state(), augmented(augmentation, images)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert torch.equal(augmented(augmentation, images), first)


def test_validation_draws_nothing() -> None:
    used = rng()
    Validation().view(made_images(), SIZE, used)
    assert torch.equal(used.generator.get_state(), rng().generator.get_state())


def test_validation_of_the_whole_image_at_its_own_size_is_the_image() -> None:
    images = made_images()
    view = Validation(crop=1.0).view(images, (32, 32), rng())
    assert torch.equal(view.images, images / 255)
    assert torch.equal(view.geometry.matrix, torch.eye(3).expand(6, 3, 3))
    assert torch.equal(view.geometry.warp(images.float()), images.float())


def test_validation_shows_the_center() -> None:
    images = made_images(2, 40, 40)
    view = Validation(crop=0.8).view(
        images, (32, 32), rng()
    )  # 32 of 40 pixels: exactly pixel 4 to 35
    assert torch.allclose(view.images, images[:, :, 4:36, 4:36] / 255, atol=1e-4)


def test_an_upright_uncropped_training_view_is_the_image_or_its_exact_mirror() -> None:
    images = made_images(32)
    view = NoAugment(crop=(1.0, 1.0)).view(images, (32, 32), rng())
    straight = torch.isclose(view.images, images / 255, atol=1e-4).flatten(1).all(1)
    mirrored = torch.isclose(view.images, images.flip(-1) / 255, atol=1e-4).flatten(1).all(1)
    assert bool((straight ^ mirrored).all())
    assert 6 <= int(mirrored.sum()) <= 26
    assert torch.equal(torch.linalg.det(view.geometry.matrix) < 0, mirrored)


@pytest.mark.parametrize("augmentation", [NoAugment, Weak, Strong])
@pytest.mark.parametrize("mirror", [0.0, 1.0])
def test_no_image_or_every_one_is_mirrored(augmentation: type[Augmentation], mirror: float) -> None:
    view = augmentation(mirror=mirror).view(made_images(64), SIZE, rng())
    assert (torch.linalg.det(view.geometry.matrix) < 0).float().mean() == mirror


@pytest.mark.parametrize(
    ("augmentation", "turn_deg"),
    [(NoAugment(crop=(0.69, 0.99)), 0.0), (Weak(), 15.0), (Strong(), 20.0)],
)
def test_rotations_crops_and_mirrors_cover_their_ranges(
    augmentation: Augmentation, turn_deg: float
) -> None:
    matrix = augmentation.view(made_images(2000, 4, 4), (4, 4), rng()).geometry.matrix
    zoom = torch.linalg.det(matrix).abs().sqrt()
    mirrored = torch.linalg.det(matrix) < 0
    turn = torch.rad2deg(
        torch.atan2(-matrix[:, 1, 0] * (1 - 2 * mirrored.float()), matrix[:, 1, 1])
    )
    assert 0.689 < (1 / zoom).min() < 0.70
    assert 0.98 < (1 / zoom).max() < 0.991
    assert turn.abs().max() <= turn_deg + 1e-3
    if turn_deg:
        assert turn.min() < -0.97 * turn_deg
        assert turn.max() > 0.97 * turn_deg
    assert 900 < int(mirrored.sum()) < 1100


def test_weak_multiplies_by_the_contrast_and_clips() -> None:
    flat = torch.full((2000, 3, 4, 4), 100, dtype=torch.uint8)
    seen = Weak().view(flat, (4, 4), rng()).images
    factor = seen[:, 0, 0, 0] * 255 / 100
    assert torch.allclose(seen, seen[:, :1, :1, :1].expand_as(seen), atol=1e-4)
    assert 0.6 - 1e-4 <= factor.min() < 0.61
    assert 1.39 < factor.max() <= 1.4 + 1e-4
    assert Weak().view(flat * 2, (4, 4), rng()).images.max() == 1.0  # 200 / 255 x 1.4


def test_strong_shifts_brightness_and_adds_noise_with_a_std_for_each_image() -> None:
    flat = torch.full((400, 3, 24, 24), 128, dtype=torch.uint8)
    augmentation = Strong(contrast=(1.0, 1.0))
    quiet = evolve(augmentation, noise=0.0).view(flat, SIZE, rng()).images - 128 / 255
    assert torch.allclose(quiet, quiet[:, :1, :1, :1].expand_as(quiet), atol=1e-4)
    assert -0.05 - 1e-4 < quiet.min() < -0.049
    assert 0.049 < quiet.max() < 0.05 + 1e-4
    std = augmentation.view(flat, SIZE, rng()).images.flatten(1).std(1)
    assert std.min() < 0.002
    assert 0.045 < std.max() < 0.052


def test_half_of_the_strong_views_are_blurred() -> None:
    checkers = (
        ((torch.arange(24)[:, None] + torch.arange(24)) % 2 * 255)
        .to(torch.uint8)
        .expand(400, 3, 24, 24)
    )
    augmentation = Strong(
        crop=(1.0, 1.0), turn_deg=0.0, contrast=(1.0, 1.0), brightness=0.0, noise=0.0
    )
    contrast = augmentation.view(checkers, SIZE, rng()).images.flatten(1).std(1)
    assert bool(((contrast > 0.49) | (contrast < 0.1)).all())
    assert 160 < int((contrast < 0.1).sum()) < 240


def test_only_the_strong_augmentation_changes_images_after_the_pretext() -> None:
    images = torch.rand(3, 3, 8, 8)
    for augmentation in (NoAugment(), Weak(), Validation(), Strong(cutout=0.0)):
        assert augmentation.finish(images, rng()) is images
    assert not torch.equal(Strong().finish(images, rng()), images)


@given(
    st.integers(0, 2**31),
    st.floats(0.3, 1.0),
    st.floats(0.0, 60.0),
    st.integers(3, 40),
    st.integers(3, 40),
)
def test_values_stay_in_0_to_1_for_any_fields_and_sizes(
    seed: int, crop: float, turn_deg: float, height: int, width: int
) -> None:
    augmentation = Strong(
        crop=(crop, crop), turn_deg=turn_deg, contrast=(0.1, 5.0), brightness=0.5, noise=0.5
    )
    seen = augmentation.finish(
        augmentation.view(made_images(2, height, width, seed), (7, 9), rng(seed)).images, rng(seed)
    )
    assert seen.shape == (2, 3, 7, 9)
    assert 0 <= seen.min() <= seen.max() <= 1


def test_a_field_out_of_its_range_is_an_error_that_names_it(subtests: pytest.Subtests) -> None:
    for make, wrong in [
        (lambda: Weak(crop=(0.9, 0.7)), "crop"),
        (lambda: NoAugment(crop=(0.5, 1.2)), "crop"),
        (lambda: Strong(contrast=(0.0, 1.0)), "contrast"),
        (lambda: Validation(crop=0.0), "crop"),
        (lambda: Strong(cutout=1.0), "cutout"),
        (lambda: Weak(turn_deg=-3.0), "turn_deg"),
    ]:
        with subtests.test(make=make, wrong=wrong), pytest.raises(ValueError, match=wrong):
            make()


def test_the_defaults_are_the_papers_but_for_the_validation_crop() -> None:
    assert (NoAugment().crop, Weak().crop, Strong().crop, Validation().crop) == (
        (0.69, 0.69),
        (0.69, 0.99),
        (0.69, 0.99),
        1.0,  # the paper's is 0.8, which hides 36 % of a user's image
    )
    assert (Weak().turn_deg, Strong().turn_deg, Weak().contrast, Strong().contrast) == (
        15,
        20,
        (0.6, 1.4),
        (0.6, 1.4),
    )
    strong = Strong()
    assert (strong.brightness, strong.noise, strong.blur_sigma_px, strong.cutout * 224) == (
        0.05,
        0.05,
        1.5,
        60,
    )
