"""`mtl demo`: supervised training against hybrid training, for the same number of steps."""

from __future__ import annotations

from pathlib import Path

from ._options import Overrides


def demo(*, out: Path | None = None, set_: Overrides = ()) -> int:
    """Train the supervised baseline and the hybrid model on synthetic images, and compare them.

    The images are drawn by the program: nothing is downloaded.

    Parameters
    ----------
    out
        The folder of the two runs; default: the next free runs/demo-N.
    set_
        Set one key of the built-in experiment: `--set train.steps=200`. Repeatable.
    """
    from ..callbacks.bars import Bars
    from ..config import load
    from ..demo import arms, next_folder, run_arm
    from ..registry.catalog import catalog
    from ..training.stop import Interrupted
    from ._progress import arms_table
    from ._shared import console, print_line

    folder = out or next_folder(Path("runs"))
    hybrid = load(catalog().example("demo"), set_)
    print_line(f"HMTL: {' + '.join([*hybrid.tasks, *hybrid.pretexts])}")
    print_line(f"SL:   {' + '.join(hybrid.tasks)}")

    results = []
    for name, experiment in arms(hybrid).items():
        try:
            with Bars(title=f"{name:<4} training") as bars:
                results.append(run_arm(name, experiment, folder, bars))
        except Interrupted as stopped:
            print_line(str(stopped))
            return stopped.exit_code
    console.print(arms_table(results))
    print_line("This is one seed. Metrics vary by about a point from seed to seed:")
    print_line("compare several seeds before you draw a conclusion.")
    print_line(f"run folders: {folder}/")
    print_line(f"evaluate one: mtl eval {folder / 'hmtl'}")
    return 0
