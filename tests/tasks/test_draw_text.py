"""Text on an image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtlcore.evaluation.augmented import in_words
from mtlcore.prediction.results import answer_in_words
from mtlcore.tasks.classification import Classification
from mtlcore.tasks.draw_text import draw_text, in_digits
from mtlcore.tasks.regression import Regression


@pytest.mark.parametrize(
    "lines",
    [("happiness",), ("valence 0.31", "arousal -0.2"), ("a very long name of a class indeed",)],
)
def test_text_is_on_a_band_at_the_bottom_and_the_rest_does_not_change(lines):
    for height, width in ((48, 48), (64, 64), (200, 160), (8, 8)):
        _is_on_a_band(lines, height, width)


def _is_on_a_band(lines, height, width):
    image = torch.full((3, height, width), 0.5)
    drawn = draw_text(image, *lines)
    assert (drawn.shape, drawn.dtype) == (image.shape, image.dtype)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert drawn[:, -1].max() < 0.25 or height < 20  # the band
    assert torch.equal(image, torch.full((3, height, width), 0.5))
    if height >= 48:
        assert drawn.max() > 0.8  # letters
        assert (drawn[:, : height // 2] - 0.5).abs().max() < 0.003


def test_the_most_likely_class_is_drawn():
    task = Classification(reads="pet", classes=("cat", "dog"))
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(task.draw(image, torch.tensor([0.2, 0.8])), draw_text(image, "dog"))
    target, _ = task.target(np.array(["dog", "cat"]))
    assert task.as_answer(target).tolist() == [[0, 1], [1, 0]]


def test_numbers_keep_the_digits_before_the_point_and_have_no_exponent():
    numbers = (2009.0, 88.5, 160.0, 123456.7, -0.00012345, 0.0, float("nan"))
    texts = ["2009", "88.5", "160", "123457", "-0.0001234", "0", "nan"]
    assert [in_digits(number) for number in numbers] == texts

    (answer,) = Regression(reads="year").answer(torch.tensor([[160000.0]]))
    assert in_words(answer) == "160000"
    assert answer_in_words(answer) == "value 160000"
    two = Regression(outputs=("year", "angle"))
    (answer,) = two.answer(torch.tensor([[2009.0, 88.5]]))
    assert in_words(answer) == "year 2009 angle 88.5"
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    drawn = two.draw(image, torch.tensor([2009.0, 88.5]))
    assert torch.equal(drawn, draw_text(image, "year 2009", "angle 88.5"))
