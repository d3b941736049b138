"""Which images decide the size of the image cache: none of the test split."""

from __future__ import annotations

import numpy as np
from attrs import evolve, field, frozen
from toy_datasets import InMemory, cycle, experiment

from mtlcore import Classification, Sample
from mtlcore.config.experiment import DataEntry
from mtlcore.data.dataset import open_data

OFFICIAL = ("train",) * 60 + ("validation",) * 20 + ("test",) * 20


@frozen(eq=False)
class RecordingDataset(InMemory):
    """Records the split of each decoded sample. Images of test are larger than the others."""

    decoded_splits: list[str] = field(factory=list)
    padding: int = 40

    def decode(self, index, sample):
        self.decoded_splits.append("unknown" if index.split is None else str(index.split[sample]))
        decoded = super().decode(index, sample)
        if self.decoded_splits[-1] != "test":
            return decoded
        return Sample(np.pad(decoded.image, ((0, self.padding),) * 2 + ((0, 0),)))


def recording_dataset(split=OFFICIAL) -> RecordingDataset:
    return RecordingDataset(len(split), cycle("ab", len(split)), split=split)


def opened(dataset: RecordingDataset, splits, **keys):
    return both(dataset, splits, **keys).data


def both(dataset: RecordingDataset, splits, **keys):
    return open_data(experiment({"a": DataEntry(dataset, **keys)}, size=20), splits)


def test_training_decodes_no_image_of_the_test_split():
    dataset = recording_dataset()
    data = opened(dataset, {"train", "validation"})
    assert set(dataset.decoded_splits) == {"train", "validation"}
    assert data.images.size == (8, 8)  # not the 48 of the test images


def test_the_share_of_labels_and_the_opened_split_change_neither_size_nor_fingerprint():
    resolved, whole = both(recording_dataset(), {"train", "validation"})
    sizes = set()
    for share in (0.2, 0.05):
        experiment_of_few, few = both(recording_dataset(), {"train", "validation"}, labels=share)
        sizes |= {few.images.size, experiment_of_few.input.cache_size}
    test = open_data(evolve(resolved, data={"a": DataEntry(recording_dataset())}), {"test"}).data
    assert sizes | {whole.images.size, test.images.size} == {(8, 8)}
    assert test.fingerprint == whole.fingerprint


def test_a_dataset_that_is_only_evaluated_on_gets_its_size_from_the_opened_splits():
    dataset = recording_dataset(("",) * 40 + ("other",) * 20 + ("test",) * 20)
    fitted = {"kind": Classification(reads="kind", classes=("a", "b"))}
    data = open_data(experiment({"a": DataEntry(dataset)}, fitted, size=20), {"test"}).data
    assert set(dataset.decoded_splits) == {"test"}
    assert data.images.size == (30, 30)


def test_the_seed_of_the_validation_cut_does_not_change_the_size():
    """One image is larger than the others. The seed decides which split it is in."""

    @frozen(eq=False)
    class OneLarge(RecordingDataset):
        def decode(self, index, sample):
            decoded = super().decode(index, sample)
            if sample != 20:
                return decoded
            return Sample(np.pad(decoded.image, ((0, 4), (0, 4), (0, 0))))

    split = ("train",) * 40 + ("test",) * 10
    sizes = set()
    for seed in range(6):
        dataset = OneLarge(50, cycle("ab", 50), split=split)
        run = experiment({"a": DataEntry(dataset)}, seed=seed, size=20, validation=0.5)
        sizes.add(open_data(run, {"train", "validation"}).data.images.size)
    assert sizes == {(12, 12)}
