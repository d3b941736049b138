"""The adapter of TorchJD, compared with TorchJD itself and with closed forms."""

from __future__ import annotations

import sys
import tomllib

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torchjd import aggregation, scalarization

from mtlcore import MtlError, StepLosses
from mtlcore.config import dump, parse
from mtlcore.rng import KeyedRng
from mtlcore.weighting import TorchJD, Uncertainty
from mtlcore.weighting.torchjd_methods import METHODS, REFUSED

NAMES = ("fer", "pose", "puzzling")
JACOBIAN = torch.tensor([[1.0, 0.5, 0.0], [-1.0, 1.0, 0.5], [0.2, -2.0, 1.0]])
VALUES = torch.tensor([0.7, 2.0, 1.1])
GRAMIAN = [method for method, about in METHODS.items() if about.level == "gramian"]


def losses(jacobian=JACOBIAN, values=VALUES, names=NAMES, step=0, epoch=0):
    primary = torch.arange(len(names)) < 1
    rng = KeyedRng((3, step))("weighting")
    return StepLosses(
        names, values.clone().requires_grad_(), jacobian @ jacobian.T, primary, 0.0, epoch, rng
    )


def task_weights(loss_weighting, step):
    loss_weighting(step).backward()
    return step.values.grad


def of(method, step, **options):
    return task_weights(TorchJD(method, options=options).build(step.names), step)


# ------------------------------------------------------------ against TorchJD


def test_task_weights_are_torchjds_weights_times_the_number_of_tasks(subtests):
    for method, weighting, scale in [
        ("UPGrad", lambda: aggregation.UPGradWeighting(), 3),
        ("DualProj", lambda: aggregation.DualProjWeighting(), 3),
        ("MGDA", lambda: aggregation.MGDAWeighting(), 3),
        ("IMTLG", lambda: aggregation.IMTLGWeighting(), 3),
        ("AlignedMTL", lambda: aggregation.AlignedMTLWeighting(), 3),
        ("CAGrad", lambda: aggregation.CAGradWeighting(c=0.4), 3),
    ]:
        with subtests.test(method=method, weighting=weighting, scale=scale):
            gram = (JACOBIAN @ JACOBIAN.T).double()
            expected = scale * weighting()(gram)
            torch.testing.assert_close(
                of(method, losses()).double(), expected, rtol=1e-3, atol=1e-3
            )


