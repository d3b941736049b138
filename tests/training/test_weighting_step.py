"""Every weighting strategy in the step: micro-batches, cached weights, absent tasks, resuming."""

from __future__ import annotations

import copy
import io
import os
import signal
from pathlib import Path

import pytest
import torch
from attrs import evolve, frozen
from torch.utils.checkpoint import checkpoint
from toys import (
    PCGRAD,
    Plain,
    Toy,
    ToyNet,
    batch,
    counted,
    experiment,
    prepared_batches,
    prepared_step,
    train_state,
)
from weightings import STRATEGIES, Fixed, small, with_spare

from mtlcore import Features, LossWeighting, MtlError
from mtlcore.callbacks.progress import SilentReporter
from mtlcore.config import load
from mtlcore.contracts import PreparedBatch
from mtlcore.runs import RunFolder
from mtlcore.training.build import dry_run, try_weighting
from mtlcore.training.record import Record
from mtlcore.training.step import train_step
from mtlcore.training.stop import Interrupted
from mtlcore.training.trainer import train
from mtlcore.weighting import Equal, TorchJD

CONFIG = f"""
plugins = ["{Path(__file__).resolve().parents[1] / "dots.py"}"]

[encoder]
width = 4

[task.quarter]
name = "classification"

[pretext.puzzling]
grid = 2
weight = 0.3

[data.dots]

[input]
size = 16
batch_size = 16

[augment]
name = "weak"

[schedule]
warmup = 4

[train]
steps = 24
save_every = 8
log_every = 4
"""

TASKS = ("fer", "gender")
# At the features a step has one micro-batch.
NOT_AT_FEATURES = {name: w for name, w in STRATEGIES.items() if w.at != "features"}
# Of TorchJD's strategies that read gradients, one stands for the others, which take the same path.
ALIKE = ("torchjd:MGDA", "torchjd:PCGrad", "torchjd:IMTLG", "torchjd:AlignedMTL")
GROUPS = ["all but those alike", pytest.param("alike", marks=pytest.mark.slow)]


def of_group(strategies, group):
    """The names of the strategies of a group."""
    return [name for name in strategies if name.startswith(ALIKE) == (group == "alike")]


def made_for(state, seed=0, **how):
    """The batch of one whole step; all samples have a label, so that it can be cut."""
    return prepared_batches(state, [batch(n=8, unlabeled=0, seed=seed, tasks=TASKS, **how)])[0]


def ruined(made: PreparedBatch) -> PreparedBatch:
    """The same batch with NaN images: a bad step."""
    return PreparedBatch(tuple(x * float("nan") for x in made.images), made.head_inputs, made.scale)


def close(one, two, atol=1e-6):
    torch.testing.assert_close(
        list(one.model.parameters()), list(two.model.parameters()), atol=atol, rtol=0
    )


# ---------------------------------------------------------------------------- micro-batches


@pytest.mark.parametrize("group", GROUPS)
def test_two_micro_batches_equal_the_joined_batch_and_may_lack_a_task(group, subtests):
    for name in of_group(NOT_AT_FEATURES, group):
        with subtests.test(name=name):
            two_micro_batches_equal_the_joined_batch(name)
            a_task_can_be_missing_from_one_micro_batch(name)


def two_micro_batches_equal_the_joined_batch(name):
    """Four steps, so that the strategies' state matters, and so that task weights are cached."""
    one, two = (train_state(small(STRATEGIES[name])) for _ in range(2))
    for step in range(4):
        full = made_for(one, step)
        logged = prepared_step(one, [full])
        again = prepared_step(two, [full.cut(slice(0, 5), 2), full.cut(slice(5, 8), 2)])
        torch.testing.assert_close(logged, again, atol=1e-5, rtol=1e-5)
    close(one, two, 1e-5)
    torch.testing.assert_close(
        one.loss_weighting.state_dict(), two.loss_weighting.state_dict(), atol=1e-5, rtol=1e-5
    )


