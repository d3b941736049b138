"""In-painting: exactly the drawn tiles are hidden, only missing pixels are judged, and the judge learns nothing from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from mtl_pretexts.inpainting import Inpainting, missing_l1
from mtl_pretexts.perceptual import Vgg16, relative_distance
from safetensors.torch import save_file
from toys import Plain, Toy, batch, experiment, prepared_batches, train_state

from mtlcore import MtlError
from mtlcore.config.experiment import PretextEntry
from mtlcore.train.step import train_step


def run(task: Inpainting, size: int = 24, tasks: tuple[str, ...] = ("fer",), **more: Any):
    """An train_state of toys with this task as its one pretext."""
    entry = PretextEntry(task, **more.pop("entry", {}))
    return train_state(
        evolve(
            experiment(tasks, augment=Plain(), size=size, **more), pretexts={"inpainting": entry}
        )
    )


def asked(eng, size: int = 24, n: int = 6):
    """-> the inputs of one step, the damaged images, and the question."""
    made = prepared_batches(
        eng,
        [
            batch(
                n=n,
                size=size,
                tasks=tuple(eng.experiment.tasks),
                unlabeled=n if not eng.experiment.tasks else 1,
            )
        ],
    )[0]
    head_input = made.head_inputs["inpainting"][0]
    return made, made.images[head_input.images[0]], head_input.targets[0][0]


# ---------------------------------------------------------------------------------------------------- the mask


@given(st.sampled_from([2, 3, 4]), st.data(), st.sampled_from([24, 25, 31]))
def test_each_image_hides_exactly_the_asked_number_of_whole_tiles(grid, data, size):
    hidden = data.draw(st.integers(1, grid**2 - 1))
    _, _, target = asked(run(Inpainting(grid=grid, ratio=hidden / grid**2), size, tasks=()), size)
    for mask in target["hidden"][:, 0]:
        tiles = [
            mask[(r * size + grid - 1) // grid : ((r + 1) * size + grid - 1) // grid][
                :, (c * size + grid - 1) // grid : ((c + 1) * size + grid - 1) // grid
            ]
            for r in range(grid)
            for c in range(grid)
        ]
        assert sum(t.numel() for t in tiles) == size**2
        assert all(bool(t.all()) or not bool(t.any()) for t in tiles)
        assert sum(bool(t.any()) for t in tiles) == hidden


def test_the_hidden_tiles_are_uniform():
    """All 84 choices of 3 of 9 tiles, 60 each on average: 83 degrees of freedom, far below a biased draw's chi2."""
    eng, counts = run(Inpainting(), 9, tasks=()), {}
    for step in range(7):
        eng.step = step
        _, _, target = asked(eng, 9, n=720)
        for sample in target["hidden"][:, 0, 1::3, 1::3].flatten(1).int().tolist():
            counts[tuple(sample)] = counts.get(tuple(sample), 0) + 1
    assert len(counts) == 84
    assert sum((c - 60) ** 2 / 60 for c in counts.values()) < 150  # 1 in 100,000


def test_pixels_outside_of_the_mask_are_the_clean_ones_bit_for_bit_and_those_inside_are_gray():
    eng = run(Inpainting())
    made, damaged, target = asked(eng)
    hidden = target["hidden"].expand_as(damaged)
    assert torch.equal(damaged[~hidden], target["image"][~hidden])
    assert (damaged[hidden] == 0.5).all()
    assert torch.equal(
        eng.experiment.pretexts["inpainting"].component.undo(damaged, target), target["image"]
    )
    clean = made.images[made.head_inputs["fer"][0].images[0]]  # its labeled samples
    assert torch.equal(
        clean, target["image"][: len(clean)]
    )  # the shared view is not edited in place


# ---------------------------------------------------------------------------------------------------- the loss


def test_the_l1_is_a_mean_over_missing_pixels_alone():
    hidden = torch.zeros(2, 1, 6, 6, dtype=torch.bool)
    hidden[0, 0, :2, :2], hidden[1, 0, 4:, :3] = True, True
    image = torch.rand(2, 3, 6, 6)
    answer = torch.where(
        hidden, image + torch.tensor([0.25, -0.5])[:, None, None, None], torch.rand(2, 3, 6, 6)
    )
    torch.testing.assert_close(
        missing_l1(answer, {"image": image, "hidden": hidden}), torch.tensor([0.25, 0.5])
    )


