"""One TOML file <-> one `Experiment`.

`load` reads a file, with overrides and one-file plugins. `parse` converts tables to objects. `dump`
writes TOML that parses to an equal experiment. `resolve` does both with an experiment that Python
code has built.

All mistakes of a file are reported at once: the `MtlError` lists them, one per line.
"""

from __future__ import annotations

from .load import load as load
from .read import parse as parse
from .resolve import resolve as resolve
from .write import dump as dump