def test_losses_that_are_computed_first_change_nothing():
    """The strategy is called once a step; batch statistics count each micro-batch once."""
    strategy = Fixed(at="losses")
    state = train_state(experiment(TASKS, ("puzzle_pooled",), weighting=strategy))
    train_step(state, counted([batch(seed=s, tasks=TASKS) for s in (1, 2)]))
    assert strategy.asked == [("fer", "gender", "puzzle_pooled")]
    counters = [
        v
        for k, v in state.model.state_dict().items()
        if k.startswith("encoder") and "num_batches" in k
    ]
    assert [int(v) for v in counters] == [2, 2, 2]


# -------------------------------------------------------------------- what a task weight changes


TASK_WEIGHTS = {"fer": 1.0, "gender": 3.0, "rotation": 0.0, "fixmatch": -0.5}


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_cached_task_weights_train_like_measured_ones(micro_batches):
    """One backward with cached task weights equals one backward for each loss.

    With a head of task weight 0, a shared head and a negative task weight.
    """

    def made(every):
        strategy = Fixed(TASK_WEIGHTS, every=every)
        exp = experiment(
            TASKS, ("rotation", "fixmatch"), encoder=Toy(norm="none"), weighting=strategy
        )
        return train_state(exp), strategy

    (one, every_step), (two, once) = made(1), made(100)
    for step in range(3):
        seen = [
            batch(n=8, unlabeled=0, seed=10 * step + p, tasks=TASKS) for p in range(micro_batches)
        ]
        logged, again = (train_step(state, counted(seen)) for state in (one, two))
        torch.testing.assert_close(logged, again, atol=1e-5, rtol=1e-5)
    close(one, two)
    assert (len(every_step.asked), len(once.asked)) == (3, 1)


def test_the_same_task_weights_train_alike_at_parameters_and_features():
    one, two = (
        train_state(small(Fixed({"fer": 0.0, "location": 2.0}, at=at)))
        for at in ("parameters", "features")
    )
    for step in range(3):
        made = made_for(one, step)
        prepared_step(one, [made])
        prepared_step(two, [made])
    close(one, two)


@pytest.mark.parametrize("at", ["parameters", "features"])
@pytest.mark.parametrize("cached", [False, True])
def test_a_head_of_task_weight_0_learns_from_its_own_loss(at, cached):
    """Nothing reaches the encoder, and the head moves by the gradient of weight x loss."""
    strategy = Fixed(dict.fromkeys(("fer", "gender", "location"), 0.0), at=at, every=9)
    state = train_state(small(strategy, augment=Plain()), lr=1.0)
    state.experiment = evolve(state.experiment, train=evolve(state.experiment.train, clip=1e9))
    if cached:
        prepared_step(state, [made_for(state)])
    for group in state.optimizer.param_groups:
        group.update(momentum=0.0, weight_decay=0.0)
    before, made = copy.deepcopy(state.model), made_for(state, 5)
    before.measuring = False
    loss = before(made)[0]["location"]
    (expected,) = torch.autograd.grad(0.5 * loss, before.heads["location"].answer.weight)
    logged = prepared_step(state, [made])
    assert float(logged["weight/location"]) == 0.5
    assert float(logged["task_weight/location"]) == 0.0
    moved = before.heads["location"].answer.weight - state.model.heads["location"].answer.weight
    torch.testing.assert_close(moved, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        list(before.encoder.parameters()), list(state.model.encoder.parameters()), atol=0, rtol=0
    )