def test_the_loss_is_the_l1_plus_the_mixed_relative_distance_of_the_judges_maps():
    eng = run(Inpainting(mix=0.7, layers=(0, 2)))
    head, (_, damaged, target) = eng.model.heads["inpainting"], asked(eng)
    answer = head(eng.model.encoder(damaged))
    copy, restored = head.judge.net.copy, torch.where(target["hidden"], answer, target["image"])
    with torch.no_grad():
        mine, wanted = copy(restored).maps, copy(target["image"]).maps
    for n in range(len(answer)):
        here = target["hidden"][n].expand(3, -1, -1)
        l1 = (answer[n] - target["image"][n])[here].abs().mean()
        layers = [
            (mine[i][n] - wanted[i][n]).abs().mean() / wanted[i][n].abs().mean() for i in (0, 2)
        ]
        torch.testing.assert_close(
            head.loss(answer, target)[n],
            l1 + 0.7 * (layers[0] + layers[1]) / 2,
            rtol=1e-4,
            atol=1e-5,
        )


def test_the_perceptual_distance_does_not_depend_on_the_features_scale():
    found, wanted = torch.rand(3, 4, 5, 5), torch.rand(3, 4, 5, 5)
    torch.testing.assert_close(
        relative_distance([100 * found], [100 * wanted]), relative_distance([found], [wanted])
    )
    torch.testing.assert_close(
        relative_distance([1.1 * wanted, wanted], [wanted, wanted]), torch.full((3,), 0.05)
    )


@pytest.mark.parametrize("perceptual", ["ema", "none"])
def test_the_ideal_answer_costs_nothing_and_zero_targets_are_finite(perceptual):
    eng = run(Inpainting(perceptual=perceptual))
    head, (_, _, target) = eng.model.heads["inpainting"], asked(eng)
    assert float(head.loss(head.ideal(target), target).detach().max()) == 0.0
    nothing = {k: torch.zeros_like(v) for k, v in target.items()}
    assert head.loss(torch.rand(6, 3, 24, 24), nothing).isfinite().all()


def test_a_samples_loss_does_not_depend_on_its_neighbors():
    eng = run(Inpainting(), encoder=Toy(norm="none"))
    head, (_, damaged, target) = eng.model.heads["inpainting"], asked(eng)
    whole = head.loss(head(eng.model.encoder(damaged)), target)
    alone = head.loss(head(eng.model.encoder(damaged[2:3])), {k: v[2:3] for k, v in target.items()})
    torch.testing.assert_close(whole[2:3], alone)


def test_encoder_and_decoder_learn_and_the_judge_does_not():
    eng = run(Inpainting())
    head, (_, damaged, target) = eng.model.heads["inpainting"], asked(eng)
    head.loss(head(eng.model.encoder(damaged)), target).sum().backward()
    learning = [*eng.model.encoder.parameters(), *head.decoder.parameters()]
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in learning if p.ndim > 1)
    assert all(not p.requires_grad and p.grad is None for p in head.judge.parameters())


def test_the_perceptual_term_moves_the_answer_where_the_l1_alone_does_not():
    """At the clean value of a missing pixel the L1 has no gradient for the others; the judge sees them together."""
    eng = run(Inpainting(mix=1.0))
    head, (_, _, target) = eng.model.heads["inpainting"], asked(eng)
    answer = (target["image"] * 0.5).requires_grad_()
    with_judge = torch.autograd.grad(head.loss(answer, target).sum(), answer)[0]
    only_pixels = torch.autograd.grad(missing_l1(answer, target).sum(), answer)[0]
    hidden = target["hidden"].expand_as(answer)
    assert float((with_judge - only_pixels)[hidden].abs().max()) > 1e-4
    assert float(with_judge[~hidden].abs().max()) == 0.0


# ---------------------------------------------------------------------------------------------------- the judges


def test_the_momentum_judge_is_saved_follows_the_encoder_and_stays_in_eval_mode():
    eng = run(Inpainting(momentum=0.5))
    judge = eng.model.heads["inpainting"].judge.net
    before = [p.clone() for p in judge.copy.parameters()]
    train_step(eng, prepared_batches(eng, [batch(size=24, tasks=("fer",))]))
    for mine, old, its in zip(
        judge.copy.parameters(), before, eng.model.encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, (old + its.detach()) / 2)
    assert not any(m.training for m in judge.copy.modules())
    assert any(k.startswith("heads.inpainting.judge.net.copy.") for k in eng.model.state_dict())
    assert not any("judge" in k for k in eng.model.inference().state_dict())


