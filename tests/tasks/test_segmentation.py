"""Segmentation: its loss and metrics against independent computations, moved maps, bad maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dense_toys import SIZE, head_of

from mtlcore import Geometry, Segmentation
from mtlcore.config.component import component

CLASSES = ("road", "sky", "tree")
IGNORED = 3
TASK = Segmentation(CLASSES, ignore_index=IGNORED)


def logits_and_maps(n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (n, 3, 6, 5) logits, and (n, 6, 5) maps; the second sample has no valid pixel."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(n, 3, 6, 5, generator=generator)
    maps = torch.randint(0, 4, (n, 6, 5), generator=generator, dtype=torch.uint8)
    maps[1] = IGNORED
    return logits, maps


def test_the_loss_of_a_sample_is_the_mean_over_its_valid_pixels_and_0_without_any():
    logits, maps = logits_and_maps()
    logits.requires_grad_()
    head, _ = head_of(TASK)
    loss = head.loss(logits, maps)
    loss.sum().backward()
    for i in (0, 2):
        expected = F.cross_entropy(logits[i][None], maps[i][None].long(), ignore_index=IGNORED)
        torch.testing.assert_close(loss[i], expected)
    assert loss[1] == 0
    assert logits.grad.isfinite().all()
    assert not logits.grad[1].any()


def test_normalized_over_the_batch_the_loss_is_that_of_libmtl():
    logits, maps = logits_and_maps()
    head, _ = head_of(Segmentation(CLASSES, ignore_index=IGNORED, normalize="batch"))
    assert head.coupled
    expected = F.cross_entropy(logits, maps.long(), ignore_index=IGNORED)
    torch.testing.assert_close(head.loss(logits, maps, torch.ones(3)), expected)
    first = F.cross_entropy(logits[:1], maps[:1].long(), ignore_index=IGNORED)
    torch.testing.assert_close(head.loss(logits, maps, torch.tensor([1.0, 1.0, 0.0])), first)
    assert head.loss(logits[1:2], maps[1:2], torch.ones(1)) == 0


@pytest.mark.parametrize(
    ("dtype", "ignored"), [(torch.bool, 255), (torch.uint8, 256), (torch.uint8, -1)]
)
def test_places_outside_of_the_old_image_are_ignored_also_in_small_dtypes(dtype, ignored):
    geometry = Geometry(torch.eye(3)[None], (lambda maps, _: maps * 0,), empty=True)
    maps = torch.ones(1, 2, 2, dtype=dtype)
    moved = Segmentation(("a", "b"), ignore_index=ignored).move(maps, geometry)
    assert (moved == ignored).all()


def test_a_class_weight_scales_the_loss_of_its_pixels():
    logits, maps = logits_and_maps()
    weights = torch.tensor([0.5, 2.0, 1.0])
    head, _ = head_of(Segmentation(CLASSES, ignore_index=IGNORED, class_weights=(0.5, 2.0, 1.0)))
    known = maps[0] != IGNORED
    pixels = F.cross_entropy(
        logits[0].movedim(0, -1)[known], maps[0][known].long(), reduction="none"
    )
    torch.testing.assert_close(
        head.loss(logits, maps)[0], (pixels * weights[maps[0][known].long()]).mean()
    )


def test_the_dice_loss_is_the_mean_over_the_classes_that_an_image_shows():
    logits, maps = logits_and_maps()
    maps[0][maps[0] == 2] = 1  # the first image shows two classes
    head, _ = head_of(Segmentation(CLASSES, ignore_index=IGNORED, dice=2.0))
    plain, _ = head_of(TASK)
    found = (head.loss(logits, maps) - plain.loss(logits, maps)) / 2
    valid = (maps[0] != IGNORED).numpy()
    likely = logits[0].softmax(0).numpy() * valid
    dice = []
    for number in (0, 1):
        truth = (maps[0].numpy() == number) & valid
        overlap = (likely[number] * truth).sum()
        dice.append(1 - (2 * overlap + 1) / (likely[number].sum() + truth.sum() + 1))
    torch.testing.assert_close(float(found[0]), float(np.mean(dice)), rtol=1e-5, atol=1e-5)
    assert found[1] == 0


def test_miou_and_pixel_accuracy_leave_ignored_pixels_out():
    logits, maps = logits_and_maps()
    metrics = TASK.metrics()
    for metric in metrics.values():
        for batch in (slice(0, 1), slice(1, 3)):
            metric.update(TASK.decode(logits[batch]), maps[batch])
    predicted, true = logits.argmax(1).numpy(), maps.numpy()
    valid = true != IGNORED
    ious = []
    for number in range(3):
        both = ((predicted == number) & (true == number) & valid).sum()
        either = (((predicted == number) | (true == number)) & valid).sum()
        ious.append(both / either)
    assert float(metrics["miou"].compute()) == pytest.approx(np.mean(ious), abs=1e-6)
    accuracy = (predicted == true)[valid].mean()
    assert float(metrics["pixel_accuracy"].compute()) == pytest.approx(accuracy, abs=1e-6)
    assert metrics["confusion"].compute().sum() == valid.sum()


def test_places_outside_of_the_old_image_have_no_class():
    maps = torch.full((1, 4, 4), 2, dtype=torch.uint8)
    inside = torch.ones(1, 1, 4, 4)
    inside[..., 0] = 0

    def step(values, _mode):
        return values * inside

    moved = TASK.move(maps, Geometry(torch.eye(3)[None], (step,), empty=True))
    assert moved.dtype == torch.uint8
    assert moved[0].tolist() == [[IGNORED, 2, 2, 2]] * 4


def test_the_answers_of_a_mirrored_view_are_mirrored_back():
    decoded = torch.rand(1, 3, 2, 4).softmax(1)
    back = TASK.mirror_back(decoded.flip(-1), (2, 4))
    torch.testing.assert_close(TASK.average(decoded, back), decoded)
    answer = TASK.answer(decoded)[0]
    assert np.array(answer["map"]).shape == (2, 4)
    assert sum(answer["shares"].values()) == pytest.approx(1)


def test_the_head_answers_each_pixel_of_an_image_that_is_not_square():
    head, features = head_of(TASK)
    assert head(features).shape == (2, 3, *SIZE)


def test_a_map_that_is_not_of_this_task_is_refused_with_what_it_holds(subtests):
    numbers = np.array([[0, 1, 7], [9, 3, 2]], dtype=np.uint8)
    cases = {
        "out of range": (numbers, "class numbers 7, 9 at 2 pixels; expected 0 to 2 (3 classes)"),
        "negative": (numbers.astype(np.int16) - 1, "class numbers -1, 6, 8 at 3 pixels"),
        "in colors": (np.zeros((2, 3, 3), np.uint8), "class numbers (H, W)"),
        "floats": (np.zeros((2, 3), np.float32), "integers"),
    }
    for name, (label, expected) in cases.items():
        with subtests.test(name):
            assert expected in TASK.fault(label, (2, 3))
    assert TASK.fault(numbers.clip(0, 3), (2, 3)) is None


def test_wrong_settings_are_refused(subtests):
    for fields, expected in (
        ({"classes": ["a"]}, "classes has 1 names; expected 2 to 255"),
        ({"classes": ["a", "a"]}, "a name twice"),
        ({"classes": ["a", "b"], "class_weights": [1.0]}, "1 numbers for 2 classes"),
        ({"classes": ["a", "b"], "dice": -1.0}, "dice"),
        ({"classes": ["a", "b"], "stride": 0}, "stride"),
    ):
        with subtests.test(str(fields)), pytest.raises(Exception, match=expected):
            component("task", "segmentation", **fields)
