"""The small vision transformer: timm's numbers, its layers, and its visible patches alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusals import assert_refused
from torch import Tensor, nn

from mtlcore.contracts import Visible
from mtlcore.encoders import VitSmall
from mtlcore.errors import MtlError
from mtlcore.model.inference import SharedEncoder

pytest.importorskip("timm", reason="timm is an extra")

SMALL = VitSmall(patch=4, width=16, depth=2, heads=2)


def built(encoder: VitSmall = SMALL, size: tuple[int, int] = (16, 24)) -> nn.Module:
    torch.manual_seed(0)
    return encoder.build(size)


def images(samples: int = 3, size: tuple[int, int] = (16, 24), seed: int = 0) -> Tensor:
    return torch.randn(samples, 3, *size, generator=torch.Generator().manual_seed(seed))


def some_cells(samples: int, number: int, every: int = 24) -> Tensor:
    order = torch.rand(samples, every, generator=torch.Generator().manual_seed(1)).argsort(1)
    return order[:, :number].sort(1).values


def test_features_are_those_of_timms_own_forward() -> None:
    net = built().eval()
    features = net(images())
    own = net.net.forward_features(images())
    assert torch.equal(features.shared, own)
    torch.testing.assert_close(features.pooled, net.net(images()))
    (patches,) = features.maps
    assert patches.shape == (3, 16, 4, 6)
    assert torch.equal(patches[:, :, 1, 2], own[:, 6 + 2])  # row by row


def test_all_patches_visible_is_the_whole_forward_bit_for_bit() -> None:
    net = built().eval()
    every = torch.arange(24).expand(3, -1)
    whole, visible = net(images()), net.forward_visible(images(), every)
    for name in ("pooled", "shared"):
        assert torch.equal(getattr(whole, name), getattr(visible, name))
    assert torch.equal(whole.maps[0], visible.maps[0])


def test_hidden_pixels_change_nothing_and_visible_tokens_are_in_their_places() -> None:
    net, cells = built().eval(), some_cells(3, 7)
    features = net.forward_visible(images(), cells)
    assert features.shared.shape == (3, 7, 16)
    torch.testing.assert_close(features.pooled, features.shared.mean(1))

    shown = torch.zeros(3, 24, dtype=torch.bool).scatter(1, cells, True)
    tokens = features.maps[0].flatten(2).transpose(1, 2)
    assert torch.equal(tokens[shown].view(3, 7, 16), features.shared)
    assert not tokens[~shown].any()

    pixels = shown.view(3, 1, 4, 6).repeat_interleave(4, 2).repeat_interleave(4, 3)
    other = torch.where(pixels, images(), images(seed=5))
    assert torch.equal(net.forward_visible(other, cells).shared, features.shared)
    assert not torch.equal(net(other).pooled, net(images()).pooled)


def test_every_parameter_learns_from_visible_patches_and_is_in_one_layer() -> None:
    net = built()
    net.forward_visible(images(), some_cells(3, 5)).pooled.square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []

    names = [name for name, _ in net.named_parameters()]
    layers = SMALL.layers(net)
    assert [layer.stage for layer in layers] == [0, 1, 2]
    owners = {
        name: [x.stage for x in layers for own in x.names if f"{name}.".startswith(f"{own}.")]
        for name in names
    }
    assert all(len(stages) == 1 for stages in owners.values()), owners


def test_stochastic_depth_rises_to_the_last_block() -> None:
    net = built(VitSmall(width=16, depth=3, heads=2, drop_path=0.2))
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in net.net.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


def test_a_size_without_whole_patches_is_refused_and_so_are_wrong_fields() -> None:
    with pytest.raises(MtlError, match=r"input.size = 30.*multiple of 4"):
        SMALL.build((30, 30))
    assert_refused(
        VitSmall,
        {"heads": 5},
        {"patch": 0},
        {"width": 4},
        {"depth": 0},
        {"drop_path": 1.0},
        {"drop_path": -0.1},
    )


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.data())
def test_cells_of_visible_parts_are_those_of_the_enlarged_mask(rows, columns, high, wide, data):
    number = data.draw(st.integers(1, rows * columns))
    places = st.permutations(range(rows * columns)).map(lambda order: sorted(order[:number]))
    parts = torch.tensor(data.draw(st.lists(places, min_size=1, max_size=3)))
    visible = Visible(parts, (rows, columns))
    mask = torch.zeros(len(parts), rows * columns, dtype=torch.bool).scatter(1, parts, True)
    large = mask.view(-1, rows, columns).repeat_interleave(high, 1).repeat_interleave(wide, 2)
    expected = torch.stack([m.flatten().nonzero()[:, 0] for m in large])
    found = visible.cells((rows * high, columns * wide))
    assert torch.equal(found.sort(1).values, expected)
    assert visible.share == pytest.approx(float(large.float().mean()))


def test_parts_that_cut_a_cell_are_refused() -> None:
    with pytest.raises(ValueError, match="whole cells"):
        Visible(torch.zeros(1, 1, dtype=torch.int64), (3, 3)).cells((4, 6))


def test_the_shared_encoder_says_whether_it_can_leave_out_parts() -> None:
    from mtlcore.encoders import ResnetSmall

    can = SharedEncoder(SMALL, (16, 16))
    cannot = SharedEncoder(ResnetSmall(width=4), (16, 16))
    assert (can.encodes_visible, cannot.encodes_visible) == (True, False)
    visible = Visible(torch.tensor([[0, 3], [1, 2]]), (2, 2))
    pixels = torch.rand(2, 3, 16, 16)
    features = can(pixels, visible)
    assert features.cells.tolist()[0] == [0, 1, 4, 5, 10, 11, 14, 15]
    assert features.images is pixels
    assert can(pixels).cells is None
    with pytest.raises(MtlError, match=r"hidden parts.*vit_small"):
        cannot(pixels, visible)
    with pytest.raises(MtlError, match=r"the view has 32 pixels: expected .*16"):
        can(torch.rand(2, 3, 32, 32), visible)


def test_parts_are_positions_and_no_mask() -> None:
    for parts in (
        torch.ones(2, 4, dtype=torch.bool),
        torch.ones(4, dtype=torch.int64),
        torch.ones(2, 5, dtype=torch.int64),
        torch.ones(2, 0, dtype=torch.int64),
    ):
        with pytest.raises(ValueError, match=r"expected \(B, n\) int64"):
            Visible(parts, (2, 2))


def test_a_network_that_returns_other_tokens_than_the_visible_ones_is_named() -> None:
    encoder = SharedEncoder(SMALL, (16, 16))
    encoder.net.forward_visible = lambda images, cells: encoder.net(images)
    with pytest.raises(MtlError, match=r"a token for each of 8 cells"):
        encoder(torch.rand(2, 3, 16, 16), Visible(torch.tensor([[0, 3], [1, 2]]), (2, 2)))
