"""Every strategy in the step: micro-batches, kept task weights, absent tasks, bad batches, going on; and what must be refused."""

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
from toys import PCGRAD, Plain, Toy, ToyNet, batch, experiment, prepared_batches, train_state
from weightings import STRATEGIES, Fixed, small, with_spare

from mtlcore import Features, MtlError
from mtlcore.callbacks.progress import SilentReporter
from mtlcore.config import load
from mtlcore.contracts import PreparedBatch
from mtlcore.runs import RunFolder
from mtlcore.train.build import dry_run, try_weighting
from mtlcore.train.record import Record
from mtlcore.train.step import train_step
from mtlcore.train.trainer import Interrupted, train
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
tensorboard = false
"""

TASKS = ("fer", "gender")
EVERYWHERE = {
    name: w for name, w in STRATEGIES.items() if w.at != "features"
}  # features: one micro-batch a step


def made_for(eng, seed=0, **how):
    """The inputs of one whole step; all rows carry a label, so that they can be sliced."""
    return prepared_batches(eng, [batch(n=8, unlabeled=0, seed=seed, tasks=TASKS, **how)])[0]


def ruined(made: PreparedBatch) -> PreparedBatch:
    return PreparedBatch(tuple(x * float("nan") for x in made.images), made.head_inputs, made.scale)


def close(one, two, atol=1e-6):
    torch.testing.assert_close(
        list(one.model.parameters()), list(two.model.parameters()), atol=atol, rtol=0
    )


# ---------------------------------------------------------------------------------------------------- micro-batches


@pytest.mark.parametrize("name", EVERYWHERE)
def test_two_micro_batches_equal_the_joined_batch(name):
    """Four steps, so that memories count; task weights that are kept too."""
    one, two = (train_state(small(STRATEGIES[name])) for _ in range(2))
    for step in range(4):
        full = made_for(one, step)
        logged = train_step(one, [full])
        again = train_step(two, [full.cut(slice(0, 5), 2), full.cut(slice(5, 8), 2)])
        torch.testing.assert_close(logged, again, atol=1e-5, rtol=1e-5)
    close(one, two, 1e-5)
    torch.testing.assert_close(
        one.loss_weighting.state_dict(), two.loss_weighting.state_dict(), atol=1e-5, rtol=1e-5
    )


def test_losses_that_are_looked_at_ahead_leave_no_trace():
    """Once a step a strategy sees the whole; batch statistics see each micro-batch once, dropout draws the same twice."""
    strategy = Fixed(at="losses")
    eng = train_state(experiment(TASKS, ("puzzle_pooled",), weighting=strategy))
    train_step(eng, prepared_batches(eng, [batch(seed=s, tasks=TASKS) for s in (1, 2)]))
    assert strategy.asked == [("fer", "gender", "puzzle_pooled")]
    counters = [
        v
        for k, v in eng.model.state_dict().items()
        if k.startswith("encoder") and "num_batches" in k
    ]
    assert [int(v) for v in counters] == [2, 2, 2]


# ---------------------------------------------------------------------------------------------------- who is ruled by a task weight


FACTORS = {"fer": 1.0, "gender": 3.0, "rotation": 0.0, "fixmatch": -0.5}


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_factors_that_are_kept_move_all_as_measured_ones(micro_batches):
    """A gated head, a shared one, negative task weights: one backward with kept task weights equals one backward a loss."""

    def made(every):
        strategy = Fixed(FACTORS, every=every)
        exp = experiment(
            TASKS, ("rotation", "fixmatch"), encoder=Toy(norm="none"), weighting=strategy
        )
        return train_state(exp), strategy

    (one, always), (two, seldom) = made(1), made(100)
    for step in range(3):
        seen = [
            batch(n=8, unlabeled=0, seed=10 * step + p, tasks=TASKS) for p in range(micro_batches)
        ]
        logged, again = (train_step(eng, prepared_batches(eng, seen)) for eng in (one, two))
        torch.testing.assert_close(logged, again, atol=1e-5, rtol=1e-5)
    close(one, two)
    assert (len(always.asked), len(seldom.asked)) == (3, 1)


def test_the_same_factors_move_all_alike_wherever_they_are_measured():
    one, two = (
        train_state(small(Fixed({"fer": 0.0, "location": 2.0}, at=at)))
        for at in ("parameters", "features")
    )
    for step in range(3):
        made = made_for(one, step)
        train_step(one, [made])
        train_step(two, [made])
    close(one, two)


@pytest.mark.parametrize("at", ["parameters", "features"])
@pytest.mark.parametrize("kept", [False, True])
def test_a_gated_head_learns_from_its_own_loss_alone(at, kept):
    """Task weight 0: nothing reaches the encoder, and the head moves by the gradient of weight x loss."""
    eng = train_state(
        small(
            Fixed(dict.fromkeys(("fer", "gender", "location"), 0.0), at=at, every=9),
            augment=Plain(),
        ),
        lr=1.0,
    )
    eng.experiment = evolve(eng.experiment, train=evolve(eng.experiment.train, clip=1e9))
    if kept:
        train_step(eng, [made_for(eng)])
    for group in eng.optimizer.param_groups:
        group.update(momentum=0.0, weight_decay=0.0)
    before, made = copy.deepcopy(eng.model), made_for(eng, 5)
    before.measuring = False
    loss = before(made)[0]["location"]
    (wanted,) = torch.autograd.grad(0.5 * loss, before.heads["location"].answer.weight)
    logged = train_step(eng, [made])
    assert float(logged["weight/location"]) == 0.5
    assert float(logged["task_weight/location"]) == 0.0
    moved = before.heads["location"].answer.weight - eng.model.heads["location"].answer.weight
    torch.testing.assert_close(moved, wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        list(before.encoder.parameters()), list(eng.model.encoder.parameters()), atol=0, rtol=0
    )


def test_pcgrad_is_not_the_plain_sum_where_gradients_oppose_each_other():
    """Applied to one summed gradient it would be, without a word. Two tasks: g + h - (g.h / h.h) h - (g.h / g.g) g."""
    exp = small(TorchJD("PCGrad"), pretexts=(), weights={}, augment=Plain())
    eng, plain = train_state(exp, lr=1.0), train_state(evolve(exp, weighting=Equal()), lr=1.0)
    b = batch(n=8, unlabeled=0, tasks=TASKS)
    everyone = torch.ones(8, dtype=torch.bool)
    targets = {"fer": b.targets["gender"], "gender": 1 - b.targets["gender"]}
    b = evolve(b, targets=targets, present={"fer": everyone, "gender": everyone})
    for e in (eng, plain):
        fer, gender = (e.model.heads[k].answer[1] for k in TASKS)
        fer.weight.data[:2], fer.bias.data[:] = (
            gender.weight.data,
            -9.0,
        )  # the same question, opposite answers
        fer.bias.data[:2] = gender.bias.data
    made, start = prepared_batches(eng, [b]), copy.deepcopy(eng.model)
    losses = start(made[0])[0]
    g, h = (
        torch.cat(
            [
                x.flatten()
                for x in torch.autograd.grad(
                    losses[k], list(start.encoder.parameters()), retain_graph=True
                )
            ]
        )
        for k in TASKS
    )
    assert float(g @ h) < -0.5 * float(g.norm() * h.norm())
    projected = g + h - (g @ h) / (h @ h) * h - (g @ h) / (g @ g) * g
    for e, wanted in ((eng, projected), (plain, g + h)):
        norm = float(train_step(e, made)["grad_norm"])
        clip = min(1.0, e.experiment.train.clip / (norm + 1e-6))
        moved = torch.cat(
            [
                (p - q).flatten()
                for p, q in zip(start.encoder.parameters(), e.model.encoder.parameters())
            ]
        )
        decay = e.experiment.optimizer.weight_decay
        held = torch.cat(
            [(p.detach() * decay * (p.ndim > 1)).flatten() for p in start.encoder.parameters()]
        )
        torch.testing.assert_close(moved - held, clip * wanted, atol=1e-5, rtol=1e-4)


# ---------------------------------------------------------------------------------------------------- keeping task weights


def test_each_set_of_tasks_has_factors_of_its_own_measured_each_third_step():
    strategy = Fixed(every=3)
    eng = train_state(small(strategy))
    for step, absent in enumerate([("gender",), ("gender",), (), (), ("gender",), (), ()]):
        train_step(eng, [made_for(eng, step, absent=absent)])
    some, everyone = ("fer", "location"), ("fer", "gender", "location")
    assert strategy.asked == [some, everyone, some, everyone]  # steps 0, 2, 4, 5
    assert {names: step for names, (_, step) in eng.cached_task_weights.items()} == {
        some: 4,
        everyone: 5,
    }


def test_factors_that_were_kept_with_a_task_present_are_not_used_where_it_is_absent():
    """What balanced three gradients says nothing of two of them."""
    eng = train_state(small(TorchJD("MGDA", every=100)))
    train_step(eng, [made_for(eng)])
    logged = train_step(eng, [made_for(eng, 1, absent=("gender",))])
    task_weight = torch.stack([logged[f"task_weight/{name}"] for name in ("fer", "location")])
    assert float(task_weight.sum()) == pytest.approx(
        2, abs=1e-4
    )  # MGDA's add up to the number of tasks that are there
    again = train_step(eng, [made_for(eng, 2, absent=("gender",))])
    assert torch.equal(
        task_weight, torch.stack([again[f"task_weight/{name}"] for name in ("fer", "location")])
    )


@pytest.mark.parametrize("at", ["parameters", "features"])
def test_a_bad_batch_leaves_the_kept_factors_alone(at):
    eng = train_state(small(Fixed({"location": 0.25}, at=at, every=2)))
    made = made_for(eng)

    def kept():
        return eng.cached_task_weights[tuple(made.head_inputs)][0].tolist()

    assert bool(train_step(eng, [ruined(made)])["skipped"])
    assert kept() == [1, 1, 1]  # nothing was measured: the sum of losses
    assert not bool(train_step(eng, [made])["skipped"])
    train_step(eng, [made])
    assert kept() == [1, 1, 0.25]
    train_step(eng, [made])
    assert bool(train_step(eng, [ruined(made)])["skipped"])
    assert kept() == [1, 1, 0.25]


@pytest.mark.parametrize("name", [n for n in STRATEGIES if n.endswith("every 3")])
def test_an_engine_that_is_loaded_goes_on_bit_for_bit(name):
    """Saved between two measurements, of two sets of tasks; state travels through `weights_only`."""
    whole = train_state(small(STRATEGIES[name]))
    absent = [("gender",) if step in (1, 5) else () for step in range(9)]
    for step in range(4):
        train_step(whole, [made_for(whole, step, absent=absent[step])])
    file = io.BytesIO()
    micro_batches = (
        whole.model.state_dict(),
        whole.loss_weighting.state_dict(),
        whole.optimizer.optimizer.state_dict(),
    )
    torch.save((*micro_batches, whole.cached_task_weights_state(), whole.step), file)
    file.seek(0)
    again = train_state(small(STRATEGIES[name]))
    model, loss_weighting, optimizer, kept, step = torch.load(file, weights_only=True)
    again.model.load_state_dict(model)
    again.loss_weighting.load_state_dict(loss_weighting)
    again.optimizer.optimizer.load_state_dict(optimizer)
    again.load_cached_task_weights(kept)
    again.step = step
    for number in range(4, 9):
        made = made_for(whole, number, absent=absent[number])
        logged, too = train_step(whole, [made]), train_step(again, [made])
        assert all(torch.equal(logged[k], too[k]) for k in logged)
    assert all(
        torch.equal(p, q) for p, q in zip(whole.model.parameters(), again.model.parameters())
    )


class StopsAt(SilentReporter):
    """Presses Ctrl-C when a step is logged."""

    def __init__(self, step):
        self.at = step

    def step(self, progress):
        if progress.step == self.at:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    "weighting", ['name = "cosine_gate"\nevery = 5', 'name = "torchjd:GradVac"\nevery = 3']
)
def test_a_run_that_was_stopped_between_two_measurements_goes_on_bit_for_bit(
    weighting, tmp_path: Path
):
    config = tmp_path / "dots.toml"
    config.write_text(CONFIG.replace("[train]", f"[weighting]\n{weighting}\n\n[train]"))
    train(load(config), tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(load(config), tmp_path / "parted", reporter=StopsAt(12))
    parted = RunFolder(tmp_path / "parted")
    train(load(parted.config), parted.path, resume=True)
    a, b = RunFolder(tmp_path / "whole").require(), parted.require()
    assert all(torch.equal(a.weights()[k], b.weights()[k]) for k in a.weights())
    assert a.state()["cached_task_weights"][0]["names"] == ["quarter", "puzzling"]
    assert str(a.state()["cached_task_weights"]) == str(b.state()["cached_task_weights"])
    rows = parted.rows()
    assert {"weight/puzzling", "task_weight/puzzling"} <= set(rows[0])
    assert rows[0]["weight/puzzling"] == pytest.approx(0.3)


# ---------------------------------------------------------------------------------------------------- bad and missing


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_bad_batch_is_skipped_and_leaves_no_trace_in_any_strategy(name):
    eng = train_state(small(STRATEGIES[name]))
    good = made_for(eng)
    train_step(eng, [good])
    before = copy.deepcopy(eng.model.state_dict() | eng.loss_weighting.state_dict())
    for _ in range(3):
        assert bool(train_step(eng, [ruined(good)])["skipped"])
    after = eng.model.state_dict() | eng.loss_weighting.state_dict()
    assert [k for k, v in after.items() if not torch.equal(v, before[k])] == []
    assert not bool(train_step(eng, [good])["skipped"])


@pytest.mark.parametrize("at", ["parameters", "features"])
def test_one_bad_row_is_not_hidden_by_a_factor_of_0(at):
    """Only the gradient at the encoder is bad: the gated loss and its head are finite."""

    class Spoils(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * float("nan")

    eng = train_state(small(Fixed({"location": 0.0}, at=at)))
    head = eng.model.heads["location"]
    forward = head.forward
    head.forward = lambda features: Spoils.apply(forward(features))
    logged = train_step(eng, [made_for(eng)])
    assert bool(torch.isfinite(logged["loss/location"]))
    assert bool(logged["skipped"])


def test_so_many_bad_steps_in_a_row_raise_the_alarm():
    eng, record = train_state(small(TorchJD("UPGrad", every=2))), Record(max_skipped=3)
    good = made_for(eng)
    for made in (ruined(good), ruined(good), good, ruined(good), ruined(good)):
        record.add(train_step(eng, [made]), 1)
    record.flush()
    assert (record.skipped, record.in_a_row) == (4, 2)
    record.add(train_step(eng, [ruined(good)]), 1)
    with pytest.raises(MtlError, match="3 steps in a row"):
        record.flush()


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_head_of_an_absent_task_rests_under_every_strategy(name):
    """No decay, no momentum; the task comes back; micro-batches may lack it too."""
    eng = train_state(small(STRATEGIES[name]), "adamw")
    train_step(eng, [made_for(eng)])
    before = copy.deepcopy(eng.model.heads["gender"].state_dict())
    for step in (1, 2):
        logged = train_step(eng, [made_for(eng, step, absent=("gender",))])
        assert not bool(logged["skipped"])
        assert "task_weight/gender" not in logged
    assert all(torch.equal(v, before[k]) for k, v in eng.model.heads["gender"].state_dict().items())
    assert not bool(train_step(eng, [made_for(eng, 3)])["skipped"])
    assert any(
        not torch.equal(v, before[k]) for k, v in eng.model.heads["gender"].state_dict().items()
    )


@pytest.mark.parametrize("name", EVERYWHERE)
def test_a_task_may_be_missing_from_one_micro_batch(name):
    eng = train_state(small(STRATEGIES[name]))
    for step in range(2):
        micro_batches = [
            batch(n=4, unlabeled=0, seed=step, tasks=TASKS, absent=a) for a in (("gender",), ())
        ]
        logged = train_step(eng, prepared_batches(eng, micro_batches))
        assert not bool(logged["skipped"])
        assert float(logged["loss/gender"]) > 0


@pytest.mark.parametrize("weighting", [Equal(), Fixed(every=2), Fixed(at="features")])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_parameter_that_no_loss_reaches_is_left_alone_at_every_level(weighting, micro_batches):
    """No decay either: AdamW shrinks whatever has a gradient, even one of 0."""
    eng = train_state(with_spare(small(weighting, weight_decay=0.5)), "adamw")
    head = eng.model.heads["location"]
    answer = copy.deepcopy(head.answer)
    for step in range(2):
        parted = [
            batch(n=4, unlabeled=0, seed=10 * step + part, tasks=TASKS)
            for part in range(micro_batches)
        ]
        train_step(eng, prepared_batches(eng, parted))
    assert torch.equal(head.spare, torch.ones(2, 2))
    assert not torch.equal(head.answer.weight, answer.weight)


# ---------------------------------------------------------------------------------------------------- what works where


@frozen
class Special(Toy):
    """how: "plain", "checkpoint", "reentrant" (both kinds of activation checkpointing), or a backend of torch.compile."""

    norm: str = "none"
    how: str = "plain"

    def build(self, image_size):
        net = ToyNet(self.width, torch.nn.Identity)
        if self.how in ("checkpoint", "reentrant"):
            net.forward = lambda x: remembering_little(net, x, self.how == "reentrant")
        elif self.how != "plain":
            net.compile(backend=self.how)
        return net


def remembering_little(net, x, reentrant):
    maps = [net.stages[0](x)]
    for stage in net.stages[1:]:
        maps.append(checkpoint(stage, maps[-1], use_reentrant=reentrant))
    return Features(tuple(maps), maps[-1].mean((2, 3)), maps[-1])


LEVELS = {
    "losses": Equal(),
    "parameters": TorchJD("UPGrad", every=2),
    "features": TorchJD("UPGrad", at="features", every=2),
}


@pytest.mark.filterwarnings(
    "ignore:None of the inputs have requires_grad"
)  # the reentrant kind, without gradient
@pytest.mark.parametrize("at", LEVELS)
@pytest.mark.parametrize("how", ["checkpoint", "reentrant", "aot_eager"])
def test_checkpointing_and_compiled_encoders_take_the_steps_of_a_plain_one(how, at):
    special, plain = (
        train_state(small(LEVELS[at], encoder=Special(how=h), augment=Plain()))
        for h in (how, "plain")
    )
    if (how, at) == ("aot_eager", "features"):
        with pytest.raises(MtlError, match="compiled") as told:
            dry_run(special, batch(tasks=TASKS))
        assert 'weighting.at = "parameters"' in str(told.value)
        return
    dry_run(special, batch(tasks=TASKS))
    for step in range(3):
        made = made_for(plain, step)
        train_step(special, [made])
        train_step(plain, [made])
    close(special, plain)


def test_torchs_switch_for_compiled_graphs_is_put_back_after_a_step():
    from torch._functorch import config

    class Looks(Fixed):
        def build(self, names):
            module = super().build(names)
            module.register_forward_pre_hook(lambda *_: seen.append(config.donated_buffer))
            return module

    seen, before = [], config.donated_buffer
    eng = train_state(small(Looks()))
    train_step(eng, [made_for(eng)])
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
        train_step(special, [made])
        train_step(plain, [made])
    close(special, plain, 1e-5)


@pytest.mark.parametrize("at", LEVELS)
def test_bf16_clipping_and_averaged_weights_work_at_every_level(at):
    eng = train_state(
        small(LEVELS[at], train={"precision": "bf16-mixed"}, weight_decay=0.0),
        ema=0.75,
        clip=1e-2,
        lr=0.1,
    )
    start, norms = (
        torch.nn.utils.parameters_to_vector(eng.model.inference().parameters()).detach(),
        [],
    )
    for step in range(2):
        norms.append(float(train_step(eng, [made_for(eng, step)])["grad_norm"]))
        if step == 0:
            whole = [
                (p - q).detach().norm()
                for p, q in zip(
                    eng.model.parameters(), train_state(eng.experiment).model.parameters()
                )
            ]
            assert float(torch.stack(whole).norm()) == pytest.approx(0.1 * 1e-2, rel=0.02)
            first = torch.nn.utils.parameters_to_vector(eng.ema.copy.parameters())
            now = torch.nn.utils.parameters_to_vector(eng.model.inference().parameters())
            torch.testing.assert_close(first, 0.75 * start + 0.25 * now, atol=1e-6, rtol=0)
    assert min(norms) > 1e-2
    assert all(p.dtype == torch.float32 for p in eng.model.parameters())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ['weighting.name="cosine_gate"', 'train.precision="16-mixed"'],
            ("16-mixed", "bf16-mixed", "parameters"),
        ),
        (
            ['weighting.name="cosine_gate"', 'weighting.at="features"', "train.accumulate=2"],
            ("accumulate", "parameters"),
        ),
        (['weighting.name="torchjd:DWA"', "weighting.every=2"], ("every", "DWA")),
        (['weighting.name="cosine_gate"', "weighting.every=0"], ("every",)),
    ],
)
def test_what_can_not_be_exact_is_refused_by_the_configuration(overrides, words, tmp_path):
    config = tmp_path / "dots.toml"
    config.write_text(CONFIG.replace("[train]", "[weighting]\n\n[train]"))
    with pytest.raises(MtlError) as told:
        load(config, overrides)
    assert all(word in str(told.value) for word in words)


def test_features_of_different_images_are_refused_before_a_run_begins(tmp_path):
    config = tmp_path / "dots.toml"
    config.write_text(
        CONFIG.replace("[train]", '[weighting]\nname = "cosine_gate"\nat = "features"\n\n[train]')
    )
    with pytest.raises(MtlError, match="same images") as told:
        train(load(config), tmp_path / "run")
    assert 'weighting.at = "parameters"' in str(told.value)
    assert not (tmp_path / "run").exists()


WITNESS = """
import numpy as np
from attrs import frozen
from pathlib import Path
from mtlcore import Dataset, Index, hookimpl

