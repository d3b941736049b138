"""Mixed views: the loss of each task against an independent computation, and what is refused."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from aligned_toys import Corners
from attrs import evolve, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from mtl_faces.head_pose import HeadPose
from mtl_pretexts.byol import Byol
from mtl_pretexts.consistency import Consistency
from mtl_pretexts.rotation import Rotation
from toys import Mixup, Plain, Toy, counted, experiment, prepared_batches, train_state

from mtlcore import Batch, Geometry, MtlError, View
from mtlcore.config.checks import conflicts
from mtlcore.config.experiment import PretextEntry, TaskEntry
from mtlcore.contracts import HeadInput
from mtlcore.model.moved_targets import moved_targets
from mtlcore.tasks.classification import Classification
from mtlcore.tasks.multilabel import Multilabel
from mtlcore.tasks.regression import Regression
from mtlcore.training.step import train_step

PARTNERS = (2, 0, 3, 1, 5, 4)
SHARES = (0.9, 0.25, 1.0, 0.5, 0.0, 0.7)
WEIGHTS, SMOOTHING = (1.0, 0.2, 3.0), 0.1


@frozen
class Fixed(Plain):
    """Mixes six samples with given partners and shares, or a box in the upper left corner."""

    mixes = True
    partners: tuple[int, ...] = PARTNERS
    shares: tuple[float, ...] = SHARES
    box: tuple[int, ...] = ()

    def view(self, images, size, rng):
        view = super().view(images, size, rng)
        partner = torch.tensor(self.partners)
        if not self.box:
            return view.mix(partner, share=torch.tensor(self.shares))
        region = torch.zeros(len(images), 1, *size, dtype=torch.bool)
        region[..., : self.box[0], : self.box[1]] = True
        return view.mix(partner, region=region)


def rotation_about_x(angle):
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[1.0, 0, 0], [0, c, -s], [0, s, c]])


CLASSES = torch.tensor([0, 1, 2, 0, 1, 2])
LABELS = torch.tensor([[1, 0], [0, 1], [1, 1], [-1, 1], [0, 0], [1, -1]])
NUMBERS = torch.tensor([[3.0], [-1.0], [0.5], [8.0], [2.0], [-4.0]])
POSES = torch.stack([rotation_about_x(angle) for angle in (0.0, 0.4, -0.3, 1.0, 0.2, 0.7)])
TASKS = {
    "class": (
        Classification(
            classes=("a", "b", "c"), class_weights=WEIGHTS, label_smoothing=SMOOTHING, dropout=0.0
        ),
        CLASSES,
    ),
    "labels": (Multilabel(classes=("x", "y"), dropout=0.0), LABELS),
    "number": (Regression(outputs=("age",), mean=(1.0,), std=(2.0,), dropout=0.0), NUMBERS),
    "pose": (HeadPose(dropout=0.0), POSES),
}


def loss_of(name, output, j):
    """The loss of the answer to one sample for the label of sample j, from the definition."""
    if name == "class":
        wanted = torch.full((3,), SMOOTHING / 3)
        wanted[CLASSES[j]] += 1 - SMOOTHING
        return -WEIGHTS[CLASSES[j]] * (wanted * output.log_softmax(0)).sum()
    if name == "labels":
        known = [k for k in range(2) if LABELS[j, k] >= 0]
        signs = [2 * LABELS[j, k] - 1 for k in known]
        return -sum(F.logsigmoid(s * output[k]) for s, k in zip(signs, known)) / len(known)
    if name == "number":
        return (output[0] - (NUMBERS[j, 0] - 1.0) / 2.0) ** 2
    x = F.normalize(output[:3], dim=0)
    y = F.normalize(output[3:] - (x @ output[3:]) * x, dim=0)
    turn = torch.stack([x, y, torch.linalg.cross(x, y)], 1).T @ POSES[j]
    return torch.arccos((turn.trace() - 1) / 2)


def mixed_experiment(augment, tasks=tuple(TASKS), pretexts=(), **views):
    exp = experiment((), pretexts, augment=augment, encoder=Toy(norm="none"), **views)
    return evolve(exp, tasks={name: TaskEntry(TASKS[name][0]) for name in tasks})


def six(labeled=(True,) * 6, tasks=tuple(TASKS)):
    """Six samples. labeled: which of them have labels, of all tasks."""
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    present = torch.tensor(labeled)
    targets = {}
    for name in tasks:
        target = TASKS[name][1]
        here = present.view(6, *[1] * (target.ndim - 1))
        targets[name] = torch.where(here, target, torch.zeros_like(target))
    made = Batch(images, targets, dict.fromkeys(tasks, present), None, sum(labeled))
    return counted([made])[0]


def losses_of(augment, b, **views):
    """Return the losses of one micro-batch, the prepared batch, and the outputs of the heads."""
    state = train_state(mixed_experiment(augment, tuple(b.targets), **views))
    (made,) = prepared_batches(state, [b])
    features, _ = state.model.encode(made)
    return state.model(made)[0], made, state.model.forward_heads(features, made)


@pytest.mark.parametrize("labeled", [(True,) * 6, (True, True, True, True, False, False)])
@pytest.mark.parametrize("box", [(), (16, 8)])
def test_a_mixed_sample_has_the_weighted_losses_of_both_labels(box, labeled, subtests):
    """A missing label has no loss. The divisor is the number of labeled samples."""
    shares = SHARES if not box else (1 - 16 * 8 / 32**2,) * 6
    losses, _, outputs = losses_of(Fixed(box=box), six(labeled))
    for name in TASKS:
        with subtests.test(name):
            (output,) = outputs[name]
            total = 0.0
            for i, (j, w) in enumerate(zip(PARTNERS, shares)):
                if labeled[i]:
                    total += w * loss_of(name, output[i], i)
                if labeled[j]:
                    total += (1 - w) * loss_of(name, output[i], j)
            torch.testing.assert_close(losses[name], total / sum(labeled), atol=1e-4, rtol=1e-4)


def test_the_shares_of_all_labels_add_up_to_their_number_on_average():
    """Over all permutations of the partners, also if labels are missing: hence the divisor."""
    task = TASKS["number"][0]
    images = torch.rand(4, 3, 8, 8)
    b = Batch(images, {"n": NUMBERS[:4]}, {"n": torch.tensor([True, True, False, False])}, None, 2)
    view = View(images, Geometry.identity(images))
    totals = []
    for order in itertools.permutations(range(4)):
        mixed = view.mix(torch.tensor(order), share=torch.full((4,), 0.7))
        pairs, _ = moved_targets(task, "n", b, mixed)
        totals.append(HeadInput((0,), pairs).share.sum())
    torch.testing.assert_close(torch.stack(totals), torch.full((24,), 2.0))


def test_two_clean_views_are_averaged_although_each_has_its_own_partners():
    """The partner of the last sample has a label in one of the views alone."""

    @frozen
    class Turns(Fixed):
        def view(self, images, size, rng):
            shift = 1 + rng.generator.initial_seed() % 5
            partner = torch.arange(6).roll(shift)
            return Plain.view(self, images, size, rng).mix(partner, share=torch.full((6,), 0.6))

    labeled = (True, True, True, False, False, False)
    losses, made, outputs = losses_of(Turns(), six(labeled, ("class",)), clean=2)
    total = 0.0
    for output, head_input in zip(outputs["class"], made.head_inputs["class"], strict=True):
        (_, own), (_, other) = head_input.targets
        assert (own > 0).tolist() == list(labeled)
        shift = next(s for s in range(1, 6) if torch.equal(other > 0, (own > 0).roll(s)))
        for i in range(6):
            j = (i - shift) % 6
            total += 0.6 * labeled[i] * loss_of("class", output[i], i)
            total += 0.4 * labeled[j] * loss_of("class", output[i], j)
    torch.testing.assert_close(losses["class"], total / 3 / 2)


# ------------------------------------------------------------ properties


@settings(max_examples=25, deadline=None)
@given(
    order=st.permutations(range(6)),
    shares=st.lists(st.floats(0, 1, width=32), min_size=6, max_size=6),
)
def test_a_mix_is_linear_in_the_shares_and_nothing_without_a_partner(order, shares):
    images = torch.rand(6, 3, 4, 5)
    view = View(images, Geometry.identity(images))
    partner, w = torch.tensor(order), torch.tensor(shares)
    assert torch.equal(view.mix(partner, share=torch.ones(6)).images, images)
    assert torch.equal(view.mix(torch.arange(6), share=w).images, images)
    column = w[:, None, None, None]
    expected = column * images + (1 - column) * images[partner]
    torch.testing.assert_close(view.mix(partner, share=w).images, expected)

    nothing = torch.zeros(6, 1, 4, 5, dtype=torch.bool)
    pasted = view.mix(partner, region=nothing)
    assert torch.equal(pasted.images, images)
    assert pasted.mixed.share.tolist() == [1.0] * 6
    assert torch.equal(view.mix(partner, region=~nothing).images, images[partner])


@settings(max_examples=5, deadline=None)
@given(order=st.permutations(range(6)), share=st.floats(0, 1, width=32))
def test_the_loss_is_linear_in_the_shares_and_that_of_no_mix_without_a_partner(order, share):
    b = six((True,) * 5 + (False,))
    plain, _, _ = losses_of(Plain(), b)
    alone = tuple(range(6))
    for partners, own in ((tuple(order), 1.0), (alone, share)):
        losses, _, _ = losses_of(Fixed(partners=partners, shares=(own,) * 6), b)
        torch.testing.assert_close(losses, plain, atol=1e-6, rtol=1e-6)

    # The same answers, with the labels of both, of the first alone, and of the second alone.
    state = train_state(mixed_experiment(Plain()))
    features = None
    found = []
    for own in (share, 1.0, 0.0):
        exp = mixed_experiment(Fixed(partners=tuple(order), shares=(own,) * 6))
        (made,) = prepared_batches(train_state(exp), [b])
        if features is None:
            features, _ = state.model.encode(made)
        outputs = state.model.forward_heads(features, made)
        found.append(
            {name: state.model.compute_losses(name, outputs[name], made) for name in TASKS}
        )
    for name in TASKS:
        both, first, second = (losses[name] for losses in found)
        torch.testing.assert_close(both, share * first + (1 - share) * second)


# ------------------------------------------------------------ maps, points, unlabeled samples


def test_a_blended_view_has_no_points_unless_the_share_of_the_sample_is_1():
    exp = mixed_experiment(Fixed(), ())
    exp = evolve(exp, tasks={"corners": TaskEntry(Corners())})
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    present = {"corners": torch.tensor([True] * 5 + [False])}
    b = counted([Batch(images, {"corners": torch.rand(6, 3, 2) * 32}, present, None, 5)])[0]
    (made,) = prepared_batches(train_state(exp), [b])
    (head_input,) = made.head_inputs["corners"]
    ((points, share),) = head_input.targets
    assert share.tolist() == [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    assert torch.equal(points[2], b.targets["corners"][2])
    assert head_input.unfollowed.tolist() == [1.0, 1.0, 0.0, 1.0, 1.0, 0.0]


def test_unlabeled_samples_are_encoded_if_labeled_ones_may_be_mixed_into_them():
    b = six((True,) * 4 + (False,) * 2)
    for augment, encoded in ((Plain(), 4), (Fixed(), 6)):
        _, made, _ = losses_of(augment, b)
        assert [len(images) for images in made.images] == [encoded]


# ------------------------------------------------------------ what is refused


def with_pretext(pretext, augment=None, **named):
    exp = mixed_experiment(augment or Mixup(), ("class",))
    return evolve(
        exp,
        pretexts={"other": PretextEntry(pretext)},
        augmentations=exp.augmentations | named,
    )


def test_a_pretext_that_compares_views_of_a_sample_is_refused():
    """Its views would show different partners. The others read mixed views."""
    (message,) = conflicts(with_pretext(Byol()))
    assert message.startswith("pretext.other can't read images of [augment], which mixes samples")
    assert not list(conflicts(with_pretext(Rotation())))
    # FixMatch reads its own augmentations, and these mix nothing.
    assert not list(conflicts(with_pretext(Consistency())))
    (message,) = conflicts(with_pretext(Consistency(), Plain(), strong=Mixup()))
    assert "can't read images of [augment.strong]" in message


def test_evaluation_and_the_geometric_mean_refuse_mixed_images():
    exp = mixed_experiment(Plain(), ("class",))
    exp = evolve(exp, augmentations={"validation": Mixup()})
    (message,) = conflicts(exp)
    assert message.startswith("augment.validation: it mixes samples")
    (message,) = conflicts(mixed_experiment(Mixup(), ("class",), reduce="geometric"))
    assert 'set views.reduce = "mean"' in message


def test_a_request_for_a_mixed_view_that_a_pretext_did_not_declare_is_refused():
    @frozen
    class Secret(Consistency):
        augmentations = ("weak",)

    exp = with_pretext(Secret(task="class"), Plain(), strong=Mixup())
    assert not list(conflicts(exp))
    with pytest.raises(MtlError, match=r"pretext.other can't read images of \[augment.strong\]"):
        train_step(train_state(exp), [six(tasks=("class",))])


def test_an_augmentation_that_mixes_in_secret_is_refused():
    @frozen
    class Secret(Mixup):
        mixes = False

    with pytest.raises(MtlError, match="Secret: its view mixes samples, but its class does not"):
        train_step(train_state(mixed_experiment(Secret(), ("class",))), [six(tasks=("class",))])


def test_a_view_is_mixed_once_and_by_shares_or_by_a_region():
    view = View(torch.rand(2, 3, 4, 4))
    partner, share = torch.tensor([1, 0]), torch.tensor([0.5, 0.5])
    with pytest.raises(ValueError, match="exactly one of share"):
        view.mix(partner)
    with pytest.raises(ValueError, match="mixed already"):
        view.mix(partner, share=share).mix(partner, share=share)