def vgg_file(folder, depth: int = 3, suffix: str = ".pt"):
    """A file of VGG16's first layers, random, by torchvision's names."""
    torch.manual_seed(0)
    net, state = Vgg16(depth), {}
    for block in net.blocks:
        for name, p in block.named_parameters():
            state[f"features.{name}"] = torch.randn(p.shape) / (
                p[0].numel() ** 0.5 if p.ndim > 1 else 10
            )
    path = folder / f"vgg{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    return path, state


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_vgg16_reads_a_weights_file_normalizes_by_itself_and_is_not_saved(tmp_path, suffix):
    path, state = vgg_file(tmp_path, suffix=suffix)
    eng = run(Inpainting(perceptual="vgg16", vgg16_weights=path))
    judge = eng.model.heads["inpainting"].judge
    assert not any("judge" in k for k in eng.model.state_dict())
    assert not any(p.shape[:1] == (256,) for p in eng.model.parameters())

    x = images = torch.rand(2, 3, 24, 24)
    x = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor(
        [0.229, 0.224, 0.225]
    )[:, None, None]
    for i in (0, 2):
        x = F.relu(
            F.conv2d(x, state[f"features.{i}.weight"], state[f"features.{i}.bias"], padding=1)
        )
    first, second, third = judge.net(images)
    torch.testing.assert_close(first, x)
    assert second.shape == (2, 128, 12, 12)
    assert third.shape == (2, 256, 6, 6)
    logged = train_step(eng, prepared_batches(eng, [batch(size=24, tasks=("fer",))]))
    assert torch.isfinite(logged["loss/inpainting"])


def test_vgg16_is_built_only_as_deep_as_its_layers_need(tmp_path):
    path, _ = vgg_file(tmp_path, depth=2)
    eng = run(Inpainting(perceptual="vgg16", vgg16_weights=path, layers=(1,)))
    assert [len(block) for block in eng.model.heads["inpainting"].judge.net.net.blocks] == [4, 5]
    with pytest.raises(MtlError, match=r"missing or of another shape: features\.10\.weight"):
        run(Inpainting(perceptual="vgg16", vgg16_weights=path))


def test_weights_that_cannot_be_had_name_the_option_and_never_fall_back(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there: no download
    with pytest.raises(
        MtlError, match=r'perceptual = "vgg16".*vgg16_weights = "<file>".*"ema" or "none"'
    ):
        run(Inpainting(perceptual="vgg16"))
    with pytest.raises(MtlError, match=r'vgg16_weights = ".*absent\.pt": no such file'):
        run(Inpainting(perceptual="vgg16", vgg16_weights=tmp_path / "absent.pt"))
    (tmp_path / "text.pt").write_text("no tensors")
    with pytest.raises(MtlError, match="can't be read as a file of tensors"):
        run(Inpainting(perceptual="vgg16", vgg16_weights=tmp_path / "text.pt"))


def test_a_layer_that_the_judge_lacks_is_refused():
    with pytest.raises(MtlError, match=r"layers = \[3\]: expected numbers from 0 to 2"):
        run(Inpainting(layers=(3,)))


@pytest.mark.parametrize(
    "fields",
    [
        {"grid": 5},
        {"ratio": 0.0},
        {"ratio": 1.0},
        {"ratio": 0.05},
        {"ratio": 0.95},
        {"ratio": float("nan")},
        {"mix": -1.0},
        {"momentum": 1.0},
        {"layers": (-1,)},
    ],
)
def test_values_out_of_range_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Inpainting(**fields)


@pytest.mark.parametrize(
    ("grid", "ratio", "hidden"),
    [(3, 1 / 3, 3), (3, 0.333, 3), (2, 1 / 3, 1), (4, 0.5, 8), (8, 0.99, 63)],
)
def test_the_ratio_is_rounded_to_whole_tiles(grid, ratio, hidden):
    assert Inpainting(grid=grid, ratio=ratio).hidden == hidden


def test_a_ratio_that_hides_no_tile_or_all_names_ratio_and_grid():
    with pytest.raises(
        ValueError,
        match=r"ratio = 0\.1 of grid = 2 \(4 tiles\): expected a share that hides 1 to 3 of them",
    ):
        Inpainting(grid=2, ratio=0.1)


def test_options_that_nobody_would_read_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match='vgg16_weights is given, but perceptual = "ema" does not read it'
    ):
        Inpainting(vgg16_weights=tmp_path / "vgg.pt")
    with pytest.raises(ValueError, match='layers is given, but perceptual = "none" compares none'):
        Inpainting(perceptual="none", layers=(0,))


