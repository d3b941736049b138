"""Maps and points move as the pixels did, exactly; and a view without a label does not count."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import experiment

from mtlcore import Geometry, Mix, View
from mtlcore.contracts import HeadInput, PreparedBatch
from mtlcore.geometry import similarity
from mtlcore.model.hybrid import HybridModel
from mtlcore.model.losses import label_loss

SIZE, VIEW = (20, 28), (18, 24)


def turned(samples: int, seed: int) -> Geometry:
    """Return a random turn, crop and mirror of each image."""
    unit = torch.rand(3, samples, generator=torch.Generator().manual_seed(seed))
    matrix = similarity(unit[0] - 0.5, 0.6 + 0.4 * unit[1], unit[2] < 0.5, SIZE, VIEW)
    return Geometry.affine(matrix, VIEW)


def ids(dtype: torch.dtype, start: int) -> torch.Tensor:
    """Return (2, 1, H, W), another number in each pixel."""
    count = 2 * SIZE[0] * SIZE[1]
    return torch.arange(start, start + count).view(2, 1, *SIZE).to(dtype)


@given(seed=st.integers(0, 2**16))
def test_integers_move_to_the_pixels_where_floats_move(seed):
    geometry = turned(2, seed).moved(lambda maps: maps.flip(-1))
    small = ids(torch.int64, 0)
    assert torch.equal(geometry.warp(small), geometry.warp(small.float(), "nearest").long())


@pytest.mark.parametrize(
    ("dtype", "start"),
    [
        (torch.int64, 2**53 + 1),  # neither float32 nor float64 can hold them
        (torch.int32, 2**24 + 1),
        (torch.int16, -500),
    ],
)
def test_integers_keep_their_dtype_and_their_exact_values(dtype, start):
    maps = ids(dtype, start)
    moved = turned(2, 7).warp(maps, "bilinear")
    assert moved.dtype == dtype
    assert moved.shape == (2, 1, *VIEW)
    assert set(moved.flatten().tolist()) <= set(maps.flatten().tolist())
    assert len(moved.unique()) > 100


def test_bool_stays_bool_and_maps_without_channels_stay_without():
    here = ids(torch.int64, 0) % 3 == 0
    geometry = turned(2, 3)
    assert geometry.warp(here).dtype == torch.bool
    assert torch.equal(geometry.warp(here[:, 0]), geometry.warp(here)[:, 0])
    depth = torch.rand(2, *SIZE)
    assert torch.equal(
        geometry.warp(depth, "bilinear"), geometry.warp(depth[:, None], "bilinear")[:, 0]
    )


def test_points_follow_the_matrix_and_unknown_ones_stay_unknown():
    quarter = similarity(torch.tensor([math.pi / 2]), torch.ones(1), torch.zeros(1) > 0, SIZE, SIZE)
    geometry = Geometry.affine(quarter, SIZE).then(Geometry.resize(SIZE, (40, 56), quarter))
    points = torch.tensor([[[14.0, 10.0], [17.0, 10.0], [math.nan, math.nan]]])
    moved = geometry.points(points)
    torch.testing.assert_close(moved[0, :2], torch.tensor([[28.0, 20.0], [28.0, 14.0]]))
    assert moved[0, 2].isnan().all()


def test_points_are_unknown_once_pixels_were_rearranged_without_a_matrix():
    images = torch.rand(2, 3, *SIZE)
    view = View(images, Geometry.identity(images))
    points = torch.rand(2, 4, 2) * 20
    assert torch.equal(view.geometry.points(points), points)

    shuffled = view.rearrange(lambda maps: maps.roll(3, -1)).resize((10, 14))
    assert shuffled.geometry.shuffled
    assert shuffled.geometry.points(points).isnan().all()
    mirror = torch.tensor([[-1.0, 0, SIZE[1]], [0, 1, 0], [0, 0, 1]]).expand(2, 3, 3)
    mirrored = view.rearrange(lambda maps: maps.flip(-1), mirror)
    assert not mirrored.geometry.shuffled
    torch.testing.assert_close(mirrored.geometry.points(points)[..., 0], SIZE[1] - points[..., 0])


def test_the_region_of_a_mixed_view_moves_with_its_pixels():
    images = torch.rand(2, 3, *SIZE)
    region = torch.zeros(2, 1, *SIZE, dtype=torch.bool)
    region[:, :, :, :14] = True
    mix = Mix(torch.tensor([1, 0]), torch.tensor([0.5, 0.5]), region)
    view = View(images, Geometry.identity(images), mix)
    moved = view.rearrange(lambda maps: maps.flip(-1)).resize((10, 14))
    assert torch.equal(moved.mixed.region[..., 7:], torch.ones(2, 1, 10, 7, dtype=torch.bool))
    assert not moved.mixed.region[..., :7].any()
    assert torch.equal(view.repaint(images * 0).mixed.region, region)


# ------------------------------------------------------------ losses over views


LOSSES = torch.tensor([[1.0, 4.0, 2.0, 9.0], [4.0, 1.0, 8.0, 9.0]])
"""(2 views, 4 samples)"""

FOLLOWED = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]])


class Given(torch.nn.Module):
    """A head whose loss is its output."""


def loss_of(reduce: str, unfollowed: bool, shares: torch.Tensor = FOLLOWED) -> torch.Tensor:
    """Return the loss of four samples in two views, divided by four."""
    exp = experiment(("gender",), reduce=reduce)
    model = HybridModel(exp)
    model.heads["gender"].loss = lambda output, target: output
    inputs = []
    for view, share in enumerate(shares):
        lost = (share == 0).float() if unfollowed else None
        inputs.append(HeadInput((view,), ((torch.zeros(4), share),), lost))
    images = (torch.zeros(4, 3, 32, 32),) * 2
    prepared = PreparedBatch(images, {"gender": tuple(inputs)}, {"gender": 0.25})
    return model.compute_losses("gender", list(LOSSES), prepared)


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [
        ("mean", (2.5 + 4.0 + 8.0 + 0.0) / 4),
        ("geometric", (2.0 + 4.0 + 8.0 + 0.0) / 4),
    ],
)
def test_a_view_that_a_label_could_not_follow_into_does_not_count(reduce, expected):
    """The divisor stays the number of labeled samples, 4."""
    assert loss_of(reduce, unfollowed=True).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("reduce", ["mean", "geometric"])
def test_labels_that_all_followed_give_the_same_loss(reduce):
    every = torch.ones(2, 4)
    plain = loss_of(reduce, unfollowed=False, shares=every)
    assert loss_of(reduce, unfollowed=True, shares=every).item() == pytest.approx(plain.item())


class MeanOfPixels(torch.nn.Module):
    """A head whose loss is a mean over the batch, as of maps with normalize = "batch"."""

    coupled = True

    def loss(self, output, target, share):
        return ((output - target).abs() * share).sum() / share.sum().clamp_min(1e-6)


@pytest.mark.parametrize("reduce", ["mean", "geometric"])
def test_a_view_into_which_no_label_followed_does_not_count_in_a_coupled_loss(reduce):
    target, all_lost = torch.full((3,), 0.8), torch.ones(3)
    clean = HeadInput((0,), ((target, torch.ones(3)),), torch.zeros(3))
    lost = HeadInput((1,), ((target, torch.zeros(3)),), all_lost)
    outputs = [torch.zeros(3)] * 2
    loss = label_loss("map", MeanOfPixels(), outputs, [clean, lost], 1 / 3, reduce)
    assert loss.item() == pytest.approx(0.8)


def test_a_coupled_loss_counts_each_micro_batch_by_its_labels():
    """Here, pixels and labels are the same: the mean is that of all labels of the step."""
    losses = [torch.tensor([1.0, 2.0, 6.0]), torch.zeros(3), torch.tensor([7.0, 0.0, 0.0])]
    labels = [torch.tensor([1.0, 1, 1]), torch.zeros(3), torch.tensor([1.0, 0, 0])]
    scale, found = len(losses) / 4, []
    for output, share in zip(losses, labels):
        given = [HeadInput((0,), ((torch.zeros(3), share),))]
        loss = label_loss("map", MeanOfPixels(), [output], given, scale, "mean", share > 0)
        found.append(float(loss))
    assert sum(found) / len(losses) == pytest.approx((1 + 2 + 6 + 7) / 4)


@pytest.mark.parametrize("own", [1.0, 0.9, 0.5, 0.0])
def test_a_mixed_view_weights_both_labels_by_their_shares_in_a_coupled_loss(own):
    one, ten = torch.ones(4), torch.full((4,), 10.0)
    mixed = HeadInput((0,), ((one, own * one), (ten, (1 - own) * one)))
    loss = label_loss("map", MeanOfPixels(), [torch.zeros(4)], [mixed], 1 / 4, "mean")
    assert loss.item() == pytest.approx(own * 1 + (1 - own) * 10)
