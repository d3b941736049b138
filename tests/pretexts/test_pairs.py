"""All pretexts that compare two views: the pair, determinism, precision, metrics, two ranks."""

from __future__ import annotations

import pair_toys
import pytest
import torch
from lightning_fabric import Fabric
from pair_toys import COUPLED, PAIRS, answer, images, losses, run
from torch.utils._pytree import tree_map
from toys import Jitter, counted, key, prepared_batches

from mtlcore import MtlError
from mtlcore.model.plan import training_plan
from mtlcore.model.views import prepare
from mtlcore.rng import KeyedRng
from mtlcore.training.step import train_step

every = pytest.mark.parametrize("name", PAIRS)


@every
def test_the_pair_is_the_clean_view_and_one_augmentation_and_neither_is_edited(name):
    state, b = run(PAIRS[name], ("fer",)), images(6, ("fer",), unlabeled=0)
    made = prepared_batches(state, [b])[0]
    (head_input,) = made.head_inputs["pretext"]
    augmentation, keyed_rng = Jitter(), state.keyed_rng(0)
    for number, position in enumerate(head_input.images):
        purpose = ("augment", number, None)
        view = augmentation.view(b.images, (24, 24), keyed_rng(*purpose))
        expected = augmentation.finish(view.images, keyed_rng("finish", *purpose))
        assert torch.equal(made.images[position], expected)
    # Supervised heads read the first view, which is encoded once.
    assert made.head_inputs["fer"][0].images == head_input.images[:1]
    assert len(made.images) == 2


@every
def test_views_and_steps_are_a_function_of_the_seed(name):
    one, two = run(PAIRS[name]), run(PAIRS[name])
    assert losses(one, 3) == losses(two, 3)
    again, other = (
        prepare(training_plan(one.experiment), images(), KeyedRng((s, 0, 0))).images for s in (0, 1)
    )
    same = prepare(training_plan(one.experiment), images(), key()).images
    assert all(torch.equal(a, b) for a, b in zip(again, same))
    assert not any(torch.equal(a, b) for a, b in zip(again, other))


@every
def test_it_trains(name):
    """On new images with one color each, the loss falls by a fifth."""
    found = losses(run(PAIRS[name], optimizer="adamw", lr=3e-3), 80)
    assert sum(found[-8:]) < 0.8 * sum(found[:8])


@every
def test_a_bf16_step_is_finite_and_its_loss_is_near_that_of_fp32(name):
    logged = {}
    for precision in ("32", "bf16-mixed"):
        state = run(PAIRS[name], train={"precision": precision})
        logged[precision] = train_step(state, counted([images(16)]))
    low = logged["bf16-mixed"]
    assert low["loss/pretext"].dtype == torch.float32
    assert not bool(low["skipped"])
    torch.testing.assert_close(
        low["loss/pretext"], logged["32"]["loss/pretext"], rtol=0.1, atol=0.05
    )


@every
def test_one_sample_is_an_error_in_training_that_names_the_key_and_finite_in_evaluation(name):
    state = run(PAIRS[name])
    made = prepared_batches(state, [images(1)])[0]
    with pytest.raises(MtlError, match=rf"{name}.*input\.batch_size"):
        state.model(made)
    state.model.eval()
    assert state.model(made)[0]["pretext"].isfinite()
    assert "single_sample" in PAIRS[name].lacks


@every
def test_metrics_do_not_depend_on_the_batch_size(name):
    state = run(PAIRS[name])
    losses(state, 4)
    state.model.eval()
    with torch.no_grad():
        whole = answer(state, prepared_batches(state, [images(12)])[0])
    for metric in PAIRS[name].metrics().values():
        metric.update(whole, None)
        at_once = metric.compute()
        metric.reset()
        for part in (slice(0, 1), slice(1, 8), slice(8, 12)):
            metric.update(tree_map(lambda z: z[part], whole), None)  # noqa: B023
        torch.testing.assert_close(metric.compute(), at_once, rtol=1e-4, atol=1e-5)
        assert at_once.ndim == 0


@every
def test_the_drawing_is_the_image_itself_if_the_views_agree(name):
    shown = torch.rand(4, 3, 8, 8)
    width = 16 if name in ("barlow_twins", "vicreg") else 8
    z = torch.eye(4, width)
    swap = [1, 0, 2, 3]
    for second, expected in ((z, shown), (z[swap], shown[swap])):
        output = (z, second)
        if name == "byol":
            output = {"predicted": torch.stack([z, z], 1), "target": torch.stack([second, z], 1)}
        assert torch.equal(PAIRS[name].draw(shown, None, output), expected)


@pytest.mark.parametrize("name", COUPLED)
def test_gradient_reaches_the_encoder_and_every_own_weight(name):
    state = run(PAIRS[name])
    state.model(prepared_batches(state, [images()])[0])[0]["pretext"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in state.model.parameters())
    assert all(
        float(p.grad.abs().sum()) > 0 for p in state.model.encoder.parameters() if p.ndim > 1
    )


@pytest.fixture(scope="session")
def two_ranks(on_two_ranks):
    return on_two_ranks(pair_toys.on_rank)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "by"), pair_toys.CASES)
def test_two_ranks_equal_one_process_on_the_joined_batch(two_ranks, name, by):
    """With two gloo processes, batch statistics and losses are those of all samples together."""
    state, apart = two_ranks[f"{name} {by}"]
    alone = pair_toys.train_case(Fabric(accelerator="cpu", devices=1), name, by)
    assert apart == 0
    torch.testing.assert_close(state, alone, atol=1e-5, rtol=0)
