"""Classification, compared with independent computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mtlcore import BuildContext, EncoderInfo, Features, MtlError
from mtlcore.tasks.classification import Classification


def head(task: Classification):
    info = EncoderInfo(8, (8,), ((2, 2),), (16, 16))
    return task.build(BuildContext(info, torch.nn.Identity(), {}))


@given(
    st.lists(st.sampled_from(["", "a", "b", "zebra", "?"]), min_size=1, max_size=30),
    st.permutations(["b", "a", "c"]),
)
def test_a_target_is_the_position_of_the_class_and_unknown_names_are_absent(names, classes):
    target, present = Classification(classes=tuple(classes)).target(np.asarray(names))
    for name, t, p in zip(names, target.tolist(), present.tolist()):
        assert p == (name in classes)
        assert t == (classes.index(name) if p else 0)


def test_fit_learns_classes_and_inverse_weights_of_mean_one_over_the_samples():
    annotation = np.asarray(["b"] * 6 + ["a"] * 3 + ["c"] + [""] * 5)
    fitted = Classification(balance="inverse").fit(annotation)
    assert fitted.classes == ("a", "b", "c")
    assert fitted.class_weights == pytest.approx((10 / 9, 10 / 18, 10 / 3))
    counts = np.array([3, 6, 1])
    assert float((counts * fitted.class_weights).sum() / counts.sum()) == pytest.approx(1)
    assert fitted.fit(np.asarray(["x", "y"])) == fitted  # explicit values do not change


def test_a_class_without_a_name_is_refused():
    with pytest.raises(ValueError, match='classes has the name "", which means a missing label'):
        Classification(classes=("", "a"))


def test_explicit_classes_and_weights_are_kept():
    task = Classification(classes=("b", "a"), class_weights=(2.0, 1.0))
    assert task.fit(np.asarray(["a", "b", "c"])) == task
    with pytest.raises(ValueError, match="class_weights"):
        Classification(classes=("a", "b"), class_weights=(1.0,))
    with pytest.raises(ValueError, match="twice"):
        Classification(classes=("a", "a"))
    with pytest.raises(MtlError, match="emotion"):
        Classification(reads="emotion").fit(np.asarray(["", ""]))


def test_the_loss_is_the_weighted_smoothed_cross_entropy():
    task = Classification(
        classes=("a", "b", "c"), class_weights=(1.0, 2.0, 0.5), label_smoothing=0.1, dropout=0.0
    )
    output, target = torch.randn(7, 3), torch.tensor([0, 1, 2, 1, 0, 2, 1])
    log_p, w = output.log_softmax(1), torch.tensor([1.0, 2.0, 0.5])
    soft = 0.9 * F.one_hot(target, 3) + 0.1 / 3
    expected = -w[target] * (soft * log_p).sum(1)
    torch.testing.assert_close(head(task).loss(output, target), expected)


def test_inverse_weights_have_mean_one_over_the_samples_if_classes_are_absent():
    for counts in ([3, 6, 1, 0], [0, 0, 5, 0], [0, 1, 0, 0], [400, 1, 0, 2]):
        annotation = np.repeat(list("abcd"), counts)
        weights = Classification(classes=tuple("abcd"), balance="inverse").fit(annotation)
        total = float(np.dot(counts, weights.class_weights))
        assert total / sum(counts) == pytest.approx(1)
        absent = [w for n, w in zip(counts, weights.class_weights) if n == 0]
        assert set(absent) == {1}
    nothing = Classification(classes=("a", "b"), balance="inverse").fit(np.array([""]))
    assert nothing.class_weights == (1, 1)


CLASSES = tuple("abcd")
COUNTS = (97, 30, 1, 0)  # the class "d" has no training sample
WEIGHTS = {
    "none": {},
    "inverse": {"balance": "inverse"},
    "explicit": {"class_weights": (1.0, 0.01, 30.0, 1000.0)},
}


def best_answer(h, targets: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Minimize a loss over the logits -> the best probabilities (B, C).

    targets: pairs of class numbers (B,) and their shares (B,), as mixup makes them.
    """
    n, c = len(targets[0][0]), len(CLASSES)
    h.double()
    logits = torch.zeros(n, c, dtype=torch.float64, requires_grad=True)
    scale = sum(share * h.loss(logits, target) for target, share in targets)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        losses = sum(share * h.loss(logits, target) for target, share in targets)
        loss = (losses / scale.detach()).sum()  # samples of any weight converge alike
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits.detach().softmax(1)


def test_the_best_answer_for_a_certain_sample_is_its_class(subtests):
    """Also if mixup joins it with another sample of its class, and for any class weights."""
    for weights in WEIGHTS:
        for smoothing in [0.0, 0.1, 0.6]:
            with subtests.test(smoothing=smoothing, weights=weights):
                task = Classification(
                    classes=CLASSES, label_smoothing=smoothing, **WEIGHTS[weights]
                )
                h = head(task.fit(np.repeat(CLASSES, COUNTS)))
                target = torch.arange(4)
                expected = (1 - smoothing) * F.one_hot(target, 4) + smoothing / 4
                for share in (1.0, 0.5, 0.1):
                    own = torch.full((4,), share)
                    best = best_answer(h, [(target, own), (target, 1 - own)])
                    assert best.argmax(1).tolist() == target.tolist()
                    torch.testing.assert_close(best, expected.double(), atol=0.02, rtol=0)


