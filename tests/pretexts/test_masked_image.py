"""Masked image modeling: whole patches are hidden, and the coarse map alone predicts them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from mtl_pretexts._shared import hidden_l1
from mtl_pretexts.masked_image import MaskedImage
from refusals import assert_refused
from toys import (
    Jitter,
    Plain,
    Toy,
    batch,
    counted,
    experiment,
    prepared_batches,
    prepared_step,
    train_state,
)

from mtlcore.config.experiment import PretextEntry
from mtlcore.training.step import train_step


def run(task: MaskedImage, size: int = 24, tasks: tuple[str, ...] = ("fer",), **more: Any):
    """Return a training state of toys with this task as its only pretext."""
    entry = PretextEntry(task, **more.pop("entry", {}))
    exp = experiment(tasks, size=size, **{"augment": Plain()} | more)
    return train_state(evolve(exp, pretexts={"masked": entry}))


def asked(state, size: int = 24, n: int = 6):
    """Return the prepared batch of one step, the damaged images, and the target."""
    tasks = tuple(state.experiment.tasks)
    unlabeled = 1 if tasks else n
    made = prepared_batches(state, [batch(n=n, size=size, tasks=tasks, unlabeled=unlabeled)])[0]
    head_input = made.head_inputs["masked"][0]
    return made, made.images[head_input.images[0]], head_input.targets[0][0]


# ---------------------------------------------------------------------------------------- the mask


@given(st.sampled_from([2, 3, 6, 7]), st.data(), st.sampled_from([24, 25, 48]))
def test_each_image_hides_exactly_the_configured_number_of_whole_patches(grid, data, size):
    count = data.draw(st.integers(1, grid**2 - 1))
    task = MaskedImage(grid=grid, ratio=count / grid**2)
    _, _, target = asked(run(task, size, tasks=()), size, n=3)
    edges = [-(-i * size // grid) for i in range(grid + 1)]
    for mask in target["hidden"][:, 0]:
        patches = [mask[a:b, c:d] for a, b in pairwise(edges) for c, d in pairwise(edges)]
        assert sum(p.numel() for p in patches) == size**2
        assert all(bool(p.all()) or not bool(p.any()) for p in patches)
        assert sum(bool(p.any()) for p in patches) == count


def test_every_patch_is_hidden_equally_often_and_images_differ():
    """4 of 9, 6300 images: 2800 a patch, standard deviation 39."""
    _, _, target = asked(run(MaskedImage(grid=3, ratio=4 / 9), 9, tasks=()), 9, n=6300)
    patches = target["hidden"][:, 0, 1::3, 1::3].flatten(1)
    assert len(patches.unique(dim=0)) == 126
    assert (patches.sum(0) - 2800).abs().max() < 200


def test_visible_pixels_are_the_clean_ones_bit_for_bit_and_hidden_ones_are_gray():
    state = run(MaskedImage(), augment=Jitter())
    state.experiment = evolve(state.experiment, augment=Plain())
    made, damaged, target = asked(state)
    mask = target["hidden"].expand_as(damaged)
    assert torch.equal(damaged[~mask], target["image"][~mask])
    assert (damaged[mask] == 0.5).all()
    assert torch.equal(MaskedImage().undo(damaged, target), target["image"])
    clean = made.images[made.head_inputs["fer"][0].images[0]]
    # The shared view is not edited in place.
    assert torch.equal(clean, target["image"][: len(clean)])


def test_defaults_are_simmims_and_the_share_is_rounded_to_whole_patches():
    assert (MaskedImage().grid, MaskedImage().ratio, MaskedImage().hidden) == (6, 0.6, 22)
    assert MaskedImage(grid=4, ratio=0.5).hidden == 8


# ---------------------------------------------------------------------------------------- the loss


def test_the_l1_is_a_mean_over_hidden_pixels_alone():
    hidden = torch.zeros(2, 1, 6, 6, dtype=torch.bool)
    hidden[0, 0, :2, :2], hidden[1, 0, 4:, :3] = True, True
    image = torch.rand(2, 3, 6, 6)
    shifted = image + torch.tensor([0.25, -0.5])[:, None, None, None]
    output = torch.where(hidden, shifted, torch.rand(2, 3, 6, 6))
    found = hidden_l1(output, {"image": image, "hidden": hidden})
    torch.testing.assert_close(found, torch.tensor([0.25, 0.5]))


def test_the_loss_is_0_for_the_ideal_output_and_finite_for_zero_targets():
    state = run(MaskedImage())
    head, (_, _, target) = state.model.heads["masked"], asked(state)
    assert float(head.loss(head.ideal(target), target).max()) == 0.0
    assert head.loss(1 - head.ideal(target), target).min() > 0
    nothing = {k: torch.zeros_like(v) for k, v in target.items()}
    assert head.loss(torch.rand(6, 3, 24, 24), nothing).isfinite().all()


@pytest.mark.parametrize("size", [24, 31, 36])
def test_one_layer_on_the_coarse_map_predicts_the_whole_image(size):
    state = run(MaskedImage(), size)
    head, (_, damaged, _) = state.model.heads["masked"], asked(state, size)
    features = state.model.encoder(damaged)
    assert head(features).shape == damaged.shape
    blind = features._replace(
        maps=(*(torch.zeros_like(m) for m in features.maps[:-1]), features.maps[-1])
    )
    assert torch.equal(head(blind), head(features))
    assert len(list(head.parameters())) == 2


def test_each_cell_predicts_its_own_block_of_pixels():
    state = run(MaskedImage())
    head, (_, damaged, _) = state.model.heads["masked"], asked(state)
    features = state.model.encoder(damaged)
    moved = features.maps[-1].clone()
    moved[:, :, 1, 2] += 1
    changed = head(features._replace(maps=(*features.maps[:-1], moved))) != head(features)
    assert not changed[:, :, :8].any()
    assert not changed[:, :, 16:].any()
    assert not changed[:, :, :, :16].any()
    assert changed[:, :, 8:16, 16:].all()


# ---------------------------------------------------------------------------------------- in a run


def test_control_random_target_permutes_the_images_and_keeps_the_mask():
    plain, mixed = run(MaskedImage()), run(MaskedImage(), entry={"control": "random_target"})
    (_, damaged, target), (_, same, other) = asked(plain, n=12), asked(mixed, n=12)
    assert torch.equal(damaged, same)
    assert torch.equal(target["hidden"], other["hidden"])
    assert not torch.equal(target["image"], other["image"])
    assert torch.equal(
        target["image"].sum((1, 2, 3)).sort()[0], other["image"].sum((1, 2, 3)).sort()[0]
    )


def test_views_and_targets_are_a_function_of_the_seed_and_the_step():
    one, two = asked(run(MaskedImage())), asked(run(MaskedImage()))
    assert torch.equal(one[1], two[1])
    later = run(MaskedImage())
    later.step = 1
    assert not torch.equal(asked(later)[2]["hidden"], one[2]["hidden"])


def test_a_bf16_step_is_finite_and_its_loss_is_near_that_of_fp32():
    logged = {}
    for precision in ("32", "bf16-mixed"):
        state = run(MaskedImage(), train={"precision": precision})
        logged[precision] = prepared_step(state, [asked(state)[0]])["loss/masked"]
    assert logged["bf16-mixed"].dtype == torch.float32
    torch.testing.assert_close(logged["bf16-mixed"], logged["32"], rtol=0.03, atol=0)


def test_metrics_are_one_for_the_mean_color_and_zero_for_the_ideal():
    _, _, target = asked(run(MaskedImage()))
    seen = ~target["hidden"].expand_as(target["image"])
    means = [x[c][s[c]].mean() for x, s in zip(target["image"], seen) for c in range(3)]
    blind = torch.stack(means).view(-1, 3, 1, 1).expand_as(target["image"])
    metrics = MaskedImage().metrics()
    for metric in metrics.values():
        metric.update(blind, target)
    assert float(metrics["over_mean"].compute()) == pytest.approx(1.0, abs=1e-5)
    by_hand = float((blind - target["image"]).abs()[~seen].mean())
    assert float(metrics["l1"].compute()) == pytest.approx(by_hand, abs=1e-5)
    for metric in metrics.values():
        metric.reset()
        metric.update(target["image"], target)
        assert float(metric.compute()) == 0.0


def test_the_drawing_has_the_clean_image_and_the_output_in_the_hidden_patches():
    _, damaged, target = asked(run(MaskedImage()))
    drawn = MaskedImage().draw(damaged, target, torch.full_like(damaged, 1.25))
    mask = target["hidden"].expand_as(drawn)
    assert torch.equal(drawn[~mask], target["image"][~mask])
    assert (drawn[mask] == 1.0).all()


def smooth(n: int, size: int, seed: int):
    """Images with a horizontal blend of two colors: the visible part determines the hidden one."""
    g = torch.Generator().manual_seed(seed)
    ends, across = torch.rand(2, n, 3, 1, 1, generator=g), torch.linspace(0, 1, size)
    images = (ends[0] * across + ends[1] * (1 - across)).expand(n, 3, size, size)
    made = batch(n=n, size=size, tasks=(), unlabeled=n, seed=seed)
    return evolve(made, images=(images * 255).round().byte())


@pytest.mark.slow
def test_it_learns_to_restore_smooth_images_better_than_their_mean_color():
    task = MaskedImage(grid=3, ratio=0.3)
    exp = experiment((), augment=Plain(), size=24, encoder=Toy(width=16, norm="none"))
    state = train_state(
        evolve(exp, pretexts={"masked": PretextEntry(task)}), optimizer="adamw", lr=3e-3
    )
    found = []
    for step in range(200):
        logged = train_step(state, counted([smooth(16, 24, step)]))
        found.append(float(logged["loss/masked"]))
    assert sum(found[-5:]) < 0.6 * sum(found[:5])
    state.model.eval()
    made, metric = prepared_batches(state, [smooth(64, 24, 999)])[0], task.metrics()["over_mean"]
    with torch.no_grad():
        output = state.model.forward_heads(state.model.encode(made)[0], made)["masked"][0]
    metric.update(output, made.head_inputs["masked"][0].targets[0][0])
    assert float(metric.compute()) < 0.9


def test_values_out_of_range_are_refused():
    assert_refused(
        MaskedImage,
        {"grid": 1},
        {"grid": 33},
        {"ratio": 0.0},
        {"ratio": 1.0},
        {"ratio": 0.01},
        {"ratio": float("nan")},
    )
