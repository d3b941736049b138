"""Maps and points from a dataset to the loss: opened, cached, trained on, mixed and refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from aligned_toys import BRIGHT, DARK, TASKS, CutMixed, MixedUp, Scenes
from attrs import evolve, frozen
from mtl_pretexts.puzzling import Puzzling
from mtl_pretexts.rotation import Rotation
from toy_datasets import experiment
from toys import experiment as experiment_of_toys
from toys import prepared_batches, train_state

from mtlcore import Batch, Classification, MapColumn, MtlError, PointColumn, Sample, StepCounts
from mtlcore.augment.levels import Weak
from mtlcore.callbacks.progress import SilentReporter
from mtlcore.config import load
from mtlcore.config.experiment import DataEntry, PretextEntry, TaskEntry
from mtlcore.data.check import check_data
from mtlcore.data.dataset import open_data
from mtlcore.training.trainer import train

TOYS = Path(__file__).resolve().parents[1] / "aligned_toys.py"
CONFIG = f"""
plugins = ["{TOYS}"]

[encoder]
width = 4

[task.classes]
[task.depth]
[task.normals]
[task.corners]
[task.kind]
name = "classification"

[pretext.puzzling]
grid = 2

[data.scenes]
n = 40
size = [44, 60]
every = 2
unlabeled = "keep"

[input]
size = [32, 48]
batch_size = 8
validation = 0.3

[views]
supervised = "both"

[augment]
name = "weak"

