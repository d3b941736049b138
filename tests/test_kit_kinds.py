"""The kit's checks of all kinds but pretexts: each broken plugin fails its own check only."""

from __future__ import annotations

import pytest
import torch
from broken_plugins import (
    augmentations,
    datasets,
    detectors,
    encoders,
    optimizers,
    sneaky_tasks,
    tasks,
    unexpected,
    weightings,
)

from mtlcore.testing import conformance
from mtlcore.testing.api import lists
from mtlcore.testing.common import COMMON
from mtlcore.testing.dataset.harness import LARGEST

torch.set_num_threads(1)
KINDS = {
    "encoder": encoders,
    "augmentation": augmentations,
    "weighting": weightings,
    "dataset": datasets,
    "task": tasks,
    "detector": detectors,
    "optimizer": optimizers,
}


def checks_of(kind):
    return lists()[kind][0].checks


def own_checks(kind):
    """The checks of this kind, without those of all kinds."""
    return checks_of(kind).keys() - {check.name for check in COMMON.checks}


def groups_of(kind):
    """The groups of its own checks, in order."""
    return list(
        dict.fromkeys(c.group for c in checks_of(kind).values() if c.name in own_checks(kind))
    )


def broken_in(kind, group):
    """(check, class) of the broken plugins whose check is in this group."""
    pairs = [*KINDS[kind].BROKEN.items(), *KINDS[kind].BROKEN.also]
    if kind == "task":
        pairs += sneaky_tasks.ALSO
    return [(check, cls) for check, cls in pairs if checks_of(kind)[check].group == group]


def slow_weightings(kinds):
    """The kinds as cases. A broken objective or state is found in many steps."""
    return [pytest.param(k, marks=[pytest.mark.slow] * (k == "weighting")) for k in kinds]


@pytest.fixture
def fields(tmp_path):
    """kind -> the fields that its plugins need."""
    folder = datasets.written(tmp_path / "images")
    return lambda kind: {"root": folder} if kind == "dataset" else {}


def test_each_check_has_its_broken_plugin():
    assert {kind: own_checks(kind) for kind in KINDS} == {
        kind: module.BROKEN.keys() for kind, module in KINDS.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_plugin_that_the_broken_ones_derive_from_is_right(kind, fields):
    classes = [KINDS[kind].Right]
    if kind == "task":  # coupled, dense and aligned tasks are right too
        classes += [tasks.Concordant, tasks.Measured, tasks.Parsing]
        classes += [tasks.Segments, tasks.Corners, tasks.Occluded]
    also_right = {
        "augmentation": [augmentations.Waves, augmentations.Solarizes],
        "dataset": [datasets.WithMaps, datasets.Mapped],
        "detector": [detectors.FindsFaces],
        "encoder": [encoders.FixedStem],
    }
    classes += also_right.get(kind, [])
    for cls in classes:
        report = conformance(kind, cls, examples=10, **fields(kind)).report()
        assert [o.reason for o in report.of("failed", "blocked")] == [], cls.__name__


@pytest.mark.parametrize("kind", slow_weightings(KINDS))
@pytest.mark.usefixtures("unshrunk")
def test_a_broken_plugin_fails_its_own_check(kind, fields, subtests):
    for group in groups_of(kind):
        for check, cls in broken_in(kind, group):
            with subtests.test(group=group, plugin=cls.__name__):
                suite = conformance(kind, cls, examples=10, **fields(kind))
                assert suite.outcome(check).status == "failed"


@pytest.mark.slow  # most of a minute
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("unshrunk")
def test_a_broken_plugin_fails_its_own_check_only(kind, fields, subtests):
    for group in groups_of(kind):
        for check, cls in broken_in(kind, group):
            with subtests.test(group=group, plugin=cls.__name__):
                suite = conformance(kind, cls, examples=10, **fields(kind))
                assert unexpected(suite, check) == ""


UNREADABLE = "unreadable_images_raise_mtl_error"


@pytest.mark.parametrize(
    ("cls", "status"), [(datasets.Listed, "passed"), (datasets.ListedCarelessly, "failed")]
)
def test_images_beside_a_list_are_damaged_with_it(tmp_path, cls, status):
    names = [file.name for file in datasets.written(tmp_path).iterdir()]
    (tmp_path / "list.txt").write_text("\n".join(names))
    suite = conformance("dataset", cls, root=tmp_path / "list.txt")
    assert suite.outcome(UNREADABLE).status == status


def test_a_copy_that_lacks_files_damages_nothing(tmp_path):
    datasets.written(tmp_path / "photos")
    (tmp_path / "lists").mkdir()
    names = [f"../photos/{file.name}" for file in (tmp_path / "photos").iterdir()]
    (tmp_path / "lists" / "list.txt").write_text("\n".join(names))
    suite = conformance("dataset", datasets.Listed, root=tmp_path / "lists" / "list.txt")
    outcome = suite.outcome(UNREADABLE)
    assert outcome.status == "skipped"
    assert "is missing" in outcome.reason


@pytest.mark.parametrize("link", ["nowhere", "large"])
def test_a_folder_whose_links_lead_too_far_is_not_copied(link, tmp_path):
    photos = tmp_path / "set"
    datasets.written(photos)
    (photos / "list.txt").write_text("\n".join(file.name for file in sorted(photos.iterdir())))
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "video.bin").write_bytes(bytes(LARGEST + 1))
    (photos / "link").symlink_to(tmp_path / link, target_is_directory=True)
    outcome = conformance("dataset", datasets.Listed, root=photos / "list.txt").outcome(UNREADABLE)
    assert outcome.status == "skipped"
    assert {"nowhere": "can't be copied", "large": "16 MiB"}[link] in outcome.reason
