"""`mtl lr-find`: suggest a learning rate from a range test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from ..errors import MtlError
from ..files import in_shell
from ._options import ConfigFile, Overrides, PluginFiles

if TYPE_CHECKING:
    from ..training.lr_find import RangeTest

LearningRate = Annotated[float, Parameter(validator=Number(gt=0, lte=1000))]
Steps = Annotated[int, Parameter(validator=Number(gte=10))]


def lr_find(
    config: ConfigFile,
    *,
    plot: Path | None = None,
    low: LearningRate = 1e-6,
    high: LearningRate = 1.0,
    steps: Steps = 100,
    set_: Overrides = (),
    plugin: PluginFiles = (),
) -> int:
    """Train some steps with a growing learning rate; print where the loss falls fastest.

    Parameters
    ----------
    config
        The experiment, a TOML file. No run folder is written.
    plot
        Draw the loss over the learning rate into this PNG file. It needs matplotlib. An existing
        file is replaced.
    low
        The first learning rate.
    high
        The last learning rate.
    steps
        The number of steps. The test ends early where the loss diverges.
    set_
        Set one key: `--set optimizer.name="sgd"`. Repeatable.
    plugin
        Load a one-file plugin. Repeatable.
    """
    from ..config import load
    from ..training.lr_find import range_test
    from ._png import require_png
    from ._shared import print_line

    if low >= high:
        raise MtlError(f"--low {low:g} --high {high:g}: expected --low below --high")
    if plot is not None:
        require_png("--plot", plot)
        _require_matplotlib()
    found = range_test(load(config, set_, plugin), low, high, steps)
    print_line(f"the loss falls fastest at optimizer.lr = {found.lr:.2g}")
    file = in_shell(config)
    print_line(f"use it: mtl train {file} --set optimizer.lr={found.lr:.2g} --out RUN")
    if plot is not None:
        _draw(found, plot)
        print_line(str(plot))
    return 0


def _require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MtlError("--plot needs matplotlib: type `pip install matplotlib`") from error


def _draw(found: RangeTest, file: Path) -> None:
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ._png import save_png

    figure = Figure(figsize=(7, 4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot(xscale="log", xlabel="learning rate", ylabel="loss (smoothed)")
    axes.plot(found.lrs, found.losses)
    axes.axvline(found.lr, linestyle="--", label=f"optimizer.lr = {found.lr:.2g}")
    axes.legend()
    canvas.draw()
    save_png(file, np.asarray(canvas.buffer_rgba())[..., :3])