[train]
steps = 4
log_every = 1
eval_every = 4
"""


def open_scenes(dataset, tasks=("classes", "depth", "normals", "corners"), **more):
    entry = DataEntry(dataset, max_bad=more.pop("max_bad", 0), unlabeled="keep")
    chosen = {label: TASKS[label] for label in tasks} | more.pop("others", {})
    run = experiment({"scenes": entry}, chosen, size=(24, 32), cache_size=(30, 40), validation=0.0)
    return open_data(run, **more).data


# ------------------------------------------------------------ opening


@pytest.mark.parametrize("others", [{}, {"kind": Classification(reads="kind")}])
def test_splits_and_label_shares_keep_some_of_the_few_samples_with_a_map(others):
    """A hundredth of the samples has a map: ten, none of them in the test split."""
    entry = DataEntry(Scenes(1000, every=100), labels=0.05, unlabeled="keep")
    tasks = {"classes": TASKS["classes"]} | others
    for seed in range(5):
        run = experiment({"scenes": entry}, tasks, seed=seed, size=(24, 32), validation=0.2)
        data = open_data(run, lazy=True).data
        here = data.present["classes"].numpy()
        assert here[data.split["train"]].sum() == 1
        assert here[data.split["validation"]].sum() in (1, 2)
        if others:
            kinds = data.present["kind"].numpy()[data.split["train"]]
            assert abs(kinds.sum() - 0.05 * len(kinds)) < 3


def test_a_map_that_every_sample_has_changes_no_split():
    entry = DataEntry(Scenes(200), labels=0.3, limit=60, unlabeled="keep")
    found = []
    for names in (("kind",), ("kind", "classes")):
        tasks = {"kind": Classification(reads="kind"), "classes": TASKS["classes"]}
        chosen = {name: tasks[name] for name in names}
        run = experiment({"scenes": entry}, chosen, size=(24, 32), cache_size=(30, 40))
        data = open_data(run, lazy=True).data
        split = {name: indices.tolist() for name, indices in data.split.items()}
        found.append((split, data.present["kind"].tolist(), data.fingerprint))
    assert found[0] == found[1]


@pytest.mark.parametrize("memory", [None, 0])
def test_labels_of_aligned_tasks_come_with_the_images(memory):
    data = open_scenes(Scenes(12, (40, 64), every=3), memory=memory)
    assert data.targets == {}
    for label in TASKS:
        assert data.present[label].tolist() == [n % 3 == 0 for n in range(12)]

    samples = np.array([3, 0, 4])
    cached = data.images.take(samples)
    targets = data.targets_of(samples, cached)
    assert {label: (*x.shape, x.dtype) for label, x in targets.items()} == {
        "classes": (3, 30, 40, torch.int32),
        "depth": (3, 1, 30, 40, torch.float32),
        "normals": (3, 3, 30, 40, torch.float32),
        "corners": (3, 3, 2, torch.float32),
    }
    level = cached.images[:2].float().mean(1)
    is_clear = (level < DARK + 20) | (level > BRIGHT - 20)
    assert is_clear.float().mean() > 0.5
    assert torch.equal((level > 128)[is_clear], (targets["classes"][:2] == 1)[is_clear])
    assert torch.equal(targets["normals"][:2, 0], targets["classes"][:2].float())
    assert not targets["classes"][2].any()
    assert targets["corners"][2].isnan().all()


def test_maps_are_kept_once_in_their_own_width_and_only_if_a_task_reads_them():
    others = {"again": TASKS["classes"]}
    data = open_scenes(Scenes(12, every=2), tasks=("classes",), others=others)
    assert list(data.images.aligned) == ["classes"]
    stored = data.images.aligned["classes"].values
    assert (stored.dtype, stored.shape) == (np.uint16, (6, 30, 40))
    assert data.aligned == {"classes": "classes", "again": "classes"}


def test_maps_count_towards_the_memory_limit():
    images = 24 * 3 * 30 * 40
    assert hasattr(open_scenes(Scenes(), ("classes",), memory=images + 24 * 2400).images, "pixels")
    too_few = open_scenes(Scenes(), ("classes",), memory=images + 24 * 2400 - 1)
    assert not hasattr(too_few.images, "pixels")


def test_the_fingerprint_depends_on_who_has_a_map():
    every, half = open_scenes(Scenes()), open_scenes(Scenes(every=2))
    assert every.fingerprint != half.fingerprint


@frozen(eq=False)
class Wrong(Scenes):
    """What it decodes differs from its index, or it has an index that breaks the contract."""

    how: str = ""

    def index(self):
        index = super().index()
        if self.how == "one name twice":
            return evolve(index, annotations={"depth": np.full(self.n, "x")})
        if self.how == "presence":
            maps = index.maps | {"depth": MapColumn(np.ones(self.n), "float32")}
            return evolve(index, maps=maps)
        return index

    def decode(self, index, i):
        sample = super().decode(index, i)
        if i != 5:
            return sample
        maps, points = dict(sample.maps), dict(sample.points)
        if self.how == "size":
            maps["classes"] = maps["classes"][:, 1:]
        if self.how == "missing":
            del maps["classes"]
        if self.how == "dtype":
            maps["classes"] = maps["classes"].astype(np.int64)
        if self.how == "channels":
            maps["normals"] = maps["normals"][..., :2]
        if self.how == "count":
            points["corners"] = points["corners"][:2]
        if self.how == "not declared":
            maps["more"] = maps["depth"]
        if self.how == "no sample":
            return sample.image
        return Sample(sample.image, maps, points)


def test_a_sample_that_is_not_as_declared_is_a_bad_file(subtests):
    for how, words in [
        ("size", "5: the map 'classes' is 63 x 40 pixels, its image is 64 x 40"),
        ("missing", "5: the index has the map 'classes', the decoded sample does not"),
        ("dtype", "5: the map 'classes' is int64; the index declares uint16"),
        ("channels", r"the shape \(40, 64, 2\); the index declares channels = 3"),
        ("count", "it has 2 points 'corners'; the index declares 3"),
        ("not declared", "the decoded sample has the map 'more', the index does not"),
        ("no sample", r"decode returns ndarray; expected mtlcore.Sample\(image\)"),
    ]:
        with subtests.test(how=how, words=words):
            with pytest.raises(MtlError, match=words):
                open_scenes(Wrong(how=how))
            data = open_scenes(Wrong(how=how), max_bad=1)
            assert 5 not in data.split["train"]
            assert len(data.split["train"]) == 17
            run = experiment({"scenes": DataEntry(Wrong(how=how))}, {"classes": TASKS["classes"]})
            assert list(check_data(run, "scenes").unreadable) == ["5"]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("one name twice", "'depth' is the name of several labels"),
        ("presence", r"`present` of 'depth' must be \(24,\) bool"),
    ],
)
def test_an_index_that_breaks_the_contract_is_refused(how, words):
    with pytest.raises(MtlError, match=f"data.scenes: {words}"):
        open_scenes(Wrong(how=how))


def test_a_task_of_the_wrong_base_class_is_refused():
    with pytest.raises(MtlError, match=r"which is a map of data.scenes.*mtlcore.AlignedTask"):
        open_scenes(Scenes(), (), others={"x": Classification(reads="classes")})
    reads_kind = evolve(TASKS["classes"])
    object.__setattr__(reads_kind, "reads", "kind")
    with pytest.raises(MtlError, match=r"which is an annotation of data.scenes"):
        open_scenes(Scenes(), (), others={"x": reads_kind})
    object.__setattr__(reads_kind, "reads", "clases")
    with pytest.raises(MtlError, match=r"reads the map or points 'clases'.*classes"):
        open_scenes(Scenes(), (), others={"x": reads_kind})


def test_datasets_that_disagree_on_a_map_are_refused():
    @frozen(eq=False)
    class Two(Scenes):
        def index(self):
            index = super().index()
            return evolve(index, points={"corners": PointColumn(index.maps["depth"].present, 2)})

    entries = {"a": DataEntry(Scenes()), "b": DataEntry(Two())}
    words = r"disagree on what 'corners' is: data\.a: 3 points, data\.b: 2 points"
    with pytest.raises(MtlError, match=words):
        open_data(experiment(entries, {"corners": TASKS["corners"]}, size=8))


def test_the_check_of_a_dataset_counts_its_maps_and_points():
    run = experiment({"scenes": DataEntry(Scenes(12, every=3))}, {"classes": TASKS["classes"]})
    counts = check_data(run, "scenes").counts
    assert set(counts) == {"kind", "classes", "depth", "normals", "corners"}
    given = {"test": {"": 2, "given": 1}, "train": {"": 6, "given": 3}}
    assert counts["corners"] == counts["classes"] == given


# ------------------------------------------------------------ training


def test_a_run_trains_on_maps_and_points(tmp_path):
    """Not square, cached in another size, half of the samples without any map."""
    config = tmp_path / "run.toml"
    config.write_text(CONFIG)
    result = train(load(config), tmp_path / "run")
    assert result.steps == 4
    metrics = result.measured.metrics
    assert {f"{label}/error" for label in ("classes", "depth", "normals")} <= set(metrics)
    assert "corners/error_px" in metrics

    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss/classes" in line]
    assert len(steps) == 4
    for line in steps:
        assert all(np.isfinite(line[f"loss/{label}"]) for label in TASKS)
        # Corners and normals follow into the clean view, and into no puzzled one.
        assert line["unfollowed/corners"] == line["unfollowed/normals"] == 0.5
        assert "unfollowed/classes" not in line


@pytest.mark.parametrize("supervised", ["pretext", "both"])
def test_a_run_says_which_tasks_its_views_teach_nothing(supervised, tmp_path):
    """No corner and no normal follows into a puzzled view; classes and depth do."""

    class Notes(SilentReporter):
        def note(self, text: str) -> None:
            notes.append(text)

    notes: list[str] = []
    config = tmp_path / "run.toml"
    config.write_text(CONFIG)
    run = load(config, [f'views.supervised="{supervised}"', "train.steps=1"])
    train(run, tmp_path / "run", reporter=Notes())
    told = [note.split()[0] for note in notes if "can follow the pixels" in note]
    assert told == (["[task.normals]", "[task.corners]"] if supervised == "pretext" else [])


# ------------------------------------------------------------ mixing


def mixed(augment, label, *, spots=False, present=(True,) * 6, pretext=None):
    """Return the images of 6 mixed scenes, and the input of the head of a task that reads them."""
    cached = open_scenes(Scenes(8, (40, 64), spots=spots), (label,)).images.take(np.arange(6))
    task = TASKS[label]
    pretexts = {} if pretext is None else {"pretext": PretextEntry(pretext)}
    exp = experiment_of_toys((), augment=augment, size=(32, 32))
    views = evolve(exp.views, supervised="clean" if pretext is None else "pretext")
    exp = evolve(exp, tasks={label: TaskEntry(task)}, pretexts=pretexts, views=views)

    here = torch.tensor(present)
    target = cached.aligned[task.reads].clone()
    target[~here] = torch.nan if label == "corners" else 0
    batch = Batch(cached.images, {label: target}, {label: here}, StepCounts({}, 0, 0), 6)
    (made,) = prepared_batches(train_state(exp), [batch])
    (head_input,) = made.head_inputs[label]
    return made.images[head_input.images[0]], head_input


def matches(images, classes, samples=slice(None)):
    """Return the share of pixels, away from edges, that are bright where the class is 1."""
    padded = F.pad(classes[:, None].float(), (1, 1, 1, 1), mode="replicate")
    inner = F.max_pool2d(padded, 3, 1) == -F.max_pool2d(-padded, 3, 1)
    right = (images.mean(1) > 0.5) == (classes == 1)
    return right[samples][inner[:, 0][samples]].float().mean()


@pytest.mark.parametrize("pretext", [None, Rotation(), Puzzling(grid=2)])
def test_cutmix_merges_maps_by_its_region_even_if_pixels_move_later(pretext):
    images, head_input = mixed(CutMixed(), "classes", pretext=pretext)
    ((classes, share),) = head_input.targets
    assert share.tolist() == [1.0] * 6
    assert matches(images, classes) > 0.93
    _, other = mixed(Weak(contrast=(1, 1)), "classes", pretext=pretext)
    assert not torch.equal(other.targets[0][0], classes)


def test_cutmix_needs_the_maps_of_both_samples():
    """The share is 0 for samples without a map, and for those whose partner has none."""
    images, head_input = mixed(CutMixed(), "classes", present=(True,) * 3 + (False,) * 3)
    ((classes, share),) = head_input.targets
    assert share[3:].tolist() == [0.0] * 3
    assert head_input.unfollowed.tolist() == [float(s == 0) for s in share[:3]] + [0.0] * 3
    assert matches(images, classes, share > 0) > 0.93


def test_points_that_cutmix_hides_are_unknown():
    _, head_input = mixed(CutMixed(), "corners", spots=True)
    ((points, share),) = head_input.targets
    assert share.tolist() == [1.0] * 6
    hidden = points.isnan().any(-1)
    assert hidden.any()
    assert not hidden.all()
    # The box of the partner covers rows 8 ... 18 and columns 6 ... 19 of each view.
    known = points[~hidden]
    in_box = (known[:, 0] >= 6) & (known[:, 0] < 20) & (known[:, 1] >= 8) & (known[:, 1] < 19)
    assert not in_box.any()


@pytest.mark.parametrize("pretext", [None, Rotation(), Puzzling(grid=2)])
def test_mixup_keeps_both_maps_with_their_shares(pretext):
    images, head_input = mixed(MixedUp(), "classes", pretext=pretext)
    (own, share), (other, other_share) = head_input.targets
    assert share.tolist() == [0.75] * 6
    assert other_share.tolist() == [0.25] * 6
    levels = torch.tensor([DARK, BRIGHT]) / 255
    blended = 0.75 * levels[own.long()] + 0.25 * levels[other.long()]
    assert (images.mean(1) - blended).abs().median() < 0.02
