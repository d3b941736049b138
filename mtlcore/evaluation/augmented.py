"""Sheets of augmentations: what the supervised heads read in training, with the labels in place.

    <task>: raw            | one column per image, as stored, with its label
    <task>: augmentation 1 | as the encoder reads it in a step, with the label that moved with it
    ...

In a mixed view the sample's own label is drawn. Below the image are the shares of both labels, and
the partner's label in words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from attrs import frozen
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..config.experiment import Experiment
from ..contracts import Answer, Batch, HeadInput, PreparedBatch, StepCounts, SupervisedTask
from ..data.dataset import RunData, open_data
from ..image_size import written
from ..model.plan import ViewPlan
from ..model.views import augment, prepare
from ..rng import KeyedRng
from ..tasks.draw_text import draw_text, in_digits
from .drawing import TILE, drawing, enlarged
from .preview import readable_samples
from .sheet import Strip, sheet

CAPTION_FONT, LINE = 14, 18  # pixels: height of the letters, and of a line
MOST_NUMBERS = 3  # of a label, in a caption
MOST_CHARACTERS = 30  # of a line


def augmentation_sheet(
    experiment: Experiment, images: int = 8, augmentations: int = 6
) -> np.ndarray:
    """Draw augmentations of labeled images, with their labels. -> (H, W, 3) uint8.

    One column per image. Images come from the validation split if it has enough with labels. The
    draws are those of the first steps of a run, on these images. Raises MtlError if no image can
    be read.
    """
    resolved, data = open_data(experiment, splits={"train", "validation"}, lazy=True)
    strips = list(augmented_strips(resolved, labeled_batch(resolved, data, images), augmentations))
    height = max(strip.images.shape[-2] for strip in strips)
    return sheet(strips, (height, TILE))


def labeled_batch(experiment: Experiment, data: RunData, n: int) -> Batch:
    """Return a batch of n samples with labels, or of any samples if too few have labels."""
    none = np.zeros(0, dtype=np.int64)
    candidates: list[np.ndarray] = []
    for split in ("validation", "train"):
        indices = data.split.get(split, none)
        candidates += [indices[data.labeled[indices]], indices]
    enough = [indices for indices in candidates if len(indices) >= n]
    chosen = enough[0] if enough else max(candidates, key=len)
    samples = readable_samples(data, chosen, n)

    cached = data.images.take(samples)
    targets = data.targets_of(samples, cached)
    present = {label: of_task[torch.from_numpy(samples)] for label, of_task in data.present.items()}
    # Every task has a loss, so that `prepare` makes its targets.
    counts = StepCounts(dict.fromkeys(experiment.tasks, len(samples)), len(samples), 0)
    return Batch(cached.images, targets, present, counts, len(samples))


def augmented_strips(experiment: Experiment, batch: Batch, augmentations: int) -> Iterator[Strip]:
    """Yield the strips of each task, or of the images alone if there is no task."""
    plan = ViewPlan(
        augment=experiment.augment,
        augmentations=experiment.augmentations,
        size=experiment.input.size,
        tasks={label: entry.component for label, entry in experiment.tasks.items()},
    )
    rngs = [KeyedRng((experiment.seed, step, 0)) for step in range(augmentations)]
    if not plan.tasks:
        yield _plain_strip("raw", batch.images / 255)
        for number, rng in enumerate(rngs, 1):
            clean = augment(plan, batch.images, rng).clean.images
            yield _plain_strip(f"augmentation {number}", clean)
        return

    prepared = [prepare(plan, batch, rng) for rng in rngs]
    for label, task in plan.tasks.items():
        raw = HeadInput((0,), ((batch.targets[label], batch.present[label].float()),))
        shown = _Labels(label, task, batch.present[label])
        yield shown.strip("raw", batch.images / 255, raw)
        for number, views in enumerate(prepared, 1):
            (head_input,) = views.head_inputs[label]
            yield shown.strip(f"augmentation {number}", _images(views, head_input), head_input)


def _images(views: PreparedBatch, head_input: HeadInput) -> Tensor:
    """Return the images (B, 3, H, W) that a head reads."""
    (position,) = head_input.images
    return views.images[position]


def _plain_strip(name: str, images: Tensor) -> Strip:
    return Strip(_named(name, images), torch.stack([enlarged(image) for image in images]))


def _named(name: str, images: Tensor) -> str:
    height, width = images.shape[-2:]
    return f"{name}\n{written((height, width))} px"


@frozen(eq=False)
class _Labels:
    """Draws the labels of one task.

    present: (B,) bool, the samples with a label.
    """

    label: str
    task: SupervisedTask
    present: Tensor

    def strip(self, name: str, images: Tensor, head_input: HeadInput) -> Strip:
        """Draw the labels of one view, on its images (B, 3, H, W)."""
        answers = [self.task.as_answer(target) for target, _ in head_input.targets]
        cells = []
        for i, image in enumerate(images):
            shares = self._shares(head_input, i)
            drawn = max(range(len(shares)), key=shares.__getitem__)  # the own label, if equal
            cell = self._drawn(image, answers[drawn][i], shares[drawn], head_input, i)
            if len(answers) > 1:
                both = [(shares[k], answers[k][i : i + 1]) for k in (drawn, 1 - drawn)]
                cell = with_lines(cell, self._lines(both))
            cells.append(cell)
        return Strip(f"{self.label}: {_named(name, images)}", torch.stack(cells))

    def _shares(self, head_input: HeadInput, i: int) -> list[float]:
        """Return the share of each label in sample i: its own, and its partner's if it is mixed."""
        shares = [1.0 if share is None else float(share[i]) for _, share in head_input.targets]
        if not self.present[i]:
            shares[0] = 0.0
        return shares

    def _drawn(
        self, image: Tensor, answer: Tensor, share: float, head_input: HeadInput, i: int
    ) -> Tensor:
        """Draw the label with the largest share in sample i, if it has one in this view."""
        if share == 0 and not self.present[i]:
            return draw_text(enlarged(image), "no label")
        if head_input.unfollowed is not None and head_input.unfollowed[i]:
            return draw_text(enlarged(image), "can't follow")
        return drawing(self.task, image, answer)

    def _lines(self, both: Sequence[tuple[float, Tensor]]) -> list[str]:
        """Return the lines below a mixed image: the shares of its labels, the drawn one first.

        both: shares and labels (1, ...).
        """
        names = ("as drawn", "of the other image")
        known = [(share, self._words_of(label, name)) for (share, label), name in zip(both, names)]
        known = [(share, words) for share, words in known if share > 0]
        missing = 1 - sum(share for share, _ in known)
        if known and missing > 1e-6:
            known.append((missing, "no label"))
        lines = [_cut(f"{share:.0%} {words}") for share, words in known]
        return [*lines, "", ""][:2]

    def _words_of(self, label: Tensor, dense: str) -> str:
        return in_words(self.task.answer(label)[0], dense)


