"""Four rotations: each image has all four turns, and the views are those of the targets."""

from __future__ import annotations

import torch
from mtl_pretexts.four_rotations import FourRotations
from question_toys import asked, ramp


def test_each_view_is_the_image_in_the_turn_of_its_target():
    images = ramp(6, 8)
    views, target = asked(FourRotations(), images)
    assert target.sort(1).values.tolist() == [[0, 1, 2, 3]] * len(images)
    for number, view in enumerate(views):
        for i, turns in enumerate(target[:, number].tolist()):
            assert torch.equal(view.images[i], images[i].rot90(turns, (-2, -1)) / 255)
    assert len({tuple(order) for order in target.tolist()}) > 1
