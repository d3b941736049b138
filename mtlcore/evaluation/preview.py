"""Sheets of pretext tasks: the views that the encoder reads, the targets, and the predictions.

    raw          | one column per image, as stored
    clean view   | as the encoder reads it in training
    <pretext>    | a strip for each of its views
                 | the target, if its head has an `ideal` output and the pretext can draw it
                 | the prediction, if a run is given

Images come from the validation split if it has enough, since the run did not train on them. They
are augmented as in training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from attrs import evolve, frozen
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..checkpoints import Checkpoint
from ..config.experiment import Experiment, PretextEntry
from ..contracts import (
    AugmentedBatch,
    Batch,
    BuildContext,
    Head,
    Output,
    PreparedBatch,
    PretextTask,
    Target,
    View,
)
from ..data.dataset import RunData, open_data
from ..encoders.weights import weights_from_checkpoint
from ..errors import MtlError
from ..image_size import written
from ..model.hybrid import HybridModel
from ..model.plan import ViewPlan
from ..model.views import prepare
from ..rng import KeyedRng, Rng
from ..runs import RunFolder
from ..weights import ANY_OTHER, load_weights
from .sheet import Strip, sheet, text_cells

TRIES = 16  # images to try for one column
MAX_NUMBERS = 16  # in one cell
CLEAN = "clean view"  # not an identifier, so no pretext can have this label


def preview(experiment: Experiment, run: Path | None = None, images: int = 8) -> np.ndarray:
    """Draw the sheet of an experiment. -> (H, W, 3) uint8, one column per image.

    run: also draw the predictions of this run. Raises MtlError if its weights belong to another
    configuration.
    """
    resolved, data = open_data(experiment, splits={"train", "validation"}, lazy=True)
    found = strips(resolved, some_images(data, images), run)
    return sheet(found, experiment.input.size)


def some_images(data: RunData, n: int) -> Tensor:
    """(N, 3, H, W) uint8, evenly spaced over validation, or over train if that is too small.

    An unreadable image is replaced by the next readable one. N < n if `TRIES` images in a row are
    unreadable, or if there are fewer than n. Raises MtlError if none can be read.
    """
    none = np.zeros(0, dtype=np.int64)
    indices = data.split.get("validation", none)
    if len(indices) < n:
        indices = data.split.get("train", none)
    return data.images.take(readable_samples(data, indices, n)).images


def readable_samples(data: RunData, indices: np.ndarray, n: int) -> np.ndarray:
    """Return about n of the indices, int64, evenly spaced, whose images can be read.

    An unreadable image is replaced by the next readable one. Raises MtlError if none can be read.
    """
    positions = (np.arange(n) + 0.5) * len(indices) // n
    positions = np.unique(positions).astype(np.int64)
    found: list[int] = []
    reason = "there is none"
    for start, end in pairwise([*positions.tolist(), len(indices)]):
        for position in range(start, min(end, start + TRIES)):
            try:
                data.images.take(indices[position : position + 1])
                found.append(int(indices[position]))
                break
            except MtlError as error:
                reason = str(error)
    if not found:
        raise MtlError(f"none of the images for the preview can be read: {reason}")
    return np.array(found, dtype=np.int64)


@torch.no_grad()
def strips(
    experiment: Experiment, images: Tensor, run: Path | None = None, *, numbers: bool = False
) -> list[Strip]:
    """The strips of raw uint8 images (N, 3, H, W). run: also its predictions.

    numbers: write targets and predictions that a pretext can't draw as numbers.
    """
    prepared = _prepared(experiment, images)
    model = _model(experiment, run)
    outputs = _outputs(model, prepared) if run else {}
    found = _common_strips(images, prepared)
    for shown in _pretexts(experiment, model, prepared):
        drawn = shown.drawn_target()
        found += [*shown.views(), *(drawn or shown.written_target() if numbers else drawn)]
        for output in outputs.get(shown.label, ()):
            if shown.can_draw:
                found.append(shown.drawn("prediction", output))
            elif numbers and shown.written_target():
                found.append(shown.written("prediction", shown.decided(output)))
    return found


@torch.no_grad()
def untrained_strips(experiment: Experiment, images: Tensor) -> list[Strip]:
    """The strips of raw uint8 images (N, 3, H, W), with the outputs of an untrained model.

    They show the form of targets and outputs. What a pretext cannot draw is written as numbers.
    """
    prepared = _prepared(experiment, images)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.seed)
        model = HybridModel(experiment).eval()
    outputs = _outputs(model, prepared)
    found = _common_strips(images, prepared)
    for shown in _pretexts(experiment, model, prepared):
        found += [*shown.views(), *(shown.drawn_target() or shown.written_target())]
        for output in outputs[shown.label]:
            if shown.can_draw:
                found.append(shown.drawn("untrained prediction", output))
            else:
                found.append(shown.written("untrained prediction", shown.decided(output)))
    return found


# ---------------------------------------------------------------------------------- model and batch


@frozen
class _CleanView(PretextTask):
    """Makes the clean view one of the prepared images. It is never built."""

    reads_mixed = True

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], Target]:
        return [batch.clean], None

    def build(self, context: BuildContext) -> Head:
        raise NotImplementedError


def _prepared(experiment: Experiment, images: Tensor) -> PreparedBatch:
    """The views of these images in the first step of a run: the clean one and all pretexts'."""
    keyed_rng = KeyedRng((experiment.seed, 0, 0))
    return prepare(preview_plan(experiment), Batch.unlabeled(images), keyed_rng)