def test_fairgrad_has_the_direction_of_torchjds_and_the_length_of_a_sum():
    expected = aggregation.FairGradWeighting(alpha=2.0)((JACOBIAN @ JACOBIAN.T).double())
    got = of("FairGrad", losses()).double()
    torch.testing.assert_close(got / got.sum(), expected / expected.sum(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["PCGrad", "GradVac"])
def test_draws_are_torchjds_with_the_generator_of_the_step(method):
    cls = getattr(aggregation, f"{method}Weighting")
    gram = (JACOBIAN @ JACOBIAN.T).double()
    seed = KeyedRng((3, 0))("weighting").integer(0, 2**62)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        expected = cls()(gram / gram.diagonal().mean())
    torch.testing.assert_close(of(method, losses()).double(), expected, rtol=1e-5, atol=1e-6)


def test_objectives_are_torchjds_scaled_to_a_sum(subtests):
    for method, scalarizer, scale in [
        ("GeometricMean", lambda: scalarization.GeometricMean(), 3),
        ("STCH", lambda: scalarization.STCH(mu=0.1), 9),
        ("UW", lambda: scalarization.UW(3), 2),
        ("IMTLL", lambda: scalarization.IMTLL(3), 1),
        ("FAMO", lambda: scalarization.FAMO(3), 3),
        ("DWA", lambda: scalarization.DWA(), 1),
    ]:
        with subtests.test(method=method, scalarizer=scalarizer, scale=scale):
            objective = TorchJD(method).build(NAMES)(losses())
            torch.testing.assert_close(objective, scale * scalarizer()(VALUES))


def test_dwa_changes_epochs_as_torchjds_does():
    ours, theirs = (
        TorchJD("DWA", options={"temperature": 0.5}).build(NAMES),
        scalarization.DWA(temperature=0.5),
    )
    for step in range(12):
        values = VALUES * (1 + 0.3 * torch.sin(torch.arange(3.0) * (step + 1)))
        if step and step % 3 == 0:
            theirs.step()
        mine = values.clone().requires_grad_()
        theirs(mine).backward()
        torch.testing.assert_close(
            task_weights(ours, losses(values=values, epoch=step // 3)), mine.grad
        )


def test_famo_learns_as_torchjds_does_from_the_losses_of_the_next_batch():
    ours, theirs = TorchJD("FAMO").build(NAMES), scalarization.FAMO(3)
    for step in range(8):
        values = VALUES * torch.tensor([0.9, 1.05, 0.99]) ** step
        if step:
            theirs.update(values)
        mine = values.clone().requires_grad_()
        theirs(mine).backward()
        torch.testing.assert_close(task_weights(ours, losses(values=values)), 3 * mine.grad)


class Synced(TorchFunctionMode):
    """Records each call that would make the host wait, if the tensors were on a device."""

    WAITS = (
        "item",
        "cpu",
        "numpy",
        "tolist",
        "__bool__",
        "__float__",
        "__int__",
        "nonzero",
        "is_nonzero",
    )

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func.__name__ in self.WAITS:
            self.calls.append(func.__name__)
        return func(*args, **kwargs or {})


def test_only_the_geometric_mean_waits_for_the_device(subtests):
    for method, waits in [
        ("FAMO", []),
        ("DWA", []),
        ("STCH", []),
        ("UW", []),
        ("IMTLL", []),
        ("GeometricMean", ["__bool__"]),
    ]:
        with subtests.test(method=method, waits=waits):
            loss_weighting = TorchJD(method).build(NAMES)
            for step in range(3):
                loss_weighting(
                    losses(step=step, epoch=step)
                )  # creates the cached indices and the state
            taken = losses(step=3, epoch=3)
            with Synced() as synced:
                loss_weighting(taken)
            assert synced.calls == waits


def test_uncertainty_is_twice_torchjds_uw():
    ours, theirs = Uncertainty().build(NAMES), TorchJD("UW").build(NAMES)
    for name, s in zip(NAMES, (0.3, -0.2, 1.0)):
        ours.log_var[name].data.fill_(s)
        theirs.learned[name].data.fill_(s)
    torch.testing.assert_close(ours(losses()), theirs(losses()))


# ------------------------------------------------------------ against closed forms


def test_pcgrad_of_two_tasks_equals_its_closed_form():
    a, b = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([-2.0, 1.0, 0.5])
    jacobian = torch.stack([a, b])
    expected = (a - (a @ b) / (b @ b) * b) + (b - (a @ b) / (a @ a) * a)
    got = of("PCGrad", losses(jacobian, VALUES[:2], NAMES[:2])) @ jacobian
    torch.testing.assert_close(got, expected)


def test_upgrad_of_two_tasks_equals_pcgrad():
    jacobian = torch.tensor([[1.0, 0.0], [-2.0, 1.0]])
    upgrad = of("UPGrad", losses(jacobian, VALUES[:2], NAMES[:2]))
    pcgrad = of("PCGrad", losses(jacobian, VALUES[:2], NAMES[:2]))
    torch.testing.assert_close(upgrad, pcgrad, rtol=2e-3, atol=2e-3)


def test_mgda_satisfies_the_kkt_conditions_of_the_shortest_combination():
    alpha = of("MGDA", losses(), epsilon=1e-6, max_iters=5000).double() / 3
    along = (JACOBIAN @ JACOBIAN.T).double() @ alpha
    shortest = alpha @ along
    assert alpha.sum().item() == pytest.approx(1, abs=1e-6)
    assert (along >= shortest - 2e-3).all()
    torch.testing.assert_close(
        along[alpha > 0.01], shortest.expand(int((alpha > 0.01).sum())), rtol=0, atol=5e-3
    )


@pytest.mark.parametrize("method", ["UPGrad", "DualProj"])
def test_a_task_with_a_small_gradient_is_protected_beside_a_large_one(method):
    jacobian = torch.tensor([[1e-3, 0.0], [-10.0, 1.0]])
    got = of(method, losses(jacobian, VALUES[:2], NAMES[:2])) @ jacobian
    assert got[0] >= -2e-3  # TorchJD's own projector: -10


def test_random_weights_have_mean_one_and_change_with_the_step():
    loss_weighting = TorchJD("RLW").build(NAMES)
    drawn = torch.stack([task_weights(loss_weighting, losses(step=i)) for i in range(200)])
    torch.testing.assert_close(drawn.sum(1), torch.full((200,), 3.0))
    torch.testing.assert_close(drawn.mean(0), torch.ones(3), rtol=0, atol=0.15)
    assert drawn.std(0).min() > 0.3


def test_a_degenerate_gramian_gives_the_sum_of_losses(subtests):
    for method in GRAMIAN:
        with subtests.test(method=method):
            for bad in (0.0, float("nan"), float("inf")):
                assert of(method, losses(torch.full((3, 3), bad))).tolist() == [1, 1, 1]


def test_a_task_with_a_gradient_of_0_does_not_affect_the_others(subtests):
    """Otherwise the shortest combination of CAGrad and MGDA would be that gradient: no step."""
    for method in GRAMIAN:
        with subtests.test(method=method):
            jacobian = torch.cat([JACOBIAN[:1], torch.zeros(1, 3), JACOBIAN[1:]])
            values, names = torch.tensor([0.7, 1.0, 2.0, 1.1]), ("fer", "dead", "pose", "puzzling")
            got = of(method, losses(jacobian, values, names))
            alone = of(method, losses())
            assert got[1] == 1
            torch.testing.assert_close(got[[0, 2, 3]], alone)
            assert (got @ jacobian).norm() > 0.1


def test_gradvac_keeps_the_state_of_a_task_with_a_gradient_of_0():
    loss_weighting = TorchJD("GradVac").build(NAMES)
    task_weights(loss_weighting, losses())
    before = loss_weighting.state_dict()
    dead = JACOBIAN * torch.tensor([[1.0], [0.0], [1.0]])
    task_weights(loss_weighting, losses(dead, step=1))
    after = loss_weighting.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"cosine.fer/puzzling", "cosine.puzzling/fer"}


# ------------------------------------------------------------ losses below 0


def test_stch_accepts_negative_losses():
    values = torch.tensor([-0.3, 0.2, 0.1])
    expected = 3 * torch.softmax(values / 3 / 0.1, 0)
    torch.testing.assert_close(of("STCH", losses(values=values)), expected)


def test_the_geometric_mean_of_a_loss_of_0_or_below_is_finite():
    got = of("GeometricMean", losses(values=torch.tensor([-0.3, 0.0, 1.0])))
    assert got.isfinite().all()


# ------------------------------------------------------------ state


def test_state_is_keyed_by_task_name(subtests):
    for method in ["UW", "IMTLL", "DWA", "FAMO", "GradVac"]:
        with subtests.test(method=method):
            keys = TorchJD(method).build(NAMES).state_dict()
            assert {
                name for name in NAMES for key in keys if name in key.replace("/", ".").split(".")
            } == set(NAMES)


@pytest.mark.parametrize("method", ["UW", "IMTLL"])
def test_learned_scales_are_parameters_of_the_weighting(method):
    loss_weighting = TorchJD(method).build(NAMES)
    assert [n for n, _ in loss_weighting.named_parameters()] == [f"learned.{n}" for n in NAMES]
    loss_weighting(losses()).backward()
    assert all(p.grad is not None for p in loss_weighting.parameters())


def test_buffers_change_in_place_so_that_a_skipped_step_can_restore_them(subtests):
    for method in METHODS:
        with subtests.test(method=method):
            loss_weighting = TorchJD(method).build(NAMES)
            before = [(b, b.clone()) for b in loss_weighting.buffers()]
            first = {k: v.clone() for k, v in loss_weighting.state_dict().items()}
            for step in range(4):
                loss_weighting(losses(step=step, epoch=step)).backward()
            for buffer, old in before:
                buffer.copy_(old)
            assert all(torch.equal(first[k], v) for k, v in loss_weighting.state_dict().items())


# ------------------------------------------------------------ names and options


@pytest.mark.parametrize(
    ("name", "method"),
    [("upgrad", "UPGrad"), ("rlw", "Random"), ("IMTL-G", "IMTLG"), ("Aligned-MTL", "AlignedMTL")],
)
def test_names_do_not_depend_on_case_and_hyphens(name, method):
    assert TorchJD(name).method == method


def test_an_unknown_method_is_an_error_that_names_the_nearest():
    with pytest.raises(MtlError, match="no method 'UPGrads'; did you mean 'UPGrad'"):
        TorchJD("UPGrads")


def test_a_method_that_cannot_be_used_is_an_error_with_the_reason(subtests):
    for method in REFUSED:
        with subtests.test(method=method), pytest.raises(MtlError, match="can't be used: "):
            TorchJD(method)


def test_scalarizers_read_losses_and_weightings_read_gramians():
    assert {m: TorchJD(m).at for m in METHODS} == {
        m: "losses" if about.level == "losses" else "parameters" for m, about in METHODS.items()
    }
    assert TorchJD("UPGrad", at="features").at == "features"
    with pytest.raises(MtlError, match=r"weighting.at = 'features': torchjd:DWA works at 'losses'"):
        TorchJD("DWA", at="features")
    with pytest.raises(MtlError, match="'parameters' or 'features'"):
        TorchJD("UPGrad", at="losses")
    with pytest.raises(MtlError, match=r"weighting.every = 5"):
        TorchJD("DWA", every=5)


def test_options_are_parameters_of_the_method():
    torch.testing.assert_close(of("STCH", losses(), mu=1.0), 9 * stch_gradient(1.0))
    with pytest.raises(
        MtlError,
        match=r"weighting.options.C: torchjd:CAGrad has no such option; .*known: c, norm_eps",
    ):
        of("CAGrad", losses(), C=0.5)
    with pytest.raises(MtlError, match="c must be non-negative"):
        of("CAGrad", losses(), c=-1.0)
    with pytest.raises(MtlError, match=r"no such option; known: none"):
        of("UPGrad", losses(), pref_vector=1)


def test_an_option_that_torchjd_would_misinterpret_is_refused_at_once(subtests):
    for method, options, message in [
        (
            "FairGrad",
            {"alpha": 0.0},
            r"weighting.options.alpha = 0.0: torchjd:FairGrad expects a number above 0",
        ),
        ("FairGrad", {"alpha": -1}, "above 0"),
        ("FairGrad", {"alpha": "two"}, "above 0"),
        ("CAGrad", {"c": True}, r"weighting.options.c = True: torchjd:CAGrad expects a number$"),
        ("MGDA", {"max_iters": False}, "expects a number$"),
    ]:
        with (
            subtests.test(method=method, options=options, message=message),
            pytest.raises(MtlError, match=message),
        ):
            TorchJD(method, options=options)


def test_an_unknown_level_is_refused_at_once():
    for make in (lambda: TorchJD("UPGrad", at="foo"), lambda: TorchJD("DWA", at="foo")):
        with pytest.raises(ValueError, match="'at' must be in"):
            make()


def stch_gradient(mu):
    return torch.softmax(VALUES / 3 / mu, 0) / 3


def test_a_missing_torchjd_is_an_error_with_the_install_command_once_it_is_needed(monkeypatch):
    for module in [m for m in sys.modules if m.partition(".")[0] == "torchjd"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torchjd", None)
    strategy = TorchJD("UPGrad")
    with pytest.raises(MtlError, match=r"pip install 'mtlcore\[torchjd\]'"):
        strategy.build(NAMES)


def test_a_missing_solver_is_an_error_with_its_install_command(monkeypatch):
    from torchjd import _mixins

    monkeypatch.setattr(_mixins, "find_spec", lambda name: None)
    for method in ("UPGrad", "CAGrad"):
        with pytest.raises(MtlError, match=r"quadprog|clarabel") as error:
            TorchJD(method).build(NAMES)
        assert "pip install 'mtlcore[torchjd-solvers]'" in str(error.value)


TOML = """
[task.fer]
name = "classification"
classes = ["a", "b"]
[weighting]
name = "torchjd:cagrad"
every = 10
options = { c = 0.5 }
[train]
steps = 10
"""


def test_a_method_is_saved_in_toml_and_read_back():
    experiment = parse(tomllib.loads(TOML))
    assert experiment.weighting == TorchJD("CAGrad", every=10, options={"c": 0.5})
    assert parse(tomllib.loads(dump(experiment))).weighting == experiment.weighting
