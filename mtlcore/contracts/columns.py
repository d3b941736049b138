"""Columns of an index: categories as codes and names, keys as strings of any width.

A numpy array (N,) of strings takes four bytes per character of its LONGEST string, for each of the
N strings. So an `Index` converts its columns: strings become `Categories`, keys become `Texts`. A
dataset may pass numpy arrays of strings, `Categories`, or Arrow arrays (of pyarrow, polars, pandas:
anything with the Arrow PyCapsule interface). Equal values give equal splits, targets and
fingerprints in each of these forms.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard, overload

import numpy as np
from attrs import field, frozen

from ..errors import MtlError
from .texts import CHUNK, Texts

# Bytes of a numpy array of strings of a fixed width. A larger one holds Python strings instead, so
# that one long string does not multiply the memory.
LARGEST_FIXED = 1 << 30

if TYPE_CHECKING:
    import pyarrow


def _codes(codes: object) -> np.ndarray:
    array = np.asarray(codes)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise MtlError(f"Categories: codes is {array.dtype} {array.shape}; expected (N,) int")
    # numpy's empty array is float64, and numpy refuses floats as positions.
    return array if array.size else array.astype(np.int32)


def _names(names: object) -> Texts:
    """Return (K,) strings. Raises MtlError for other types and for a name that repeats."""
    listed = list(names) if isinstance(names, (tuple, list)) else names
    if isinstance(listed, list):
        listed = np.array(listed, dtype=object)
    found = as_keys(listed)
    if not isinstance(found, Texts):
        raise MtlError(f"Categories: names is {describe(found)}; expected (K,) strings")
    repeated = found.repeated()
    if repeated:
        raise MtlError(f"Categories: the name {repeated[0]!r} repeats; expected distinct names")
    return found


@frozen(eq=False)
class Categories:
    """A column of N strings, with each distinct string stored once.

    codes: (N,) int, positions in `names`.
    names: (K,) distinct strings, in any order. Not all of them need to occur. A missing value has
    the code of the name "".

    It can be indexed, compared with a string, and iterated like a numpy array of strings, and numpy
    functions accept it. Raises MtlError for codes outside of 0 ... K-1 and for repeated names.
    """

    codes: np.ndarray = field(converter=_codes)
    names: Texts = field(converter=_names)

    def __attrs_post_init__(self) -> None:
        if not len(self.codes):
            return
        low, high = int(self.codes.min()), int(self.codes.max())
        if low < 0 or high >= len(self.names):
            wrong = low if low < 0 else high
            raise MtlError(
                f"Categories: the code {wrong} is out of range for {len(self.names)} names; "
                f'expected 0 to {len(self.names) - 1}. A missing value has the name ""'
            )

    @classmethod
    def of(cls, values: object) -> Categories:
        """Return (N,) strings as categories: numpy, Arrow, categories, or any iterable of str.

        An iterable is read once, and each distinct string is kept once. Raises MtlError for
        anything else.
        """
        column = as_column(values)
        if isinstance(column, Iterable) and not isinstance(column, (np.ndarray, str, Categories)):
            return _counted_up(column)
        if not isinstance(column, Categories):
            raise MtlError(f"expected (N,) strings, got {describe(column)}")
        return column

    @classmethod
    def filled(cls, n: int, name: str) -> Categories:
        """Return n samples that all have this name."""
        return cls(np.zeros(n, dtype=np.int32), (name,))

    @classmethod
    def join(cls, columns: Sequence[Categories]) -> Categories:
        """Return several columns as one, with the names of all of them."""
        if len(columns) == 1:
            return columns[0]
        coder = _Coder()
        codes = [coder.recode(column.names.tolist(), column.codes) for column in columns]
        return coder.categories(codes)

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, key: int | np.integer[Any]) -> str: ...

    @overload
    def __getitem__(self, key: slice | np.ndarray | Sequence[int]) -> Categories: ...

    def __getitem__(
        self, key: int | np.integer[Any] | slice | np.ndarray | Sequence[int]
    ) -> str | Categories:
        found = self.codes[key]
        if isinstance(found, np.ndarray):
            return Categories._unchecked(found, self.names)
        return self.names[int(found)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tolist())

    def __eq__(self, other: object) -> np.ndarray:  # type: ignore[override]
        """Return which samples have this name, (N,) bool, as numpy does."""
        if isinstance(other, str):
            return self.isin(other)
        return np.asarray(np.asarray(self) == np.asarray(other))

    def __ne__(self, other: object) -> np.ndarray:  # type: ignore[override]
        return ~(self == other)

    __hash__ = None  # type: ignore[assignment]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        names, positions = self.unique()
        if names.dtype.itemsize * len(positions) > LARGEST_FIXED:
            names = names.astype(object)  # each distinct string is then in memory once
        values = names[positions]
        return values if dtype is None else values.astype(dtype)

    def isin(self, *names: str) -> np.ndarray:
        """Return which samples have one of these names, (N,) bool."""
        chosen = np.array([name in names for name in self.names.tolist()], dtype=bool)
        if not len(chosen):
            return np.zeros(len(self), dtype=bool)
        return np.asarray(chosen[self.codes])

    def blank(self, samples: np.ndarray) -> Categories:
        """Return a copy in which these samples, (N,) bool, are missing: their name is ""."""
        texts = self.names.tolist()
        if "" not in texts:
            texts.append("")
        codes = np.where(samples, np.int32(texts.index("")), self.codes)
        return Categories(codes, texts)

    def rename(self, new_name: Callable[[str], str]) -> Categories:
        """Return a copy with renamed categories. Several names may become one."""
        coder = _Coder()
        names = [new_name(name) for name in self.names.tolist()]
        return coder.categories([coder.recode(names, self.codes)])

    def unique(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the names that occur, sorted (K,), and the position of each sample in them, (N,).

        The same as `np.unique(values, return_inverse=True)` of the strings.
        """
        occurs = np.bincount(self.codes, minlength=len(self.names)) > 0
        texts = self.names[occurs].tolist()
        order = sorted(range(len(texts)), key=texts.__getitem__)
        rank = np.empty(len(texts), dtype=np.int64)
        rank[order] = np.arange(len(texts))

        position = np.zeros(len(self.names), dtype=np.int64)
        position[occurs] = rank
        names: np.ndarray = np.array([texts[i] for i in order], dtype=_string_dtype(texts))
        return names, position[self.codes]

    def used(self) -> list[str]:
        """Return the names that occur, sorted."""
        occurs = np.bincount(self.codes, minlength=len(self.names)) > 0
        return sorted(self.names[occurs].tolist())

    def tolist(self) -> list[str]:
        """Return the N strings. Equal ones are the same object."""
        texts = np.array(self.names.tolist(), dtype=object)
        found: list[str] = texts[self.codes].tolist() if len(texts) else []
        return found

    @classmethod
    def _unchecked(cls, codes: np.ndarray, names: Texts) -> Categories:
        """Return categories without checking codes and names, which are known to be valid."""
        new = cls.__new__(cls)
        object.__setattr__(new, "codes", codes)
        object.__setattr__(new, "names", names)
        return new


