"""`mtl preview`: an image of what the pretexts ask, and of what a run answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..errors import MtlError


def preview(
    config: Path | None = None,
    *,
    out: Path,
    run: Path | None = None,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
    plugin: Annotated[tuple[Path, ...], Parameter(negative="")] = (),
) -> int:
    """Draw 8 images: raw, as the encoder reads them, as each pretext asks, and the answers.

    Parameters
    ----------
    config
        The experiment, a TOML file; default: that of the run.
    out
        The sheet, a PNG file.
    run
        A run whose answers are drawn too.
    set_
        Another value for a key: `--set pretext.puzzling.grid=3`. May be given often.
    plugin
        A one-file plugin to load. May be given often.
    """

    from ..config import load
    from ..evaluation.preview import preview as draw
    from ..runs import RunFolder
    from ._png import require_png, save_png
    from ._shared import say

    if config is None and run is None:
        raise MtlError("mtl preview needs CONFIG, or --run RUN, or both")
    require_png("--out", out)
    source = config if config is not None else RunFolder.open(Path(run or "")).config
    sheet = draw(load(source, set_, plugin), run)
    save_png(out, sheet)
    say(f"{out}: {sheet.shape[1]} x {sheet.shape[0]} pixels")
    return 0