def preview_plan(experiment: Experiment) -> ViewPlan:
    """The clean view, and the views of all pretexts on all samples, as in training."""
    pretexts = {CLEAN: PretextEntry(_CleanView())}
    for label, entry in experiment.pretexts.items():
        pretexts[label] = evolve(entry, samples="all", control="none")
    return ViewPlan(
        augment=experiment.augment,
        augmentations=experiment.augmentations,
        size=experiment.input.size,
        pretexts=pretexts,
    )


def _model(experiment: Experiment, run: Path | None) -> HybridModel:
    """The model in eval mode, with the weights of a run or with random ones."""
    pretrained = weights_from_checkpoint() if run else nullcontext()
    with torch.random.fork_rng(devices=[]), pretrained:
        model = HybridModel(experiment).eval()
    if run is None:
        return model
    checkpoint, weights = RunFolder.open(run).read("last", Checkpoint.weights)
    load_weights(model, weights, str(checkpoint.path), ignore=ANY_OTHER)
    return model


def _outputs(model: HybridModel, prepared: PreparedBatch) -> dict[str, list[Output]]:
    """Pretext label -> the outputs of its head."""
    head_inputs = dict(prepared.head_inputs)
    del head_inputs[CLEAN]  # it has no head
    if not head_inputs:
        return {}
    features, _ = model.encode(prepared)
    return model.forward_heads(features, evolve(prepared, head_inputs=head_inputs))


# ---------------------------------------------------------------------------------- strips


def _clean_image(prepared: PreparedBatch) -> int:
    """The position of the clean view in `prepared.images`."""
    (position,) = prepared.head_inputs[CLEAN][0].images
    return position


def _common_strips(images: Tensor, prepared: PreparedBatch) -> list[Strip]:
    """The strips above those of the pretexts."""
    clean = prepared.images[_clean_image(prepared)]
    return [
        Strip(f"raw\n{_pixels(images)}", images / 255),
        Strip(f"{CLEAN}\n{_pixels(clean)}", clean),
    ]


def _pretexts(
    experiment: Experiment,
    model: HybridModel,
    prepared: PreparedBatch,
) -> Iterator[_Pretext]:
    for label, entry in experiment.pretexts.items():
        head = model.heads[label]
        assert isinstance(head, Head)
        yield _Pretext(label, entry.component, head, prepared)


@frozen(eq=False)
class _Pretext:
    """Makes the strips of one pretext."""

    label: str
    task: PretextTask
    head: Head
    prepared: PreparedBatch

    @property
    def positions(self) -> tuple[int, ...]:
        """Its views in `prepared.images`."""
        return self.prepared.head_inputs[self.label][0].images

    @property
    def first_view(self) -> Tensor:
        return self.prepared.images[self.positions[0]]

    @property
    def target(self) -> Target:
        return self.prepared.head_inputs[self.label][0].targets[0][0]

    @property
    def can_draw(self) -> bool:
        return type(self.task).draw is not PretextTask.draw

    def views(self) -> list[Strip]:
        """A strip for each view but the clean one, which every sheet shows above."""
        clean, count = _clean_image(self.prepared), len(self.positions)
        found = []
        for number, position in enumerate(self.positions, 1):
            if position != clean:
                view = self.prepared.images[position]
                text = f"{self.label}\nview {number} of {count}, {_pixels(view)}"
                found.append(Strip(text, view))
        return found

    def drawn_target(self) -> list[Strip]:
        """The target; nothing if the head has no `ideal` or the pretext draws nothing."""
        ideal = getattr(self.head, "ideal", None)
        if ideal is None or not self.can_draw or self.target is None:
            return []
        return [self.drawn("target", ideal(self.target))]

    def written_target(self) -> list[Strip]:
        """The target as numbers; nothing if there is no target."""
        if not _tensors(self.target):
            return []
        return [self.written("target", self.target)]

    def drawn(self, what: str, output: Output) -> Strip:
        """An output as the pretext draws it on the first view."""
        if len(self.positions) > 1:
            what = f"{what}, view 1"
        drawing = self.task.draw(self.first_view, self.target, output)
        return Strip(f"{self.label}\n{what}", drawing)

    def written(self, what: str, tree: Target | Output) -> Strip:
        """A target or an output as numbers."""
        texts = [_numbers(tree, sample) for sample in range(len(self.first_view))]
        return Strip(f"{self.label}\n{what}", text_cells(texts), texts)

    def decided(self, output: Output) -> Output:
        """The class with the highest logit, where the head says that it predicts `choices`."""
        choices = getattr(self.head, "choices", None)
        if isinstance(output, Tensor) and isinstance(choices, int):
            is_logits = output.ndim > 1 and output.shape[1] == choices
            return output.argmax(1) if is_logits else output
        if isinstance(output, dict) and isinstance(choices, dict):
            chosen = {key: output[key].argmax(1) for key in output if key in choices}
            return output | chosen
        return output


def _numbers(tree: Target | Output, sample: int) -> list[str]:
    """The numbers of one sample, one line a tensor."""
    named = [("", leaf) for leaf in _tensors(tree)]
    if isinstance(tree, dict):
        named = list(tree.items())
    lines = []
    for name, leaf in named:
        if isinstance(leaf, Tensor) and leaf.ndim:
            lines.append(f"{name} {_short(leaf[sample])}".strip())
    return lines


def _short(values: Tensor) -> str:
    """All values, or their shape if they are many."""
    if values.numel() > MAX_NUMBERS:
        return f"{'x'.join(map(str, values.shape))} values"
    texts = []
    for value in values.flatten().tolist():
        text = f"{value:.2g}" if isinstance(value, float) else str(int(value))
        texts.append(text)
    return " ".join(texts)


def _tensors(tree: Target | Output) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _pixels(images: Tensor) -> str:
    height, width = images.shape[-2:]
    return f"{written((height, width))} px"