# ---------------------------------------------------------------------------------------------------- in a run


@pytest.mark.parametrize("size", [24, 31, 36])
def test_the_answer_has_the_images_size(size):
    eng = run(Inpainting(), size)
    _, damaged, _ = asked(eng, size)
    answer = eng.model.heads["inpainting"](eng.model.encoder(damaged)).detach()
    assert answer.shape == damaged.shape
    assert 0 <= float(answer.min()) <= float(answer.max()) <= 1


def test_a_bf16_step_is_finite_and_its_loss_is_fp32():
    eng = run(Inpainting(), train={"precision": "bf16-mixed"})
    logged = train_step(eng, prepared_batches(eng, [batch(size=24, tasks=("fer",))]))
    assert logged["loss/inpainting"].dtype == torch.float32
    assert torch.isfinite(logged["loss/inpainting"])
    assert not bool(logged["skipped"])


def test_control_random_target_permutes_the_images_and_keeps_the_question():
    plain, mixed = run(Inpainting()), run(Inpainting(), entry={"control": "random_target"})
    (_, damaged, target), (_, same, other) = asked(plain, n=12), asked(mixed, n=12)
    assert torch.equal(damaged, same)
    assert torch.equal(target["hidden"], other["hidden"])
    assert not torch.equal(target["image"], other["image"])
    assert torch.equal(
        target["image"].sum((1, 2, 3)).sort()[0], other["image"].sum((1, 2, 3)).sort()[0]
    )


def test_control_views_only_encodes_the_damaged_view_and_judges_nothing():
    eng = run(Inpainting(), entry={"control": "views_only"})
    made = prepared_batches(eng, [batch(size=24, tasks=("fer",))])[0]
    assert len(made.images) == 2
    assert "inpainting" not in made.head_inputs


def test_metrics_are_one_for_the_mean_color_and_zero_for_the_ideal():
    eng = run(Inpainting())
    task = eng.experiment.pretexts["inpainting"].component
    _, _, target = asked(eng)
    seen = ~target["hidden"].expand_as(target["image"])
    means = torch.stack(
        [torch.stack([x[c][s[c]].mean() for c in range(3)]) for x, s in zip(target["image"], seen)]
    )
    blind = means[:, :, None, None].expand_as(target["image"])
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


def test_what_is_drawn_keeps_the_visible_pixels_and_shows_the_answer_in_the_others():
    eng = run(Inpainting())
    _, damaged, target = asked(eng)
    drawn = eng.experiment.pretexts["inpainting"].component.draw(
        damaged, target, torch.full_like(damaged, 0.25)
    )
    hidden = target["hidden"].expand_as(drawn)
    assert torch.equal(drawn[~hidden], target["image"][~hidden])
    assert (drawn[hidden] == 0.25).all()


def smooth(n: int, size: int, seed: int = 0):
    """Images of two colors that blend from one side to the other: what is hidden follows from what is seen."""
    g = torch.Generator().manual_seed(seed)
    ends, across = torch.rand(2, n, 3, 1, 1, generator=g), torch.linspace(0, 1, size)
    images = (ends[0] * across + ends[1] * (1 - across)).expand(n, 3, size, size)
    made = batch(n=n, size=size, tasks=(), unlabeled=n, seed=seed)
    return evolve(made, images=(images * 255).round().byte())


@pytest.mark.parametrize("perceptual", ["ema", "none"])
def test_it_learns_to_restore_smooth_images_better_than_their_mean_color(perceptual):
    eng = train_state(
        evolve(
            experiment((), augment=Plain(), size=24, encoder=Toy(width=8)),
            pretexts={"inpainting": PretextEntry(Inpainting(perceptual=perceptual))},
        ),
        optimizer="adamw",
        lr=3e-3,
    )
    for step in range(200):
        train_step(eng, prepared_batches(eng, [smooth(16, 24, step)]))
    eng.model.eval()
    made = prepared_batches(eng, [smooth(64, 24, 999)])[0]
    head_input, metric = made.head_inputs["inpainting"][0], Inpainting().metrics()["over_mean"]
    with torch.no_grad():
        answer = eng.model.forward_heads(eng.model.encode(made)[0], made)["inpainting"][0]
    metric.update(answer, head_input.targets[0][0])
    assert float(metric.compute()) < 0.8
