"""The inputs of the network: draws, samples, views, and labels that move with the pixels."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve
from toys import (
    PRETEXTS,
    TASKS,
    Jitter,
    Mixup,
    Plain,
    Toy,
    batch,
    counted,
    experiment,
    key,
    prepared_batches,
    rotations,
    train_state,
)

from mtlcore import Batch, Geometry, MtlError, StepCounts
from mtlcore.geometry import similarity
from mtlcore.model.plan import training_plan
from mtlcore.model.views import prepare
from mtlcore.training.step import train_step


def images_of_heads(made):
    """Return label -> the images that its head reads."""
    found = {}
    for label, head_inputs in made.head_inputs.items():
        positions = [i for head_input in head_inputs for i in head_input.images]
        found[label] = [made.images[i] for i in positions]
    return found


def prepared(exp, b, step: int = 0):
    state = train_state(exp)
    state.step = step
    return prepared_batches(state, [b])[0]


def test_another_pretext_changes_no_image_of_the_others():
    """The cutout included.

    Without Barlow Twins, only the labeled samples of the clean view are encoded.
    """
    b = batch(n=8, unlabeled=3)
    names = ("siamese", "inpainting", "barlow", "rotation", "fixmatch", "patches")
    few = images_of_heads(prepared(experiment(pretexts=("rotation", "fixmatch")), b))
    many = images_of_heads(prepared(experiment(pretexts=names), b))
    for label in few:
        for x, y in zip(few[label], many[label], strict=True):
            assert torch.equal(x, y[: len(x)])


def test_fewer_labels_change_no_image():
    b = batch(n=8, unlabeled=3)
    labeled = torch.arange(8) < 4
    present = {label: mask & labeled for label, mask in b.present.items()}
    less = evolve(b, labeled_samples=4, present=present)
    exp = experiment(pretexts=("rotation", "fixmatch"))
    before = images_of_heads(prepared(exp, b))
    after = images_of_heads(prepared(exp, less))
    assert torch.equal(before["rotation"][0], after["rotation"][0])
    assert torch.equal(before["fer"][0][:4], after["fer"][0])


def test_nothing_is_drawn_from_the_global_generator():
    exp = experiment(pretexts=tuple(PRETEXTS))
    state = train_state(exp)
    before = torch.get_rng_state()
    [a] = prepared_batches(state, [batch()])
    [b] = prepared_batches(state, [batch()])
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(x, y) for x, y in zip(a.images, b.images))
    state.step = 1
    assert not torch.equal(prepared_batches(state, [batch()])[0].images[0], a.images[0])


def test_only_samples_that_a_head_reads_are_encoded():
    def samples(**kw):
        return [len(x) for x in prepared(experiment(**kw), batch(n=8, unlabeled=3)).images]

    only_unlabeled = {"fixmatch": {"samples": "unlabeled"}}
    assert samples() == [5]
    assert samples(pretexts=("rotation",)) == [8, 5]
    assert samples(pretexts=("rotation",), supervised="pretext") == [8]
    assert samples(pretexts=("location",)) == [8]
    assert samples(pretexts=("fixmatch",), entries=only_unlabeled) == [3, 3, 5]
    assert samples(clean=2) == [5, 5]
    assert samples(tasks=(), pretexts=("rotation",)) == [8]


def test_two_clean_views_are_different_images_for_the_same_heads():
    made = prepared(experiment(("fer",), clean=2), batch(unlabeled=0, tasks=("fer",)))
    assert [r.images for r in made.head_inputs["fer"]] == [(0,), (1,)]
    assert not torch.equal(*made.images)


@pytest.mark.parametrize("name", ["puzzle_spatial", "siamese", "rotation", "jigen"])
def test_dense_labels_follow_the_pixels(name):
    """The image IS its own label.

    Both are equal without interpolation, and highly correlated with it.
    """
    for augment in (Plain(), Jitter()):
        exp = experiment(("parsing",), (name,), augment=augment, supervised="pretext")
        b = batch(size=32, unlabeled=0, tasks=("parsing",))
        blocks = F.interpolate(b.targets["parsing"][..., ::4, ::4].float(), scale_factor=4).long()
        b = evolve(b, targets={"parsing": blocks})
        painted = (b.targets["parsing"] * 100).expand(-1, 3, -1, -1).to(torch.uint8).contiguous()
        made = prepared(exp, evolve(b, images=painted))
        for r in made.head_inputs["parsing"]:
            image, target = made.images[r.images[0]], r.targets[0][0]
            assert target.shape[-2:] == image.shape[-2:]
            if isinstance(augment, Plain) and name != "siamese":
                assert torch.equal((image[:, :1] * 2.55).round().long(), target)
            else:
                both = torch.stack([image[:, :1].flatten(), target.flatten().float()])
                assert torch.corrcoef(both)[0, 1] > 0.7


def test_pose_follows_rotations_and_mirroring_as_projected_points_do():
    g = torch.Generator().manual_seed(1)
    r = rotations(64, g)
    points = torch.randn(20, 3, generator=g)
    for flip in (False, True):
        angle = (torch.rand(64, generator=g) - 0.5) * 6.28
        m = similarity(angle, torch.full((64,), 0.8), torch.full((64,), flip), (48, 48), (48, 48))
        moved = TASKS["pose"].move(r, Geometry.affine(m, (48, 48)))

        # Project the points, then move them in the image.
        pixels = 24 + 5 * (points @ r.mT)[..., :2]
        pixels = (torch.cat([pixels, torch.ones(64, 20, 1)], 2) @ m.mT)[..., :2]
        found = (pixels - pixels.mean(1, keepdim=True)) / 5 * 0.8

        # Move the label, then project the points. A mirrored image shows a mirrored head.
        mirror = -1.0 if flip else 1.0
        head = points * torch.tensor([mirror, 1, 1])
        expected = (head @ moved.mT)[..., :2]
        expected = expected - expected.mean(1, keepdim=True)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(torch.linalg.det(moved), torch.ones(64))


def test_mixup_equals_soft_labels_for_any_task():
    state = train_state(experiment(("fer",), augment=Mixup()))
    b = batch(size=32, unlabeled=0, tasks=("fer",))
    made = prepared_batches(state, [b])[0]
    (t, s), (t2, s2) = made.head_inputs["fer"][0].targets
    soft = s[:, None] * F.one_hot(t, 8) + s2[:, None] * F.one_hot(t2, 8)
    logits = state.model.heads["fer"](state.model.encoder(made.images[0]))
    torch.testing.assert_close(state.model(made)[0]["fer"], F.cross_entropy(logits, soft))


def test_geometric_mean_of_views_is_taken_for_each_sample():
    state = train_state(
        experiment(("fer",), ("siamese",), reduce="geometric", supervised="pretext")
    )
    b = batch(unlabeled=0, tasks=("fer",))
    made = prepared_batches(state, [b])[0]
    model = state.model
    features, _ = model.encode(made)
    each = []
    for head_input in made.head_inputs["fer"]:
        logits = model.heads["fer"](features[head_input.images[0]])
        each.append(F.cross_entropy(logits, b.targets["fer"], reduction="none"))
    assert len(each) == 3

    outputs = model.forward_heads(features, made)["fer"]
    expected = (each[0] * each[1] * each[2]).pow(1 / 3).mean()
    torch.testing.assert_close(model.compute_losses("fer", outputs, made), expected)


def running_statistics(model):
    weights = model.encoder.state_dict().items()
    return {k: v.clone() for k, v in weights if "running" in k or "tracked" in k}


@pytest.mark.parametrize("forward", ["joint", "split"])
@pytest.mark.parametrize("pretexts", [("rotation",), ("inpainting", "barlow", "fixmatch")])
def test_clean_statistics_equal_those_of_a_supervised_run(forward, pretexts):
    """Views of pretexts and unlabeled samples do not update BatchNorm's running statistics."""
    b = batch(n=8, unlabeled=3)
    supervised = train_state(experiment())
    train_step(supervised, counted([b]))
    expected = running_statistics(supervised.model)
    for statistics, equal in (("clean", True), ("all", False)):
        hybrid = train_state(experiment(pretexts=pretexts, statistics=statistics, forward=forward))
        train_step(hybrid, counted([b]))
        found = running_statistics(hybrid.model)
        assert all(torch.equal(found[k], expected[k]) for k in found) == equal


