"""`predict_transform`: labels follow its views, its head learns, its class is a normal one."""

from __future__ import annotations

import pickle

import pytest
import torch
from toys import PRETEXTS, Plain, batch, counted, experiment, key, prepared_batches, train_state

from mtlcore import BuildContext, EncoderInfo, MtlError, predict_transform
from mtlcore.config.experiment import PretextEntry
from mtlcore.geometry import warp
from mtlcore.model.plan import training_plan
from mtlcore.model.views import augment
from mtlcore.registry.components import component_name, fault
from mtlcore.training.step import train_step


def turned(images, choice):
    return images.rot90(choice, (-2, -1))


def quarter(choice, size):
    matrices = (
        ((1, 0, 0), (0, 1, 0)),
        ((0, 1, 0), (-1, 0, size)),
        ((-1, 0, size), (0, -1, size)),
        ((0, -1, size), (1, 0, 0)),
    )
    return matrices[choice]


QuarterTurn = predict_transform(turned, 4, name="quarter_turn", moves=quarter)


def faded(images, choice):
    return images if choice == 0 else images.mean(1, keepdim=True).expand_as(images)


Faded = predict_transform(faded, ("color", "gray"), name="faded", moves=False)


def shuffled(images, choice):
    return images.roll(choice * 3, -1)


Rolled = predict_transform(shuffled, 3, name="rolled")


def augmented(size=24, n=12):
    exp = experiment(augment=Plain(), size=size)
    return augment(training_plan(exp), batch(n=n, size=size).images, key())


def context():
    return BuildContext(EncoderInfo(6, (6,), ((2, 2),), (24, 24)), torch.nn.Identity(), {})


def test_rotation_by_predict_transform_equals_the_rotation_class():
    [view], choice = QuarterTurn().views(augmented(), key()("q"))
    [expected], expected_choice = PRETEXTS["rotation"].views(augmented(), key()("q"))
    assert torch.equal(choice, expected_choice)
    assert set(choice.tolist()) == {0, 1, 2, 3}
    assert torch.equal(view.images, expected.images)
    torch.testing.assert_close(view.geometry.matrix, expected.geometry.matrix)


def test_each_image_is_turned_by_its_own_choice_and_so_is_its_matrix():
    """Compared with a loop over images, and with a warp by the matrix."""
    clean = augmented().clean
    [view], choice = QuarterTurn().views(augmented(), key()("q"))
    by_hand = torch.stack([torch.rot90(x, int(k), (-2, -1)) for x, k in zip(clean.images, choice)])
    assert torch.equal(view.images, by_hand)
    turn = view.geometry.matrix @ torch.linalg.inv(clean.geometry.matrix)
    moved = warp(turn, (24, 24), clean.images)
    torch.testing.assert_close(moved, by_hand, atol=1e-5, rtol=0)
    marks = torch.arange(12.0 * 24 * 24).view(12, 1, 24, 24)
    same = torch.stack([torch.rot90(x, int(k), (-2, -1)) for x, k in zip(marks, choice)])
    assert torch.equal(view.geometry.warp(marks, "nearest"), same)


def test_pose_labels_follow_the_turn():
    """Supervised heads get the turned pose as their target, as with the rotation class."""
    targets = []
    for component in (QuarterTurn(), PRETEXTS["rotation"]):
        exp = experiment(("pose",), ("rotation",), supervised="pretext", augment=Plain())
        exp.pretexts["rotation"] = PretextEntry(component)
        [prepared] = prepared_batches(train_state(exp), [batch(tasks=("pose",))])
        [[target, _]] = prepared.head_inputs["pose"][0].targets
        targets.append(target)
    torch.testing.assert_close(*targets)
    unmoved = batch(tasks=("pose",)).targets["pose"]
    assert not torch.allclose(targets[0], unmoved)


def test_a_change_of_colors_keeps_all_labels():
    clean = augmented().clean
    [view], choice = Faded().views(augmented(), key()("q"))
    assert torch.equal(view.geometry.matrix, clean.geometry.matrix)
    assert torch.equal(view.images[choice == 0], clean.images[choice == 0])
    gray = view.images[choice == 1]
    assert torch.equal(gray[:, 0], gray[:, 2])


def test_no_supervised_head_reads_views_without_a_matrix():
    [view], _ = Rolled().views(augmented(), key()("q"))
    assert view.geometry is None
    exp = experiment(("fer",), ("rotation",), supervised="pretext")
    exp.pretexts["rotation"] = PretextEntry(Rolled())
    with pytest.raises(MtlError, match="whole image"):
        prepared_batches(train_state(exp), [batch(tasks=("fer",))])


def test_it_trains():
    exp = experiment((), ("rotation",), augment=Plain(), size=24)
    exp.pretexts["rotation"] = PretextEntry(Faded())
    state = train_state(exp, "adamw", 1e-2)
    losses = []
    for step in range(60):
        images = batch(n=32, size=24, tasks=(), unlabeled=32, seed=step % 4)
        logged = train_step(state, counted([images]))
        losses.append(float(logged["loss/rotation"]))
    assert losses[0] > 0.5  # log 2 = 0.69
    assert sum(losses[-5:]) / 5 < 0.2


def test_the_head_defines_choices_and_an_ideal_output():
    head = QuarterTurn().build(context())
    target = torch.tensor([0, 3, 1, 2])
    assert head.choices == 4
    torch.testing.assert_close(head.loss(torch.zeros(4, 4), target), torch.full((4,), 4.0).log())
    assert head.loss(head.ideal(target), target).max() < 1e-6
    metric = QuarterTurn().metrics()["accuracy"]
    metric.update(head.ideal(target), torch.tensor([0, 3, 1, 0]))
    assert float(metric.compute()) == 0.75


def test_the_drawing_shows_both_names():
    images = torch.rand(2, 3, 64, 64)
    drawn = Faded().draw(images, torch.tensor([0, 1]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert drawn.shape == images.shape
    assert not torch.equal(drawn[0, :, 40:], drawn[1, :, 40:])
    assert torch.equal(drawn[:, :, :20], (images[:, :, :20] * 255).round() / 255)


def test_it_is_a_normal_component():
    assert [fault(cls) for cls in (QuarterTurn, Faded, Rolled)] == [None] * 3
    assert component_name(QuarterTurn) == "quarter_turn"
    assert QuarterTurn() == QuarterTurn()
    assert pickle.loads(pickle.dumps(QuarterTurn())) == QuarterTurn()
    assert pickle.loads(pickle.dumps(Faded)) is Faded


@pytest.mark.parametrize("choices", [1, 0, ("one",), ("a", "a")])
def test_fewer_than_two_different_choices_are_refused(choices):
    with pytest.raises(MtlError, match="at least two"):
        predict_transform(turned, choices, name="odd")


def test_a_transform_that_changes_the_shape_raises():
    halved = predict_transform(lambda images, choice: images[..., ::2, ::2], 2, name="halved")
    with pytest.raises(MtlError, match="expected the same shape"):
        halved().views(augmented(), key()("q"))
