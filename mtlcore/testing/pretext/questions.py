"""Checks that the target of a sample describes its own view: draws of one sample are changed.

The pretext receives an `EditedRng`. It draws as the generator of a run does, but a check can
replace the numbers of one sample, or give all samples the same numbers.

Shapes: B = SAMPLES images of SIZE pixels. Augmentations draw nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from attrs import field, frozen
from torch import Tensor

from ...contracts import Target
from ...rng import KeyedRng, Rng
from ..kit import Group
from ..requirements import Skip, require
from ..subject import Drawn, patterns
from ..trees import equal_samples, tensors
from .harness import LABEL, PretextSubject, raw
from .views import OWN_VIEWS, STILL

SAMPLES = 7  # a number that is rarely another dimension of a draw
SIZE = 32
SEEDS = 2
REDRAWS = 5  # of each draw, each for another sample
MOST_DRAWS = 12
ROUNDING = 1e-5
TOGETHER = 0.5  # share of changed answers whose view must change: a turn by 0 degrees shows nothing

HIDDEN = "it draws from `rng.generator` itself: only draws by the methods of `rng` can be edited"

ALIKE = "equal_samples_get_equal_answers"

QUESTIONS_CHECKS = Group()


@QUESTIONS_CHECKS.check(
    "questions",
    why="a target that depends on the position in the batch, or on draws of its own, describes no "
    "view.",
    mend="Draw from the rng that views() receives, numbers for each sample: rng.randint(4, B). Use "
    "no torch.arange(B) % 4, and do not create or seed another generator.",
    needs="another_seed_gives_other_views",
    capability="independent_samples",
)
def equal_samples_get_equal_answers(subject: PretextSubject) -> None:
    """Samples with the same image and the same draws have the same views and the same target."""
    for seed in range(SEEDS):
        images = patterns(1, SIZE * 5 // 4, seed).expand(SAMPLES, -1, -1, -1).contiguous()
        rng = _rng(seed, lambda _, one, __: _first_for_all(one))
        views, target = _asked(subject, images, rng)
        alike = all(_rows_are_alike(x) for x in (*views, *tensors(target)))
        if not alike and rng.has_loose_draws:
            raise Skip("some of its draws have no dimension of B samples")
        if not alike and rng.has_hidden_draws:
            raise Skip(HIDDEN)
        require(alike, "they differ")


@QUESTIONS_CHECKS.check(
    "questions",
    why="the answer of another sample teaches noise.",
    mend="Use the draws of sample i for the view and the answer of sample i. Is a roll, a flip or "
    "an index wrong?",
    needs=(ALIKE, OWN_VIEWS),
    capability="independent_samples",
)
def a_draw_changes_its_own_sample_alone(subject: PretextSubject) -> None:
    """Another draw for one sample changes the views and targets of no other sample."""
    for redraw in _redraws(subject):
        if redraw.is_shared:
            continue
        others = redraw.changed.clone()
        others[redraw.row] = False
        changed = others.nonzero().flatten().tolist()
        require(not changed, f"another draw for sample {redraw.row} changes samples {changed}")


@QUESTIONS_CHECKS.check(
    "questions",
    why="an answer that the view does not show can't be learned: it teaches noise.",
    mend="Use the same draws for the view and for the answer. A leaf of the target that is a "
    "question (a place) must stay in `permute`.",
    needs=(ALIKE, "targets_can_be_permuted"),
    core=True,
)
def answers_change_with_their_views(subject: PretextSubject) -> None:
    """A draw that changes a sample's answer also changes its views, or its question."""
    seen: dict[tuple[int, int], list[bool]] = {}
    for redraw in _redraws(subject):
        for leaf, changed in redraw.answers.items():
            if bool(changed[redraw.row]):
                visible = bool(redraw.asked[redraw.row])
                seen.setdefault((redraw.draw, leaf), []).append(visible)
    if not seen:
        raise Skip("its draws change no answer")
    for (draw, leaf), shown in seen.items():
        share = sum(shown) / len(shown)
        found = f"draw {draw + 1} of views() changes leaf {leaf + 1} of the target"
        require(share >= TOGETHER, f"{found}, and in {1 - share:.0%} of these cases nothing else")


# ------------------------------------------------------------------------------------- edited draws

Edit = Callable[[int, Tensor, Tensor], Tensor]
"""(number of the draw, its numbers, other numbers) -> the numbers that the pretext receives."""


