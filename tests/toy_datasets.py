"""Small datasets that need no files, and experiments with them, for tests of the data layer."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from attrs import field, frozen

from mtlcore import Classification, Dataset, Index, MtlError, Sample, Skipped, SupervisedTask
from mtlcore.config.experiment import DataEntry, Experiment, Input, TaskEntry, Train


@frozen(eq=False)
class InMemory(Dataset):
    """n gray images that encode the number of their sample.

    The top left pixel is number % 256, the next one is number // 256.

    labels: one for each sample; "" if missing. others: further annotations.
    bad: numbers of the samples that can't be read. size: of the images, in pixels.
    order: the numbers in the order of the index. indexed: grows with each call of `index`.
    """

    n: int
    labels: tuple[str, ...] | None = None
    name_of_labels: str = "kind"
    others: dict[str, np.ndarray] = field(factory=dict)
    split: tuple[str, ...] | None = None
    group: tuple[str, ...] | None = None
    attributes: dict[str, np.ndarray] = field(factory=dict)
    skipped: tuple[str, ...] = ()
    bad: frozenset[int] = frozenset()
    size: int = 8
    prefix: str = ""
    order: tuple[int, ...] | None = None
    indexed: list[int] = field(factory=list)

    def index(self) -> Index:
        self.indexed.append(1)
        samples = np.arange(self.n) if self.order is None else np.array(self.order)
        annotations = {k: v[samples] for k, v in self.others.items()}
        if self.labels is not None:
            annotations = {
                self.name_of_labels: np.array(self.labels, dtype=str)[samples],
                **annotations,
            }
        skipped = Skipped()
        for name in self.skipped:
            skipped.add("malformed name", name)
        return Index(
            keys=np.array([f"{self.prefix}{sample:05d}" for sample in samples], dtype=str),
            annotations=annotations,
            split=None if self.split is None else np.array(self.split)[samples],
            group=None if self.group is None else np.array(self.group)[samples],
            attributes={k: v[samples] for k, v in self.attributes.items()},
            skipped=skipped,
        )

    def decode(self, index: Index, sample: int) -> Sample:
        number = int(str(index.keys[sample]).removeprefix(self.prefix))
        if number in self.bad:
            raise MtlError(f"{index.keys[sample]} is not a readable image: made so")
        image = np.full((self.size, self.size, 3), 7, dtype=np.uint8)
        image[0, 0], image[0, 1] = number % 256, number // 256
        return Sample(image)


def cycle(names: str, n: int) -> tuple[str, ...]:
    """Return n labels of one letter each, in turn."""
    return tuple(names[i % len(names)] for i in range(n))


def experiment(
    datasets: dict[str, DataEntry],
    tasks: dict[str, SupervisedTask] | None = None,
    seed: int = 0,
    micro_batches: int = 1,
    **inputs: Any,
) -> Experiment:
    """Return an experiment on these datasets (default task: one classification of "kind")."""
    absent = cast(Any, None)  # the data layer does not use them
    own = {"kind": Classification(reads="kind")} if tasks is None else tasks
    return Experiment(
        encoder=absent,
        tasks={label: TaskEntry(task) for label, task in own.items()},
        pretexts={},
        data=datasets,
        weighting=absent,
        augment=absent,
        augmentations={},
        input=Input(**({"size": 8, "batch_size": 4} | inputs)),
        train=Train(steps=10, micro_batches=micro_batches),
        seed=seed,
    )


def numbers_of(pixels: Any) -> list[int]:
    """Return the sample numbers that images (n, 3, S, S) of `InMemory` encode."""
    return [int(p[0, 0, 0]) + 256 * int(p[0, 0, 1]) for p in pixels]
