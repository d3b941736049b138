"""The run of many training tests: a small network that classifies the toy images of `dots.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from mtlcore.runs import RunFolder

HERE = Path(__file__).resolve().parent
DOTS = HERE / "dots.py"
REPORTERS = HERE / "training" / "reporters.py"

BODY = """
[encoder]
width = 4

[task.quarter]
name = "classification"
dropout = 0.2

[data.dots]

[input]
size = 16
batch_size = 16
validation = 0.2

[augment]
name = "weak"

[optimizer]
lr = 3e-3

[schedule]
warmup = 4
"""
"""Without `plugins` and [train]. There are 77 training samples: an epoch is 5 steps."""

PUZZLING = """
[pretext.puzzling]
grid = 2
weight = 0.3
"""

TRAIN = """
[train]
steps = 24
eval_every = 8
save_every = 8
log_every = 4
"""


def tiny_toml(
    train: str,
    *,
    n: int = 40,
    batch_size: int = 8,
    plugins: Sequence[Path] = (DOTS,),
    top: str = "",
    tables: str = "",
) -> str:
    """A configuration of a few steps on n images, for runs that are stopped and damaged.

    train: lines of [train]. top: lines before the first table. tables: further tables.
    """
    return f"""
plugins = [{", ".join(f'"{plugin}"' for plugin in plugins)}]
{top}

[encoder]
width = 4

[task.quarter]
name = "classification"

[data.dots]
n = {n}

[input]
size = 16
batch_size = {batch_size}
validation = 0.2

[augment]
name = "weak"

[schedule]
warmup = 1
{tables}

[train]
{train}
"""


def weights(run: Path) -> dict[str, Tensor]:
    """The weights of the last checkpoint."""
    return RunFolder(run).require().weights()
