"""Which images are looked at to learn how large the image cache's must be: none that a run may not know."""

from __future__ import annotations

import numpy as np
from attrs import evolve, field, frozen
from toy_datasets import InMemory, cycle, experiment

from mtlcore import Classification
from mtlcore.config.experiment import DataEntry
from mtlcore.data.dataset import open_data

OFFICIAL = ("train",) * 60 + ("validation",) * 20 + ("test",) * 20


@frozen(eq=False)
class Witness(InMemory):
    """Notes the split of each sample that is decoded. Images of test are larger than the others."""

    seen: list[str] = field(factory=list)
    large: int = 40

    def decode(self, index, sample):
        self.seen.append("unknown" if index.split is None else str(index.split[sample]))
        image = super().decode(index, sample)
        return (
            np.pad(image, ((0, self.large),) * 2 + ((0, 0),)) if self.seen[-1] == "test" else image
        )


def witness(split=OFFICIAL) -> Witness:
    return Witness(len(split), cycle("ab", len(split)), split=split)


def opened(dataset: Witness, splits, **keys):
    return open_data(experiment({"a": DataEntry(dataset, **keys)}, size=20), splits)


def test_training_looks_at_no_image_of_the_test_split():
    dataset = witness()
    data = opened(dataset, {"train", "validation"})
    assert set(dataset.seen) == {"train", "validation"}
    assert data.images.side == 8  # test's 48 have no say


def test_all_arms_of_the_labels_and_the_test_have_the_same_side_and_fingerprint():
    whole = opened(witness(), {"train", "validation"})
    few, none = (opened(witness(), {"train", "validation"}, labels=share) for share in (0.2, 0.05))
    test = open_data(evolve(whole.experiment, data={"a": DataEntry(witness())}), {"test"})
    assert {data.images.side for data in (whole, few, none, test)} == {8}
    assert test.fingerprint == whole.fingerprint
    assert few.experiment.input.cache_size == none.experiment.input.cache_size == 8


def test_a_source_that_is_only_evaluated_on_is_judged_by_the_splits_that_are_asked_for():
    dataset = witness(("",) * 40 + ("other",) * 20 + ("test",) * 20)
    fitted = {"kind": Classification(reads="kind", classes=("a", "b"))}
    data = open_data(experiment({"a": DataEntry(dataset)}, fitted, size=20), {"test"})
    assert set(dataset.seen) == {"test"}
    assert data.images.side == 30


def test_the_seed_that_cuts_validation_out_of_train_does_not_move_the_side():
    """One image is larger than the others, and stands now here, now there."""

    @frozen(eq=False)
    class OneLarge(Witness):
        def decode(self, index, sample):
            image = super().decode(index, sample)
            return np.pad(image, ((0, 4), (0, 4), (0, 0))) if sample == 20 else image

    split = ("train",) * 40 + ("test",) * 10
    sides = set()
    for seed in range(6):
        dataset = OneLarge(50, cycle("ab", 50), split=split)
        run = experiment({"a": DataEntry(dataset)}, seed=seed, size=20, validation=0.5)
        sides.add(open_data(run, {"train", "validation"}).images.side)
    assert sides == {12}
