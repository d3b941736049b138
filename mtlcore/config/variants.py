"""A table whose class depends on one of its keys: `{ op = "RandomErasing", p = 0.3 }`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class Variant:
    """Base class of tables that name their own class.

    Each class below it is a frozen attrs class, whose fields are the other keys of the table. A
    field of a component can have the type `tuple[Base, ...]`: a list of such tables.

    key: the key that names the class.
    what: what the key names, in words.
    variant: the name of this class; "" for the base.
    """

    __slots__ = ()
    key: ClassVar[str]
    what: ClassVar[str]
    variant: ClassVar[str] = ""

    @classmethod
    def variants(cls) -> Mapping[str, type[Variant]]:
        """Return name -> class of all that a table can name."""
        raise NotImplementedError
