"""What every dataset must hold."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import attrs
import numpy as np

from ...contracts import Index
from ...errors import MtlError
from ..common import COMMON
from ..generators import touched
from ..kit import CheckList, Group, require
from ..subject import draws
from .harness import DatasetSubject, columns, require_image

DATASET_CHECKS = Group()

# ---------------------------------------------------------------------------------------------------- index


@DATASET_CHECKS.check(
    "index",
    why="a run is told which samples there are by the index alone.",
    mend="return mtlcore.Index(keys, annotations, ...) with at least one sample; raise MtlError where files are missing.",
    needs="builds_from_its_name",
    core=True,
)
def index_holds_samples(subject: DatasetSubject) -> None:
    """`index` gives an Index of at least one sample."""
    require(isinstance(subject.index, Index), f"it gives {type(subject.index).__name__}")
    require(len(subject.index) > 0, f"it holds no sample; left out: {subject.index.skipped.names}")


@DATASET_CHECKS.check(
    "index",
    why="splits, label shares and caches are keyed by them: two samples of one key are one sample to them.",
    mend="use the path below the root, or the number of the sample, as text.",
    needs="index_holds_samples",
    core=True,
)
def keys_are_unique_names(subject: DatasetSubject) -> None:
    """`keys` is (N,) text, and no two samples share one."""
    keys = subject.index.keys
    require(
        isinstance(keys, np.ndarray) and keys.dtype.kind == "U" and keys.ndim == 1,
        f"keys is {_said(keys)}",
    )
    names, counts = np.unique(keys, return_counts=True)
    require(int(counts.max()) == 1, f"{str(names[counts.argmax()])!r} comes {counts.max()} times")
    require("" not in names, "a key is empty")


@DATASET_CHECKS.check(
    "index",
    why="values would belong to other images.",
    mend="give each annotation, attribute, split and group one value a key.",
    needs="index_holds_samples",
    core=True,
)
def columns_are_of_one_length(subject: DatasetSubject) -> None:
    """Annotations, attributes, split and group have one value a sample."""
    n = len(subject.index)
    wrong = {
        name: len(values) for name, values in columns(subject.index).items() if len(values) != n
    }
    require(not wrong, f"{n} keys, and {wrong}")


@DATASET_CHECKS.check(
    "index",
    why='categories travel by NAME: whole numbers of two data sets can\'t be compared, and have no "missing".',
    mend='give categories as text ("" where missing), numbers as floats (NaN where missing).',
    needs="index_holds_samples",
    core=True,
)
def annotations_are_names_or_numbers(subject: DatasetSubject) -> None:
    """Each annotation is an array of text or of floats."""
    for name, values in subject.index.annotations.items():
        require(
            isinstance(values, np.ndarray) and values.dtype.kind in "Uf",
            f"{name!r} is {_said(values)}",
        )


@DATASET_CHECKS.check(
    "index",
    why='a split or a person that is no text is compared with text, and never equal: "train" would be empty.',
    mend='give split, group and attributes as arrays of text (.astype(str)); "" for a sample in no split.',
    needs="index_holds_samples",
    core=True,
)
def split_group_and_attributes_are_names(subject: DatasetSubject) -> None:
    """`split`, `group` and each attribute are (N,) text."""
    for name, values in columns(subject.index).items():
        if not name.startswith("annotation"):
            text = isinstance(values, np.ndarray) and values.dtype.kind == "U" and values.ndim == 1
            require(text, f"{name} is {_said(values)}")


@DATASET_CHECKS.check(
    "index",
    why="a resumed run, and another rank, must see the same samples in the same order.",
    mend="sort what the file system lists; keep no state between calls.",
    needs=("keys_are_unique_names", "columns_are_of_one_length"),
    core=True,
)
def index_repeats_itself(subject: DatasetSubject) -> None:
    """Indexed again, the samples are the same, in the same order."""
    again = subject.component.index()
    require(np.array_equal(subject.index.keys, again.keys), "the keys differ")
    other = columns(again)
    for name, values in columns(subject.index).items():
        same = name in other and np.array_equal(
            values, other[name], equal_nan=values.dtype.kind == "f"
        )
        require(same, f"{name} differs")


@DATASET_CHECKS.check(
    "index",
    why="a mistyped root must be a message, not a traceback, and never an empty training set.",
    mend="look whether the root is there, and raise MtlError that names it where it is not.",
    needs="index_holds_samples",
    core=True,
)
def a_missing_root_is_named(subject: DatasetSubject) -> None:
    """Where a path of a field does not exist, `index` raises MtlError that names it."""
    subject.require_files()
    for name, path in subject.paths.items():
        gone = path.parent / "no_such_place" / path.name
        try:
            attrs.evolve(subject.component, **{name: gone}).index()
        except MtlError as error:
            require("no_such_place" in str(error), f"the message does not name {gone}: {error}")
        else:
            raise AssertionError(f"{name} = {gone}: `index` raises nothing")


# ---------------------------------------------------------------------------------------------------- images


@DATASET_CHECKS.check(
    "images",
    why="the image cache keeps uint8 RGB: anything else is refused, or seen in wrong colors.",
    mend="return (H, W, 3) uint8 RGB; `mtlcore.read_image` does, for every common format.",
    needs="index_holds_samples",
    core=True,
)
def decodes_images(subject: DatasetSubject) -> None:
    """The first, the last and some other samples decode to contiguous (H, W, 3) uint8 arrays."""
    for sample in subject.samples:
        require_image(subject.decode(sample), sample)


@DATASET_CHECKS.check(
    "images",
    why="samples are read in a drawn order, and again in each epoch.",
    mend="read each sample by itself: no open file whose position counts, no iterator.",
    needs="decodes_images",
    core=True,
)
def samples_decode_in_any_order(subject: DatasetSubject) -> None:
    """Read forwards, backwards and twice, each sample gives the same image."""
    forwards = {sample: subject.decode(sample).copy() for sample in subject.samples}
    for sample in [*reversed(subject.samples), subject.samples[0], subject.samples[0]]:
        require(
            np.array_equal(subject.decode(sample), forwards[sample]),
            f"sample {sample} gives another image",
        )


@DATASET_CHECKS.check(
    "images",
    why="a run that augments in place would change the dataset's own copy of the image.",
    mend="return a new array, or one that can't be written to.",
    needs="samples_decode_in_any_order",
)
def images_are_the_callers_own(subject: DatasetSubject) -> None:
    """An image that the caller paints over is read again as it was."""
    sample = subject.samples[0]
    image = subject.decode(sample)
    kept = image.copy()
    if image.flags.writeable:
        image[:] = 255 - image
    require(
        np.array_equal(subject.decode(sample), kept), f"sample {sample} is what the caller painted"
    )


@DATASET_CHECKS.check(
    "images",
    why="a small pool of threads decodes what does not fit into memory.",
    mend="share no open file between calls; open, read and close in `decode`.",
    needs="samples_decode_in_any_order",
    core=True,
)
def threads_decode_the_same(subject: DatasetSubject) -> None:
    """Eight threads at once get the images that one gets."""
    samples = subject.samples * 8
    alone = {sample: subject.decode(sample).copy() for sample in subject.samples}
    with ThreadPoolExecutor(8) as pool:
        for sample, image in zip(samples, pool.map(subject.decode, samples)):
            require(
                np.array_equal(image, alone[sample]),
                f"sample {sample} gives another image in a thread",
            )


@DATASET_CHECKS.check(
    "images",
    why="other processes get a copy of the dataset, and the index of the first.",
    mend="keep what `decode` needs in the fields or in the index, not beside the component.",
    needs=("samples_decode_in_any_order", "copies_and_pickles"),
)
def a_copy_decodes_the_same(subject: DatasetSubject) -> None:
    """A pickled copy of the dataset, given a pickled copy of the index, decodes the same images."""
    again, index = pickle.loads(pickle.dumps((subject.component, subject.index)))  # noqa: S301 - our own bytes
    for sample in subject.samples:
        require(
            np.array_equal(subject.decode(sample), subject.decode(sample, again, index)),
            f"sample {sample} differs",
        )
    deep = copy.deepcopy(subject.component)
    require(
        np.array_equal(subject.decode(0), subject.decode(0, deep)),
        "the deep copy's sample 0 differs",
    )


@DATASET_CHECKS.check(
    "images",
    why="one bad file among a million is counted against `max_bad`: as a traceback it ends the run.",
    mend="let `mtlcore.read_image` read files; turn what else can go wrong into MtlError.",
    needs="decodes_images",
)
def unreadable_images_are_told(subject: DatasetSubject) -> None:
    """With its files emptied after `index`, `decode` gives an image all the same, or raises MtlError."""
    with subject.copied() as (component, files):
        index = component.index()
        for file in files:
            file.write_bytes(b"")
        try:
            image = component.decode(index, 0)
        except MtlError:
            return
        require_image(image, 0)


# ---------------------------------------------------------------------------------------------------- side effects


@DATASET_CHECKS.check(
    "side effects",
    why="data sets are shared, often read-only, and hashed: a file more is another data set.",
    mend="keep caches in the user's cache folder, or nowhere.",
    needs="decodes_images",
)
def writes_nothing_beside_the_data(subject: DatasetSubject) -> None:
    """Indexing and decoding leave the files and folders below its paths as they were."""
    subject.require_files()
    before = subject.on_disk()
    subject.decode(subject.samples[0], index=subject.component.index())
    after = subject.on_disk()
    changed = sorted(
        path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
    )
    require(not changed, f"changed: {', '.join(changed[:3])}")


@DATASET_CHECKS.check(
    "side effects",
    why="a run's draws are keyed by its own seed: a dataset that seeds a global generator disturbs others.",
    mend="use a generator of your own, with a fixed seed.",
    needs="index_repeats_itself",
    core=True,
)
def leaves_global_generators_alone(subject: DatasetSubject) -> None:
    """Neither `index` nor `decode` draws from, or seeds, the generators of torch, numpy or Python."""
    found = touched(subject.component.index)
    require(not found, f"`index` draws from {', '.join(found)}")
    found = touched(lambda: subject.decode(subject.samples[0]))
    require(not found, f"`decode` draws from {', '.join(found)}")


def _said(values: object) -> str:
    return (
        f"{values.dtype} {values.shape}"
        if isinstance(values, np.ndarray)
        else type(values).__name__
    )


CHECKS, HARNESS = CheckList("dataset", draws(), (COMMON, DATASET_CHECKS)), DatasetSubject