def test_pcgrad_differs_from_the_sum_where_gradients_conflict():
    """Two tasks with gradients g and h: g + h - (g.h / h.h) h - (g.h / g.g) g.

    On the one gradient of the summed losses, PCGrad would change nothing.
    """
    exp = small(TorchJD("PCGrad"), pretexts=(), weights={}, augment=Plain())
    pcgrad = train_state(exp, lr=1.0)
    equal = train_state(evolve(exp, weighting=Equal()), lr=1.0)
    b = batch(n=8, unlabeled=0, tasks=TASKS)
    everyone = torch.ones(8, dtype=torch.bool)
    targets = {"fer": b.targets["gender"], "gender": 1 - b.targets["gender"]}
    b = evolve(b, targets=targets, present={"fer": everyone, "gender": everyone})
    # Both heads predict the same classes, with opposite targets.
    for state in (pcgrad, equal):
        fer, gender = (state.model.heads[k].answer[1] for k in TASKS)
        fer.weight.data[:2], fer.bias.data[:] = gender.weight.data, -9.0
        fer.bias.data[:2] = gender.bias.data
    made, start = prepared_batches(pcgrad, [b]), copy.deepcopy(pcgrad.model)
    losses, encoder = start(made[0])[0], list(start.encoder.parameters())
    g, h = (flat(torch.autograd.grad(losses[k], encoder, retain_graph=True)) for k in TASKS)
    assert float(g @ h) < -0.5 * float(g.norm() * h.norm())

    projected = g + h - (g @ h) / (h @ h) * h - (g @ h) / (g @ g) * g
    decayed = flat([p.detach() * (p.ndim > 1) for p in encoder])
    for state, expected in ((pcgrad, projected), (equal, g + h)):
        norm = float(prepared_step(state, made)["grad_norm"])
        clip = min(1.0, state.experiment.train.clip / (norm + 1e-6))
        moved = flat([p - q for p, q in zip(encoder, state.model.encoder.parameters())])
        decay = state.experiment.optimizer.weight_decay * decayed
        torch.testing.assert_close(moved - decay, clip * expected, atol=1e-5, rtol=1e-4)


def flat(tensors) -> torch.Tensor:
    return torch.cat([t.flatten() for t in tensors])


# ---------------------------------------------------------------------------- cached task weights


def test_each_set_of_tasks_has_its_own_task_weights_measured_every_third_step():
    strategy = Fixed(every=3)
    state = train_state(small(strategy))
    for step, absent in enumerate([("gender",), ("gender",), (), (), ("gender",), (), ()]):
        prepared_step(state, [made_for(state, step, absent=absent)])
    some, everyone = ("fer", "location"), ("fer", "gender", "location")
    assert strategy.asked == [some, everyone, some, everyone]  # steps 0, 2, 4, 5
    assert {names: step for names, (_, step) in state.cached_task_weights.items()} == {
        some: 4,
        everyone: 5,
    }


def test_task_weights_that_are_cached_with_a_task_are_not_used_without_it():
    """Weights that balance three gradients do not balance two of them."""
    state = train_state(small(TorchJD("MGDA", every=100)))
    prepared_step(state, [made_for(state)])
    logged = prepared_step(state, [made_for(state, 1, absent=("gender",))])
    task_weight = torch.stack([logged[f"task_weight/{name}"] for name in ("fer", "location")])
    # The weights of MGDA add up to the number of tasks that are present.
    assert float(task_weight.sum()) == pytest.approx(2, abs=1e-4)
    again = prepared_step(state, [made_for(state, 2, absent=("gender",))])
    cached = torch.stack([again[f"task_weight/{name}"] for name in ("fer", "location")])
    assert torch.equal(task_weight, cached)


@pytest.mark.parametrize("at", ["parameters", "features"])
def test_a_bad_batch_does_not_change_cached_task_weights(at):
    state = train_state(small(Fixed({"location": 0.25}, at=at, every=2)))
    made = made_for(state)

    def cached():
        return state.cached_task_weights[tuple(made.head_inputs)][0].tolist()

    assert bool(prepared_step(state, [ruined(made)])["skipped"])
    assert cached() == [1, 1, 1]  # nothing was measured yet: the sum of losses
    assert not bool(prepared_step(state, [made])["skipped"])
    prepared_step(state, [made])
    assert cached() == [1, 1, 0.25]
    prepared_step(state, [made])
    assert bool(prepared_step(state, [ruined(made)])["skipped"])
    assert cached() == [1, 1, 0.25]