def test_the_best_answer_for_a_mix_of_two_classes_is_one_of_them(subtests):
    """Their shares count by the weights of the two classes alone."""
    for weights in WEIGHTS:
        for smoothing in [0.0, 0.1, 0.6]:
            with subtests.test(smoothing=smoothing, weights=weights):
                task = Classification(
                    classes=CLASSES, label_smoothing=smoothing, **WEIGHTS[weights]
                )
                task = task.fit(np.repeat(CLASSES, COUNTS))
                first, second, own = (
                    torch.tensor([0, 1, 0]),
                    torch.tensor([1, 2, 2]),
                    torch.full((3,), 0.7),
                )
                best = best_answer(head(task), [(first, own), (second, 1 - own)])
                w = torch.tensor(task.class_weights or [1.0] * 4)
                mass = 0.7 * w[first, None] * F.one_hot(first, 4) + 0.3 * w[
                    second, None
                ] * F.one_hot(second, 4)
                expected = (1 - smoothing) * mass / mass.sum(1, keepdim=True) + smoothing / 4
                torch.testing.assert_close(best, expected.double(), atol=0.02, rtol=0)


def test_metrics_equal_manual_counts_for_any_batches():
    task = Classification(classes=tuple("abcd"))
    g = torch.Generator().manual_seed(0)
    target = torch.randint(0, 4, (200,), generator=g)
    output = torch.randn(200, 4, generator=g) + 2 * F.one_hot(target, 4)
    answer = task.decode(output)
    assert torch.allclose(answer.sum(1), torch.ones(200))
    predicted, found = output.argmax(1), {}
    for parts in ([200], [1, 99, 100]):
        metrics = task.metrics()
        for a, t in zip(answer.split(parts), target.split(parts)):
            for metric in metrics.values():
                metric.update(a, t)
        found[len(parts)] = {k: m.compute() for k, m in metrics.items()}
    assert all(torch.equal(found[1][k], found[3][k]) for k in found[1])
    hits = [(predicted[target == c] == c).float().mean() for c in range(4)]
    f1 = [
        2
        * ((predicted == c) & (target == c)).sum()
        / ((predicted == c).sum() + (target == c).sum())
        for c in range(4)
    ]
    assert float(found[1]["accuracy"]) == pytest.approx(float((predicted == target).float().mean()))
    assert float(found[1]["mean_class_accuracy"]) == pytest.approx(float(torch.stack(hits).mean()))
    assert float(found[1]["macro_f1"]) == pytest.approx(float(torch.stack(f1).mean()))
    assert int(found[1]["confusion"][1, 2]) == int(((target == 1) & (predicted == 2)).sum())


def test_a_class_without_a_sample_is_left_out_of_the_mean_accuracy():
    metric = Classification(classes=("a", "b", "c")).metrics()["mean_class_accuracy"]
    metric.update(F.one_hot(torch.tensor([0, 0, 1, 2]), 3).float(), torch.tensor([0, 0, 1, 1]))
    assert float(metric.compute()) == pytest.approx((1.0 + 0.5) / 2)


def test_the_head_reads_the_pooled_features_through_one_linear_layer():
    task = Classification(classes=("a", "b"), dropout=0.0)
    h = head(task)
    pooled = torch.randn(3, 8)
    out = h(Features((), pooled, pooled))
    torch.testing.assert_close(out, pooled @ h.answer[1].weight.T + h.answer[1].bias)
    assert float(h.loss(h.ideal(torch.tensor([0, 1, 1])), torch.tensor([0, 1, 1])).max()) < 1e-6


@pytest.mark.parametrize(
    "values", [np.array([0, 1, 2]), np.array([0.0, np.nan]), np.array([True, False])]
)
def test_numbers_are_refused_with_the_key_that_makes_them_names(values):
    for task in (Classification(reads="kind"), Classification(reads="kind", classes=("0", "1"))):
        for use in (task.fit, task.target):
            with pytest.raises(
                MtlError, match=r"'kind' holds numbers; .* \(in a csv: categorical = \[\"kind\"\]\)"
            ):
                use(values)


def test_class_weights_are_configuration_and_not_saved_with_the_weights():
    task = Classification(classes=("a", "b"), class_weights=(2.0, 1.0))
    info = EncoderInfo(dim=4, channels=(4,), map_sizes=((2, 2),), image_size=(8, 8))

    head = task.build(BuildContext(info, nn.Identity(), {}))

    assert set(head.state_dict()) == {"answer.1.weight", "answer.1.bias"}
