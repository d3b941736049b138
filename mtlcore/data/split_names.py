"""The usual names of splits, as folders and tables spell them. The only such table.

It decides in upper and lower case, and with the suffix "_set", as in `Training` and `val_set`.
"""

from __future__ import annotations

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


def split_name(name: str) -> str | None:
    """Return the split that a folder or a cell of a table names, or None if it names none.

    The splits are "train", "validation" and "test". For example, "Training" and "train_set" name
    "train"; "dev", "Val" and "valid" name "validation".
    """
    return SPLIT_NAMES.get(name.strip().casefold().removesuffix("_set"))
