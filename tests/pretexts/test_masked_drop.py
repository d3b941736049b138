"""Masked image modeling with `drop`: the encoder reads the visible patches alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attrs import evolve
from mtl_pretexts.mae_head import MaeHead
from mtl_pretexts.masked_image import MaskedImage
from toys import Plain, batch, experiment, prepared_batches, prepared_step, train_state

from mtlcore.config.experiment import PretextEntry
from mtlcore.contracts import View, Visible
from mtlcore.encoders import VitSmall
from mtlcore.errors import MtlError
from mtlcore.training.step import train_step

pytest.importorskip("timm", reason="timm is an extra")

VIT = VitSmall(patch=4, width=16, depth=2, heads=2, drop_path=0.0)
DROP = MaskedImage(grid=4, ratio=0.75, drop=True)


def run(task: MaskedImage = DROP, *, entry: dict[str, Any] | None = None, **more: Any):
    """Return a training state of a small ViT with this task as its only pretext."""
    settings = {"encoder": VIT, "size": 16, "augment": Plain()} | more
    exp = experiment(("fer",), **settings)
    masked = PretextEntry(task, **(entry or {}))
    return train_state(evolve(exp, pretexts={"masked": masked}))


def step_of(state, n: int = 6, unlabeled: int = 2):
    """Return the micro-batches of one step, and the first of them prepared."""
    batches = [batch(n=n, size=16, tasks=("fer",), unlabeled=unlabeled)]
    return batches, prepared_batches(state, batches)[0]


def test_the_encoder_reads_exactly_the_patches_that_the_mask_shows():
    state = run()
    _, made = step_of(state)
    ((position,),) = [x.images for x in made.head_inputs["masked"]]
    visible = made.visible[position]
    assert visible.parts.shape == (6, 4)  # 4 of 16 patches
    target = made.head_inputs["masked"][0].targets[0][0]
    shown = ~target["hidden"][:, 0, ::4, ::4].flatten(1)
    expected = torch.stack([row.nonzero()[:, 0] for row in shown])
    assert torch.equal(visible.parts, expected)
    # The masks are those without `drop`.
    _, gray = step_of(run(MaskedImage(grid=4, ratio=0.75)))
    same = gray.head_inputs["masked"][0].targets[0][0]
    assert torch.equal(target["hidden"], same["hidden"])
    assert gray.visible == {}


def test_hidden_pixels_reach_the_network_neither_before_nor_after_training():
    state = run()
    batches, _ = step_of(state)
    for _ in range(2):
        _, made = step_of(state)
        (position,) = made.head_inputs["masked"][0].images
        hidden = made.head_inputs["masked"][0].targets[0][0]["hidden"]
        other = list(made.images)
        other[position] = torch.where(hidden, torch.rand(6, 3, 16, 16), other[position])
        with torch.no_grad():
            losses, _ = state.model(made)
            changed, _ = state.model(evolve(made, images=tuple(other)))
        assert all(torch.equal(losses[name], changed[name]) for name in losses)
        train_step(state, batches)


def test_samples_cost_their_visible_share():
    """Four labeled images for the task, six for the pretext: a quarter of each is visible."""
    state = run()
    batches, made = step_of(state)
    assert made.encoded == 4 + 1.5
    train_step(state, batches)
    assert state.encoded == made.encoded
    # Small micro-batches are not rounded one by one.
    halves = [batch(n=3, size=16, tasks=("fer",), unlabeled=1) for _ in range(2)]
    train_step(state, halves)
    assert state.encoded == made.encoded


@pytest.mark.parametrize(
    "views",
    [{}, {"forward": "split"}, {"statistics": "clean"}, {"supervised": "both"}],
    ids=lambda views: "-".join(views.values()),
)
def test_it_learns_under_every_view_policy(views):
    state = run(**views)
    batches, _ = step_of(state)
    first = train_step(state, batches)
    for _ in range(30):
        last = train_step(state, batches)
    assert last["loss/masked"] < first["loss/masked"]
    assert last["loss/fer"] < first["loss/fer"]
    assert not last["skipped"]


def test_unlabeled_samples_alone():
    state = run(entry={"samples": "unlabeled"})
    _, made = step_of(state)
    (position,) = made.head_inputs["masked"][0].images
    assert len(made.images[position]) == len(made.visible[position].parts) == 2
    assert prepared_step(state, [made])["loss/masked"].isfinite()


def test_joint_and_split_forwards_compute_the_same_losses():
    losses = {}
    for forward in ("joint", "split"):
        state = run(forward=forward)
        losses[forward] = prepared_step(state, [step_of(state)[1]])
    for name in ("loss/fer", "loss/masked", "grad_norm"):
        torch.testing.assert_close(losses["joint"][name], losses["split"][name])


def test_patches_may_cover_several_cells():
    state = run(MaskedImage(grid=2, ratio=0.5, drop=True))
    _, made = step_of(state)
    (position,) = made.head_inputs["masked"][0].images
    features = state.model.encoder(made.images[position], made.visible[position])
    assert features.shared.shape == (6, 2 * 4, 16)
    head = state.model.heads["masked"]
    assert isinstance(head, MaeHead)
    assert head(features).shape == (6, 3, 16, 16)


def test_the_decoder_is_about_half_as_wide_and_its_blocks_start_unequal():
    head = run().model.heads["masked"]
    assert head.embed.out_features == 8
    first, second = head.blocks[0], head.blocks[1]
    assert not torch.equal(first.linear1.weight, second.linear1.weight)


def test_an_encoder_that_cannot_leave_out_patches_is_named_before_the_run():
    with pytest.raises(MtlError, match=r"drop = true.*vit_small"):
        run(encoder=None)
    with pytest.raises(MtlError, match=r"grid = 3 .* 4 x 4 patches: expected 2 or 4;"):
        run(MaskedImage(grid=3, ratio=0.5, drop=True))
    with pytest.raises(MtlError, match=r"4 x 6 patches: expected 2;"):
        run(DROP, size=(16, 24))


def test_a_bf16_step_is_finite_and_its_loss_is_near_that_of_fp32():
    logged = {}
    for precision in ("32", "bf16-mixed"):
        state = run(train={"precision": precision})
        logged[precision] = prepared_step(state, [step_of(state)[1]])["loss/masked"]
    torch.testing.assert_close(logged["bf16-mixed"], logged["32"], rtol=0.03, atol=0)


def test_visible_parts_follow_the_samples_of_a_prepared_batch():
    state = run()
    made = step_of(state, unlabeled=0)[1]
    (position,) = made.head_inputs["masked"][0].images
    part = made.cut(slice(2, 5))
    assert torch.equal(part.visible[position].parts, made.visible[position].parts[2:5])
    assert part.encoded == 3 + 0.75


def test_parts_of_another_number_of_samples_are_refused():
    class OneRow(MaskedImage):
        def views(self, batch, rng):
            (view,), target = super().views(batch, rng)
            return [view.only(view.visible.map(lambda parts: parts[:1]))], target

    with pytest.raises(MtlError, match="the visible parts of a view has the shape"):
        step_of(run(OneRow(grid=4, ratio=0.75, drop=True)))


def test_a_view_with_visible_parts_does_not_move_any_more():
    images = torch.rand(2, 3, 16, 16)
    view = View(images).only(Visible(torch.zeros(2, 1, dtype=torch.int64), (2, 2)))
    for moved in (
        lambda: view.rearrange(lambda x: x),
        lambda: view.resize((8, 8)),
        lambda: view.mix(torch.tensor([1, 0]), share=torch.ones(2)),
    ):
        with pytest.raises(ValueError, match="call `only` last"):
            moved()
