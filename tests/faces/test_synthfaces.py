"""The dataset of rendered faces."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from mtl_faces.emotions import Emotion
from mtl_faces.sources.synthfaces import Synthfaces, mtl_components
from mtl_faces.synth import labels, render
from refusals import assert_refused

SMALL = Synthfaces(train=80, test=40, size=32)


def test_the_plugin_provides_the_dataset() -> None:
    assert mtl_components() == [Synthfaces]


def test_the_index_names_and_labels_every_sample_once() -> None:
    index = SMALL.index()
    assert len(index) == len(set(index.keys.tolist())) == 120
    assert (index.keys[0], index.keys[119]) == ("train/000000", "test/000039")
    assert index.split is not None
    assert np.unique(index.split, return_counts=True)[1].tolist() == [40, 80]
    assert set(index.annotations["emotion"].tolist()) == {str(e) for e in Emotion}
    assert set(index.annotations["gender"].tolist()) == {"male", "female"}
    assert index.annotations["pose_deg"].shape == (120, 3)
    assert np.isfinite(index.annotations["pose_deg"]).all()


def test_annotations_are_the_labels_of_the_decoded_face() -> None:
    index = SMALL.index()
    exact = labels(torch.tensor([33]), 0)
    assert index.annotations["emotion"][33] == list(Emotion)[int(exact.emotion)]
    assert index.annotations["gender"][33] == ("male", "female")[int(exact.gender)]
    assert index.annotations["pose_deg"][33].tolist() == exact.pose_deg[0].tolist()
    image = SMALL.decode(index, 33).image
    assert (image.shape, image.dtype) == ((32, 32, 3), np.uint8)
    alone = render(torch.tensor([33]), 32, 0)[0].permute(1, 2, 0).numpy()
    assert np.abs(image.astype(int) - alone.astype(int)).max() <= 1


def test_test_faces_do_not_depend_on_the_number_of_training_faces() -> None:
    more = Synthfaces(train=100, test=40, size=32)
    one, other = SMALL.index(), more.index()
    assert one.keys[80:].tolist() == other.keys[100:].tolist()
    assert np.array_equal(one.annotations["pose_deg"][80:], other.annotations["pose_deg"][100:])
    assert np.array_equal(SMALL.decode(one, 85).image, more.decode(other, 105).image)


def test_no_test_face_is_a_training_face() -> None:
    poses = SMALL.index().annotations["pose_deg"]
    assert len(np.unique(poses, axis=0)) == 120


def test_threads_get_the_same_images_as_one_reader() -> None:
    index = SMALL.index()
    alone = [SMALL.decode(index, i).image for i in range(120)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda i: SMALL.decode(index, i).image, reversed(range(120))))
    assert all(np.array_equal(a, b) for a, b in zip(alone, reversed(together)))


def test_editing_a_decoded_image_does_not_change_the_next() -> None:
    index = SMALL.index()
    first = SMALL.decode(index, 1).image
    before = first.copy()
    first[:] = 0
    assert np.array_equal(SMALL.decode(index, 1).image, before)


def test_impossible_sizes_are_refused() -> None:
    assert_refused(Synthfaces, {"train": -1}, {"test": -1}, {"size": 4})
