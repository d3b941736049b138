"""All checks of datasets."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ...contracts import Categories, Column, Dataset, Index, Sample
from ...contracts.columns import describe, is_keys, is_numbers
from ...data.aligned import columns_of, decode_sample
from ...errors import MtlError
from ..common import COMMON
from ..generators import require_no_global_draws
from ..kit import CheckList, Group
from ..requirements import Skip, require
from ..subject import batches
from .harness import DatasetSubject, columns, copied, invert, require_sample, same

INDEXED = "index_holds_samples"
DECODES = "decodes_images"
ANY_ORDER = "samples_decode_in_any_order"

DATASET_CHECKS = Group()

# ------------------------------------------------------------------------------------------ index


@DATASET_CHECKS.check(
    "index",
    why="a run finds its samples through the index only.",
    mend="Return mtlcore.Index(keys, annotations, ...) with at least one sample. Raise MtlError "
    "if files are missing.",
    needs="builds_from_its_name",
    core=True,
)
def index_holds_samples(subject: DatasetSubject) -> None:
    """`index` returns an Index with at least one sample."""
    require(isinstance(subject.index, Index), f"it returns {type(subject.index).__name__}")
    require(len(subject.index) > 0, f"it has no samples; skipped: {subject.index.skipped.names}")


@DATASET_CHECKS.check(
    "index",
    why="splits, label shares and caches identify a sample by its key.",
    mend="Use the path below the root, or the sample's number, as text.",
    needs=INDEXED,
    core=True,
)
def keys_are_unique_names(subject: DatasetSubject) -> None:
    """`keys` is (N,) text without duplicates."""
    keys = subject.index.keys
    require(is_keys(keys), f"keys is {describe(keys)}")
    key, times = keys.repeated() or ("", 1)
    require(times == 1, f"{key!r} occurs {times} times")
    require(bool((np.diff(keys.starts) > 0).all()), "a key is empty")


@DATASET_CHECKS.check(
    "index",
    why="values would belong to the wrong images.",
    mend="Give each annotation, attribute, split, group and presence one value for each key.",
    needs=INDEXED,
    core=True,
)
def columns_have_equal_length(subject: DatasetSubject) -> None:
    """All columns of the index have one value for each sample."""
    n = len(subject.index)
    lengths = {name: len(values) for name, values in columns(subject.index).items()}
    wrong = {name: length for name, length in lengths.items() if length != n}
    require(not wrong, f"there are {n} keys, but the lengths {wrong}")


@DATASET_CHECKS.check(
    "index",
    why="categories are matched by NAME. Class numbers of two datasets do not agree, and cannot "
    "be missing.",
    mend='Use text for categories ("" if missing) and floats for numbers (NaN if missing).',
    needs=INDEXED,
    core=True,
)
def annotations_are_names_or_numbers(subject: DatasetSubject) -> None:
    """Each annotation is (N,) text or an array of floats: of numpy, `Categories`, or Arrow."""
    for name, values in subject.index.annotations.items():
        is_float = is_numbers(values) and values.dtype.kind == "f"
        require(isinstance(values, Categories) or is_float, f"{name!r} is {describe(values)}")


@DATASET_CHECKS.check(
    "index",
    why='these columns are compared with text. Other types never match, and "train" is empty.',
    mend='Use arrays of text (.astype(str)) for split, group and attributes; "" for a sample in '
    "no split.",
    needs=INDEXED,
    core=True,
)
def split_group_and_attributes_are_names(subject: DatasetSubject) -> None:
    """`split`, `group` and each attribute are (N,) text."""
    for name, values in columns(subject.index).items():
        if not name.startswith(("annotation", "presence")):
            require(isinstance(values, Categories), f"{name} is {describe(values)}")


@DATASET_CHECKS.check(
    "index",
    why="resumed runs and other ranks must see the same samples in the same order.",
    mend="Sort what the file system lists, and keep no state between calls.",
    needs=("keys_are_unique_names", "columns_have_equal_length"),
    core=True,
)
def index_is_repeatable(subject: DatasetSubject) -> None:
    """A second index has the same samples in the same order."""
    again = subject.component.index()
    require(np.array_equal(subject.index.keys, again.keys), "the keys differ")
    others = columns(again)
    for name, values in columns(subject.index).items():
        require(name in others and _are_equal(values, others[name]), f"{name} differs")


@DATASET_CHECKS.check(
    "index",
    why="a mistyped root must be a clear message, never a traceback or an empty training set.",
    mend="Test whether the root exists. If not, raise MtlError with its path.",
    needs=INDEXED,
    core=True,
)
def a_missing_root_raises_mtl_error(subject: DatasetSubject) -> None:
    """If the path in a field does not exist, `index` raises MtlError with the path."""
    subject.require_files()
    for name, path in subject.paths.items():
        missing = path.parent / "no_such_place" / path.name
        try:
            subject.at(**{name: missing}).index()
        except MtlError as error:
            require("no_such_place" in str(error), f"the message lacks {missing}: {error}")
        else:
            raise AssertionError(f"{name} = {missing}: `index` raises nothing")


# ----------------------------------------------------------------------------------------- images


@DATASET_CHECKS.check(
    "images",
    why="the image cache stores uint8 RGB. Other images are refused, or have wrong colors.",
    mend="Return Sample(image), with (H, W, 3) uint8 RGB. `mtlcore.read_image` reads it from all "
    "common formats.",
    needs=INDEXED,
    core=True,
)
def decodes_images(subject: DatasetSubject) -> None:
    """The first, the last and some others decode to Samples with (H, W, 3) uint8 images."""
    for sample in subject.samples:
        require_sample(subject.decode(sample), sample)


@DATASET_CHECKS.check(
    "maps and points",
    why="labels are counted from the index, before anything is decoded.",
    mend="Declare in `Index.maps` and `Index.points` what `decode` returns: which samples have it, "
    "dtype, channels, number of points.",
    needs=(DECODES, "columns_have_equal_length"),
    core=True,
)
def maps_and_points_are_as_declared(subject: DatasetSubject) -> None:
    """Each decoded sample has the maps and points that the index declares, in the same form."""
    for name, column in columns_of(subject.index).items():
        valid = isinstance(column.present, np.ndarray) and column.present.dtype == bool
        require(valid, f"`present` of {name!r} is {describe(column.present)}")
    for sample in subject.samples:
        try:
            decode_sample(subject.component, subject.index, sample)
        except MtlError as error:
            raise AssertionError(str(error)) from error


@DATASET_CHECKS.check(
    "maps and points",
    why="tasks read labels by name.",
    mend="Give annotations, maps and points distinct names.",
    needs=INDEXED,
    core=True,
)
def labels_have_different_names(subject: DatasetSubject) -> None:
    """No annotation, map or kind of points has the name of another."""
    index = subject.index
    names = [*index.annotations, *index.maps, *index.points]
    repeated = sorted({name for name in names if names.count(name) > 1})
    require(not repeated, f"several labels have the name {', '.join(repeated)}")


@DATASET_CHECKS.check(
    "images",
    why="samples are decoded in random order, and again in each epoch.",
    mend="Decode each sample independently, without an iterator or the position of an open file.",
    needs=DECODES,
    core=True,
)
def samples_decode_in_any_order(subject: DatasetSubject) -> None:
    """Decoded forwards, backwards and twice, each sample gives the same image."""
    first = _decode_all(subject)
    for sample in [*reversed(subject.samples), subject.samples[0], subject.samples[0]]:
        is_same = same(subject.decode(sample), first[sample])
        require(is_same, f"sample {sample} gives another image, map or points")


@DATASET_CHECKS.check(
    "images",
    why="a run that augments in place would change the dataset's own copy of the image.",
    mend="Return a new array, or a read-only one.",
    needs=ANY_ORDER,
)
def decoded_images_are_independent_copies(subject: DatasetSubject) -> None:
    """Changing a decoded image does not change the next decoding of its sample."""
    sample = subject.samples[0]
    decoded = subject.decode(sample)
    original = copied(decoded)
    invert(decoded)
    is_same = same(subject.decode(sample), original)
    require(is_same, f"sample {sample} shows the caller's changes")


@DATASET_CHECKS.check(
    "images",
    why="a thread pool decodes the images that do not fit into memory.",
    mend="Share no open file between calls. Open, read and close it in `decode`.",
    needs=ANY_ORDER,
    core=True,
)
def threads_decode_the_same(subject: DatasetSubject) -> None:
    """Eight threads get the same images as one."""
    alone = _decode_all(subject)
    samples = subject.samples * 8
    with ThreadPoolExecutor(8) as pool:
        for sample, decoded in zip(samples, pool.map(subject.decode, samples)):
            is_same = same(decoded, alone[sample])
            require(is_same, f"sample {sample} gives another image in a thread")


@DATASET_CHECKS.check(
    "images",
    why="other processes get a copy of the dataset, and the index of the first process.",
    mend="Store what `decode` needs in the fields or in the index.",
    needs=(ANY_ORDER, "copies_and_pickles"),
)
def a_copy_decodes_the_same(subject: DatasetSubject) -> None:
    """A pickled copy of the dataset decodes the same images with a pickled copy of the index."""
    pickled: tuple[Dataset, Index] = pickle.loads(  # noqa: S301 - our own bytes
        pickle.dumps((subject.component, subject.index))
    )
    for sample in subject.samples:
        is_same = same(subject.decode(sample), subject.decode(sample, *pickled))
        require(is_same, f"sample {sample} differs")
    deep = copy.deepcopy(subject.component)
    is_same = same(subject.decode(0), subject.decode(0, deep))
    require(is_same, "sample 0 of the deep copy differs")


@DATASET_CHECKS.check(
    "images",
    why="a run tolerates bad files up to `max_bad`. Another exception than MtlError ends it.",
    mend="Let `mtlcore.read_image` read files, and turn other failures into MtlError.",
    needs=DECODES,
)
def unreadable_images_raise_mtl_error(subject: DatasetSubject) -> None:
    """If the files are emptied after `index`, `decode` raises MtlError or returns an image."""
    with subject.copied() as (component, files):
        try:
            index = component.index()
            component.decode(index, 0)
        except Exception as error:  # files that no field names may be missing
            raise Skip(f"a copy of its files can't be read: {error}") from error
        for file in files:
            # New files: a memory map of a file that is cut short would end the process.
            file.unlink()
            file.touch()
        try:
            decoded = component.decode(index, 0)
        except MtlError:
            return
        require_sample(decoded, 0)


# ----------------------------------------------------------------------------------- side effects


@DATASET_CHECKS.check(
    "side effects",
    why="datasets are shared, often read-only, and hashed. A new file makes another dataset.",
    mend="Write caches to the user's cache folder, or nowhere.",
    needs=DECODES,
)
def leaves_the_data_folder_unchanged(subject: DatasetSubject) -> None:
    """Indexing and decoding leave the files and folders below its paths as they were."""
    subject.require_files()
    before = subject.content()
    subject.decode(subject.samples[0], index=subject.component.index())
    after = subject.content()
    changed = [path for path in before | after if before.get(path) != after.get(path)]
    names = sorted(map(str, changed))
    require(not changed, f"changed: {', '.join(names[:3])}")


@DATASET_CHECKS.check(
    "side effects",
    why="a dataset that uses a global generator disturbs other code.",
    mend="Use your own generator with a fixed seed.",
    needs=("index_is_repeatable", DECODES),
    core=True,
)
def leaves_global_generators_alone(subject: DatasetSubject) -> None:
    """`index` and `decode` use no global generator of torch, numpy or Python."""
    require_no_global_draws(subject.component.index, "`index`")
    require_no_global_draws(lambda: subject.decode(subject.samples[0]), "`decode`")


# ---------------------------------------------------------------------------------------- helpers


def _decode_all(subject: DatasetSubject) -> dict[int, Sample]:
    return {sample: copied(subject.decode(sample)) for sample in subject.samples}


def _are_equal(values: Column, others: Column) -> bool:
    is_float = isinstance(values, np.ndarray) and values.dtype.kind == "f"
    return np.array_equal(np.asarray(values), np.asarray(others), equal_nan=is_float)


CHECKS = CheckList("dataset", batches, (COMMON, DATASET_CHECKS))
HARNESS = DatasetSubject