@frozen(eq=False)
class EditedRng(Rng):
    """A generator whose draws are edited.

    other: draws the other numbers. states: of the generator, at first and after each draw. shapes:
    of the draws so far. hidden: whether the generator was used alone before each draw.
    """

    other: torch.Generator
    edit: Edit
    states: list[Tensor]
    shapes: list[torch.Size] = field(factory=list)
    hidden: list[bool] = field(factory=list)

    @property
    def has_loose_draws(self) -> bool:
        """True if some draw has several numbers, but no dimension of samples."""
        return any(shape.numel() > 1 and _dimension(shape) is None for shape in self.shapes)

    @property
    def has_hidden_draws(self) -> bool:
        """True if the generator was used alone, without the methods of this class."""
        return any(self.hidden) or self._was_used_alone()

    def rand(self, *shape: int) -> Tensor:
        return self._edited(lambda rng: rng.rand(*shape))

    def randn(self, *shape: int) -> Tensor:
        return self._edited(lambda rng: rng.randn(*shape))

    def randint(self, high: int, *shape: int) -> Tensor:
        return self._edited(lambda rng: rng.randint(high, *shape))

    def permutations(self, samples: int, n: int) -> Tensor:
        return self.rand(samples, n).argsort(1)

    def integer(self, low: int, high: int) -> int:
        return int(self._edited(lambda rng: torch.tensor(rng.integer(low, high))))

    def _was_used_alone(self) -> bool:
        return not torch.equal(self.generator.get_state(), self.states[-1])

    def _edited(self, draw: Callable[[Rng], Tensor]) -> Tensor:
        self.hidden.append(self._was_used_alone())
        one = draw(Rng(self.generator, self.device))
        other = draw(Rng(self.other, self.device))
        self.shapes.append(one.shape)
        self.states.append(self.generator.get_state())
        return self.edit(len(self.shapes) - 1, one, other)


def _rng(seed: int, edit: Edit, other: int = 0) -> EditedRng:
    one, two = KeyedRng((seed,))(LABEL), KeyedRng((seed, other))(LABEL)
    states = [one.generator.get_state()]
    return EditedRng(one.generator, one.device, two.generator, edit, states)


def _dimension(shape: torch.Size) -> int | None:
    """The dimension of samples; None if there is none."""
    return next((d for d, n in enumerate(shape) if n == SAMPLES), None)


def _first_for_all(x: Tensor) -> Tensor:
    """The numbers of the first sample for all samples."""
    dimension = _dimension(x.shape)
    if dimension is None:
        return x
    return x.index_select(dimension, torch.zeros(SAMPLES, dtype=torch.int64))


def _of_one_row(draw: int, row: int) -> Edit:
    """Other numbers for one sample in one draw; for all if the draw has no dimension of samples."""

    def edit(number: int, one: Tensor, other: Tensor) -> Tensor:
        dimension = _dimension(one.shape)
        if number != draw:
            return one
        if dimension is None:
            return other
        index = torch.tensor([row])
        return one.index_copy(dimension, index, other.index_select(dimension, index))

    return edit


# -------------------------------------------------------------------------------- what they change


@frozen(eq=False)
class _Redraw:
    """What other numbers for one sample in one draw change. All tensors are (B,) bool.

    is_shared: the draw has no dimension of samples, so all of it is drawn again. asked: the samples
    whose views or questions change. answers: the same for each leaf of the target that is an
    answer, by its number.
    """

    row: int
    draw: int
    is_shared: bool
    asked: Tensor
    answers: dict[int, Tensor]

    @property
    def changed(self) -> Tensor:
        return torch.stack([self.asked, *self.answers.values()]).any(0)


def _redraws(subject: PretextSubject) -> Iterator[_Redraw]:
    for seed in range(SEEDS):
        images = raw(Drawn(SAMPLES, SIZE, seed))
        rng = _rng(seed, lambda _, one, __: one)
        views, target = _asked(subject, images, rng)
        if not rng.shapes:
            nothing = "it draws nothing: its views are a function of the image"
            raise Skip(HIDDEN if rng.has_hidden_draws else nothing)
        questions = _questions(subject, target)
        before = tensors(target)
        for draw, shape in enumerate(rng.shapes[:MOST_DRAWS]):
            for row in range(REDRAWS):
                edited = _rng(seed, _of_one_row(draw, row), other=row)
                new_views, new_target = _asked(subject, images, edited)
                leaves = [_changed(a, b) for a, b in zip(before, tensors(new_target))]
                asked = [_changed(a, b) for a, b in zip(views, new_views)]
                asked += [leaves[i] for i in questions]
                answers = {i: x for i, x in enumerate(leaves) if i not in questions}
                together = torch.stack(asked).any(0)
                yield _Redraw(row, draw, _dimension(shape) is None, together, answers)


def _asked(subject: PretextSubject, images: Tensor, rng: Rng) -> tuple[list[Tensor], Target]:
    """The images of the views, and the target. Nothing but `rng` draws."""
    augmented = subject.augmented(images, SIZE, KeyedRng((0,)), STILL)
    views, target = subject.component.views(augmented, rng)
    return [view.images for view in views], target


def _questions(subject: PretextSubject, target: Target) -> list[int]:
    """Numbers of the leaves that `permute` keeps: they are a part of the input, no answers."""
    if not tensors(target):
        return []
    permuted = subject.component.permute(target, torch.arange(SAMPLES).roll(1))
    pairs = zip(tensors(target), tensors(permuted))
    is_constant = [bool((x == x[:1]).all()) for x in tensors(target)]
    return [i for i, (a, b) in enumerate(pairs) if torch.equal(a, b) and not is_constant[i]]


def _changed(a: Tensor, b: Tensor) -> Tensor:
    """(B,) bool."""
    if a.shape != b.shape:
        return torch.ones(SAMPLES, dtype=torch.bool)
    return ~equal_samples(a, b)


def _rows_are_alike(x: Tensor) -> bool:
    return bool(torch.allclose(x.double(), x[:1].double(), atol=ROUNDING))