def _string_dtype(texts: Sequence[str]) -> type:
    """Return the dtype of an array of these strings: of a fixed width, unless it is too large."""
    longest = max(map(len, texts), default=0)
    return str if 4 * longest * len(texts) <= LARGEST_FIXED else object


Column = np.ndarray | Categories
"""A column of an index: `Categories`, or numbers (N, ...) as a numpy array."""


# ------------------------------------------------------------ conversion


def as_column(values: object) -> Any:
    """Convert strings to `Categories` and Arrow numbers to numpy; leave everything else.

    The conformance kit and the core report columns that are neither strings nor numbers.
    """
    if _is_arrow(values):
        return _arrow_column(values)
    if _is_text(values):
        return _coded(values)
    return values


def as_columns(columns: Mapping[str, object]) -> dict[str, Any]:
    """Convert each of these columns with `as_column`."""
    return {name: as_column(values) for name, values in columns.items()}


def as_keys(values: object) -> Any:
    """Convert strings to `Texts`; leave everything else."""
    if isinstance(values, Categories):
        return Texts.of(values)
    if _is_arrow(values):
        return _arrow_keys(values)
    return Texts.of(_in_chunks(values)) if _is_text(values) else values


def is_keys(values: object) -> TypeGuard[Texts]:
    """Return whether these are (N,) strings."""
    return isinstance(values, Texts)


def is_numbers(values: object) -> TypeGuard[np.ndarray]:
    """Return whether this is a numpy array of numbers."""
    return isinstance(values, np.ndarray) and values.dtype.kind in "fiub"


def describe(values: object) -> str:
    """Return the type and the shape of a column, for messages."""
    if isinstance(values, Categories | Texts):
        return f"strings ({len(values)},)"
    if isinstance(values, np.ndarray):
        return f"{values.dtype} {values.shape}"
    return type(values).__name__


def numbered(codes: np.ndarray, code: Mapping[str, int]) -> Categories:
    """Return categories from name -> code, with codes 0, 1, 2, ... in the mapping's order."""
    return Categories._unchecked(codes, Texts.of(code))


