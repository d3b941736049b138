"""The sheet of `mtl preview --augment`: views as in training, with the labels that follow."""

from __future__ import annotations

import torch
from attrs import evolve, frozen
from test_mixing import TASKS, Fixed, six
from toys import Jitter, experiment

from mtlcore import AlignedTask, Batch, StepCounts
from mtlcore.augment import Weak
from mtlcore.config.experiment import TaskEntry
from mtlcore.evaluation.augmented import augmented_strips, with_lines
from mtlcore.evaluation.drawing import TILE, enlarged
from mtlcore.model.plan import ViewPlan
from mtlcore.model.views import augment
from mtlcore.rng import KeyedRng
from mtlcore.tasks.draw_text import draw_text


def sheet_of(tasks, **more):
    exp = experiment((), **more)
    return evolve(exp, tasks={name: TaskEntry(task) for name, task in tasks.items()})


def test_each_strip_shows_the_view_of_one_step():
    exp = sheet_of({}, augment=Jitter())
    b = six()
    raw, *strips = augmented_strips(exp, b, 3)
    assert raw.label == "raw\n32 px"
    assert [strip.label for strip in strips] == [f"augmentation {i}\n32 px" for i in (1, 2, 3)]
    plan = ViewPlan(exp.augment, {}, (32, 32))
    for step, strip in enumerate(strips):
        view = augment(plan, b.images, KeyedRng((exp.seed, step, 0))).clean
        torch.testing.assert_close(strip.images[4], enlarged(view.images[4]))


def test_the_label_of_a_sample_is_drawn_and_a_missing_one_is_named():
    """Of a mixed view, the larger share is drawn, and both shares stand below."""
    task = TASKS["class"][0]
    exp = sheet_of({"class": task}, augment=Fixed())
    b = six((True,) * 4 + (False,) * 2, ("class",))
    raw, strip = augmented_strips(exp, b, 1)
    assert strip.label == "class: augmentation 1\n32 px"
    assert torch.equal(raw.images[1], draw_text(enlarged(b.images[1] / 255), "b"))
    assert torch.equal(raw.images[5], draw_text(enlarged(b.images[5] / 255), "no label"))

    view = Fixed().view(b.images, (32, 32), KeyedRng((0,))("view")).images
    lines = [
        ("90% a", "10% c"),
        ("75% a", "25% b"),
        ("100% c", ""),
        ("50% a", "50% b"),
        ("", ""),
        ("", ""),
    ]
    for i, name in enumerate(["a", "a", "c", "a", "no label", "no label"]):
        expected = with_lines(draw_text(enlarged(view[i]), name), lines[i])
        torch.testing.assert_close(strip.images[i], expected)


@frozen
class Marked(AlignedTask):
    """Draws its point as a red pixel."""

    reads = "corners"

    def move(self, target, geometry):
        return geometry.points(target)

    def build(self, context):
        raise NotImplementedError

    def draw(self, image, decoded):
        x, y = decoded[0].long().tolist()
        drawn = image.clone()
        drawn[:, y, x] = torch.tensor([1.0, 0.0, 0.0])
        return drawn


def test_points_are_drawn_on_the_pixels_that_they_marked():
    """A green spot in the raw image is around the red pixel in the view."""
    points = torch.randint(14, 18, (6, 1, 2)) + 0.5
    raw = torch.zeros(6, 3, 32, 32, dtype=torch.uint8)
    for i, (x, y) in enumerate(points[:, 0].long().tolist()):
        raw[i, 1, y - 2 : y + 3, x - 2 : x + 3] = 255
    present = {"corners": torch.ones(6, dtype=torch.bool)}
    b = Batch(raw, {"corners": points}, present, StepCounts({"corners": 6}, 6, 0), 6)
    exp = sheet_of({"corners": Marked()}, augment=Weak(contrast=(1.0, 1.0)))
    _, strip = augmented_strips(exp, b, 1)
    assert strip.images.shape == (6, 3, TILE, TILE)
    for image in strip.images:
        # The pixel became a block of 6 x 6. Green is around it.
        y, x = divmod(int((image[0] - image[1]).argmax()), TILE)
        assert image[0, y, x] > 0.9
        around = image[1, y - 9 : y + 10, x - 9 : x + 10]
        assert around.max() > 0.9
        assert around.median() > 0.3
