"""What the tests of studies share: tiny experiments, a study, and `mtl` as a process."""

from __future__ import annotations

import sys
from pathlib import Path

DOTS = Path(__file__).parent / "dots.py"
PLUGIN = f'plugins = ["{DOTS}"]\n'
STUDY = """
config = "base.toml"
seeds = [0, 1]
[arms.supervised]
[arms.puzzling]
set = ["pretext.puzzling.grid=2"]
"""
# A shell that starts the tests in the background makes its children ignore SIGINT.
LISTEN = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
MTL = [sys.executable, "-c", LISTEN + "import sys; from mtlcore.cli import main; sys.exit(main())"]

_DOTS_RUN = """
[encoder]
name = "resnet_small"
width = 2
depths = [1, 1]
[task.quarter]
name = "classification"
MORE[data.dots]
n = 60
[input]
size = 16
batch_size = 8
validation = 0.25
[schedule]
warmup = 0
[train]
steps = STEPS
"""
_FACES_RUN = """
[encoder]
name = "resnet_small"
width = 2
depths = [1, 1]
[task.gender]
by = []
MORE[data.synthfaces]
train = 60
test = 4
size = 32
[input]
size = 32
cache_size = 32
batch_size = 8
validation = 0.25
[schedule]
warmup = 0

[train]
steps = 3
"""


def dots_run(steps: int, more: str = "") -> str:
    """An experiment on the toy images of `dots.py`; more: lines after those of its task."""
    return _DOTS_RUN.replace("STEPS", str(steps)).replace("MORE", more)


def faces_run(more: str = "") -> str:
    """An experiment on a few rendered faces; more: lines after those of its task."""
    return _FACES_RUN.replace("MORE", more)
