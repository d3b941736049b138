"""What a user did wrong, said once and well."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MtlError(Exception):
    """A mistake that a user can mend. The command line prints the message alone and exits with code 2.

    The message says what is wrong, where (file, key, plugin), what was got, what was expected, and the nearest valid name.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """The tail of a message about an unknown name: the nearest known one, and all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names) if names else 'none'}"