def test_clean_statistics_join_the_samples_of_both_forwards_in_order():
    """Without batch statistics, two forwards must equal one."""
    b = batch(n=8, unlabeled=3)
    for clean, forward in itertools.product((1, 2), ("joint", "split")):
        exp = experiment(
            pretexts=("barlow", "rotation"), encoder=Toy(norm="none"), clean=clean, forward=forward
        )
        state = train_state(exp)
        two_forwards = prepared(evolve(exp, views=evolve(exp.views, statistics="clean")), b)
        one_forward = prepared(exp, b)
        torch.testing.assert_close(state.model(two_forwards)[0], state.model(one_forward)[0])


def test_clean_statistics_are_refused_if_no_clean_view_is_read():
    exp = experiment(pretexts=("rotation",), statistics="clean", supervised="pretext")
    with pytest.raises(MtlError, match=r"views\.supervised"):
        prepared(exp, batch())


def test_supervised_heads_never_fall_back_to_another_view():
    with pytest.raises(MtlError, match=r"views\.supervised"):
        prepared(experiment(pretexts=("patches",), supervised="pretext"), batch())


def test_an_unknown_augmentation_raises_with_the_known_ones():
    class Misspelled(type(PRETEXTS["fixmatch"])):  # type: ignore[misc]
        def views(self, augmented, rng):
            return [augmented.augment(1, "weka")], None

    exp = experiment(("fer",), ("fixmatch",))
    entry = evolve(exp.pretexts["fixmatch"], component=Misspelled())
    exp = evolve(exp, pretexts={"fixmatch": entry}, augmentations={"weak": Plain()})
    with pytest.raises(MtlError, match="weka") as error:
        prepared(exp, batch(tasks=("fer",)))
    assert "weak" in str(error.value)


