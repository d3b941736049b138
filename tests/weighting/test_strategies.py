"""The core's own weightings, compared with numbers worked out by hand."""

from __future__ import annotations

import math
import tomllib

import pytest
import torch

from mtlcore import MtlError, StepLosses
from mtlcore.config import parse
from mtlcore.rng import KeyedRng
from mtlcore.weighting import Budget, CosineGate, Equal, PrimaryProjection, Schedule, Uncertainty
from mtlcore.weighting.schedule import value_at
from mtlcore.weighting.state import ByName

NAMES = ("fer", "pose", "puzzling", "rotation")


def losses(jacobian, primary, progress=0.0, values=None, names=None):
    """Return losses with gradients (K, P). The first `primary` tasks are supervised."""
    j = torch.tensor(jacobian, dtype=torch.float32)
    k = len(j)
    values = torch.ones(k) if values is None else torch.tensor(values)
    names = NAMES[:k] if names is None else names
    mask = torch.arange(k) < primary
    return StepLosses(
        names, values.requires_grad_(), j @ j.T, mask, progress, 0, KeyedRng((0,))("weighting")
    )


def task_weights(strategy, step, loss_weighting=None):
    loss_weighting = loss_weighting or strategy.build(step.names)
    loss_weighting(step).backward()
    return step.values.grad.tolist()


# ------------------------------------------------------------ schedule

WARM_UP_AND_OFF = ((0.0, 0.0), (0.1, 1.0), (0.8, 1.0), (0.8, 0.0))


def test_a_pretext_warms_up_and_is_off_for_the_last_part(subtests):
    for progress, expected in [
        (0.0, 0.0),
        (0.05, 0.5),
        (0.1, 1.0),
        (0.5, 1.0),
        (0.799, 1.0),
        (0.8, 0.0),
        (0.99, 0.0),
    ]:
        with subtests.test(progress=progress, expected=expected):
            step = losses([[1, 0], [0, 1], [1, 1]], primary=2, progress=progress)
            assert task_weights(Schedule(pretexts=WARM_UP_AND_OFF), step) == pytest.approx(
                [1, 1, expected]
            )


def test_a_curve_for_one_label_takes_precedence_and_may_be_for_a_task():
    strategy = Schedule(
        pretexts=((0.0, 0.25),), of={"rotation": ((0.0, 1.0), (1.0, 0.0)), "pose": ((0.0, 2.0),)}
    )
    step = losses([[1], [1], [1], [1]], primary=2, progress=0.25)
    assert task_weights(strategy, step) == [1, 2, 0.25, 0.75]


def test_a_curve_is_constant_outside_its_points():
    points = ((0.2, 3.0), (0.6, 1.0))
    assert [value_at(points, p) for p in (0.0, 0.2, 0.4, 0.6, 0.99)] == pytest.approx(
        [3, 3, 2, 1, 1]
    )


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ((), "points"),
        (((0.5, 1.0), (0.2, 1.0)), "ascending"),
        (((0.0, -1.0),), "from 0 to 1e"),
        (((1.5, 1.0),), "from 0 to 1"),
    ],
)
def test_an_invalid_curve_is_refused(points, message):
    with pytest.raises(ValueError, match=message):
        Schedule(pretexts=points)
    with pytest.raises(ValueError, match=message):
        Schedule(of={"puzzling": points})


def test_a_schedule_for_an_unknown_label_is_an_error_that_names_the_nearest():
    with pytest.raises(MtlError, match=r"weighting.of.puzling.*did you mean 'puzzling'"):
        Schedule(of={"puzling": ((0.0, 1.0),)}).build(NAMES)


# ------------------------------------------------------------ cosine gate


def test_the_gate_opens_for_pretexts_that_agree_with_the_sum_of_the_tasks():
    # the tasks add up to (1, 1): the first pretext agrees, the second opposes
    step = losses([[1, 0], [0, 1], [2, -1], [-2, 1]], primary=2)
    assert task_weights(CosineGate(), step) == [1, 1, 1, 0]


def test_the_task_weight_of_the_weighted_gate_is_the_cosine():
    step = losses([[2, 0], [3, 4], [-3, 4]], primary=1)
    assert task_weights(CosineGate(mode="weighted"), step) == pytest.approx([1, 0.6, 0])


# ------------------------------------------------------------ primary projection


def test_projection_removes_only_what_opposes_the_tasks():
    jacobian = torch.tensor([[1.0, 0, 0], [1.0, 1, 0], [-2.0, 0, 5], [1.0, 0, 1]])
    step = losses(jacobian.tolist(), primary=2)
    p, against = jacobian[:2].sum(0), jacobian[2]
    expected = (
        p + (against - (against @ p) / (p @ p) * p) + jacobian[3]
    )  # the last pretext agrees and does not change
    got = torch.tensor(task_weights(PrimaryProjection(), step)) @ jacobian
    torch.testing.assert_close(got, expected)
    assert got @ p >= p @ p


def test_tasks_that_oppose_each_other_do_not_change():
    assert task_weights(PrimaryProjection(), losses([[1, 0], [-0.5, 0], [0, 1]], primary=2)) == [
        1,
        1,
        1,
    ]


