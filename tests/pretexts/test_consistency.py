"""Consistency: losses of FixMatch and Mean Teacher by hand, the shared head, training."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve, frozen
from mtl_pretexts.consistency import FRAME, Consistency, ConsistencyHead
from refusals import assert_refused
from toys import (
    PCGRAD,
    Jitter,
    Plain,
    PoseHead,
    batch,
    counted,
    experiment,
    prepared_batches,
    train_state,
)

from mtlcore import Head, MtlError, SupervisedTask
from mtlcore.config.experiment import PretextEntry, TaskEntry
from mtlcore.model.hybrid import HybridModel
from mtlcore.model.plan import training_plan
from mtlcore.model.views import prepare
from mtlcore.rng import KeyedRng
from mtlcore.tasks.classification import Classification
from mtlcore.tasks.multilabel import Multilabel
from mtlcore.tasks.regression import Regression
from mtlcore.training.step import train_step

FIXMATCH = Consistency(threshold=0.0)
MEAN_TEACHER = Consistency(teacher="ema", label="soft", threshold=0.0)
both = pytest.mark.parametrize("task", [FIXMATCH, MEAN_TEACHER], ids=["fixmatch", "mean_teacher"])


def setting(
    task: Consistency,
    tasks: tuple[str, ...] = ("fer",),
    entry: dict[str, Any] | None = None,
    **more: Any,
):
    exp = experiment(tasks, size=24, **more)
    entry = {"samples": "unlabeled"} | (entry or {})
    return evolve(exp, pretexts={"consistency": PretextEntry(task, **entry)})


def run(task: Consistency, *args: Any, optimizer: str = "sgd", lr: float = 0.05, **more: Any):
    return train_state(setting(task, *args, **more), optimizer=optimizer, lr=lr)


def samples(n: int = 8, unlabeled: int = 4, tasks: tuple[str, ...] = ("fer",), **more: Any):
    return batch(n=n, size=24, tasks=tasks, unlabeled=unlabeled, **more)


def output_of(state, made):
    return state.model.forward_heads(state.model.encode(made)[0], made)["consistency"][0]


def with_task(component: SupervisedTask, label: str = "odd"):
    """Return the model of an experiment with this single supervised task."""
    exp = setting(Consistency())
    return HybridModel(evolve(exp, tasks={label: TaskEntry(component)}))


# --------------------------------------------------------------------------------------- the views


def test_the_views_of_unlabeled_samples_are_one_weak_and_one_strong_augmentation():
    state, b = run(Consistency()), samples()
    made, keyed_rng = prepared_batches(state, [b])[0], state.keyed_rng(0)
    (head_input,) = made.head_inputs["consistency"]
    for name, augmentation, at in (("weak", Jitter(turn_rad=0.1), 0), ("strong", Jitter(), 1)):
        key = ("augment", 1, name)
        view = augmentation.view(b.images, (24, 24), keyed_rng(*key))
        expected = augmentation.finish(view.images, keyed_rng("finish", *key))
        assert torch.equal(made.images[head_input.images[at]], expected[4:])
    assert len(made.images) == 3  # with the clean view of the labeled samples
    assert head_input.targets[0][0] is None


def test_one_augmentation_for_both_views_is_drawn_twice():
    state = run(Consistency(strong="weak"))
    made = prepared_batches(state, [samples()])[0]
    weak, strong = (made.images[i] for i in made.head_inputs["consistency"][0].images)
    assert not torch.equal(weak, strong)


def test_an_unknown_augmentation_is_an_error_that_lists_the_known_ones():
    state = run(Consistency(strong="stron"))
    with pytest.raises(MtlError, match=r"'stron'.*strong"):
        prepared_batches(state, [samples()])


@both
def test_views_are_a_function_of_the_seed_and_the_clean_view_is_not_edited(task):
    exp, b = setting(task), counted([samples()])[0]
    again, same, other = (
        prepare(training_plan(exp), b, KeyedRng((s, 0, 0))).images for s in (0, 0, 1)
    )
    assert all(torch.equal(x, y) for x, y in zip(again, same))
    assert not any(torch.equal(x, y) for x, y in zip(again, other))
    alone = prepare(training_plan(evolve(exp, pretexts={})), b, KeyedRng((0, 0, 0))).images[0]
    assert any(torch.equal(x, alone) for x in again)


# -------------------------------------------------------------------------------------- the losses


def loss(task: Consistency, weak: torch.Tensor, strong: torch.Tensor) -> torch.Tensor:
    head = ConsistencyHead.__new__(ConsistencyHead)
    torch.nn.Module.__init__(head)
    head.task = task
    return head.loss({"weak": weak, "strong": strong}, None)


def test_fixmatch_is_the_cross_entropy_with_the_weak_views_class_above_the_threshold():
    weak = torch.log(torch.tensor([[0.96, 0.03, 0.01], [0.94, 0.05, 0.01], [0.01, 0.01, 0.98]]))
    strong = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    found = loss(Consistency(), weak, strong)
    first, third = (-math.log(float(strong[i].softmax(0)[k])) for i, k in ((0, 0), (2, 2)))
    assert found.tolist() == pytest.approx([first, 0.0, third], rel=1e-5)
    assert Consistency().threshold == 0.95


def test_mean_teacher_is_the_mean_squared_difference_of_probabilities():
    weak, strong = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
    expected = (F.softmax(weak, 1) - F.softmax(strong, 1)).pow(2).sum(1) / 4
    torch.testing.assert_close(loss(MEAN_TEACHER, weak, strong), expected)
    assert float(loss(MEAN_TEACHER, weak, weak + 3).max()) < 1e-12


@both
def test_losses_and_gradients_are_finite_at_any_logits(task):
    for scale in (0.0, 1.0, 1e4):
        strong = (torch.randn(4, 3) * scale).requires_grad_()
        found = loss(task, torch.randn(4, 3) * scale, strong)
        found.sum().backward()
        assert found.shape == (4,)
        assert found.isfinite().all(), scale
        assert strong.grad.isfinite().all(), scale


# ------------------------------------------------------------------------------------- the teacher


def test_with_self_the_teacher_is_the_current_head_without_dropout():
    component = Classification(reads="emotion", classes=tuple("abcdefgh"), dropout=0.5)
    state = train_state(evolve(setting(FIXMATCH), tasks={"fer": TaskEntry(component)}))
    train_step(state, counted([samples()]))  # the copy has followed once
    made = prepared_batches(state, [samples()])[0]
    features = state.model.encode(made)[0]
    head, owner = state.model.heads["consistency"], state.model.heads["fer"]
    weak, strong = (features[i] for i in made.head_inputs["consistency"][0].images)
    found = head(weak, strong)
    torch.testing.assert_close(found["weak"], owner.answer[1](weak.pooled))
    assert owner.training
    # Dropout acts on the student.
    assert not torch.allclose(found["strong"], owner.answer[1](strong.pooled))
    assert not found["weak"].requires_grad


def test_with_ema_the_teacher_is_a_copy_of_encoder_and_head():
    state = run(MEAN_TEACHER)
    head = state.model.heads["consistency"]
    made = prepared_batches(state, [samples()])[0]
    with torch.no_grad():
        for p in (*head.teacher.copy.parameters(), *head.teacher_head.copy.parameters()):
            p.mul_(0.5)
        found = output_of(state, made)
        weak = made.images[made.head_inputs["consistency"][0].images[0]]
        expected = head.teacher_head.copy(head.teacher.copy(weak))
    torch.testing.assert_close(found["weak"], expected)
    assert (head.teacher.momentum, head.teacher.final) == (0.99, 0.999)
    assert head.teacher_head.momentum == 0.99


@both
def test_gradient_reaches_the_encoder_and_the_shared_head_through_the_strong_view_alone(task):
    state = run(task)
    state.model(prepared_batches(state, [samples()])[0])[0]["consistency"].backward()
    model, head = state.model, state.model.heads["consistency"]
    assert all(
        p.grad is not None for p in (*model.encoder.parameters(), *model.heads["fer"].parameters())
    )
    assert all(p.grad is None for p in head.parameters())
    assert not any(p.requires_grad for p in head.parameters())
    assert not model.idle(["consistency"])
    assert {id(p) for p in model.heads["fer"].parameters()} <= {id(p) for p in model.shared()}


@both
def test_only_the_momentum_copies_are_saved(task):
    state = HybridModel(setting(task)).heads["consistency"].state_dict()
    assert all(k.startswith(("teacher.copy.", "teacher_head.copy.")) for k in state)
    assert any(k.startswith("teacher.copy.") for k in state) is (task.teacher == "ema")


def test_the_only_supervised_task_is_the_default_and_several_need_a_choice():
    only = HybridModel(setting(Consistency(), ("gender",)))
    assert not only.idle(["consistency"])
    chosen = HybridModel(setting(Consistency(task="fer"), ("fer", "gender")))
    idle = {id(p) for p in chosen.idle(["consistency"])}
    assert idle == {id(p) for p in chosen.heads["gender"].parameters()}
    with pytest.raises(MtlError, match="there are fer, gender"):
        HybridModel(setting(Consistency(), ("fer", "gender")))
    with pytest.raises(MtlError, match="there is no supervised task"):
        HybridModel(setting(Consistency(), ()))
    with pytest.raises(MtlError, match=r"'fir'.*fer"):
        HybridModel(setting(Consistency(task="fir")))


class Squares(Head):
    """A regression head: two numbers with squared error. coupled: its loss takes a share."""

    def __init__(self, dim, coupled):
        super().__init__()
        self.answer = torch.nn.Linear(dim, 2)
        if coupled:
            self.loss = self.coupled_loss

    def forward(self, features):
        return self.answer(features.pooled)

    def loss(self, output, target):
        return (output - target).square().mean(1)

    def coupled_loss(self, output, target, share):
        return ((output - target).square().sum(1) * share).sum()


@frozen
class Numbers(SupervisedTask):
    reads = "numbers"
    coupled: bool = False

    def target(self, annotation):
        raise NotImplementedError

    def build(self, context):
        return Squares(context.info.dim, self.coupled)


@frozen
class Turn(Numbers):
    reads = "pose"

    def build(self, context):
        return PoseHead(context.info.dim)


@frozen
class Pieces(Numbers):
    def build(self, context):
        class Dict(Squares):
            def forward(self, features):
                return {"a": self.answer(features.pooled)}

        return Dict(context.info.dim, False)


def test_a_head_that_does_not_classify_is_refused_at_build():
    for component in (
        Numbers(),
        Numbers(coupled=True),
        Turn(),
        Pieces(),
        Multilabel(reads="tags", classes=("a", "b", "c")),
        Regression(reads="age", mean=(30.0,), std=(10.0,)),
    ):
        with pytest.raises(MtlError, match=r"head of task 'odd' does not classify.*\(B, K\)"):
            with_task(component)


def test_every_kind_of_classification_is_accepted_and_building_does_not_change_its_head():
    for fields in (
        {},
        {"class_weights": (1.0, 2.0, 0.5)},
        {"label_smoothing": 0.1},
        {"dropout": 0.5},
    ):
        component = Classification(reads="emotion", classes=("a", "b", "c"), **fields)
        torch.manual_seed(0)
        exp = evolve(setting(Consistency()), tasks={"odd": TaskEntry(component)}, pretexts={})
        alone = HybridModel(exp)
        torch.manual_seed(0)
        model = with_task(component)
        assert model.heads["odd"].training, fields
        expected = alone.heads["odd"].state_dict()
        for name, value in model.heads["odd"].state_dict().items():
            assert torch.equal(value, expected[name]), (fields, name)


# ---------------------------------------------------------------------------------------- in a run


@both
def test_a_bf16_step_is_finite_and_its_loss_is_near_that_of_fp32(task):
    logged = {}
    for precision in ("32", "bf16-mixed"):
        state = run(task, train={"precision": precision})
        logged[precision] = train_step(state, counted([samples(16, 8)]))
    low = logged["bf16-mixed"]
    assert low["loss/consistency"].dtype == torch.float32
    assert not bool(low["skipped"])
    torch.testing.assert_close(
        low["loss/consistency"], logged["32"]["loss/consistency"], rtol=0.1, atol=1e-4
    )


@both
@pytest.mark.parametrize("weighting", [None, PCGRAD], ids=["losses", "samples"])
def test_steps_are_a_function_of_the_seed(task, weighting):
    more = {"weighting": weighting} if weighting else {}
    runs: list[list[float]] = []
    for _ in range(2):
        state = run(task, **more)
        losses = []
        for seed in range(3):
            logged = train_step(state, counted([samples(seed=seed)]))
            losses.append(float(logged["loss/consistency"]))
        runs.append(losses)
    assert runs[0] == runs[1]


@both
def test_a_step_without_labels_of_the_task_trains_its_shared_head(task):
    state = run(evolve(task, task="fer"), ("fer", "gender"))
    before = state.model.heads["fer"].answer[1].weight.clone()
    train_step(state, counted([samples(tasks=("fer", "gender"), absent=("fer",))]))
    assert not torch.equal(state.model.heads["fer"].answer[1].weight, before)


def two_kinds(n: int, unlabeled: int, seed: int):
    """Reddish and bluish images; only the first samples are labeled."""
    g = torch.Generator().manual_seed(seed)
    kind = torch.randint(0, 2, (n,), generator=g)
    color = torch.tensor([[0.6, 0.3, 0.4], [0.4, 0.3, 0.6]])[kind][:, :, None, None]
    images = (color + torch.randn(n, 3, 24, 24, generator=g) * 0.15).clamp(0, 1)
    made = batch(n=n, size=24, tasks=("gender",), unlabeled=unlabeled)
    known = torch.arange(n) < n - unlabeled
    made = evolve(made, targets={"gender": torch.where(known, kind, 0)}, present={"gender": known})
    return evolve(counted([made])[0], images=(images * 255).round().byte()), kind


@both
def test_it_trains_the_head_to_agree_on_both_views(task):
    """Both losses fall, with four labeled samples in each step."""
    if task.teacher == "ema":
        task = evolve(task, momentum=0.5, final=0.9)  # for a short run
    state = run(task, ("gender",), optimizer="adamw", lr=3e-3, augment=Plain())
    found = [train_step(state, counted([two_kinds(16, 12, s)[0]])) for s in range(80)]
    supervised = [float(x["loss/gender"]) for x in found]
    assert sum(supervised[-5:]) < 0.5 * sum(supervised[:5])
    peak = max(float(x["loss/consistency"]) for x in found)
    assert sum(float(x["loss/consistency"]) for x in found[-5:]) / 5 < 0.5 * peak
    state.model.eval()
    with torch.no_grad():
        output = output_of(state, prepared_batches(state, [two_kinds(64, 60, 999)[0]])[0])
    metrics = task.metrics()
    for metric in metrics.values():
        metric.update(output, None)
    assert float(metrics["agreement"].compute()) > 0.95
    assert ("sure" in metrics) == (task.threshold > 0)
    assert all(float(metrics[name].compute()) == 1.0 for name in metrics if name == "sure")


def test_metrics_are_shares_of_samples_for_any_batch_size():
    weak = torch.tensor([[9.0, 0, 0], [1, 0, 0], [0, 9, 0], [0, 1, 0]])
    strong = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]])
    for cuts in ([slice(4)], [slice(1), slice(1, 4)]):
        metrics = Consistency().metrics()
        for metric in metrics.values():
            for cut in cuts:
                metric.update({"weak": weak[cut], "strong": strong[cut]}, None)
        assert float(metrics["agreement"].compute()) == pytest.approx(0.5)
        assert float(metrics["sure"].compute()) == pytest.approx(0.5)


def test_the_frame_shows_agreement_difference_or_doubt():
    weak = torch.tensor([[9.0, 0, 0], [9, 0, 0], [1, 0, 0]])
    strong = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0]])
    images = torch.rand(3, 3, 32, 32)
    drawn = Consistency().draw(images, None, {"weak": weak, "strong": strong})
    for sample, name in enumerate(("agrees", "differs", "unsure")):
        assert drawn[sample, :, 0, 7].tolist() == pytest.approx(FRAME[name])
    assert torch.equal(drawn[..., 2:-2, 2:-2], images[..., 2:-2, 2:-2])


def test_values_out_of_range_are_refused():
    assert_refused(
        Consistency, {"threshold": 1.1}, {"threshold": -0.1}, {"momentum": 1.0}, {"final": 1.1}
    )
    # Of the copy, which teacher = "self" does not have.
    assert_refused(Consistency, {"momentum": 0.5}, {"final": 0.9})
    Consistency(teacher="ema", momentum=0.5, final=0.9)
