"""`mtl preview`: a sheet of what the heads read in training, and what a run predicts."""

from __future__ import annotations

from pathlib import Path

from ..errors import MtlError
from ._options import ConfigFile, Overrides, PluginFiles


def preview(
    config: ConfigFile | None = None,
    *,
    out: Path,
    run: Path | None = None,
    augment: bool = False,
    set_: Overrides = (),
    plugin: PluginFiles = (),
) -> int:
    """Draw 8 images: raw, as the encoder reads them, the views of each pretext, the predictions.

    Parameters
    ----------
    config
        The experiment, a TOML file; default: that of the run.
    out
        The sheet to write, a PNG file. An existing one is replaced.
    run
        Draw the predictions of this run, too.
    augment
        Draw 6 augmentations of 8 images instead, with the labels that move with the pixels.
    set_
        Set one key: `--set pretext.puzzling.grid=3`. Repeatable.
    plugin
        Load a one-file plugin. Repeatable.
    """
    from ..config import load
    from ..evaluation.augmented import augmentation_sheet
    from ..evaluation.preview import preview as draw
    from ..runs import RunFolder
    from ._png import require_png, save_png
    from ._shared import print_line

    if config is None and run is None:
        raise MtlError("mtl preview needs CONFIG, or --run RUN, or both")
    if augment and config is not None and run is not None:
        raise MtlError("--augment does not read --run: remove one of --run and CONFIG")
    require_png("--out", out)
    if config is not None:
        experiment = load(config, set_, plugin)
    else:
        assert run is not None
        experiment = RunFolder.open(run).experiment(set_, plugin)
    sheet = augmentation_sheet(experiment) if augment else draw(experiment, run)
    save_png(out, sheet)
    height, width = sheet.shape[:2]
    print_line(f"{out}: {width} x {height} pixels")
    return 0
