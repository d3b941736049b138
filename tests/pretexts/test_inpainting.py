"""Inpainting: whole tiles are hidden, the loss uses hidden pixels, its network is not trained."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from mtl_pretexts._shared import hidden_l1
from mtl_pretexts.inpainting import Inpainting
from mtl_pretexts.perceptual import Vgg16, relative_distance
from refusals import assert_refused
from safetensors.torch import save_file
from toys import Plain, Toy, batch, counted, experiment, prepared_batches, train_state

from mtlcore import MtlError
from mtlcore.config.experiment import PretextEntry
from mtlcore.training.step import train_step


def run(task: Inpainting, size: int = 24, tasks: tuple[str, ...] = ("fer",), **more: Any):
    """Return a training state of toys with this task as its only pretext."""
    entry = PretextEntry(task, **more.pop("entry", {}))
    exp = experiment(tasks, augment=Plain(), size=size, **more)
    return train_state(evolve(exp, pretexts={"inpainting": entry}))


def asked(state, size: int = 24, n: int = 6):
    """Return the prepared batch of one step, the damaged images, and the target."""
    tasks = tuple(state.experiment.tasks)
    unlabeled = 1 if tasks else n
    made = prepared_batches(state, [batch(n=n, size=size, tasks=tasks, unlabeled=unlabeled)])[0]
    head_input = made.head_inputs["inpainting"][0]
    return made, made.images[head_input.images[0]], head_input.targets[0][0]


# ---------------------------------------------------------------------------------------- the mask


@given(st.sampled_from([2, 3, 4]), st.data(), st.sampled_from([24, 25, 31]))
def test_each_image_hides_exactly_the_asked_number_of_whole_tiles(grid, data, size):
    hidden = data.draw(st.integers(1, grid**2 - 1))
    _, _, target = asked(run(Inpainting(grid=grid, ratio=hidden / grid**2), size, tasks=()), size)
    edges = [-(-i * size // grid) for i in range(grid + 1)]
    for mask in target["hidden"][:, 0]:
        tiles = [mask[a:b, c:d] for a, b in pairwise(edges) for c, d in pairwise(edges)]
        assert sum(t.numel() for t in tiles) == size**2
        assert all(bool(t.all()) or not bool(t.any()) for t in tiles)
        assert sum(bool(t.any()) for t in tiles) == hidden


def test_the_hidden_tiles_are_uniform():
    """All 84 choices of 3 of 9 tiles occur, 60 times each on average, with a small chi2."""
    state, counts = run(Inpainting(), 9, tasks=()), {}
    for step in range(7):
        state.step = step
        _, _, target = asked(state, 9, n=720)
        for sample in target["hidden"][:, 0, 1::3, 1::3].flatten(1).int().tolist():
            counts[tuple(sample)] = counts.get(tuple(sample), 0) + 1
    assert len(counts) == 84
    assert (
        sum((c - 60) ** 2 / 60 for c in counts.values()) < 150
    )  # 83 degrees of freedom: 1 in 100,000


def test_visible_pixels_are_the_clean_ones_bit_for_bit_and_hidden_ones_are_gray():
    state = run(Inpainting())
    made, damaged, target = asked(state)
    hidden = target["hidden"].expand_as(damaged)
    assert torch.equal(damaged[~hidden], target["image"][~hidden])
    assert (damaged[hidden] == 0.5).all()
    assert torch.equal(Inpainting().undo(damaged, target), target["image"])
    clean = made.images[made.head_inputs["fer"][0].images[0]]  # its labeled samples
    # The shared view is not edited in place.
    assert torch.equal(clean, target["image"][: len(clean)])


# ---------------------------------------------------------------------------------------- the loss


def test_the_l1_is_a_mean_over_hidden_pixels_alone():
    hidden = torch.zeros(2, 1, 6, 6, dtype=torch.bool)
    hidden[0, 0, :2, :2], hidden[1, 0, 4:, :3] = True, True
    image = torch.rand(2, 3, 6, 6)
    shifted = image + torch.tensor([0.25, -0.5])[:, None, None, None]
    output = torch.where(hidden, shifted, torch.rand(2, 3, 6, 6))
    found = hidden_l1(output, {"image": image, "hidden": hidden})
    torch.testing.assert_close(found, torch.tensor([0.25, 0.5]))


def test_the_loss_is_the_l1_plus_the_mixed_relative_distance_of_the_judges_maps():
    state = run(Inpainting(mix=0.7, layers=(0, 2)))
    head, (_, damaged, target) = state.model.heads["inpainting"], asked(state)
    output = head(state.model.encoder(damaged))
    copy = head.judge.net.copy
    with torch.no_grad():
        restored = copy(torch.where(target["hidden"], output, target["image"])).maps
        clean = copy(target["image"]).maps
    for n in range(len(output)):
        here = target["hidden"][n].expand(3, -1, -1)
        l1 = (output[n] - target["image"][n])[here].abs().mean()
        fine, coarse = (
            (restored[i][n] - clean[i][n]).abs().mean() / clean[i][n].abs().mean() for i in (0, 2)
        )
        expected = l1 + 0.7 * (fine + coarse) / 2
        torch.testing.assert_close(head.loss(output, target)[n], expected, rtol=1e-4, atol=1e-5)


def test_the_perceptual_distance_does_not_depend_on_the_features_scale():
    restored, clean = torch.rand(3, 4, 5, 5), torch.rand(3, 4, 5, 5)
    distance = relative_distance([restored], [clean])
    torch.testing.assert_close(relative_distance([100 * restored], [100 * clean]), distance)
    one_layer_off = relative_distance([1.1 * clean, clean], [clean, clean])
    torch.testing.assert_close(one_layer_off, torch.full((3,), 0.05))


@pytest.mark.parametrize("perceptual", ["ema", "none"])
def test_the_loss_is_0_for_the_ideal_output_and_finite_for_zero_targets(perceptual):
    state = run(Inpainting(perceptual=perceptual))
    head, (_, _, target) = state.model.heads["inpainting"], asked(state)
    assert float(head.loss(head.ideal(target), target).detach().max()) == 0.0
    nothing = {k: torch.zeros_like(v) for k, v in target.items()}
    assert head.loss(torch.rand(6, 3, 24, 24), nothing).isfinite().all()


def test_a_samples_loss_does_not_depend_on_its_neighbors():
    state = run(Inpainting(), encoder=Toy(norm="none"))
    head, (_, damaged, target) = state.model.heads["inpainting"], asked(state)
    whole = head.loss(head(state.model.encoder(damaged)), target)
    alone = head.loss(
        head(state.model.encoder(damaged[2:3])), {k: v[2:3] for k, v in target.items()}
    )
    torch.testing.assert_close(whole[2:3], alone)


def test_encoder_and_decoder_get_gradient_and_the_perceptual_network_does_not():
    state = run(Inpainting())
    head, (_, damaged, target) = state.model.heads["inpainting"], asked(state)
    head.loss(head(state.model.encoder(damaged)), target).sum().backward()
    learning = [*state.model.encoder.parameters(), *head.decoder.parameters()]
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in learning if p.ndim > 1)
    assert all(not p.requires_grad and p.grad is None for p in head.judge.parameters())


def test_the_perceptual_term_adds_gradient_to_hidden_pixels_alone():
    state = run(Inpainting(mix=1.0))
    head, (_, _, target) = state.model.heads["inpainting"], asked(state)
    output = (target["image"] * 0.5).requires_grad_()
    both_terms = torch.autograd.grad(head.loss(output, target).sum(), output)[0]
    only_pixels = torch.autograd.grad(hidden_l1(output, target).sum(), output)[0]
    hidden = target["hidden"].expand_as(output)
    assert float((both_terms - only_pixels)[hidden].abs().max()) > 1e-4
    assert float(both_terms[~hidden].abs().max()) == 0.0


# ------------------------------------------------------------------------- the perceptual networks


def test_the_momentum_copy_is_saved_follows_the_encoder_and_stays_in_eval_mode():
    state = run(Inpainting(momentum=0.5))
    net = state.model.heads["inpainting"].judge.net
    before = [p.clone() for p in net.copy.parameters()]
    train_step(state, counted([batch(size=24, tasks=("fer",))]))
    for mine, old, its in zip(
        net.copy.parameters(), before, state.model.encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, (old + its.detach()) / 2)
    assert not any(m.training for m in net.copy.modules())
    maps = net.copy(images := torch.rand(2, 3, 24, 24)).maps
    finest = net.call("finest_maps", images, 2)  # `Toy` has no such method: a whole forward
    assert len(finest) == 2
    assert all(torch.equal(a, b) for a, b in zip(finest, maps))
    assert any(k.startswith("heads.inpainting.judge.net.copy.") for k in state.model.state_dict())
    assert not any("judge" in k for k in state.model.inference().state_dict())


def vgg_file(folder, depth: int = 3, suffix: str = ".pt"):
    """Write a file with random weights of VGG16's first layers, by torchvision's names."""
    torch.manual_seed(0)
    weights = {}
    for block in Vgg16(depth).blocks:
        for name, p in block.named_parameters():
            scale = p[0].numel() ** 0.5 if p.ndim > 1 else 10
            weights[f"features.{name}"] = torch.randn(p.shape) / scale
    path = folder / f"vgg{suffix}"
    if suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path)
    return path, weights


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_vgg16_reads_a_weights_file_normalizes_its_input_and_is_not_saved(tmp_path, suffix):
    path, weights = vgg_file(tmp_path, suffix=suffix)
    state = run(Inpainting(perceptual="vgg16", vgg16_weights=path))
    distance = state.model.heads["inpainting"].judge
    assert not any("judge" in k for k in state.model.state_dict())
    assert not any(p.shape[:1] == (256,) for p in state.model.parameters())

    images = torch.rand(2, 3, 24, 24)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    x = (images - mean) / std
    for i in (0, 2):
        weight, bias = weights[f"features.{i}.weight"], weights[f"features.{i}.bias"]
        x = F.relu(F.conv2d(x, weight, bias, padding=1))
    first, second, third = distance.net(images)
    torch.testing.assert_close(first, x)
    assert second.shape == (2, 128, 12, 12)
    assert third.shape == (2, 256, 6, 6)
    logged = train_step(state, counted([batch(size=24, tasks=("fer",))]))
    assert torch.isfinite(logged["loss/inpainting"])


def test_vgg16_is_built_only_as_deep_as_its_layers_need(tmp_path):
    path, _ = vgg_file(tmp_path, depth=2)
    state = run(Inpainting(perceptual="vgg16", vgg16_weights=path, layers=(1,)))
    assert [len(block) for block in state.model.heads["inpainting"].judge.net.net.blocks] == [4, 5]
    with pytest.raises(MtlError, match=r"missing or of another shape: features\.10\.weight"):
        run(Inpainting(perceptual="vgg16", vgg16_weights=path))


def test_missing_weights_are_an_error_that_names_the_option_and_never_fall_back(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # a closed port: no download
    with pytest.raises(
        MtlError, match=r'perceptual = "vgg16".*vgg16_weights = "<file>".*"ema" or "none"'
    ):
        run(Inpainting(perceptual="vgg16"))
    with pytest.raises(MtlError, match=r'vgg16_weights = ".*absent\.pt": no such file'):
        run(Inpainting(perceptual="vgg16", vgg16_weights=tmp_path / "absent.pt"))
    (tmp_path / "text.pt").write_text("no tensors")
    with pytest.raises(MtlError, match="can't be read as a file of tensors"):
        run(Inpainting(perceptual="vgg16", vgg16_weights=tmp_path / "text.pt"))


def test_an_unknown_layer_is_refused():
    with pytest.raises(MtlError, match=r"layers = \[3\]: expected numbers from 0 to 2"):
        run(Inpainting(layers=(3,)))


def test_values_out_of_range_are_refused():
    assert_refused(
        Inpainting,
        {"grid": 5},
        {"ratio": 0.0},
        {"ratio": 1.0},
        {"ratio": 0.05},
        {"ratio": 0.95},
        {"ratio": float("nan")},
        {"mix": -1.0},
        {"momentum": 1.0},
        {"layers": (-1,)},
    )


def test_the_ratio_is_rounded_to_whole_tiles():
    for grid, ratio, hidden in (
        (3, 1 / 3, 3),
        (3, 0.333, 3),
        (2, 1 / 3, 1),
        (4, 0.5, 8),
        (8, 0.99, 63),
    ):
        assert Inpainting(grid=grid, ratio=ratio).hidden == hidden, (grid, ratio)


def test_a_ratio_that_hides_no_tile_or_all_names_ratio_and_grid():
    with pytest.raises(
        ValueError,
        match=r"ratio = 0\.1 of grid = 2 \(4 tiles\): expected a share that hides 1 to 3 of them",
    ):
        Inpainting(grid=2, ratio=0.1)


def test_unused_options_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match='vgg16_weights is set, but perceptual = "ema" does not use it'
    ):
        Inpainting(vgg16_weights=tmp_path / "vgg.pt")
    with pytest.raises(
        ValueError, match='layers is set, but perceptual = "none" compares no layers'
    ):
        Inpainting(perceptual="none", layers=(0,))
    with pytest.raises(ValueError, match='momentum is set, but perceptual = "vgg16" has no copy'):
        Inpainting(perceptual="vgg16", momentum=0.9)


# ---------------------------------------------------------------------------------------- in a run


@pytest.mark.parametrize("size", [24, 31, 36])
def test_the_answer_has_the_images_size(size):
    state = run(Inpainting(), size)
    _, damaged, _ = asked(state, size)
    output = state.model.heads["inpainting"](state.model.encoder(damaged)).detach()
    assert output.shape == damaged.shape
    assert 0 <= float(output.min()) <= float(output.max()) <= 1


def test_the_decoder_aligns_pixel_centers_and_predicts_each_block_of_pixels_once():
    state = run(Inpainting())
    decoder = state.model.heads["inpainting"].decoder
    features = state.model.encoder(asked(state)[1])
    *finer, x = features.maps
    for step, skip in zip(reversed(decoder.steps), reversed(finer)):
        aligned = F.interpolate(step(x), skip.shape[-2:], mode="bilinear", align_corners=False)
        x = F.relu(skip + aligned)
    blocks = F.pixel_shuffle(decoder.last(x), decoder.block)
    assert blocks.shape == features.images.shape  # 24 pixels: whole blocks
    torch.testing.assert_close(decoder(features), blocks.sigmoid())


def test_a_bf16_step_is_finite_and_its_loss_is_fp32():
    state = run(Inpainting(), train={"precision": "bf16-mixed"})
    logged = train_step(state, counted([batch(size=24, tasks=("fer",))]))
    assert logged["loss/inpainting"].dtype == torch.float32
    assert torch.isfinite(logged["loss/inpainting"])
    assert not bool(logged["skipped"])


def test_control_random_target_permutes_the_images_and_keeps_the_mask():
    plain, mixed = run(Inpainting()), run(Inpainting(), entry={"control": "random_target"})
    (_, damaged, target), (_, same, other) = asked(plain, n=12), asked(mixed, n=12)
    assert torch.equal(damaged, same)
    assert torch.equal(target["hidden"], other["hidden"])
    assert not torch.equal(target["image"], other["image"])
    assert torch.equal(
        target["image"].sum((1, 2, 3)).sort()[0], other["image"].sum((1, 2, 3)).sort()[0]
    )


def test_control_views_only_encodes_the_damaged_view_without_a_head():
    state = run(Inpainting(), entry={"control": "views_only"})
    made = prepared_batches(state, [batch(size=24, tasks=("fer",))])[0]
    assert len(made.images) == 2
    assert "inpainting" not in made.head_inputs


def test_metrics_are_one_for_the_mean_color_and_zero_for_the_ideal():
    state = run(Inpainting())
    task = state.experiment.pretexts["inpainting"].component
    _, _, target = asked(state)
    seen = ~target["hidden"].expand_as(target["image"])
    means = [x[c][s[c]].mean() for x, s in zip(target["image"], seen) for c in range(3)]
    blind = torch.stack(means).view(-1, 3, 1, 1).expand_as(target["image"])
    metrics = task.metrics()
    for metric in metrics.values():
        metric.update(blind, target)
    assert float(metrics["over_mean"].compute()) == pytest.approx(1.0, abs=1e-5)
    assert float(metrics["l1"].compute()) == pytest.approx(
        float((blind - target["image"]).abs()[~seen].mean()), abs=1e-5
    )
    for metric in metrics.values():
        metric.reset()
        metric.update(target["image"], target)
        assert float(metric.compute()) == 0.0


def test_the_drawing_has_the_clean_image_and_the_output_in_the_hidden_tiles():
    state = run(Inpainting())
    _, damaged, target = asked(state)
    drawn = Inpainting().draw(damaged, target, torch.full_like(damaged, 0.25))
    hidden = target["hidden"].expand_as(drawn)
    assert torch.equal(drawn[~hidden], target["image"][~hidden])
    assert (drawn[hidden] == 0.25).all()


def smooth(n: int, size: int, seed: int = 0):
    """Images with a horizontal blend of two colors: the visible part determines the hidden one."""
    g = torch.Generator().manual_seed(seed)
    ends, across = torch.rand(2, n, 3, 1, 1, generator=g), torch.linspace(0, 1, size)
    images = (ends[0] * across + ends[1] * (1 - across)).expand(n, 3, size, size)
    made = batch(n=n, size=size, tasks=(), unlabeled=n, seed=seed)
    return evolve(made, images=(images * 255).round().byte())


@pytest.mark.parametrize("perceptual", ["ema", pytest.param("none", marks=pytest.mark.slow)])
def test_it_learns_to_restore_smooth_images_better_than_their_mean_color(perceptual):
    exp = experiment((), augment=Plain(), size=24, encoder=Toy(width=8))
    entry = PretextEntry(Inpainting(perceptual=perceptual))
    exp = evolve(exp, pretexts={"inpainting": entry})
    state = train_state(exp, optimizer="adamw", lr=3e-3)
    for step in range(200):
        train_step(state, counted([smooth(16, 24, step)]))
    state.model.eval()
    made = prepared_batches(state, [smooth(64, 24, 999)])[0]
    head_input, metric = made.head_inputs["inpainting"][0], Inpainting().metrics()["over_mean"]
    with torch.no_grad():
        output = state.model.forward_heads(state.model.encode(made)[0], made)["inpainting"][0]
    metric.update(output, head_input.targets[0][0])
    assert float(metric.compute()) < 0.8
