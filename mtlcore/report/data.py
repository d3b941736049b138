"""What a run was trained on: samples, labels, what was left out, and how it looks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..contracts import AlignedTask, SupervisedTask
from ..data.dataset import RunData
from ..evaluation.preview import readable_samples
from .blocks import Block, Gallery, Image, Missing, Table, Text
from .numbers import shown
from .opened import OpenedData
from .tiles import captioned, tile, words

ORDER = ("train", "validation", "val", "test")
SHEET = 8  # images of a task
CHUNK = 1 << 16  # samples whose labels are counted at a time
MOST_CLASSES = 40  # with a row of their own


def recorded(summary: Mapping[str, Any]) -> list[Block]:
    """What run.json says about the data. It is known even where the data is gone."""
    samples: Mapping[str, int] = summary.get("samples", {})
    labels: Mapping[str, Mapping[str, int]] = summary.get("labels", {})
    if not samples:
        return [Missing("counts", "run.json does not have them: the run has not started.")]
    splits = [name for name in in_order(samples) if samples[name]]
    rows = [("all samples", *(f"{samples[name]:,}" for name in splits))]
    for label, of_task in labels.items():
        cells = [f"{of_task.get(name, 0):,}" for name in splits]
        rows.append((f"with a label of {label}", *cells))
    found: list[Block] = [Table("Samples by split", ("", *splits), rows)]
    for line in summary.get("data_report", []):
        found.append(Text(line, quiet=True))
    if not summary.get("data_report", [1]):
        found.append(Text("No sample was left out.", quiet=True))
    return found


def label_tables(opened: OpenedData) -> Iterator[Table]:
    """The labels of each task by split: numbers of samples, or means and ranges."""
    for label, entry in opened.experiment.tasks.items():
        task = entry.component
        if isinstance(task, AlignedTask) or label not in opened.data.targets:
            continue
        by_split = {}
        for split in in_order(opened.data.split):
            indices = opened.data.split[split]
            present = opened.data.present[label][torch.from_numpy(indices)].numpy()
            if present.any():
                by_split[split] = _label_numbers(task, opened.data, label, indices[present])
        if by_split and task.answer_format().form == "values":
            yield _number_table(label, task, by_split)
        elif by_split:
            yield _class_table(label, task, by_split)


def in_order(splits: Iterable[str]) -> list[str]:
    """Names of splits: train, validation, val, test, then the others."""
    return sorted(splits, key=lambda name: (ORDER.index(name) if name in ORDER else 9, name))


def _label_numbers(
    task: SupervisedTask, data: RunData, label: str, indices: np.ndarray
) -> np.ndarray:
    """Sums of the answers (1, k) of classes; else the numbers themselves, (n, k)."""
    sums = task.answer_format().form != "values"
    parts = []
    for start in range(0, len(indices), CHUNK):
        targets = data.targets[label][torch.from_numpy(indices[start : start + CHUNK])]
        numbers = task.answer_numbers(task.as_answer(targets)).double()
        numbers = numbers.reshape(len(targets), -1)
        parts.append(numbers.sum(0, keepdim=True) if sums else numbers)
    joined = torch.cat(parts)
    return (joined.sum(0, keepdim=True) if sums else joined).numpy(force=True)


def _class_table(label: str, task: SupervisedTask, by_split: Mapping[str, np.ndarray]) -> Table:
    counts = {split: sums[0] for split, sums in by_split.items()}
    total = np.sum(list(counts.values()), 0)
    names = task.answer_format().names or [str(i) for i in range(len(total))]
    largest = sorted(np.argsort(-total, kind="stable")[:MOST_CLASSES].tolist())
    rows = [(names[i], *(shown(float(n[i])) for n in counts.values())) for i in largest]
    others = [i for i in range(len(total)) if i not in set(largest)]
    if others:
        rest = [shown(float(n[others].sum())) for n in counts.values()]
        rows.append((f"({len(others)} others)", *rest))
    return Table(f"Labels of {label}", ("class", *counts), rows)


def _number_table(label: str, task: SupervisedTask, by_split: Mapping[str, np.ndarray]) -> Table:
    form = task.answer_format()
    rows = []
    for split, numbers in by_split.items():
        names = form.names or [str(i) for i in range(numbers.shape[1])]
        for name, column in zip(names, numbers.T):
            cells = (column.mean(), column.std(), column.min(), column.max())
            texts = [shown(float(f"{cell:.4g}")) for cell in cells]
            rows.append((f"{name}, {split}", f"{len(column):,}", *texts))
    unit = f", {form.unit}" if form.unit else ""
    columns = ("", "n", "mean", "sd", "smallest", "largest")
    return Table(f"Labels of {label}{unit}", columns, rows)


# ---------------------------------------------------------------------------------- images


def sheet_of_data(opened: OpenedData) -> list[Block]:
    """Training images as they are stored, with their labels. Spread over classes and samples."""
    data = opened.data
    split = "train" if len(data.split.get("train", ())) else next(iter(data.split))
    found: list[Block] = []
    for label, entry in opened.experiment.tasks.items():
        indices = data.split[split]
        present = data.present[label][torch.from_numpy(indices)].numpy()
        if present.any():
            chosen = _spread(entry.component, data, label, indices[present])
            tiles = _tiles(label, entry.component, data, chosen)
            found.append(Gallery(f"Samples of {split} with their label of {label}.", tiles))
    if not found:
        chosen = readable_samples(data, data.split[split], SHEET)
        images = data.images.take(chosen).images / 255
        plain = [captioned(tile(None, image, None), "", f"A sample of {split}") for image in images]
        found.append(Gallery(f"Samples of {split}.", plain))
    return found


def _spread(task: SupervisedTask, data: RunData, label: str, indices: np.ndarray) -> np.ndarray:
    """About `SHEET` readable samples: the classes in turn, else evenly spaced."""
    few = indices[np.unique(np.linspace(0, len(indices) - 1, CHUNK >> 4).astype(int))]
    if task.answer_format().form == "label" and label in data.targets:
        targets = data.targets[label][torch.from_numpy(few)]
        classes = task.answer_numbers(task.as_answer(targets)).argmax(1).numpy(force=True)
        # The k-th sample of each class comes before the k + 1-th of any class.
        turn = np.zeros(len(few), dtype=int)
        for name in np.unique(classes):
            here = np.flatnonzero(classes == name)
            turn[here] = np.arange(len(here))
        few = few[np.lexsort((classes, turn))][:SHEET]
    return readable_samples(data, few, min(SHEET, len(few)))


def _tiles(label: str, task: SupervisedTask, data: RunData, indices: np.ndarray) -> Sequence[Image]:
    cached = data.images.take(indices)
    answers = task.as_answer(data.targets_of(indices, cached)[label])
    found = []
    for i, (image, key) in enumerate(zip(cached.images / 255, data.keys(indices))):
        text = _label_words(task, answers[i : i + 1])
        name = str(key).rsplit("/", 1)[-1]
        drawn = tile(task, image, answers[i])
        found.append(captioned(drawn, f"{text}\n{name}".strip(), f"Labeled {text or label}"))
    return found


def _label_words(task: SupervisedTask, decoded: torch.Tensor) -> str:
    if isinstance(task, AlignedTask):
        return ""
    return words(task, decoded)
