"""Multilabel: labels by name, and unknown labels that count for nothing."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mtlcore import BuildContext, EncoderInfo, Features, MtlError
from mtlcore.evaluation.measure import Predictions
from mtlcore.evaluation.samples import SampleRows, _labels_of
from mtlcore.tasks.multilabel import Multilabel, MultilabelHead, join_names

NAMES = ("glasses", "hat", "smile")
TASK = Multilabel(reads="attributes", classes=NAMES, dropout=0.0)


def test_names_become_targets_in_the_order_of_the_classes():
    annotation = np.array(["smile|glasses", "|", "", "?hat", " hat | ?smile ", "beard"])
    target, present = TASK.target(annotation)
    assert target.dtype == torch.int64
    assert target.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0], [0, -1, 0], [0, 1, -1], [0, 0, 0]]
    assert present.tolist() == [True, True, False, True, True, True]


def test_targets_become_names_again_with_the_unknown_ones():
    cells = ["glasses|smile", "|", "?hat", "hat|?smile"]
    target, present = TASK.target(np.array(cells))
    assert TASK.target_as_annotation(target).tolist() == cells
    assert _labels_of(TASK, target, present).tolist() == cells
    assert _labels_of(TASK, target, ~present).tolist() == [""] * 4

    experiment = SimpleNamespace(tasks={"attributes": SimpleNamespace(component=TASK)})
    rows = SampleRows(experiment, None, np.arange(4))
    answers = {"attributes": TASK.as_answer(target)}
    rows.add(Predictions(answers, {"attributes": target}, {"attributes": present}))
    assert rows.columns["attributes/target"] == cells


def test_numbers_are_the_same_labels_in_columns():
    annotation = np.array([[1, 0, 1], [0, 0, 0], [np.nan] * 3, [0, np.nan, 0]])
    target, present = TASK.target(annotation)
    names, also = TASK.target(np.array(["smile|glasses", "|", "", "?hat"]))
    assert torch.equal(target, names)
    assert torch.equal(present, also)


def test_a_sample_without_known_labels_is_not_present_and_holds_zeros():
    target, present = TASK.target(np.array(["?glasses|?hat|?smile"]))
    assert present.tolist() == [False]
    assert not target.any()


@given(st.lists(st.sampled_from([0, 1, -1]), min_size=3, max_size=3))
def test_joined_names_are_read_back(flags):
    cell = join_names(
        [n for n, f in zip(NAMES, flags) if f == 1], [n for n, f in zip(NAMES, flags) if f == -1]
    )
    target, present = TASK.target(np.array([cell]))
    assert present.item() == (flags != [-1] * 3)
    assert not present or target[0].tolist() == flags


def test_one_name_alone_is_an_error():
    with pytest.raises(MtlError, match=r"holds the name 'a' alone; expected at least two"):
        Multilabel(reads="x").fit(np.array(["a", "|"]))
    with pytest.raises(ValueError, match=r"classes has the name 'a' alone; expected at least two"):
        Multilabel(classes=("a",))


def test_a_cell_that_says_nothing_is_a_missing_label():
    _, present = TASK.target(np.array(["", " ", "?", " ? ", "|", "hat"]))
    assert present.tolist() == [False, False, False, False, True, True]


def test_fit_learns_the_names_once():
    fitted = Multilabel(reads="attributes").fit(np.array(["smile|glasses", "?hat", "|"]))
    assert fitted.classes == NAMES
    assert fitted.fit(np.array([], dtype=str)) == fitted
    assert fitted.fit(np.array(["beard"])) == fitted


def test_errors_of_the_user_are_reported():
    with pytest.raises(
        MtlError, match="holds numbers, which have no names: set `classes` of the task"
    ):
        Multilabel(reads="attributes").fit(np.ones((4, 3)))
    with pytest.raises(
        MtlError, match="has 2 columns, but the task has 3 classes: glasses, hat, smile"
    ):
        TASK.target(np.ones((4, 2)))
    with pytest.raises(MtlError, match="holds 2; expected 0, 1, or nothing"):
        TASK.target(np.full((4, 3), 2.0))
    with pytest.raises(MtlError, match="no classes to learn"):
        Multilabel(reads="attributes").fit(np.array(["|", ""]))
    for wrong in ("a|b", "?a", ""):
        with pytest.raises(ValueError, match="classes has the name"):
            Multilabel(classes=("fine", wrong))
    with pytest.raises(ValueError, match="twice"):
        Multilabel(classes=("a", "a"))


def head() -> MultilabelHead:
    torch.manual_seed(0)
    made = TASK.build(BuildContext(EncoderInfo(5, (), (), (32, 32)), torch.nn.Identity(), {}))
    assert isinstance(made, MultilabelHead)
    return made


def test_the_loss_is_the_mean_cross_entropy_of_the_known_labels():
    logits = torch.tensor([[1.0, -2.0, 0.5], [0.3, 4.0, -1.0]], requires_grad=True)
    loss = head().loss(logits, torch.tensor([[1, 0, -1], [-1, -1, 0]]))
    first = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-2))) / 2
    assert loss.tolist() == pytest.approx([first, math.log(1 + math.exp(-1))])
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 2] == 0  # no gradient from an unknown label
    assert head().loss(logits, torch.zeros(2, 3, dtype=torch.int64)).isfinite().all()


def test_the_ideal_output_decodes_to_the_target():
    target = torch.tensor([[1, 0, 1], [0, 0, 1]])
    assert head().loss(head().ideal(target), target).max() < 1e-6
    assert torch.equal(TASK.decode(head().ideal(target)).round(), TASK.as_answer(target))
    assert head()(Features((), torch.zeros(2, 5), torch.zeros(2, 5))).shape == (2, 3)


def test_metrics_follow_their_definitions_and_ignore_unknown_labels():
    g = torch.Generator().manual_seed(5)
    target = torch.randint(-1, 2, (80, 3), generator=g)
    probabilities = ((target.clamp_min(0) + torch.randn(80, 3, generator=g)) / 2).sigmoid()
    expected = by_definition(probabilities, target)
    for size in (1, 9, 80):
        metrics = TASK.metrics()
        for start in range(0, 80, size):
            for metric in metrics.values():
                metric.update(probabilities[start : start + size], target[start : start + size])
        assert {name: float(m.compute()) for name, m in metrics.items()} == pytest.approx(
            expected, abs=1e-5
        )
    assert next(iter(metrics)) == "macro_map"
    assert all(m.higher_is_better for m in metrics.values())


def test_metrics_and_answers_agree_at_a_probability_of_one_half():
    half, present = torch.full((2, 3), 0.5), torch.ones(2, 3).long()
    for name, metric in TASK.metrics().items():
        metric.update(half, present)
        assert float(metric.compute()) == 1.0, name
    assert TASK.as_annotation(half).tolist() == ["|".join(NAMES)] * 2


def test_labels_that_do_not_occur_are_left_out_of_the_means():
    target = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    for name, metric in TASK.metrics().items():
        metric.update(target.float(), target)
        assert float(metric.compute()) == pytest.approx(1.0), name


def by_definition(probabilities: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    ap, f1, sums = [], [], np.zeros(3)
    for s, t in zip(probabilities.T, target.T):
        s, t = s[t >= 0].numpy(), t[t >= 0].numpy()
        hits = t[np.argsort(-s)]
        ap.append(float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits == 1].mean()))
        call = s >= 0.5
        counts = np.array(
            [(call & (t == 1)).sum(), (call & (t == 0)).sum(), (~call & (t == 1)).sum()]
        )
        f1.append(2 * counts[0] / (2 * counts[0] + counts[1] + counts[2]))
        sums += counts
    right = (((probabilities >= 0.5).long() == target) | (target < 0)).all(1)
    return {
        "macro_map": float(np.mean(ap)),
        "macro_f1": float(np.mean(f1)),
        "micro_f1": float(2 * sums[0] / (2 * sums[0] + sums[1] + sums[2])),
        "exact_match": float(right.float().mean()),
    }


def test_the_drawing_names_the_present_labels():
    image = torch.zeros(3, 64, 64)
    assert not torch.equal(
        TASK.draw(image, torch.tensor([0.9, 0.1, 0.9])),
        TASK.draw(image, torch.tensor([0.9, 0.1, 0.1])),
    )


def test_the_loss_equals_torchs_if_all_labels_are_known():
    logits, target = torch.randn(6, 3), torch.randint(2, (6, 3))
    expected = F.binary_cross_entropy_with_logits(logits, target.float(), reduction="none").mean(1)
    torch.testing.assert_close(head().loss(logits, target), expected)
