"""What the network reads: whose draws, which samples, which views, and labels that move with the pixels."""

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
    experiment,
    prepared_batches,
    rotations,
    train_state,
)

from mtlcore import Geometry, MtlError
from mtlcore.geometry import similarity
from mtlcore.train.step import train_step


def seen(made):
    return {k: [made.images[i] for r in rs for i in r.images] for k, rs in made.head_inputs.items()}


def prepared(exp, b, step: int = 0):
    eng = train_state(exp)
    eng.step = step
    return prepared_batches(eng, [b])[0]


def test_nobodys_images_change_when_a_pretext_joins():
    """Cutout included; alone, the clean view is encoded for labeled samples only, while Barlow needs all of them."""
    b = batch(n=8, unlabeled=3)
    few = seen(prepared(experiment(pretexts=("rotation", "fixmatch")), b))
    many = seen(
        prepared(
            experiment(
                pretexts=("siamese", "inpainting", "barlow", "rotation", "fixmatch", "patches")
            ),
            b,
        )
    )
    for label in few:
        for x, y in zip(few[label], many[label], strict=True):
            assert torch.equal(x, y[: len(x)])


def test_nobodys_images_change_when_a_sample_loses_its_labels():
    b = batch(n=8, unlabeled=3)
    less = evolve(
        b, labeled_samples=4, present={k: p & (torch.arange(8) < 4) for k, p in b.present.items()}
    )
    exp = experiment(pretexts=("rotation", "fixmatch"))
    before, after = seen(prepared(exp, b)), seen(prepared(exp, less))
    assert torch.equal(before["rotation"][0], after["rotation"][0])
    assert torch.equal(before["fer"][0][:4], after["fer"][0])


def test_nothing_is_drawn_from_the_global_generator():
    exp = experiment(pretexts=tuple(PRETEXTS))
    eng, before = train_state(exp), torch.get_rng_state()
    a, b = prepared_batches(eng, [batch()])[0], prepared_batches(eng, [batch()])[0]
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(x, y) for x, y in zip(a.images, b.images))
    eng.step = 1
    assert not torch.equal(prepared_batches(eng, [batch()])[0].images[0], a.images[0])


def test_encoder_samples_are_only_those_that_somebody_reads():
    def samples(**kw):
        return [len(x) for x in prepared(experiment(**kw), batch(n=8, unlabeled=3)).images]

    assert samples() == [5]
    assert samples(pretexts=("rotation",)) == [8, 5]
    assert samples(pretexts=("rotation",), supervised="pretext") == [8]
    assert samples(pretexts=("location",)) == [8]
    assert samples(pretexts=("fixmatch",), entries={"fixmatch": {"samples": "unlabeled"}}) == [
        3,
        3,
        5,
    ]
    assert samples(clean=2) == [5, 5]
    assert samples(tasks=(), pretexts=("rotation",)) == [8]


def test_two_clean_views_are_two_different_images_read_by_the_same_heads():
    made = prepared(experiment(("fer",), clean=2), batch(unlabeled=0, tasks=("fer",)))
    assert [r.images for r in made.head_inputs["fer"]] == [(0,), (1,)]
    assert not torch.equal(*made.images)


@pytest.mark.parametrize("name", ["puzzle_spatial", "siamese", "rotation", "jigen"])
def test_dense_labels_follow_the_pixels(name):
    """The image IS its own label: bit-equal without interpolation, and closely correlated with it."""
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


def test_pose_follows_turns_and_mirrors_as_projected_points_do():
    g = torch.Generator().manual_seed(1)
    r, points = rotations(64, g), torch.randn(20, 3, generator=g)
    for flip in (False, True):
        angle = (torch.rand(64, generator=g) - 0.5) * 6.28
        m = similarity(angle, torch.full((64,), 0.8), torch.full((64,), flip), (48, 48), (48, 48))
        moved = TASKS["pose"].move(r, Geometry.affine(m, (48, 48)))
        shown = 24 + 5 * (points @ r.mT)[..., :2]
        shown = (torch.cat([shown, torch.ones(64, 20, 1)], 2) @ m.mT)[..., :2]
        head = points * torch.tensor(
            [-1.0 if flip else 1.0, 1, 1]
        )  # a mirrored image shows a mirrored head
        wanted = (head @ moved.mT)[..., :2]
        got = (shown - shown.mean(1, keepdim=True)) / 5 * 0.8
        torch.testing.assert_close(got, wanted - wanted.mean(1, keepdim=True), atol=1e-4, rtol=0)
        torch.testing.assert_close(torch.linalg.det(moved), torch.ones(64))


def test_mixup_equals_soft_labels_without_any_task_knowing():
    eng = train_state(experiment(("fer",), augment=Mixup()))
    b = batch(size=32, unlabeled=0, tasks=("fer",))
    made = prepared_batches(eng, [b])[0]
    (t, s), (t2, s2) = made.head_inputs["fer"][0].answers
    soft = s[:, None] * F.one_hot(t, 8) + s2[:, None] * F.one_hot(t2, 8)
    wanted = F.cross_entropy(eng.model.heads["fer"](eng.model.encoder(made.images[0])), soft)
    torch.testing.assert_close(eng.model(made)[0]["fer"], wanted)