def test_a_loaded_train_state_continues_bit_for_bit(subtests):
    """Saved between two measurements, with two sets of tasks, and loaded by `weights_only`."""
    for name in [n for n in STRATEGIES if n.endswith("every 3")]:
        with subtests.test(name=name):
            whole = train_state(small(STRATEGIES[name]))
            absent = [("gender",) if step in (1, 5) else () for step in range(9)]
            for step in range(4):
                prepared_step(whole, [made_for(whole, step, absent=absent[step])])
            file = io.BytesIO()
            saved = (
                whole.model.state_dict(),
                whole.loss_weighting.state_dict(),
                whole.optimizer.optimizer.state_dict(),
                whole.cached_task_weights_state(),
                whole.step,
            )
            torch.save(saved, file)
            file.seek(0)
            again = train_state(small(STRATEGIES[name]))
            model, loss_weighting, optimizer, cached, step = torch.load(file, weights_only=True)
            again.model.load_state_dict(model)
            again.loss_weighting.load_state_dict(loss_weighting)
            again.optimizer.optimizer.load_state_dict(optimizer)
            again.load_cached_task_weights(cached)
            again.step = step
            for number in range(4, 9):
                made = made_for(whole, number, absent=absent[number])
                logged, too = prepared_step(whole, [made]), prepared_step(again, [made])
                assert all(torch.equal(logged[k], too[k]) for k in logged)
            assert all(
                torch.equal(p, q)
                for p, q in zip(whole.model.parameters(), again.model.parameters())
            )


