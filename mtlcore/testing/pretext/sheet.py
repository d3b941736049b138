"""A sheet to look at while a pretext is written: clean images, each view, what must be answered, what its head answers.

The head is untrained, so its answers show what they look like, not how good they are. Those that the pretext can't draw are
written as numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...config.experiment import PretextEntry, TaskEntry
from ...contracts import Head, PretextTask
from ...errors import MtlError
from ...evaluation.preview import Strip, strips
from ...evaluation.preview import sheet as drawn_below_each_other
from ...model.hybrid import HybridModel
from ...model.views import prepare
from ...registry.components import component_name
from ...rng import KeyedRng
from ..generators import seeded
from ..subject import patterns
from .harness import HarnessTask, harness_experiment, samples, shared_heads_of, tensors

CELL, LETTERS = 96, 11  # pixels: a side of a cell with words, the height of its letters
MOST = 16  # numbers that are written into one cell


def sheet(
    component: PretextTask,
    images: Tensor | None = None,
    *,
    size: int = 64,
    columns: int = 8,
    seed: int = 0,
) -> np.ndarray:
    """-> (H, W, 3) uint8, one column an image.

    images: (N, 3, S, S) uint8 (default: `columns` drawn patterns). size: the side of the views. seed: of all draws.
    Raises MtlError where the component is no pretext task.
    """
    if not isinstance(component, PretextTask):
        raise MtlError(
            f"a sheet shows pretext tasks, and {component_name(type(component))!r} is a {component.kind}"
        )
    images = patterns(columns, size * 5 // 4, seed) if images is None else images[:columns]
    label = component_name(type(component))
    shared_labels = shared_heads_of(component)
    experiment = harness_experiment(
        size, {label: PretextEntry(component)}, {t: TaskEntry(HarnessTask()) for t in shared_labels}
    )
    with seeded(seed):
        found, model = strips(experiment, images), HybridModel(experiment).eval()
    with torch.no_grad():
        prepared = prepare(experiment, samples(images, shared_labels), KeyedRng((seed, 0, 0)))
        (output,) = model.forward_heads(model.encode(prepared)[0], prepared)[label]
    head, head_input = model.heads[label], prepared.head_inputs[label][0]
    assert isinstance(head, Head)
    target = head_input.targets[0][0]
    told = _told(label, component, head, prepared.images[head_input.images[0]], target, output)
    return drawn_below_each_other([*found, *told], size)


def _told(
    label: str, task: PretextTask, head: Head, view: Tensor, target: Any, output: Any
) -> list[Strip]:
    """The right answer in numbers, and the untrained head's, drawn where the pretext can draw."""
    draws = type(task).draw is not PretextTask.draw
    found = []
    if tensors(target) and not (draws and hasattr(head, "ideal")):  # else the right answer is drawn
        found.append(Strip(f"{label}\nmust be answered", _written(target, len(view))))
    if draws:
        return [
            *found,
            Strip(f"{label}\nthe untrained head's answer", task.draw(view, target, output)),
        ]
    return [
        *found,
        Strip(f"{label}\nthe untrained head's answer", _written(_decided(head, output), len(view))),
    ]


def _decided(head: Head, output: Any) -> Any:
    """Of K-way logits the best; else the output itself."""
    choices = getattr(head, "choices", None)
    if (
        isinstance(output, Tensor)
        and isinstance(choices, int)
        and output.ndim > 1
        and output.shape[1] == choices
    ):
        return output.argmax(1)
    if isinstance(output, dict) and isinstance(choices, dict):
        return {k: x.argmax(1) if k in choices else x for k, x in output.items()}
    return output


def _written(tree: Any, n: int) -> Tensor:
    """(N, 3, CELL, CELL) in [0, 1]: each row's numbers, as words."""
    cells = [_cell(_lines(tree, i)) for i in range(n)]
    return torch.from_numpy(np.stack(cells)).permute(0, 3, 1, 2).float() / 255


def _lines(tree: Any, row: int) -> list[str]:
    named = tree.items() if isinstance(tree, dict) else [("", x) for x in tensors(tree)]
    return [
        f"{name} {_short(leaf[row])}".strip()
        for name, leaf in named
        if isinstance(leaf, Tensor) and leaf.ndim
    ]


def _short(x: Tensor) -> str:
    if x.numel() > MOST:
        return f"{'x'.join(map(str, x.shape))} values"
    return " ".join(
        f"{v:.2g}" if isinstance(v, float) else f"{int(v)}" for v in x.flatten().tolist()
    )


def _cell(lines: list[str]) -> np.ndarray:
    page, font = Image.new("RGB", (CELL, CELL), "white"), ImageFont.load_default(LETTERS)
    pen, text = ImageDraw.Draw(page), ""
    for word in "\n ".join(lines).split(" "):
        longer = f"{text} {word}".strip(" ")
        fits = pen.textlength(longer.rsplit("\n", 1)[-1], font) < CELL - 4
        text = longer if fits else f"{text}\n{word.strip()}"
    pen.multiline_text((2, 2), text.strip(), fill="black", font=font)
    return np.asarray(page)
