"""`python -m mtlcore`: the same command line as `mtl`."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