class StopsAt(SilentReporter):
    """Sends Ctrl-C when this step is logged."""

    def __init__(self, step):
        self.at = step

    def on_log(self, run, row):
        if run.step == self.at:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    "weighting",
    [
        pytest.param('name = "cosine_gate"\nevery = 5', marks=pytest.mark.slow),
        'name = "torchjd:GradVac"\nevery = 3',
    ],
)
def test_a_run_that_stops_between_two_measurements_resumes_bit_for_bit(weighting, tmp_path: Path):
    config = tmp_path / "dots.toml"
    config.write_text(CONFIG.replace("[train]", f"[weighting]\n{weighting}\n\n[train]"))
    train(load(config), tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(load(config), tmp_path / "stopped", reporter=StopsAt(12))
    stopped = RunFolder(tmp_path / "stopped")
    train(load(stopped.config), stopped.path, resume=True)
    a, b = RunFolder(tmp_path / "whole").require(), stopped.require()
    assert all(torch.equal(a.weights()[k], b.weights()[k]) for k in a.weights())
    assert a.state()["cached_task_weights"][0]["names"] == ["quarter", "puzzling"]
    assert str(a.state()["cached_task_weights"]) == str(b.state()["cached_task_weights"])
    rows = stopped.log.rows()
    assert {"weight/puzzling", "task_weight/puzzling"} <= set(rows[0])
    assert rows[0]["weight/puzzling"] == pytest.approx(0.3)


# ---------------------------------------------------------------------------- bad and missing


@pytest.mark.parametrize("group", GROUPS)
def test_neither_a_bad_batch_nor_an_absent_task_misleads_a_strategy(group, subtests):
    for name in of_group(STRATEGIES, group):
        with subtests.test(name=name):
            a_bad_batch_is_skipped_and_changes_nothing(name)
            the_head_of_an_absent_task_does_not_move(name)


def a_bad_batch_is_skipped_and_changes_nothing(name):
    state = train_state(small(STRATEGIES[name]))
    good = made_for(state)
    prepared_step(state, [good])
    before = copy.deepcopy(state.model.state_dict() | state.loss_weighting.state_dict())
    for _ in range(3):
        assert bool(prepared_step(state, [ruined(good)])["skipped"])
    after = state.model.state_dict() | state.loss_weighting.state_dict()
    assert [k for k, v in after.items() if not torch.equal(v, before[k])] == []
    assert not bool(prepared_step(state, [good])["skipped"])


@pytest.mark.parametrize("at", ["parameters", "features"])
def test_a_task_weight_of_0_does_not_hide_a_bad_gradient(at):
    """Only the gradient at the encoder is bad. The loss and the gradient of its head are finite."""

    class BadGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * float("nan")

    state = train_state(small(Fixed({"location": 0.0}, at=at)))
    head = state.model.heads["location"]
    forward = head.forward
    head.forward = lambda features: BadGradient.apply(forward(features))
    logged = prepared_step(state, [made_for(state)])
    assert bool(torch.isfinite(logged["loss/location"]))
    assert bool(logged["skipped"])


def test_too_many_bad_steps_in_a_row_raise_an_error():
    state, record = train_state(small(TorchJD("UPGrad", every=2))), Record(max_skipped=3)
    good = made_for(state)
    for made in (ruined(good), ruined(good), good, ruined(good), ruined(good)):
        record.add(prepared_step(state, [made]), 1)
    record.flush()
    assert (record.skipped, record.in_a_row) == (4, 2)
    record.add(prepared_step(state, [ruined(good)]), 1)
    with pytest.raises(MtlError, match="3 steps in a row"):
        record.flush()


def the_head_of_an_absent_task_does_not_move(name):
    """Neither weight decay nor momentum moves it. Later the task comes back."""
    state = train_state(small(STRATEGIES[name]), "adamw")
    prepared_step(state, [made_for(state)])
    before = copy.deepcopy(state.model.heads["gender"].state_dict())
    for step in (1, 2):
        logged = prepared_step(state, [made_for(state, step, absent=("gender",))])
        assert not bool(logged["skipped"])
        assert "task_weight/gender" not in logged
    assert all(
        torch.equal(v, before[k]) for k, v in state.model.heads["gender"].state_dict().items()
    )
    assert not bool(prepared_step(state, [made_for(state, 3)])["skipped"])
    assert any(
        not torch.equal(v, before[k]) for k, v in state.model.heads["gender"].state_dict().items()
    )


def a_task_can_be_missing_from_one_micro_batch(name):
    state = train_state(small(STRATEGIES[name]))
    for step in range(2):
        micro_batches = [
            batch(n=4, unlabeled=0, seed=step, tasks=TASKS, absent=a) for a in (("gender",), ())
        ]
        logged = train_step(state, counted(micro_batches))
        assert not bool(logged["skipped"])
        assert float(logged["loss/gender"]) > 0


@pytest.mark.parametrize("weighting", [Equal(), Fixed(every=2), Fixed(at="features")])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_parameter_that_no_loss_reaches_does_not_change_at_any_level(weighting, micro_batches):
    """Not even by weight decay: AdamW applies it to every gradient, even to zeros."""
    state = train_state(with_spare(small(weighting, weight_decay=0.5)), "adamw")
    head = state.model.heads["location"]
    answer = copy.deepcopy(head.answer)
    for step in range(2):
        seeds = range(10 * step, 10 * step + micro_batches)
        batches = [batch(n=4, unlabeled=0, seed=seed, tasks=TASKS) for seed in seeds]
        train_step(state, counted(batches))
    assert torch.equal(head.spare, torch.ones(2, 2))
    assert not torch.equal(head.answer.weight, answer.weight)


# ---------------------------------------------------------------------------- compatibility


@frozen
class Special(Toy):
    """An encoder with activation checkpointing, or compiled.

    how: "plain"; "checkpoint" and "reentrant", the two kinds of activation checkpointing; or a
    backend of torch.compile.
    """

    norm: str = "none"
    how: str = "plain"

    def build(self, size):
        net = ToyNet(self.width, torch.nn.Identity)
        if self.how in ("checkpoint", "reentrant"):
            net.forward = lambda x: with_checkpoints(net, x, self.how == "reentrant")
        elif self.how != "plain":
            net.compile(backend=self.how)
        return net


def with_checkpoints(net, x, reentrant):
    maps = [net.stages[0](x)]
    for stage in net.stages[1:]:
        maps.append(checkpoint(stage, maps[-1], use_reentrant=reentrant))
    return Features(tuple(maps), maps[-1].mean((2, 3)), maps[-1])


LEVELS = {
    "losses": Equal(),
    "parameters": TorchJD("UPGrad", every=2),
    "features": TorchJD("UPGrad", at="features", every=2),
}


# The reentrant kind warns in a forward without gradient.
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("at", LEVELS)
@pytest.mark.parametrize("how", ["checkpoint", "reentrant", "aot_eager"])
def test_checkpointing_and_compiled_encoders_train_like_a_plain_one(how, at):
    special, plain = (
        train_state(small(LEVELS[at], encoder=Special(how=h), augment=Plain()))
        for h in (how, "plain")
    )
    if (how, at) == ("aot_eager", "features"):
        with pytest.raises(MtlError, match="compiled") as error:
            dry_run(special, batch(tasks=TASKS))
        assert 'weighting.at = "parameters"' in str(error.value)
        return
    dry_run(special, batch(tasks=TASKS))
    for step in range(3):
        made = made_for(plain, step)
        prepared_step(special, [made])
        prepared_step(plain, [made])
    close(special, plain)


def test_torchs_switch_for_compiled_graphs_is_restored_after_a_step():
    from torch._functorch import config

    class ReadsSwitch(Fixed):
        def build(self, names):
            module = super().build(names)
            module.register_forward_pre_hook(lambda *_: seen.append(config.donated_buffer))
            return module

    seen, before = [], config.donated_buffer
    state = train_state(small(ReadsSwitch()))
    prepared_step(state, [made_for(state)])
    assert (seen, config.donated_buffer) == ([False], before)
    assert before


@pytest.mark.slow
def test_an_encoder_that_inductor_compiled_is_differentiated_once_for_each_loss():
    special, plain = (
        train_state(small(PCGRAD, encoder=Special(how=h), augment=Plain()))
        for h in ("inductor", "plain")
    )
    for step in range(2):
        made = made_for(plain, step)
        prepared_step(special, [made])
        prepared_step(plain, [made])
    close(special, plain, 1e-5)


@pytest.mark.parametrize("at", LEVELS)
def test_bf16_clipping_and_ema_work_at_every_level(at):
    exp = small(LEVELS[at], train={"precision": "bf16-mixed"}, weight_decay=0.0)
    state = train_state(exp, ema=0.75, clip=1e-2, lr=0.1)
    to_vector = torch.nn.utils.parameters_to_vector
    start = to_vector(state.model.inference().parameters()).detach()
    norms = [float(prepared_step(state, [made_for(state, 0)])["grad_norm"])]

    fresh = train_state(state.experiment).model
    moved = flat([p - q for p, q in zip(state.model.parameters(), fresh.parameters())])
    assert float(moved.detach().norm()) == pytest.approx(0.1 * 1e-2, rel=0.02)
    average = to_vector(state.ema.copy.parameters())
    now = to_vector(state.model.inference().parameters())
    torch.testing.assert_close(average, 0.75 * start + 0.25 * now, atol=1e-6, rtol=0)
    norms.append(float(prepared_step(state, [made_for(state, 1)])["grad_norm"]))
    assert min(norms) > 1e-2
    assert all(p.dtype == torch.float32 for p in state.model.parameters())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ['weighting.name="cosine_gate"', 'train.precision="16-mixed"'],
            ("16-mixed", "bf16-mixed", "parameters"),
        ),
        (['weighting.name="torchjd:DWA"', "weighting.every=2"], ("every", "DWA")),
        (['weighting.name="cosine_gate"', "weighting.every=0"], ("every",)),
    ],
)
def test_settings_that_cannot_be_exact_are_refused_by_the_configuration(overrides, words, tmp_path):
    config = tmp_path / "dots.toml"
    config.write_text(CONFIG.replace("[train]", "[weighting]\n\n[train]"))
    with pytest.raises(MtlError) as error:
        load(config, overrides)
    assert all(word in str(error.value) for word in words)