class _Coder:
    """Assigns a code to each distinct string, in order of first appearance."""

    def __init__(self) -> None:
        self._code: dict[str, int] = {}

    def recode(self, names: Sequence[str | None], positions: np.ndarray) -> np.ndarray:
        """Return the codes of samples, from their positions in `names`; None counts as ""."""
        own = [self._code.setdefault(name or "", len(self._code)) for name in names]
        return np.array(own, dtype=np.int32)[positions]

    def categories(self, codes: Sequence[np.ndarray]) -> Categories:
        return numbered(np.concatenate([np.zeros(0, dtype=np.int32), *codes]), self._code)


def _coded(values: np.ndarray) -> Categories:
    if values.dtype.kind == "T":
        # numpy.unique of StringDType ends the process in numpy 2.4, and refuses missing values.
        return _counted_up(_in_chunks(values))
    coder = _Coder()
    codes: list[np.ndarray] = []
    for start in range(0, len(values), CHUNK):
        names, positions = np.unique(values[start : start + CHUNK], return_inverse=True)
        codes.append(coder.recode(names.tolist(), positions.reshape(-1)))
    return coder.categories(codes)


def _counted_up(values: Iterable[object]) -> Categories:
    code: dict[str, int] = {}
    codes = array("i")
    for value in values:
        if not isinstance(value, str):
            raise MtlError(f"expected strings, got {value!r}")
        codes.append(code.setdefault(value, len(code)))
    return numbered(np.array(codes, dtype=np.int32), code)


def _in_chunks(values: np.ndarray) -> Iterator[str]:
    """Yield the strings. A missing value of StringDType becomes ""."""
    for start in range(0, len(values), CHUNK):
        for text in values[start : start + CHUNK].tolist():
            yield text if isinstance(text, str) else ""


def _is_text(values: object) -> TypeGuard[np.ndarray]:
    """Return whether these are (N,) strings; an object array may hold only strings."""
    if not isinstance(values, np.ndarray) or values.ndim != 1:
        return False
    if values.dtype.kind == "O":
        return all(isinstance(value, str) for value in values)
    return values.dtype.kind in "UT"


# ------------------------------------------------------------ Arrow


def _is_arrow(values: object) -> bool:
    # No import of pyarrow: most datasets pass no Arrow array.
    return hasattr(values, "__arrow_c_array__") or hasattr(values, "__arrow_c_stream__")


def _arrow(values: Any) -> pyarrow.ChunkedArray:
    import pyarrow as pa

    if hasattr(values, "__arrow_c_stream__"):
        return pa.chunked_array(values)
    return pa.chunked_array([pa.array(values)])


def _arrow_column(values: object) -> Column:
    """Return Arrow strings, plain or dictionary-coded, as categories, and numbers as numpy.

    null is a missing value: "" or NaN.
    """
    import pyarrow as pa

    column = _arrow(values)
    if not _holds_strings(column):
        return np.asarray(column.to_numpy())
    coded = _plain(column).dictionary_encode().combine_chunks()
    names = _arrow_texts(pa.chunked_array([coded.dictionary]))
    return Categories._unchecked(coded.indices.to_numpy(), names)


def _arrow_keys(values: object) -> Texts | np.ndarray:
    column = _arrow(values)
    return _arrow_texts(_plain(column)) if _holds_strings(column) else column.to_numpy()


def _plain(column: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    """Return strings that are not dictionary-coded, and "" for each null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        column = column.cast(pa.large_string())
    return pc.fill_null(column, "") if column.null_count else column


def _arrow_texts(column: pyarrow.ChunkedArray) -> Texts:
    """Return the strings of a column without null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = pc.binary_length(column).to_numpy()
    starts = np.concatenate([np.zeros(1, dtype=np.int64), lengths.cumsum(dtype=np.int64)])
    buffer = np.empty(int(starts[-1]), dtype=np.uint8)
    at = 0
    for texts in _in_slices(column):
        low, high = starts[at], starts[at + len(texts)]
        at += len(texts)
        if low < high:
            # The cast gives one type of offsets to all types of strings.
            texts = texts.cast(pa.large_string())
            _, offsets, content = texts.buffers()
            begin = np.frombuffer(offsets, dtype=np.int64)[texts.offset]
            buffer[low:high] = np.frombuffer(content, dtype=np.uint8)[begin : begin + high - low]
    return Texts(buffer, starts)


def _in_slices(column: pyarrow.ChunkedArray) -> Iterator[pyarrow.Array]:
    for chunk in column.chunks:
        for start in range(0, len(chunk), CHUNK):
            yield chunk.slice(start, CHUNK)


def _holds_strings(column: pyarrow.ChunkedArray) -> bool:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
