"""Consistency: FixMatch's and Mean Teacher's losses by hand, whose head judges, and that unlabeled samples help it to learn."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve, frozen
from mtl_pretexts.consistency import FRAME, Consistency, ConsistencyHead
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
from mtlcore.model.views import prepare
from mtlcore.rng import KeyedRng
from mtlcore.tasks.classification import Classification
from mtlcore.tasks.multilabel import Multilabel
from mtlcore.tasks.regression import Regression
from mtlcore.train.step import train_step

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


def answer(eng, made):
    return eng.model.forward_heads(eng.model.encode(made)[0], made)["consistency"][0]


def with_task(component: SupervisedTask, label: str = "odd"):
    """The network of an experiment whose one supervised task is this one."""
    exp = setting(Consistency())
    return HybridModel(evolve(exp, tasks={label: TaskEntry(component)}))


# ---------------------------------------------------------------------------------------------------- the views


def test_the_views_are_one_draw_of_the_weak_and_one_of_the_strong_augmentation_for_unlabeled_samples():
    eng, b = run(Consistency()), samples()
    made, keyed_rng = prepared_batches(eng, [b])[0], eng.keyed_rng(0)
    (head_input,) = made.head_inputs["consistency"]
    for name, augmentation, at in (("weak", Jitter(turn_rad=0.1), 0), ("strong", Jitter(), 1)):
        key = ("augment", 1, name)
        wanted = augmentation.finish(
            augmentation.view(b.images, (24, 24), keyed_rng(*key)).images, keyed_rng("finish", *key)
        )
        assert torch.equal(made.images[head_input.images[at]], wanted[4:])
    assert len(made.images) == 3  # the labeled samples' clean view beside them
    assert head_input.targets[0][0] is None


def test_one_augmentation_for_both_views_is_drawn_twice():
    eng = run(Consistency(strong="weak"))
    made = prepared_batches(eng, [samples()])[0]
    weak, strong = (made.images[i] for i in made.head_inputs["consistency"][0].images)
    assert not torch.equal(weak, strong)


def test_an_unknown_augmentation_is_answered_with_the_known_ones():
    eng = run(Consistency(strong="stron"))
    with pytest.raises(MtlError, match=r"'stron'.*strong"):
        prepared_batches(eng, [samples()])


@both
def test_views_are_a_function_of_the_seed_and_the_clean_view_is_not_edited(task):
    exp, b = setting(task), counted([samples()])[0]
    again, same, other = (prepare(exp, b, KeyedRng((s, 0, 0))).images for s in (0, 0, 1))
    assert all(torch.equal(x, y) for x, y in zip(again, same))
    assert not any(torch.equal(x, y) for x, y in zip(again, other))
    alone = prepare(evolve(exp, pretexts={}), b, KeyedRng((0, 0, 0))).images[0]
    assert any(torch.equal(x, alone) for x in again)


# ---------------------------------------------------------------------------------------------------- the losses


def loss(task: Consistency, weak: torch.Tensor, strong: torch.Tensor) -> torch.Tensor:
    head = ConsistencyHead.__new__(ConsistencyHead)
    torch.nn.Module.__init__(head)
    head.task = task
    return head.loss({"weak": weak, "strong": strong}, None)


def test_fixmatch_is_the_cross_entropy_with_the_weak_views_class_where_it_is_sure():
    weak = torch.log(torch.tensor([[0.96, 0.03, 0.01], [0.94, 0.05, 0.01], [0.01, 0.01, 0.98]]))
    strong = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    found = loss(Consistency(), weak, strong)
    wanted = [-math.log(float(strong[i].softmax(0)[k])) for i, k in ((0, 0), (2, 2))]
    assert found.tolist() == pytest.approx([wanted[0], 0.0, wanted[1]], rel=1e-5)
    assert Consistency().threshold == 0.95


def test_mean_teacher_is_the_mean_squared_difference_of_probabilities():
    weak, strong = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
    wanted = (F.softmax(weak, 1) - F.softmax(strong, 1)).pow(2).sum(1) / 4
    torch.testing.assert_close(loss(MEAN_TEACHER, weak, strong), wanted)
    assert float(loss(MEAN_TEACHER, weak, weak + 3).max()) < 1e-12


@both
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_losses_and_gradients_are_finite_at_any_logits(task, scale):
    strong = (torch.randn(4, 3) * scale).requires_grad_()
    found = loss(task, torch.randn(4, 3) * scale, strong)
    found.sum().backward()
    assert found.shape == (4,)
    assert found.isfinite().all()
    assert strong.grad.isfinite().all()


# ---------------------------------------------------------------------------------------------------- who judges


def test_with_self_the_weak_view_is_judged_by_the_head_as_it_is_without_its_dropout():
    exp = setting(FIXMATCH)
    exp = evolve(
        exp,
        tasks={
            "fer": TaskEntry(
                Classification(reads="emotion", classes=tuple("abcdefgh"), dropout=0.5)
            )
        },
    )
    eng = train_state(exp)
    train_step(eng, prepared_batches(eng, [samples()]))  # the copy has followed once
    made = prepared_batches(eng, [samples()])[0]
    features = eng.model.encode(made)[0]
    head, owner = eng.model.heads["consistency"], eng.model.heads["fer"]
    weak, strong = (features[i] for i in made.head_inputs["consistency"][0].images)
    found = head(weak, strong)
    torch.testing.assert_close(found["weak"], owner.answer[1](weak.pooled))
    assert owner.training
    assert not torch.allclose(
        found["strong"], owner.answer[1](strong.pooled)
    )  # dropout acts on the student
    assert not found["weak"].requires_grad


def test_with_ema_the_weak_view_is_judged_by_a_copy_of_encoder_and_head():
    eng = run(MEAN_TEACHER)
    head = eng.model.heads["consistency"]
    made = prepared_batches(eng, [samples()])[0]
    with torch.no_grad():
        for p in (*head.teacher.copy.parameters(), *head.teacher_head.copy.parameters()):
            p.mul_(0.5)
        found = answer(eng, made)
        weak = made.images[made.head_inputs["consistency"][0].images[0]]
        wanted = head.teacher_head.copy(head.teacher.copy(weak))
    torch.testing.assert_close(found["weak"], wanted)
    assert (head.teacher.momentum, head.teacher.final, head.teacher_head.momentum) == (
        0.99,
        0.999,
        0.99,
    )


@both
def test_gradient_goes_through_the_strong_view_into_encoder_and_borrowed_head_alone(task):
    eng = run(task)
    eng.model(prepared_batches(eng, [samples()])[0])[0]["consistency"].backward()
    model, head = eng.model, eng.model.heads["consistency"]
    assert all(
        p.grad is not None for p in (*model.encoder.parameters(), *model.heads["fer"].parameters())
    )
    assert all(p.grad is None for p in head.parameters())
    assert not any(p.requires_grad for p in head.parameters())
    assert model.used(["consistency"]) == {"consistency", "fer"}
    assert {id(p) for p in model.heads["fer"].parameters()} <= {id(p) for p in model.shared()}


@both
def test_the_run_keeps_only_what_it_must(task):
    state = HybridModel(setting(task)).heads["consistency"].state_dict()
    assert all(k.startswith(("teacher.copy.", "teacher_head.copy.")) for k in state)
    assert any(k.startswith("teacher.copy.") for k in state) is (task.teacher == "ema")


def test_the_one_supervised_task_is_taken_and_a_choice_must_be_made_among_several():
    assert HybridModel(setting(Consistency(), ("gender",))).used(["consistency"]) == {
        "consistency",
        "gender",
    }
    chosen = HybridModel(setting(Consistency(task="fer"), ("fer", "gender")))
    assert chosen.used(["consistency"]) == {"consistency", "fer"}
    with pytest.raises(MtlError, match="there are fer, gender"):
        HybridModel(setting(Consistency(), ("fer", "gender")))
    with pytest.raises(MtlError, match="there is no supervised task"):
        HybridModel(setting(Consistency(), ()))
    with pytest.raises(MtlError, match=r"'fir'.*fer"):
        HybridModel(setting(Consistency(task="fir")))


class Squares(Head):
    """Two numbers, squared error; and as a coupled head, which is called with a share."""

    def __init__(self, dim, coupled):
        super().__init__()
        self.answer = torch.nn.Linear(dim, 2)
        if coupled:
            self.loss = lambda output, target, share: (
                (output - target).square().sum(1) * share
            ).sum()

    def forward(self, features):
        return self.answer(features.pooled)

    def loss(self, output, target):
        return (output - target).square().mean(1)


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


@pytest.mark.parametrize(
    "component",
    [
        Numbers(),
        Numbers(coupled=True),
        Turn(),
        Pieces(),
        Multilabel(reads="tags", classes=("a", "b", "c")),
        Regression(reads="age", mean=(30.0,), std=(10.0,)),
    ],
    ids=["numbers", "coupled", "pose", "dict", "multilabel", "regression"],
)
def test_a_head_that_does_not_choose_a_class_is_refused_at_build(component):
    with pytest.raises(MtlError, match=r"head of task 'odd' does not choose.*\(B, K\)"):
        with_task(component)


@pytest.mark.parametrize(
    "fields",
    [{}, {"class_weights": (1.0, 2.0, 0.5)}, {"label_smoothing": 0.1}, {"dropout": 0.5}],
    ids=str,
)
def test_every_kind_of_classification_is_taken_and_building_leaves_its_head_alone(fields):
    component = Classification(reads="emotion", classes=("a", "b", "c"), **fields)
    torch.manual_seed(0)
    alone = HybridModel(
        evolve(setting(Consistency()), tasks={"odd": TaskEntry(component)}, pretexts={})
    )
    torch.manual_seed(0)
    model = with_task(component)
    assert model.heads["odd"].training
    mine, its = model.heads["odd"].state_dict(), alone.heads["odd"].state_dict()
    assert all(torch.equal(v, its[k]) for k, v in mine.items())


# ---------------------------------------------------------------------------------------------------- in a run


@both
def test_a_bf16_step_is_finite_and_its_loss_is_near_that_of_fp32(task):
    logged = {}
    for precision in ("32", "bf16-mixed"):
        eng = run(task, train={"precision": precision})
        logged[precision] = train_step(eng, prepared_batches(eng, [samples(16, 8)]))
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
    found = []
    for _ in range(2):
        eng = run(task, **more)
        found.append(
            [
                float(train_step(eng, prepared_batches(eng, [samples(seed=s)]))["loss/consistency"])
                for s in range(3)
            ]
        )
    assert found[0] == found[1]


@both
def test_a_step_without_the_owners_labels_moves_the_borrowed_head(task):
    eng = run(evolve(task, task="fer"), ("fer", "gender"))
    before = eng.model.heads["fer"].answer[1].weight.clone()
    train_step(eng, prepared_batches(eng, [samples(tasks=("fer", "gender"), absent=("fer",))]))
    assert not torch.equal(eng.model.heads["fer"].answer[1].weight, before)


def two_kinds(n: int, unlabeled: int, seed: int):
    """Reddish and bluish images; the first samples are told which, the others not."""
    g = torch.Generator().manual_seed(seed)
    kind = torch.randint(0, 2, (n,), generator=g)
    color = torch.tensor([[0.6, 0.3, 0.4], [0.4, 0.3, 0.6]])[kind][:, :, None, None]
    images = (color + torch.randn(n, 3, 24, 24, generator=g) * 0.15).clamp(0, 1)
    made = batch(n=n, size=24, tasks=("gender",), unlabeled=unlabeled)
    known = torch.arange(n) < n - unlabeled
    made = evolve(made, targets={"gender": torch.where(known, kind, 0)}, present={"gender": known})
    return evolve(counted([made])[0], images=(images * 255).round().byte()), kind


@both
def test_it_trains_the_head_to_say_the_same_of_both_views(task):
    """Its own loss falls while the supervised one is learned from four labeled samples a step."""
    task = evolve(task, momentum=0.5, final=0.9)  # of a short run
    eng = run(task, ("gender",), optimizer="adamw", lr=3e-3, augment=Plain())
    found = [train_step(eng, prepared_batches(eng, [two_kinds(16, 12, s)[0]])) for s in range(80)]
    supervised = [float(x["loss/gender"]) for x in found]
    assert sum(supervised[-5:]) < 0.5 * sum(supervised[:5])
    peak = max(float(x["loss/consistency"]) for x in found)
    assert sum(float(x["loss/consistency"]) for x in found[-5:]) / 5 < 0.5 * peak
    eng.model.eval()
    with torch.no_grad():
        output = answer(eng, prepared_batches(eng, [two_kinds(64, 60, 999)[0]])[0])
    metrics = task.metrics()
    for metric in metrics.values():
        metric.update(output, None)
    assert float(metrics["agreement"].compute()) > 0.95
    assert float(metrics["sure"].compute()) == 1.0


def test_metrics_are_shares_of_samples_for_any_split_into_batches():
    weak = torch.tensor([[9.0, 0, 0], [1, 0, 0], [0, 9, 0], [0, 1, 0]])
    strong = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]])
    for cuts in ([slice(4)], [slice(1), slice(1, 4)]):
        metrics = Consistency().metrics()
        for metric in metrics.values():
            for cut in cuts:
                metric.update({"weak": weak[cut], "strong": strong[cut]}, None)
        assert float(metrics["agreement"].compute()) == pytest.approx(0.5)
        assert float(metrics["sure"].compute()) == pytest.approx(0.5)


def test_the_frame_tells_agreement_from_difference_and_from_doubt():
    weak = torch.tensor([[9.0, 0, 0], [9, 0, 0], [1, 0, 0]])
    strong = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0]])
    images = torch.rand(3, 3, 32, 32)
    drawn = Consistency().draw(images, None, {"weak": weak, "strong": strong})
    for sample, name in enumerate(("agrees", "differs", "unsure")):
        assert drawn[sample, :, 0, 7].tolist() == pytest.approx(FRAME[name])
    assert torch.equal(drawn[..., 2:-2, 2:-2], images[..., 2:-2, 2:-2])


@pytest.mark.parametrize(
    "fields", [{"threshold": 1.1}, {"threshold": -0.1}, {"momentum": 1.0}, {"final": 1.1}]
)
def test_values_out_of_range_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Consistency(**fields)