def test_features_of_different_images_are_refused_before_the_run(tmp_path):
    config = tmp_path / "dots.toml"
    config.write_text(
        CONFIG.replace("[train]", '[weighting]\nname = "cosine_gate"\nat = "features"\n\n[train]')
    )
    with pytest.raises(MtlError, match="same images") as error:
        train(load(config), tmp_path / "run")
    assert 'weighting.at = "parameters"' in str(error.value)
    assert not (tmp_path / "run").exists()


def test_accumulation_at_the_features_is_refused_before_the_run(tmp_path):
    config = tmp_path / "dots.toml"
    config.write_text(CONFIG.replace("[train]", "[weighting]\n\n[train]"))
    overrides = ['weighting.name="cosine_gate"', 'weighting.at="features"', "train.micro_batches=2"]
    with pytest.raises(MtlError, match="micro_batches") as error:
        train(load(config, overrides), tmp_path / "run")
    assert 'weighting.at = "parameters"' in str(error.value)
    assert not (tmp_path / "run").exists()


WITNESS = """
import numpy as np
from attrs import frozen
from pathlib import Path
from mtlcore import Dataset, Index, Sample, hookimpl

@frozen
class Witness(Dataset):
    log: Path

    def index(self):
        self.log.touch()
        samples = np.arange(40)
        return Index(samples.astype(str), {"quarter": np.array(["a", "b"])[samples % 2]})

    def decode(self, index, i):
        return Sample(np.zeros((16, 16, 3), dtype=np.uint8))

@hookimpl
def mtl_components():
    return [Witness]
"""