def test_a_target_with_another_number_of_samples_is_refused():
    class Wrong(type(PRETEXTS["rotation"])):  # type: ignore[misc]
        def views(self, augmented, rng):
            views, target = super().views(augmented, rng)
            return views, target[:2]

    exp = experiment(("fer",), ("rotation",))
    exp = evolve(exp, pretexts={"rotation": evolve(exp.pretexts["rotation"], component=Wrong())})
    with pytest.raises(MtlError, match="rotation"):
        prepared(exp, batch(tasks=("fer",)))


def test_fixmatch_trains_the_tasks_head_and_has_no_weights_itself():
    state = train_state(experiment(("fer", "gender"), ("fixmatch",)))
    assert not any("fixmatch" in k for k in state.model.state_dict())

    head = state.model.heads["fer"]
    shared = {id(p) for p in state.model.shared()}
    assert {id(p) for p in head.parameters()} < shared

    before = copy.deepcopy(head.state_dict())
    b = batch(n=8, unlabeled=5, tasks=("fer", "gender"), absent=("fer",))
    logged = train_step(state, counted([b]))
    assert "loss/fer" not in logged
    assert not torch.equal(before["answer.1.weight"], head.state_dict()["answer.1.weight"])


def test_relative_location_needs_no_forward_of_its_own():
    state = train_state(experiment(("fer",), ("location",)))
    samples: list[int] = []
    state.model.encoder.register_forward_hook(lambda m, i, o: samples.append(len(i[0])))
    train_step(state, counted([batch(unlabeled=0, tasks=("fer",))]))
    assert samples == [6]


def test_a_trial_of_the_first_samples_reaches_every_head():
    """Of an absent task, and of a pretext of unlabeled samples, too."""
    entries = {"fixmatch": {"samples": "unlabeled"}}
    exp = experiment(("fer", "pose"), ("rotation", "fixmatch"), entries=entries)
    b = batch(n=6, unlabeled=0, tasks=("fer", "pose"), absent=("pose",)).first(2)
    assert torch.equal(b.images, batch(n=6, unlabeled=0).images[:2])
    made = prepare(training_plan(exp), b, key())
    assert tuple(made.head_inputs) == ("fer", "pose", "rotation", "fixmatch")
    assert min(len(x) for x in made.images) == 1


def test_batches_without_and_with_labels_count_themselves_as_a_whole_step():
    images = batch(n=4).images
    unlabeled = Batch.unlabeled(images)
    assert (unlabeled.labeled_samples, unlabeled.counts) == (0, StepCounts({}, 4, 4))
    labeled = Batch.labeled(images, {"fer": torch.arange(4)})
    assert (labeled.labeled_samples, labeled.counts) == (4, StepCounts({"fer": 4}, 4, 0))
    assert labeled.present["fer"].all()
