"""All datasets of a run side by side: images, targets, who has which label, splits.

`open_data` indexes each dataset once, cuts its splits, fits the tasks on the labeled training samples, and reads the
images of the samples that are needed. What it leaves out is counted and told, never silent.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import partial

import numpy as np
import torch
from attrs import evolve, frozen
from torch import Tensor

from ..config.experiment import Experiment, TaskEntry
from ..contracts import Annotation, Skipped, SupervisedTask
from ..errors import MtlError, nearest
from .cache import ImageCache, OnDemandImageCache, Progress, Unreadable, cache_size, open_images
from .indexed import IndexedDataset, open_dataset, some
from .splits import given

Answers = tuple[Tensor, Tensor]  # targets (N, ...), zeros where absent; present (N,) bool


def _no_annotation(name: str) -> Annotation:
    raise MtlError(f"this data gives no annotation {name!r}")


@frozen(eq=False)
class RunData:
    """N samples of all datasets: those of the splits that were asked for.

    experiment: the run's, with fitted tasks and the cache size filled in.
    targets: task label -> (N, ...), zeros where absent. present: task label -> (N,) bool.
    dataset: (N,) int64, the place of the sample's dataset in `experiment.data`. keys: (N,) its name there.
    attributes: name -> (N,) strings, "" where the dataset has none.
    split: name -> samples, int64, rising; unreadable samples are in none.
    fingerprint: of all samples of all datasets, their annotations and splits, and the cache size; the same for all arms.
    report: what was left out, a line each.
    annotation: name -> (N,) or (N, ...), "" or NaN where a sample's dataset does not give it or its label was cut from train.
    """

    experiment: Experiment
    images: ImageCache
    targets: dict[str, Tensor]
    present: dict[str, Tensor]
    dataset: np.ndarray
    keys: np.ndarray
    attributes: dict[str, np.ndarray]
    split: dict[str, np.ndarray]
    fingerprint: str
    report: tuple[str, ...] = ()
    annotation: Callable[[str], Annotation] = _no_annotation

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def tasks(self) -> dict[str, SupervisedTask]:
        """The fitted tasks by label."""
        return {label: entry.component for label, entry in self.experiment.tasks.items()}

    @property
    def labeled(self) -> np.ndarray:
        """(N,) bool: samples that carry a label of any task."""
        return _any(self.present, len(self))


def open_data(
    experiment: Experiment,
    splits: Collection[str] | None = None,
    progress: Progress | None = None,
    memory: int | None = None,
    lazy: bool = False,
) -> RunData:
    """Index, split, fit, read.

    splits: which are needed (default: all); only their images are read. Of "train" only the share `labels` keeps its
    labels; the other samples go, or stay as unlabeled ones. All other splits keep every label. Where "train" is not asked
    for, tasks that this data has no labels for are left out (of `targets` and of the dataset's `experiment`).
    progress: told how many images are read. memory: bytes that they may take before they are decoded on demand
    instead (default: half of what there is). lazy: only a few images will be looked at: none is read beforehand, so
    unreadable samples are still in their splits, and taking one raises MtlError.
    Raises MtlError: a dataset that can't be indexed or has too many bad samples, a task that no dataset gives labels for, an
    unknown column, a split without samples, a task that can't be fitted.
    """
    datasets = [open_dataset(experiment, label) for label in experiment.data]
    tasks, report = _served(experiment.tasks, datasets, splits is None or "train" in splits)
    whole = _Samples.join(datasets)
    tasks = {label: _fitted(label, entry, whole, datasets) for label, entry in tasks.items()}
    answers = {label: _answers(entry.component, whole, datasets) for label, entry in tasks.items()}
    split = _without_dropped(
        whole, datasets, {label: present for label, (_, present) in answers.items()}
    )
    wanted = _wanted(split, splits)
    side = cache_size_of(datasets, experiment, wanted)
    kept = np.flatnonzero(np.isin(split, wanted))
    samples = whole.only(kept)
    images, unreadable = _opened(samples, datasets, side, progress, memory, lazy)
    readable = ~np.isin(np.arange(len(samples)), list(unreadable))
    data = RunData(
        experiment=evolve(experiment, tasks=tasks, input=evolve(experiment.input, cache_size=side)),
        images=images,
        targets={label: target[kept] for label, (target, _) in answers.items()},
        present={label: present[kept] for label, (_, present) in answers.items()},
        dataset=samples.dataset,
        keys=samples.keys,
        attributes=samples.attributes(datasets),
        split={name: np.flatnonzero((split[kept] == name) & readable) for name in wanted},
        fingerprint=fingerprint_of(datasets, side),
        annotation=lambda name: _of_all(name, whole, datasets)[kept],
    )
    report += [*_left_out(datasets, samples, unreadable), *_dropped(split, whole, datasets, wanted)]
    return evolve(
        data, report=(*report, *_not_known(tasks, answers, whole, datasets), *_unanswered(data))
    )


def cache_size_of(
    datasets: list[IndexedDataset], experiment: Experiment, wanted: Collection[str] = ()
) -> int:
    """The side S of the image cache, judged by images of train and validation, whether or not their labels are kept.

    Those of test are not looked at: a run may not know them. Both, since validation is cut out of train by the seed. Where neither
    has a sample (a dataset to evaluate on), by the `wanted` splits.
    """
    whole = _Samples.join(datasets)
    known = np.isin(whole.split, ("train", "validation"))
    samples = whole.only(
        np.flatnonzero(known if known.any() else np.isin(whole.split, list(wanted)))
    )
    return cache_size(
        samples.decoder(datasets), len(samples), experiment.input.size, experiment.input.cache_size
    )


def _opened(
    samples: _Samples,
    datasets: list[IndexedDataset],
    side: int,
    progress: Progress | None,
    memory: int | None,
    lazy: bool,
) -> tuple[ImageCache, Unreadable]:
    if lazy:
        return OnDemandImageCache(samples.decoder(datasets), side), {}
    check = partial(_refuse_too_many, datasets, samples)
    return open_images(samples.decoder(datasets), len(samples), side, progress, check, memory)


# ------------------------------------------------------------------------------------------------ all samples


@frozen(eq=False)
class _Samples:
    """N samples of all datasets. dataset: (N,) its number; local: (N,) the sample in its index; the rest as in `IndexedDataset`."""

    dataset: np.ndarray
    local: np.ndarray
    keys: np.ndarray
    split: np.ndarray
    labeled: np.ndarray

    @classmethod
    def join(cls, datasets: list[IndexedDataset]) -> _Samples:
        if not datasets:
            raise MtlError("the run has no data: it needs a table [data.<label>]")
        return cls(
            np.repeat(np.arange(len(datasets)), [len(s) for s in datasets]),
            np.concatenate([np.arange(len(s)) for s in datasets]),
            np.concatenate([s.index.keys.astype(str) for s in datasets]),
            np.concatenate([s.split for s in datasets]),
            np.concatenate([s.labeled for s in datasets]),
        )

    def __len__(self) -> int:
        return len(self.keys)

    def only(self, samples: np.ndarray) -> _Samples:
        return _Samples(
            self.dataset[samples],
            self.local[samples],
            self.keys[samples],
            self.split[samples],
            self.labeled[samples],
        )

    def decoder(self, datasets: list[IndexedDataset]) -> _Decoder:
        return _Decoder(datasets, self.dataset.tolist(), self.local.tolist())

    def attributes(self, datasets: list[IndexedDataset]) -> dict[str, np.ndarray]:
        found = {}
        for name in dict.fromkeys(name for s in datasets for name in s.index.attributes):
            columns = [
                s.index.attributes.get(name, np.full(len(s), "")).astype(str) for s in datasets
            ]
            starts = np.cumsum([0, *map(len, datasets)])[:-1]
            found[name] = np.concatenate(columns)[starts[self.dataset] + self.local]
        return found


@frozen(eq=False)
class _Decoder:
    """Row -> its image (H, W, 3) uint8, by the dataset it comes from."""

    datasets: list[IndexedDataset]
    dataset: list[int]
    local: list[int]

    def __call__(self, sample: int) -> np.ndarray:
        its = self.datasets[self.dataset[sample]]
        return its.entry.component.decode(its.index, self.local[sample])


# ------------------------------------------------------------------------------------------------ tasks


def _served(
    tasks: Mapping[str, TaskEntry], datasets: list[IndexedDataset], training: bool
) -> tuple[dict[str, TaskEntry], list[str]]:
    """-> the tasks that a dataset has labels for, and a line about each other one. In training there may be no other."""
    found, report = {}, []
    gives = "; ".join(
        f"data.{s.label} gives {', '.join(s.index.annotations) or 'none'}" for s in datasets
    )
    for label, entry in tasks.items():
        name = entry.component.reads
        line = f"task.{label} reads the annotation {name!r}, which no dataset gives ({gives})"
        if any(s.gives(name) for s in datasets):
            found[label] = entry
        elif training:
            raise MtlError(
                f"{line}; {nearest(name, {a for s in datasets for a in s.index.annotations})}"
            )
        else:
            report.append(line)
    if tasks and not found:
        raise MtlError(report[0])
    return found, report


def _annotation(name: str, datasets: list[IndexedDataset]) -> tuple[Annotation, np.ndarray]:
    """-> the values of all datasets that give it, and (N,) bool over all samples: where they stand."""
    givers = [s for s in datasets if s.gives(name)]
    parts = [s.index.annotations[name] for s in givers]
    if len({(part.dtype.kind in "fiub", part.shape[1:]) for part in parts}) > 1:
        kinds = ", ".join(
            f"data.{s.label}: {part.dtype} {part.shape}" for s, part in zip(givers, parts)
        )
        raise MtlError(f"the datasets disagree on what the annotation {name!r} is: {kinds}")
    return np.concatenate(parts), np.concatenate([np.full(len(s), s.gives(name)) for s in datasets])


def _of_all(name: str, samples: _Samples, datasets: list[IndexedDataset]) -> Annotation:
    """(N, ...) over all samples, missing where the dataset does not give it, and where the label was cut from train."""
    known = {a for s in datasets for a in s.index.annotations}
    if name not in known:
        raise MtlError(f"no dataset gives the annotation {name!r}; {nearest(name, known)}")
    values, where = _annotation(name, datasets)
    numbers = values.dtype.kind in "fiub"
    found = np.full(
        (len(samples), *values.shape[1:]),
        np.nan if numbers else "",
        dtype=float if numbers else values.dtype,
    )
    found[where] = values
    found[~_keeps_labels(samples)] = np.nan if numbers else ""
    return found


def _fitted(
    label: str, entry: TaskEntry, samples: _Samples, datasets: list[IndexedDataset]
) -> TaskEntry:
    values, where = _annotation(entry.component.reads, datasets)
    learned_from = ((samples.split == "train") & samples.labeled)[where] & given(values)
    try:
        return evolve(entry, component=entry.component.fit(values[learned_from]))
    except (ValueError, MtlError) as error:
        raise MtlError(f"task.{label}: {error}") from error


def _answers(task: SupervisedTask, samples: _Samples, datasets: list[IndexedDataset]) -> Answers:
    """Targets and presence of all N samples; labels that were cut from train are absent."""
    values, where = _annotation(task.reads, datasets)
    target, present = task.target(values)
    present = present & torch.from_numpy(_keeps_labels(samples)[where])
    target = target.masked_fill(~present.view(-1, *[1] * (target.ndim - 1)), 0)
    n, places = len(samples), torch.from_numpy(np.flatnonzero(where))
    targets = torch.zeros(n, *target.shape[1:], dtype=target.dtype).index_copy(0, places, target)
    return targets, torch.zeros(n, dtype=torch.bool).index_copy(0, places, present)


def _keeps_labels(samples: _Samples) -> np.ndarray:
    return (samples.split != "train") | samples.labeled


def _any(present: Mapping[str, Tensor], n: int) -> np.ndarray:
    return np.logical_or.reduce([np.zeros(n, dtype=bool), *(p.numpy() for p in present.values())])


# ------------------------------------------------------------------------------------------------ splits


def _without_dropped(
    samples: _Samples, datasets: list[IndexedDataset], present: Mapping[str, Tensor]
) -> np.ndarray:
    """(N,) split names, "" where an unlabeled sample of train goes. Without tasks only samples whose labels were cut go."""
    labeled = _any(present, len(samples)) if present else samples.labeled
    drops = np.array([s.entry.unlabeled == "drop" for s in datasets])[samples.dataset]
    return np.where((samples.split == "train") & ~labeled & drops, "", samples.split)


def _wanted(split: np.ndarray, asked: Collection[str] | None) -> list[str]:
    """The splits to open. An empty one is an error, but for validation beside train: a run may do without."""
    known = set(split.tolist()) - {""}
    names = sorted(set(asked) if asked is not None else known | {"train", "validation"})
    for name in names:
        if name not in known and not (name == "validation" and "train" in names):
            raise MtlError(f"the data has no sample of the split {name!r}; {nearest(name, known)}")
    return names


def fingerprint_of(datasets: list[IndexedDataset], side: int) -> str:
    """128 bits of what the samples are and how they were split."""
    digest = hashlib.blake2b(repr(side).encode(), digest_size=16)
    for s in datasets:
        digest.update(s.label.encode())
        annotations = (value for _, value in sorted(s.index.annotations.items()))
        for array in (s.index.keys, s.split, s.labeled, *annotations):
            digest.update(_bytes(array))
    return digest.hexdigest()


def _bytes(array: np.ndarray) -> bytes:
    if array.dtype.kind in "fiub":
        return np.ascontiguousarray(array, dtype="<f8").tobytes()
    return "\0".join(array.astype(str).ravel().tolist()).encode(errors="surrogatepass")


# ------------------------------------------------------------------------------------------------ what was left out


def _bad(
    datasets: list[IndexedDataset], samples: _Samples, unreadable: Unreadable
) -> list[Skipped]:
    """All that each dataset skipped, unreadable images included."""
    found = [
        Skipped({reason: list(names) for reason, names in s.index.skipped.names.items()})
        for s in datasets
    ]
    for sample, reason in sorted(unreadable.items()):
        found[int(samples.dataset[sample])].add("unreadable", reason)
    return found


def _refuse_too_many(
    datasets: list[IndexedDataset], samples: _Samples, unreadable: Unreadable
) -> None:
    for dataset, skipped in zip(datasets, _bad(datasets, samples, unreadable)):
        dataset.refuse_too_many(skipped)


def _left_out(
    datasets: list[IndexedDataset], samples: _Samples, unreadable: Unreadable
) -> list[str]:
    return [
        line
        for s, skipped in zip(datasets, _bad(datasets, samples, unreadable))
        for line in s.left_out(skipped)
    ]


def _dropped(
    split: np.ndarray, samples: _Samples, datasets: list[IndexedDataset], wanted: list[str]
) -> list[str]:
    """A line for each dataset that loses samples of train because they carry no label."""
    gone = np.bincount(
        samples.dataset[(samples.split == "train") & (split == "")], minlength=len(datasets)
    )
    return [
        f"data.{s.label}: {n} samples of train without labels dropped "
        f'(labels = {s.entry.labels}, unlabeled = "{s.entry.unlabeled}")'
        for s, n in zip(datasets, gone.tolist())
        if n and "train" in wanted
    ]


def _unanswered(data: RunData) -> list[str]:
    """A line for each task that a split opened for evaluation has no label of."""
    return [
        f"task.{label}: no labeled sample in the split {name!r}"
        for name, samples in data.split.items()
        for label, present in data.present.items()
        if "train" not in data.split and not present.numpy()[samples].any()
    ]


def _not_known(
    tasks: Mapping[str, TaskEntry],
    answers: Mapping[str, Answers],
    samples: _Samples,
    datasets: list[IndexedDataset],
) -> list[str]:
    """A line for each task that some given labels mean nothing to: a class that is not its own."""
    report = []
    for label, entry in tasks.items():
        name = entry.component.reads
        values, where = _annotation(name, datasets)
        strange = given(values) & _keeps_labels(samples)[where] & ~answers[label][1].numpy()[where]
        if strange.any():
            classes = (
                Counter(values[strange].astype(str).tolist())
                if values.dtype.kind not in "fiub"
                else Counter()
            )
            told = some([f"{each} ({count})" for each, count in classes.most_common()])
            report.append(
                f"task.{label}: {strange.sum()} samples have a label {name!r} that it does not know: {told}".rstrip(
                    ": "
                )
            )
    return report