def in_words(answer: Answer, dense: str = "") -> str:
    """Return an answer in a few words; `dense` for a map or points."""
    # By the form of the values: a number may be named "label", too.
    label, labels = answer.get("label"), answer.get("labels")
    if isinstance(label, str):
        return label
    if isinstance(labels, list):
        return ", ".join(labels) or "-"
    if isinstance(answer.get("map"), list) or isinstance(answer.get("points"), list):
        return dense
    if len(answer) == 1:
        return in_digits(next(iter(answer.values())))
    pairs = list(answer.items())[:MOST_NUMBERS]
    return " ".join(f"{name} {in_digits(number, 3)}" for name, number in pairs)


def _cut(line: str) -> str:
    """Shorten a line that is too long. The mark says that its last number may lack digits."""
    return line if len(line) <= MOST_CHARACTERS else f"{line[: MOST_CHARACTERS - 3]}..."


def with_lines(image: Tensor, lines: Sequence[str]) -> Tensor:
    """Write lines below an image: (3, H, W) -> (3, H + lines, W)."""
    page = Image.new("RGB", (image.shape[-1], LINE * len(lines)), "white")
    pen = ImageDraw.Draw(page)
    for i, line in enumerate(lines):
        pen.text((2, i * LINE), line, fill="black", font=ImageFont.load_default(CAPTION_FONT))
    below = torch.from_numpy(np.array(page)).permute(2, 0, 1).float() / 255
    return torch.cat([image.float(), below], 1)
