"""`mtl demo`: the main job on images that need no download: supervised alone, then hybrid, for the same number of steps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def demo(
    *,
    out: Path | None = None,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative="", show_default=False)] = (),
) -> int:
    """Train the supervised baseline and the hybrid model on synthetic images, and compare them.

    Parameters
    ----------
    out
        Where the two runs go; default: the next free runs/demo-N.
    set_
        Another value for a key of the embedded experiment: `--set train.steps=200`.
    """
    from ..config import load
    from ..demo import arms, next_folder, run_arm
    from ..registry.catalog import catalog
    from ..train.trainer import Interrupted
    from ._progress import Bars, arms_table
    from ._shared import console

    folder = out or next_folder(Path("runs"))
    hybrid = load(catalog().example("demo"), set_)
    names = " + ".join([*hybrid.tasks, *hybrid.pretexts])
    console.print(
        f"mtl demo: {names}; SL is the same without {', '.join(hybrid.pretexts)}",
        markup=False,
        highlight=False,
    )
    done = []
    for name, experiment in arms(hybrid).items():
        try:
            with Bars(title=f"{name:<4} training") as bars:
                done.append(run_arm(name, experiment, folder, bars))
        except Interrupted as stopped:
            console.print(str(stopped), markup=False, highlight=False)
            return 130
    console.print(arms_table(done))
    console.print(
        "One seed proves nothing: a seed is worth about a point. Compare over several seeds before you believe a gap."
    )
    console.print(
        f"The runs lie in {folder}/",
        f"look at one: mtl eval {folder / 'hmtl'}",
        sep="\n",
        markup=False,
        highlight=False,
    )
    return 0