@pytest.mark.parametrize(
    ("weighting", "words"),
    [
        (
            'name = "torchjd:MGDA"\noptions = { max_iters = 1.5 }',
            ("max_iters", "1.5", "MGDA", "float"),
        ),
        (
            'name = "torchjd:AlignedMTL"\noptions = { scale_mode = "max" }',
            ("scale_mode", "'max'", "median"),
        ),
        ('name = "torchjd:STCH"\noptions = { mu = "small" }', ("mu", "'small'")),
        ('name = "torchjd:STCH"\noptions = { mu = nan }', ("options[mu] = nan", "finite")),
        ('name = "torchjd:CAGrad"\noptions = { norm_eps = inf }', ("norm_eps] = inf", "finite")),
        # A solver would never return.
        ('name = "torchjd:FairGrad"\noptions = { max_iters = nan }', ("max_iters] = nan",)),
        (
            'name = "torchjd:MGDA"\noptions = { max_iter = 9 }',
            ("max_iter", "did you mean 'max_iters'"),
        ),
    ],
)
def test_an_option_that_does_not_work_is_refused_before_any_data_is_read(
    weighting, words, tmp_path
):
    plugin, config, log = tmp_path / "witness.py", tmp_path / "run.toml", tmp_path / "log"
    plugin.write_text(WITNESS)
    text = CONFIG.replace("[data.dots]", f'[data.witness]\nlog = "{log}"')
    text = text.replace("plugins = [", f'plugins = ["{plugin}", ')
    config.write_text(text.replace("[train]", f"[weighting]\n{weighting}\n\n[train]"))
    with pytest.raises(MtlError, match=r"weighting") as error:
        train(load(config), tmp_path / "run")
    assert [word for word in words if word not in str(error.value)] == []
    assert not log.exists()
    assert not (tmp_path / "run").exists()


class SolverError(Exception):
    """As cvxpy.DCPError: of the library's own kind."""


@frozen
class Unsolved(LossWeighting):
    """It has no task weights: an exception, or NaN."""

    fails: bool

    def build(self, names):
        return self

    def to(self, device):
        return self

    def __call__(self, losses):
        if self.fails:
            raise SolverError("the problem is not convex")
        return losses.values.sum() * float("nan")


@pytest.mark.parametrize(
    ("fails", "reason"),
    [(True, "SolverError: the problem is not convex"), (False, r"its task weights are \[nan, ")],
)
def test_a_weighting_without_task_weights_does_not_pass_its_trial(fails, reason):
    with pytest.raises(MtlError, match=reason):
        try_weighting(small(Unsolved(fails)), torch.device("cpu"))


def test_every_strategy_passes_its_trial_without_the_global_generator():
    before = torch.get_rng_state()
    for strategy in STRATEGIES.values():
        try_weighting(small(strategy), torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)
