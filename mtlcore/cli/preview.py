"""`mtl preview`: a picture of what the pretexts ask, and of what a run answers."""

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
    """Draw 8 pictures: raw, as the encoder reads them, as each pretext asks, and the answers.

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
    from PIL import Image

    from ..config import load
    from ..preview import preview as draw
    from ..runs import RunFolder
    from ._shared import console

    if config is None and run is None:
        raise MtlError("mtl preview needs CONFIG, or --run RUN, or both")
    if out.suffix.lower() != ".png":
        raise MtlError(f"--out {out}: expected a PNG file, such as {out.with_suffix('.png')}")
    source = config if config is not None else RunFolder.open(Path(run or "")).config
    sheet = draw(load(source, set_, plugin), run)
    temporary = out.with_name(f"{out.name}.tmp")
    try:
        Image.fromarray(sheet).save(temporary, format="PNG")
        temporary.replace(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise MtlError(f"can't write {out}: {error.strerror or error}") from error
    console.print(f"{out}: {sheet.shape[1]} x {sheet.shape[0]} pixels", highlight=False)
    return 0
