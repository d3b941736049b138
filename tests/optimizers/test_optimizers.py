"""Optimizers by name: the kit's checks, bad steps, checkpoints, and messages."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from attrs import evolve
from toys import UNCERTAINTY, batch, counted, experiment, prepared_batches, prepared_step
from toys import train_state as toy_state

from mtlcore import MtlError, component
from mtlcore.contracts.optimizer import Optimizer
from mtlcore.optimizers import Torch
from mtlcore.testing import optimizer_checks
from mtlcore.testing.kit import Skip
from mtlcore.testing.optimizer.harness import leaves, same_states
from mtlcore.training.needed_memory import states_per_parameter
from mtlcore.training.optimizer_state import MisfitError, check_optimizer_state
from mtlcore.training.step import train_step
from mtlcore.training.trial_of_optimizer import try_optimizer

SOME = (
    "adamw",
    "sgd",
    "torch:Adam",
    "torch:NAdam",
    "timm:adabelief",
    "timm:lookahead_adabelief",
    "timm:lamb",
    "timm:lion",
    "timm:muon",
    "timm:adafactor",
)
BAD = SOME[2:]
REFUSED_BY_TIMM = ("adahessian", "kron", "bnb", "fused")


def made(name: str, **fields) -> Optimizer:
    return component("optimizer", name, **fields)


def run_checks(name: str) -> None:
    skipped: list[str] = []
    for check in optimizer_checks(name):
        try:
            check()
        except Skip:
            skipped.append(check.name)
    assert {*skipped} <= {"cites_its_origin", "a_bad_step_changes_nothing"}, name


def test_some_optimizers_pass_the_kit(subtests):
    for name in SOME:
        with subtests.test(name=name):
            run_checks(name)


@pytest.mark.slow
def test_every_optimizer_of_torch_and_timm_passes_the_kit_or_is_refused(subtests):
    import timm.optim

    names = [f"timm:{name}" for name in timm.optim.list_optimizers()]
    names += [f"torch:{cls.__name__}" for cls in torch.optim.Optimizer.__subclasses__()]
    found = {name for name in names if name.removeprefix("timm:").startswith(REFUSED_BY_TIMM)}
    for name in sorted({*names} - found):
        with subtests.test(name=name):
            if name.startswith("torch:") and not hasattr(torch.optim, name[6:]):
                continue
            try:
                try_optimizer(made(name))
            except MtlError as error:
                assert name[6:] in ("LBFGS", "SparseAdam", "Rprop", "Muon"), error  # noqa: PT017
                continue
            run_checks(name)


def state_of(state):
    found = state.model.state_dict() | state.loss_weighting.state_dict()
    return copy.deepcopy((found, state.optimizer.optimizer.state_dict()))


def ruined(prepared):
    images = tuple(x * float("nan") for x in prepared.images)
    return evolve(prepared, images=images)


def test_a_bad_step_changes_neither_weights_nor_the_state_of_any_optimizer(subtests):
    # A fused one creates its state in the first step, bad or not: tests/training/test_step.py.
    for name in BAD[1:]:
        with subtests.test(name=name):
            exp = experiment(("fer",), ("rotation",), weighting=UNCERTAINTY)
            state, untouched = (toy_state(exp, made(name)) for _ in range(2))
            prepared = prepared_batches(state, [batch(tasks=("fer",))])[0]
            # In the first step, too, before the optimizer has any state.
            for _ in range(2):
                before = state_of(state)
                assert bool(prepared_step(state, [ruined(prepared)])["skipped"])
                assert same_states(before, state_of(state))
                prepared_step(state, [prepared])
                prepared_step(untouched, [prepared])
            assert same_states(state_of(state), state_of(untouched))


def test_a_checkpoint_continues_bit_for_bit_and_its_state_is_checked(subtests):
    for name in BAD:
        with subtests.test(name=name):
            exp = experiment(("fer",), ("rotation",))
            state, resumed = (toy_state(exp, made(name)) for _ in range(2))
            batches = [[batch(seed=step, tasks=("fer",))] for step in range(9)]
            for micro_batches in batches[:7]:
                train_step(state, counted(micro_batches))
            optimizer = state.optimizer.optimizer
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            saved = torch.load(file, weights_only=True)
            own = resumed.optimizer.optimizer
            check_optimizer_state("optimizer", saved, own, resumed.experiment.optimizer.build)
            own.load_state_dict(saved)
            resumed.model.load_state_dict(state.model.state_dict())
            resumed.step = state.step
            for micro_batches in batches[7:]:
                for each in (state, resumed):
                    train_step(each, counted(micro_batches))
            assert same_states(state_of(state), state_of(resumed))


def test_a_state_of_another_optimizer_or_shape_does_not_fit():
    state = toy_state(experiment(("fer",)), made("timm:adabelief"))
    train_step(state, counted([batch(tasks=("fer",))]))
    good = state.optimizer.optimizer.state_dict()
    build = state.experiment.optimizer.build

    def refused(change):
        saved = copy.deepcopy(good)
        change(saved)
        with pytest.raises(MisfitError) as raised:
            check_optimizer_state("optimizer", saved, state.optimizer.optimizer, build)
        return str(raised.value)

    assert "parameter 0: expected exactly the keys exp_avg" in refused(
        lambda saved: saved["state"][0].pop("exp_avg_var")
    )
    assert "exp_avg is torch.float32 of shape (3,)" in refused(
        lambda saved: saved["state"][0].update(exp_avg=torch.zeros(3))
    )
    assert "step = 'x'" in refused(lambda saved: saved["state"][0].update(step="x"))
    tensors = [torch.zeros(3)] * 4
    message = refused(lambda saved: saved["state"][0].update(step=tensors))
    assert "step = a list of length 4, expected a value such as" in message
    assert "parameter 99" in refused(lambda saved: saved["state"].update({99: {}}))
    assert "other parameters" in refused(lambda saved: saved["param_groups"][0].update(params=[0]))


def test_learned_loss_weights_train_beside_an_optimizer_of_timm():
    state = toy_state(
        experiment(("fer", "gender"), weighting=UNCERTAINTY), made("timm:lookahead_adabelief")
    )
    before = copy.deepcopy(state.loss_weighting.state_dict())
    train_step(state, counted([batch(tasks=("fer", "gender"))]))
    changed = zip(leaves(before), leaves(state.loss_weighting.state_dict()))
    assert not all(torch.equal(a, b) for a, b in changed)


def test_what_a_run_can_t_use_is_refused_before_any_image_is_read(subtests):
    for name, fields, message in [
        ("torch:NAdan", {}, "did you mean 'NAdam'"),
        ("torch:NAdam", {"options": {"momentum_deca": 1}}, "did you mean 'momentum_decay'"),
        ("torch:NAdam", {"options": {"lr": 1}}, "set optimizer.lr instead"),
        ("torch:NAdam", {"options": {"betas": 3}}, "torch:NAdam: "),
        ("torch:SGD", {"options": {"momentum": math.nan}}, "momentum] = nan: expected finite"),
        ("torch:NAdam", {"options": {"betas": [0.9, math.inf]}}, "betas] = [0.9, inf]: expected"),
        ("torch:LBFGS", {}, "a closure"),
        ("torch:Muon", {}, "only supports 2D"),
        ("torch:SparseAdam", {}, "sparse gradients"),
        ("timm:adabeleif", {}, "did you mean 'adabelief'"),
        ("timm:lookahead_adabeleif", {}, "did you mean 'adabelief'"),
        ("timm:lion", {"options": {"beta": 1}}, "did you mean 'betas'"),
        ("timm:adahessian", {}, "second derivatives"),
        ("timm:kron", {}, "a resumed run would differ"),
        ("timm:bnbadam", {}, "can't be used here"),
    ]:
        with subtests.test(name=name, fields=fields, message=message):
            with pytest.raises(MtlError) as raised:
                try_optimizer(made(name, **fields))
            assert message in str(raised.value)


def test_an_optimizer_that_ruins_the_parameters_does_not_pass_its_trial():
    with pytest.raises(MtlError, match="a parameter is not finite after 2 steps"):
        try_optimizer(Torch("SGD", options={"momentum": math.nan}))


def test_the_state_of_an_optimizer_counts_as_memory():
    names = ("adamw", "sgd", "timm:lion", "timm:adabelief")
    assert [states_per_parameter(made(name)) for name in names] == [2, 1, 1, 2]
    assert states_per_parameter(made("sgd", momentum=0.0)) == 0
