"""One TOML file <-> one `Experiment`.

`load` reads a file, with overrides and one-file plugins; `parse` turns tables into objects; `dump` writes what parses
to an equal experiment. A mistake is an `MtlError` that lists every problem of the file, one line each.
"""

from __future__ import annotations

from .load import load as load
from .read import parse as parse
from .write import dump as dump