@frozen
class Witness(Dataset):
    log: Path

    def index(self):
        self.log.touch()
        rows = np.arange(40)
        return Index(rows.astype(str), {"quarter": np.array(["a", "b"])[rows % 2]})

    def decode(self, index, row):
        return np.zeros((16, 16, 3), dtype=np.uint8)

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
        (
            'name = "torchjd:MGDA"\noptions = { max_iter = 9 }',
            ("max_iter", "did you mean 'max_iters'"),
        ),
    ],
)
def test_an_option_that_does_not_work_is_told_before_any_data_is_read(weighting, words, tmp_path):
    plugin, config, log = tmp_path / "witness.py", tmp_path / "run.toml", tmp_path / "log"
    plugin.write_text(WITNESS)
    text = CONFIG.replace("[data.dots]", f'[data.witness]\nlog = "{log}"')
    text = text.replace("plugins = [", f'plugins = ["{plugin}", ')
    config.write_text(text.replace("[train]", f"[weighting]\n{weighting}\n\n[train]"))
    with pytest.raises(MtlError, match=r"weighting") as told:
        train(load(config), tmp_path / "run")
    assert [word for word in words if word not in str(told.value)] == []
    assert not log.exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_passes_its_trial_and_leaves_the_global_generator_alone(name):
    before = torch.get_rng_state()
    try_weighting(small(STRATEGIES[name]), torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)