@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_task_weights_stay_finite_if_the_tasks_cancel_each_other(noise):
    step = losses([[1, noise], [-1, noise], [-3, -1]], primary=2)
    assert task_weights(PrimaryProjection(), step) == pytest.approx([1, 1, 1])


# ------------------------------------------------------------ budget


def test_the_pretexts_get_their_share_of_the_budget():
    budget = Budget(share=0.25, relax=1.0)
    step = losses([[3, 0], [0, 3], [8, 0], [0, 1]], primary=2)
    f = task_weights(budget, step)
    assert f[:2] == [1, 1]
    assert f[2] == f[3]  # one task weight for all pretexts
    assert f[2] * 9 / (f[2] * 9 + 6) == pytest.approx(0.25)


def test_with_one_task_and_one_pretext_half_the_norm_is_the_magnitude_of_the_task():
    assert task_weights(Budget(relax=1.0), losses([[3, 4], [0, 10]], primary=1)) == pytest.approx(
        [1, 0.5]
    )
    assert task_weights(Budget(relax=0.7), losses([[3, 4], [0, 10]], primary=1)) == pytest.approx(
        [1, 0.7 * 0.5 + 0.3]
    )
    assert task_weights(Budget(relax=0.0), losses([[3, 4], [0, 10]], primary=1)) == pytest.approx(
        [1, 1]
    )


def test_norms_are_averaged_over_steps():
    budget = Budget(relax=1.0, momentum=0.5)
    loss_weighting = budget.build(("fer", "puzzling"))
    names = ("fer", "puzzling")
    task_weights(budget, losses([[1.0], [1.0]], 1, names=names), loss_weighting)
    f = task_weights(budget, losses([[4.0], [1.0]], 1, names=names), loss_weighting)
    assert f[1] == pytest.approx((0.25 * 1 + 0.5 * 4) / (0.25 * 1 + 0.5 * 1))


# ------------------------------------------------------------ all of them


def test_without_a_task_or_without_a_pretext_the_objective_is_the_sum_of_losses(subtests):
    for primary in [0, 3]:
        for strategy in [CosineGate(), CosineGate(mode="weighted"), PrimaryProjection(), Budget()]:
            with subtests.test(strategy=strategy, primary=primary):
                assert task_weights(strategy, losses([[1, 0], [-3, 1], [0, -2]], primary)) == [
                    1,
                    1,
                    1,
                ]


@pytest.mark.parametrize("strategy", [CosineGate(), PrimaryProjection(), Budget()])
def test_a_gramian_weighting_has_a_level_and_an_interval(strategy):
    assert (strategy.at, strategy.every) == ("parameters", 1)
    with pytest.raises(ValueError, match="every"):
        type(strategy)(every=0)


def test_learned_uncertainty_converges_to_the_logarithm_of_the_loss():
    loss_weighting = Uncertainty().build(("fer", "pose"))
    optimizer = torch.optim.Adam(loss_weighting.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        loss_weighting(losses([[1], [1]], 2, values=[0.5, 4.0])).backward()
        optimizer.step()
    assert loss_weighting.log_var["pose"].item() == pytest.approx(math.log(4), abs=0.01)
    assert task_weights(
        Uncertainty(), losses([[1], [1]], 2, values=[0.5, 4.0]), loss_weighting
    ) == pytest.approx([2, 0.25], rel=0.02)


def test_equal_is_the_sum():
    assert Equal().build(("a",))(losses([[1], [1]], 1, values=[2.0, 3.5])).item() == 5.5


def test_state_is_saved_by_name_and_loads_in_another_order():
    memory = ByName(("fer", "pose", "puzzling"), pairs=True)
    memory.write(("puzzling", "fer"), torch.tensor([[1.0, 2], [3, 4]]))
    saved = memory.state_dict()
    assert saved["puzzling/fer"] == 2
    assert saved["fer/puzzling"] == 3
    other = ByName(("puzzling", "pose", "fer"), pairs=True)
    other.load_state_dict(saved)
    assert other.read(("fer", "puzzling")).tolist() == [[4, 3], [2, 1]]
    with pytest.raises(RuntimeError, match="rotation"):
        ByName(("fer", "rotation"), pairs=True).load_state_dict(saved)


TOML = """
[task.fer]
name = "classification"
classes = ["a", "b"]
[pretext.puzzling]
[weighting]
name = "schedule"
pretexts = [[0.0, 0.0], [0.1, 1]]
of = { puzzling = [[0.5, 1.0], [1.0, 0.0]] }
[train]
steps = 10
"""


def test_a_schedule_is_written_in_toml():
    strategy = parse(tomllib.loads(TOML)).weighting
    assert strategy == Schedule(((0.0, 0.0), (0.1, 1.0)), {"puzzling": ((0.5, 1.0), (1.0, 0.0))})


@pytest.mark.parametrize("strategy", [CosineGate, PrimaryProjection, Budget])
def test_an_unknown_level_is_refused_at_once(strategy):
    with pytest.raises(ValueError, match="'at' must be in"):
        strategy(at="foo")


def test_a_gate_of_an_unknown_mode_is_refused_at_once():
    with pytest.raises(ValueError, match="'mode' must be in"):
        CosineGate(mode="foo")
