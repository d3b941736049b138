"""`mtlcore.Trainer`: whole steps are those of a run, and the parts of a step those of `step()`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from attrs import evolve
from dots_run import BODY, DOTS, PUZZLING, REPORTERS
from torch import Tensor

import mtlcore
from mtlcore import Experiment, MtlError, Trainer, load_experiment
from mtlcore.callbacks.progress import SilentReporter
from mtlcore.runs import RunFolder
from mtlcore.training.trainer import train

CONFIG = f"""
plugins = ["{DOTS}"]
{BODY}{PUZZLING}
[pretext.byol]
weight = 0.1

[train]
steps = 20
ema = 0.9
log_every = 2
"""
JOURNAL = {
    "plugins": [str(DOTS), str(REPORTERS)],
    "callback.journal.file": "journal.jsonl",
}
TWO_DEVICES = """
import mtlcore
import torch.distributed as dist

trainer = mtlcore.Trainer(mtlcore.load_experiment("two.toml"), "run", progress=False)
assert dist.get_world_size() == 2
while trainer.step_number < trainer.steps:
    trainer.step()
trainer.run()
assert not dist.is_initialized()
"""
AT_LOSSES = {
    "sum of losses": {},
    "learned weights": {"weighting.name": "uncertainty"},
    "sgd": {"optimizer.name": "sgd", "optimizer.momentum": 0.9},
}
SGD = {"optimizer.name": "sgd", "optimizer.lr": 0.05}
AT_GRADIENTS = {
    "parameters": {"weighting.name": "torchjd:UPGrad"},
    "features": {
        "weighting.name": "torchjd:UPGrad",
        "weighting.at": "features",
        "views.supervised": "pretext",  # all heads read the same images
        "pretext.byol.weight": 0,
    },
    "cached": {"weighting.name": "torchjd:UPGrad", "weighting.every": 3},
}


@pytest.fixture
def load(tmp_path: Path):
    """Return the experiment, with overrides."""
    file = tmp_path / "dots.toml"
    file.write_text(CONFIG)
    return lambda overrides=None: load_experiment(file, overrides or {})


def state(trainer: Trainer) -> dict[str, Tensor]:
    """Return a copy of all that a step changes: weights, buffers, averages, optimizer states."""
    train_state = trainer.parts.train_state
    found = {f"model.{k}": v for k, v in trainer.model.state_dict().items()}
    if train_state.ema is not None:
        found |= {f"ema.{k}": v for k, v in train_state.ema.copy.state_dict().items()}
    found |= {f"weighting.{k}": v for k, v in train_state.loss_weighting.state_dict().items()}
    for number, kept in trainer.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{number}.{k}": v for k, v in kept.items()}
    return {k: torch.as_tensor(v).clone() for k, v in found.items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [k for k in one if not torch.equal(one[k], other[k])] == []


def by_hand(trainer: Trainer) -> dict[str, Tensor]:
    losses = trainer.losses(trainer.batch())
    trainer.backward(losses)
    trainer.apply()
    return losses


def stepped(experiment: Experiment, steps: int) -> Trainer:
    trainer = Trainer(experiment)
    for _ in range(steps):
        trainer.step()
    return trainer


# ------------------------------------------------------------------------------ whole steps


def test_steps_give_the_weights_and_the_log_of_a_run(load, tmp_path):
    experiment = load({"train.steps": 5, "train.log_every": 1})
    train(experiment, tmp_path / "run")
    trainer = Trainer(experiment, out=tmp_path / "steps")
    shown = [trainer.step() for _ in range(5)]
    trainer.save()
    run, steps = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "steps")
    assert_same(run.require().weights(), steps.require().weights())
    assert_same(run.require().require_ema(), steps.require().require_ema())

    names = ("step", "lr", "loss/quarter", "loss/puzzling", "task_weight/byol", "grad_norm")
    rows = [[row[k] for row in run.log.rows() if "lr" in row] for k in names]
    assert rows == [[row[k] for row in steps.log.rows()] for k in names]
    assert [float(losses["quarter"]) for losses in shown] == rows[2]


@pytest.mark.slow
def test_run_takes_the_steps_that_are_left(load, tmp_path):
    experiment = load({"train.steps": 5})
    train(experiment, tmp_path / "run")
    trainer = Trainer(experiment, out=tmp_path / "steps")
    trainer.step()
    by_hand(trainer)
    result = trainer.run()
    assert result.steps == trainer.step_number == 5
    assert_same(
        RunFolder(tmp_path / "run").require().weights(), RunFolder(result.run).require().weights()
    )
    assert RunFolder(result.run).provenance()["finished"]


def test_a_saved_trainer_is_resumed(load, tmp_path):
    trainer = Trainer(load(), out=tmp_path / "run")
    trainer.step()
    trainer.save()
    again = Trainer(load(), out=tmp_path / "run", resume=True)
    assert again.step_number == 1
    trainer.step()
    again.step()
    assert_same(state(trainer), state(again))


@pytest.mark.parametrize("saves", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_whose_last_step_was_taken_by_hand_is_evaluated_and_saved(load, tmp_path, saves):
    experiment = load({"train.steps": 3})
    train(experiment, tmp_path / "run")
    trainer = Trainer(experiment, out=tmp_path / "steps", progress=False)
    for _ in range(3):
        trainer.step()
    if saves:
        trainer.save()
    result = trainer.run()
    expected, run = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "steps")
    assert run.provenance()["finished"]
    assert run.provenance()["validation"] == expected.provenance()["validation"]
    assert result.measured.metrics == run.provenance()["validation"] != {}
    for which in ("last", "best"):
        assert run.require(which).step == 3
        assert_same(run.require(which).weights(), expected.require(which).weights())
    rows = run.log.rows()
    assert "validation/quarter/accuracy" in rows[-1]
    trainer.run()
    assert run.log.rows() == rows


@pytest.mark.slow
def test_run_ends_steps_by_hand_on_two_devices(load, tmp_path):
    overrides = {"train.steps": 2, "train.devices": 2, "train.accelerator": "cpu"}
    (tmp_path / "two.toml").write_text(load(overrides).to_toml())
    (tmp_path / "two.py").write_text(TWO_DEVICES)
    done = subprocess.run(
        [sys.executable, "two.py"], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    run = RunFolder(tmp_path / "run")
    assert run.require().step == 2
    assert "quarter/accuracy" in run.provenance()["validation"]


def test_a_run_of_a_trainer_is_refused_while_another_run_trains(load, tmp_path):
    found = []

    class Starts(SilentReporter):
        def on_log(self, run, row) -> None:
            with pytest.raises(MtlError, match="this process trains another run") as error:
                trainer.run()
            found.append(error)
            with pytest.raises(MtlError, match="this process trains another run"):
                mtlcore.train(experiment, tmp_path / "third", progress=False)

    experiment = load({"train.steps": 1})
    trainer = Trainer(experiment, out=tmp_path / "one", progress=False)
    mtlcore.train(experiment, tmp_path / "two", progress=Starts())
    assert RunFolder(tmp_path / "two").provenance().get("callback_failures") is None
    assert len(found) == 2
    again = Trainer(experiment, out=tmp_path / "four", progress=Starts())
    again.run()
    assert len(found) == 4
    assert trainer.run().steps == 1


def test_callbacks_are_called_by_run_alone(load, tmp_path):
    trainer = Trainer(load({"train.steps": 3, **JOURNAL}), out=tmp_path / "run", progress=False)
    trainer.step()
    trainer.save()
    assert not (tmp_path / "run" / "journal.jsonl").exists()
    trainer.run()
    lines = (tmp_path / "run" / "journal.jsonl").read_text().splitlines()
    found = [json.loads(line)["event"] for line in lines]
    assert (found[0], found[-1]) == ("on_train_start", "teardown")
    assert found.count("on_checkpoint") == 2
    assert "callback_failures" not in RunFolder(tmp_path / "run").provenance()


def test_a_second_run_of_a_trainer_starts_with_new_handles(load, tmp_path):
    overrides = {**JOURNAL, "callback.journal.refuses_at": 2, "train.steps": 4}
    trainer = Trainer(load(overrides), out=tmp_path / "run", progress=False)
    with pytest.raises(MtlError, match="not with me"):
        trainer.run()
    trainer.run()  # the callback asserts that it has no handles
    assert "callback_failures" not in RunFolder(tmp_path / "run").provenance()


class Notes(SilentReporter):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


@pytest.mark.slow
def test_a_trainer_shows_what_a_run_shows(load, tmp_path, capsys):
    notes = Notes()
    trainer = Trainer(load({"data.dots.bad": 1}), out=tmp_path / "run", progress=notes)
    assert any("can't be read" in text for text in notes.texts)
    trainer.step()
    trainer.save()
    again = Notes()
    Trainer(load({"data.dots.bad": 1}), tmp_path / "run", resume=True, progress=again)
    assert "resuming from step 1" in again.texts
    assert capsys.readouterr().out == ""

    Trainer(load({"data.dots.bad": 1}))
    assert "can't be read" in capsys.readouterr().out
    Trainer(load({"data.dots.bad": 1}), progress=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("key", "value"),
    [("optimizer.lr", 1e-3), ("optimizer.weight_decay", 0.1), ("train.micro_batches", 1)],
)
def test_a_trainer_is_not_resumed_with_another_experiment(load, tmp_path, key, value):
    trainer = Trainer(load({"train.micro_batches": 2}), out=tmp_path / "run")
    trainer.step()
    trainer.save()
    overrides = {"train.micro_batches": 2, key: value}
    with pytest.raises(MtlError, match=rf"a resumed run can't change .*\n  {key}: .* in the run"):
        Trainer(load(overrides), out=tmp_path / "run", resume=True)


def test_a_resumed_trainer_keeps_the_micro_batches_of_its_run(load, tmp_path):
    trainer = Trainer(load({"train.micro_batches": 2}), out=tmp_path / "run")
    trainer.step()
    trainer.save()
    again = Trainer(mtlcore.load_run(tmp_path / "run").experiment, tmp_path / "run", resume=True)
    assert again.step_number == 1
    again = Trainer(load(), out=tmp_path / "run", resume=True)
    assert again.experiment == evolve(
        trainer.experiment, plugins=(str(tmp_path / "run" / "plugins" / DOTS.name),)
    )
    assert len(again.batch().micro_batches) == 2
    trainer.step()
    again.step()
    assert_same(state(trainer), state(again))


def test_nothing_is_written_without_a_folder(load, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    trainer = stepped(load(), 3)
    with pytest.raises(MtlError, match=r"no folder .*mtlcore\.Trainer\(experiment, out="):
        trainer.save()
    with pytest.raises(MtlError, match=r"no folder .*mtlcore\.Trainer\(experiment, out="):
        trainer.run()
    with pytest.raises(MtlError, match="resume=True needs the folder"):
        Trainer(load(), resume=True)
    assert [*(tmp_path / "here").iterdir()] == []


def test_signal_handlers_stay_those_of_the_user(load):
    before = signal.getsignal(signal.SIGINT)
    trainer = stepped(load(), 1)
    by_hand(trainer)
    assert signal.getsignal(signal.SIGINT) is before


# ------------------------------------------------------------------------------ parts of a step


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("sum of losses", marks=pytest.mark.slow),
        "learned weights",
        pytest.param("sgd", marks=pytest.mark.slow),
    ],
)
def test_the_parts_give_the_bits_of_whole_steps(load, name):
    experiment = load(AT_LOSSES[name])
    whole, parts = Trainer(experiment), Trainer(experiment)
    for _ in range(10):
        expected, losses = whole.step(), by_hand(parts)
        assert list(losses) == ["quarter", "puzzling", "byol"]
        assert all(torch.equal(losses[k].detach(), expected[k]) for k in expected)
    assert_same(state(whole), state(parts))
    assert whole.step_number == parts.step_number == 10


def test_the_parts_write_the_log_of_whole_steps(load, tmp_path):
    names = ("whole", "parts")
    whole, parts = (Trainer(load(), out=tmp_path / name) for name in names)
    for _ in range(4):
        whole.step()
        by_hand(parts)
    rows = [RunFolder(tmp_path / name).log.rows() for name in names]
    for row in (*rows[0], *rows[1]):
        del row["cpu_s"]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0]] == [2, 4]


@pytest.mark.parametrize(
    "name", ["features", "cached", pytest.param("parameters", marks=pytest.mark.slow)]
)
def test_the_parts_give_the_same_weights_with_a_weighting_that_reads_gradients(load, name):
    experiment = load(AT_GRADIENTS[name])
    whole, parts = Trainer(experiment), Trainer(experiment)
    for _ in range(5):
        whole.step()
        by_hand(parts)
    torch.testing.assert_close(state(parts), state(whole), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "weighting",
    [
        "equal",
        pytest.param("uncertainty", marks=pytest.mark.slow),
        pytest.param("torchjd:UPGrad", marks=pytest.mark.slow),
    ],
)
def test_the_parts_average_the_losses_of_several_micro_batches(load, weighting):
    # Adam would divide differences in rounding by gradients that are 0 but for rounding.
    experiment = load({"weighting.name": weighting, "train.micro_batches": 2, **SGD})
    whole, parts = Trainer(experiment), Trainer(experiment)
    for _ in range(2):  # later, a ReLU whose input crosses 0 may amplify the rounding
        assert len(parts.batch().micro_batches) == 2
        expected, losses = whole.step(), by_hand(parts)
        for label, loss in losses.items():
            torch.testing.assert_close(loss.detach(), expected[label], rtol=0, atol=1e-6)
    torch.testing.assert_close(
        parts.model.state_dict(), whole.model.state_dict(), rtol=0, atol=1e-6
    )


def test_a_measurement_changes_no_bit_of_the_training(load):
    plain, measured = Trainer(load()), Trainer(load())
    shared = measured.shared_parameters()
    for step in range(4):
        losses = measured.losses(measured.batch())
        torch.autograd.grad(losses["quarter"], shared, retain_graph=True)
        losses["puzzling"].backward()  # also fills .grad
        measured.losses(measured.batch(0))
        plain.step()
        if step % 2:
            measured.step()
        else:
            by_hand(measured)
    assert_same(state(plain), state(measured))


def test_a_batch_gives_the_same_losses_at_the_same_weights(load):
    trainer = Trainer(load())
    batch = trainer.batch(3)
    first, again = trainer.losses(batch), trainer.losses(batch)
    other = trainer.losses(trainer.batch(4))
    assert batch.step == 3
    assert torch.equal(first["quarter"], again["quarter"])
    assert not torch.equal(first["quarter"], other["quarter"])


def test_evaluating_the_model_between_steps_does_not_leave_it_in_eval_mode(load):
    plain, evaluated = stepped(load(), 2), stepped(load(), 1)
    evaluated.model.eval()
    evaluated.inference.eval()
    evaluated.step()
    assert_same(state(plain), state(evaluated))


@pytest.mark.parametrize("ema", [pytest.param(0.0, marks=pytest.mark.slow), 0.9])
@pytest.mark.parametrize("take", [Trainer.step, by_hand])
def test_evaluating_the_inference_network_alone_does_not_leave_its_modules_in_eval_mode(
    load, ema, take
):
    experiment = load({"train.ema": ema})
    plain, evaluated = Trainer(experiment), Trainer(experiment)
    for trainer in (plain, evaluated):
        take(trainer)
        if trainer is evaluated:
            trainer.inference.eval()  # shares encoder and heads with the model if there is no EMA
        take(trainer)
    assert_same(state(plain), state(evaluated))


# ------------------------------------------------------------------------------ what a user changes


def test_some_losses_train_their_own_heads_alone(load):
    trainer = Trainer(load({"optimizer.weight_decay": 0.1}))
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    losses = trainer.losses(trainer.batch())
    trainer.backward({"puzzling": losses["puzzling"]})
    trainer.apply()
    after = trainer.model.state_dict()
    changed = {k.split(".")[1] for k in after if k.startswith("heads.") and after[k].ndim > 1
               and not torch.equal(after[k], before[k]) and "copy" not in k}  # fmt: skip
    assert changed == {"puzzling"}


def test_a_scalar_is_differentiated_as_it_is(load):
    trainer = Trainer(load({"train.clip": 1e6}))
    losses = trainer.losses(trainer.batch())
    total = 2 * losses["quarter"] + losses["puzzling"]
    expected = torch.autograd.grad(total, trainer.shared_parameters(), retain_graph=True)
    trainer.backward(total)
    for p, gradient in zip(trainer.shared_parameters(), expected, strict=True):
        assert torch.equal(p.grad, gradient)
    trainer.apply()
    assert trainer.step_number == 1
    assert all(p.grad is None for p in trainer.model.parameters())


def test_an_optimizer_of_ones_own_steps_its_parameters_alone(load):
    trainer = Trainer(load())
    own = torch.optim.SGD(trainer.encoder.parameters(), lr=0.1)
    heads = {k: v.clone() for k, v in trainer.heads["quarter"].state_dict().items()}
    encoder = [p.detach().clone() for p in trainer.encoder.parameters()]
    losses = trainer.losses(trainer.batch())
    trainer.backward(losses)
    trainer.apply(own)
    assert_same(heads, trainer.heads["quarter"].state_dict())
    assert not all(map(torch.equal, encoder, trainer.encoder.parameters()))
    assert not trainer.optimizer.state
    assert own.param_groups[0]["lr"] == 0.1
    assert all(p.grad is None for p in trainer.model.parameters())


def test_an_optimizer_of_another_model_is_refused(load):
    trainer = Trainer(load())
    trainer.backward(trainer.losses(trainer.batch()))
    foreign = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(MtlError, match="without any parameter of this trainer's model"):
        trainer.apply(foreign)
    trainer.apply()  # nothing is lost
    assert trainer.step_number == 1


def test_the_log_has_the_learning_rate_of_an_optimizer_of_ones_own(load, tmp_path):
    trainer = Trainer(load({"train.log_every": 1}), out=tmp_path / "run", progress=False)
    own = torch.optim.SGD(trainer.model.parameters(), lr=0.125)
    for optimizer in (own, None, trainer.optimizer):
        trainer.backward(trainer.losses(trainer.batch()))
        trainer.apply(optimizer)
    found = [row["lr"] for row in RunFolder(tmp_path / "run").log.rows()]
    assert found == pytest.approx([0.125, 3e-3 * 2 / 4, 3e-3 * 3 / 4])


def test_the_learning_rate_of_a_user_replaces_the_schedule(load, tmp_path):
    trainer = Trainer(load({"train.log_every": 1}), out=tmp_path / "run")
    assert trainer.lr == pytest.approx(3e-3 / 4)  # of warm-up
    trainer.step()
    for lr in (0.5e-3, 0.0):
        trainer.lr = lr
        trainer.step()
        assert trainer.optimizer.param_groups[0]["lr"] == lr == trainer.lr
    rows = RunFolder(tmp_path / "run").log.rows()
    assert [row["lr"] for row in rows] == pytest.approx([3e-3 / 4, 0.5e-3, 0.0])
    with pytest.raises(MtlError, match=r"Trainer\.lr = nan: expected a finite number"):
        trainer.lr = float("nan")


# ------------------------------------------------------------------------------ bad steps


@pytest.mark.parametrize("optimizer", ["configured", "own"])
def test_a_nan_image_changes_nothing_and_is_counted(load, optimizer):
    trainer = stepped(load(), 2)
    own = None
    if optimizer == "own":
        own = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    before = state(trainer)

    def spoil(module: torch.nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0] * torch.nan,)

    handle = trainer.encoder.register_forward_pre_hook(spoil)
    trainer.backward(trainer.losses(trainer.batch()))
    trainer.apply(own)
    handle.remove()
    assert_same(before, state(trainer))
    assert (trainer.step_number, trainer.skipped) == (3, 1)
    by_hand(trainer)
    assert (trainer.step_number, trainer.skipped) == (4, 1)


def test_a_forward_that_fails_leaves_the_buffers_as_they_were(load):
    trainer = stepped(load(), 1)
    before = state(trainer)
    handle = trainer.heads["byol"].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.losses(trainer.batch())
    handle.remove()
    assert_same(before, state(trainer))
    by_hand(trainer)


# ------------------------------------------------------------------------------ errors


def test_the_parts_are_called_in_their_order(load):
    trainer = Trainer(load())
    with pytest.raises(MtlError, match=r"apply needs .* call Trainer.losses\(batch\) and backward"):
        trainer.apply()
    losses = trainer.losses(trainer.batch())
    with pytest.raises(MtlError, match=r"apply needs .* call Trainer.backward\(losses\)"):
        trainer.apply()
    trainer.backward(losses)
    with pytest.raises(MtlError, match="backward was called twice"):
        trainer.backward(losses)
    for part in (trainer.step, trainer.save, trainer.run, lambda: trainer.losses(trainer.batch())):
        with pytest.raises(MtlError, match=r"are not applied yet: call Trainer\.apply"):
            part()
    trainer.apply()
    with pytest.raises(MtlError, match=r"backward needs losses: call Trainer.losses\(batch\)"):
        trainer.backward(losses)


def test_losses_that_cannot_be_differentiated_are_refused_and_nothing_is_lost(load):
    trainer, plain = Trainer(load()), stepped(load(), 1)
    old = trainer.losses(trainer.batch())
    losses = trainer.losses(trainer.batch())
    refused = {
        "older batch": old,
        "the loss belongs to an older batch": old["quarter"],
        "no loss was given": {},
        "no loss 'quater'; did you mean 'quarter'": {"quater": losses["quarter"]},
        "has no gradient": {"quarter": losses["quarter"].detach()},
        r"is \(2,\), expected a scalar": torch.stack([losses["quarter"], losses["byol"]]),
        "is float, expected a scalar": {"quarter": 1.0},
    }
    for message, given in refused.items():
        with pytest.raises(MtlError, match=message):
            trainer.backward(given)
    trainer.backward(losses)
    trainer.apply()
    assert_same(state(plain), state(trainer))


def test_losses_that_the_weighting_has_measured_are_passed_unchanged(load):
    trainer = Trainer(load(AT_GRADIENTS["features"]))
    losses = trainer.losses(trainer.batch())
    with pytest.raises(MtlError, match="puzzling is missing or changed"):
        trainer.backward(losses | {"puzzling": 2 * losses["puzzling"]})


def test_a_backward_that_fails_leaves_no_gradient(load):
    experiment = load(AT_LOSSES["learned weights"])
    trainer = Trainer(experiment)
    losses = trainer.losses(trainer.batch())
    losses["quarter"].backward()  # frees its graph
    with pytest.raises(RuntimeError, match="second time"):
        trainer.backward(losses)
    assert all(p.grad is None for p in trainer.model.parameters())
    by_hand(trainer)
    assert_same(state(stepped(experiment, 1)), state(trainer))


def test_a_trainer_needs_an_experiment_that_trains_something(load):
    with pytest.raises(
        MtlError, match=r"Trainer\('my.toml'\): expected an Experiment; mtlcore\.load"
    ):
        Trainer("my.toml")
    with pytest.raises(MtlError, match="task"):
        Trainer(evolve(load(), tasks={}, pretexts={}))
    with pytest.raises(MtlError, match="warmup"):
        Trainer(evolve(load(), schedule=mtlcore.Schedule(warmup=-1)))


def test_a_step_after_the_last_one_is_refused(load):
    trainer = stepped(load({"train.steps": 2}), 2)
    assert trainer.progress == 1
    for part in (trainer.step, trainer.batch, lambda: trainer.batch(-1)):
        with pytest.raises(MtlError, match=r"the run has steps 0 to 1\. Set train.steps"):
            part()


def test_the_names_of_the_trainer_are_public():
    assert mtlcore.Trainer is Trainer
    assert mtlcore.StepBatch.__doc__
