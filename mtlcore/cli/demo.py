"""`mtl demo`: the main job on pictures that need no download: supervised alone, then hybrid, for the same number of steps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def demo(
    *,
    out: Path | None = None,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative="", show_default=False)] = (),
) -> int:
    """Train the supervised baseline and the hybrid model on synthetic pictures, and compare them.

    Parameters
    ----------
    out
        Where the two runs go; default: the next free runs/demo-N.
    set_
        Another value for a key of the embedded experiment: `--set train.steps=200`.
    """
    from attrs import evolve
    from rich.text import Text

    from ..config import load
    from ..evaluate import evaluate
    from ..registry import catalogue
    from ..train.loop import Interrupted, train
    from ._progress import Bars, comparison_table
    from ._shared import console

    folder = out or next(p for p in (Path(f"runs/demo-{n}") for n in range(1, 10_000)) if not p.exists())
    hybrid = load(catalogue().example("demo"), set_)
    arms = {"SL": evolve(hybrid, pretexts={}), "HMTL": hybrid}
    names = " + ".join([*hybrid.tasks, *hybrid.pretexts])
    console.print(Text(f"mtl demo: {names}; SL is the same without {', '.join(hybrid.pretexts)}"))
    found, cost = {}, {}
    for arm, experiment in arms.items():
        try:
            with Bars(title=f"{arm:<4} training") as bars:
                result = train(experiment, folder / arm.lower(), watcher=bars)
                found[arm] = evaluate(result.run, progress=bars.progress).measured
        except Interrupted as stopped:
            console.print(Text(str(stopped)))
            return 130
        cost[arm] = result.cpu_s
    console.print(comparison_table("test split, last step", found, cost))
    console.print(
        "One seed proves nothing: a seed is worth about a point. Compare arms over several seeds before you believe a gap."
    )
    console.print(Text(f"The runs lie in {folder}/ ; look at one: mtl eval {folder / 'hmtl'}"))
    return 0
