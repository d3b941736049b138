"""`[encoder] weights = RUN`: start with the encoder of another run.

It means `train.init_from = RUN`, and the key `weights` that this run itself has: that key decides
how images are normalized. The configuration of a run records these two.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from ..errors import MtlError
from ..files import expanded, is_file, read_file
from .overrides import Table, plain

WORDS = ("none", "imagenet")
"""Values of `weights` that are never a folder. Write "./none" for a run of this name."""


def run_of(encoder: Table) -> Path | None:
    """Return the run folder that `weights` names in the table [encoder], or None."""
    weights = plain(encoder.get("weights"))
    if not isinstance(weights, str) or weights in WORDS:
        return None
    run = expanded(weights).absolute()
    return run if is_file(run / "config.toml") else None


def with_weights_of(run: Path, encoder: Table, default: str) -> Table:
    """Return the table [encoder] with the key `weights` of a run, or without it if it has none.

    default: the name of the encoder in a table without `name`.

    Raises MtlError if the run has another encoder, or if its configuration can't be read.
    """
    where = f'encoder.weights = "{run}"'
    try:
        other = tomllib.loads(read_file(run / "config.toml").decode())["encoder"]
        theirs = str(other["name"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise MtlError(f"{where}: its config.toml is not that of a run ({error})") from error
    mine = str(plain(encoder.get("name", default)))
    if mine.startswith(f"{theirs}:"):
        # A family such as timm: a run has its member as the first key behind the name.
        theirs += f":{next((v for key, v in other.items() if key != 'name'), '')}"
    # Tags of timm name weights of one network.
    if mine.partition(".")[0] != theirs.partition(".")[0]:
        raise MtlError(
            f'{where}: the encoder of this run is "{theirs}", but encoder.name = "{mine}": '
            f'set encoder.name = "{theirs}"'
        )
    rest = {key: value for key, value in encoder.items() if key != "weights"}
    if "weights" in other:
        rest["weights"] = other["weights"]
    return rest