def test_geometric_mean_of_views_is_taken_for_each_sample():
    eng = train_state(experiment(("fer",), ("siamese",), reduce="geometric", supervised="pretext"))
    b = batch(unlabeled=0, tasks=("fer",))
    made = prepared_batches(eng, [b])[0]
    features, _ = eng.model.encode(made)
    each = [
        F.cross_entropy(
            eng.model.heads["fer"](features[r.images[0]]), b.targets["fer"], reduction="none"
        )
        for r in made.head_inputs["fer"]
    ]
    assert len(each) == 3
    torch.testing.assert_close(
        eng.model.compute_losses("fer", eng.model.forward_heads(features, made)["fer"], made),
        (each[0] * each[1] * each[2]).pow(1 / 3).mean(),
    )


def running(model):
    return {
        k: v.clone()
        for k, v in model.encoder.state_dict().items()
        if "running" in k or "tracked" in k
    }


@pytest.mark.parametrize("forward", ["joint", "split"])
@pytest.mark.parametrize("pretexts", [("rotation",), ("inpainting", "barlow", "fixmatch")])
def test_clean_statistics_equal_those_of_a_supervised_run(forward, pretexts):
    """BatchNorm's running statistics never see a pretext's view, nor an unlabeled sample."""
    b = batch(n=8, unlabeled=3)
    alone = train_state(experiment())
    train_step(alone, prepared_batches(alone, [b]))
    for statistics, same in (("clean", True), ("all", False)):
        eng = train_state(experiment(pretexts=pretexts, statistics=statistics, forward=forward))
        train_step(eng, prepared_batches(eng, [b]))
        here, there = running(eng.model), running(alone.model)
        assert all(torch.equal(here[k], there[k]) for k in here) == same


def test_clean_statistics_join_the_parted_samples_in_order():
    """With a net without batch statistics the parted forward must equal the plain one."""
    b = batch(n=8, unlabeled=3)
    for clean, forward in itertools.product((1, 2), ("joint", "split")):
        exp = experiment(
            pretexts=("barlow", "rotation"), encoder=Toy(norm="none"), clean=clean, forward=forward
        )
        eng = train_state(exp)
        parted = prepared(evolve(exp, views=evolve(exp.views, statistics="clean")), b)
        plain = prepared(exp, b)
        torch.testing.assert_close(eng.model(parted)[0], eng.model(plain)[0])


def test_clean_statistics_are_refused_where_no_clean_view_is_read():
    with pytest.raises(MtlError, match=r"views\.supervised"):
        prepared(
            experiment(pretexts=("rotation",), statistics="clean", supervised="pretext"), batch()
        )


def test_supervised_heads_are_never_given_another_view_than_was_asked_for():
    with pytest.raises(MtlError, match=r"views\.supervised"):
        prepared(experiment(pretexts=("patches",), supervised="pretext"), batch())


def test_an_unknown_augmentation_is_told_with_the_known_ones():
    exp = experiment(("fer",), ("fixmatch",))
    exp = evolve(exp, augmentations={"weak": Plain()})
    with pytest.raises(MtlError, match="strong") as told:
        prepared(exp, batch(tasks=("fer",)))
    assert "weak" in str(told.value)


def test_a_target_that_is_not_a_sample_a_sample_is_told():
    class Wrong(type(PRETEXTS["rotation"])):  # type: ignore[misc]
        def views(self, augmented, rng):
            views, target = super().views(augmented, rng)
            return views, target[:2]

    exp = experiment(("fer",), ("rotation",))
    exp = evolve(exp, pretexts={"rotation": evolve(exp.pretexts["rotation"], component=Wrong())})
    with pytest.raises(MtlError, match="rotation"):
        prepared(exp, batch(tasks=("fer",)))


def test_fixmatch_reads_the_tasks_head_and_brings_none_of_its_own():
    eng = train_state(experiment(("fer", "gender"), ("fixmatch",)))
    assert not any("fixmatch" in k for k in eng.model.state_dict())
    assert {id(p) for p in eng.model.heads["fer"].parameters()} < {
        id(p) for p in eng.model.shared()
    }
    before = copy.deepcopy(eng.model.heads["fer"].state_dict())
    logged = train_step(
        eng,
        prepared_batches(eng, [batch(n=8, unlabeled=5, tasks=("fer", "gender"), absent=("fer",))]),
    )
    assert "loss/fer" not in logged
    assert not torch.equal(
        before["answer.1.weight"], eng.model.heads["fer"].state_dict()["answer.1.weight"]
    )


def test_relative_location_costs_no_forward_of_its_own():
    eng = train_state(experiment(("fer",), ("location",)))
    samples: list[int] = []
    eng.model.encoder.register_forward_hook(lambda m, i, o: samples.append(len(i[0])))
    train_step(eng, prepared_batches(eng, [batch(unlabeled=0, tasks=("fer",))]))
    assert samples == [6]
