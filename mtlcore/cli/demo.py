"""`mtl demo`: supervised training against hybrid training, compared over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..files import in_shell
from ._options import Overrides

if TYPE_CHECKING:
    from ..demo import Demo


def demo(*, out: Path | None = None, set_: Overrides = ()) -> int:
    """Compare supervised and hybrid training on synthetic images: six short runs and a report.

    The images are drawn by the program: nothing is downloaded.

    Parameters
    ----------
    out
        The new folder of the study, the sheets and the report; default: the next free runs/demo-N.
    set_
        Set one key of the built-in experiment: `--set train.steps=200`. Repeatable.
    """
    from ._shared import print_line

    print_line("mtl demo: loading PyTorch ...")  # it takes seconds

    from ..demo import next_folder, write_demo
    from ..registry.catalog import catalog
    from ..training.stop import Interrupted

    folder = out or next_folder(Path("runs"))
    made = write_demo(folder, catalog().example("demo"), set_)
    try:
        _run(made)
    except (Interrupted, KeyboardInterrupt) as stopped:
        print_line(
            f"stopped; this finishes the runs: mtl study run {in_shell(folder / 'study.toml')}"
        )
        return stopped.exit_code if isinstance(stopped, Interrupted) else 130
    return 0


def _run(made: Demo) -> None:
    from ..demo import HMTL, SEEDS, SL
    from ..prediction.results import answer_in_words
    from ._progress import StudyBars
    from ._shared import print_line

    hybrid, folder = made.experiment, made.folder
    print_line(f"{SL}:   {' + '.join(hybrid.tasks)}")
    print_line(f"{HMTL}: {' + '.join([*hybrid.tasks, *hybrid.pretexts])}")
    print_line(f"{len(SEEDS)} seeds each, into {folder}/")
    with StudyBars() as bars:
        made.study.train(say=bars.note, reporter=bars)
    print_line("evaluating on the test split, and drawing ...")
    made.study.table(test=True)
    made.draw_sheet()
    predicted = made.predict(made.save_images())
    made.study.report(folder / "report.html")

    print_line("")
    for line in made.result():
        print_line(line)
    print_line("")
    for image in predicted:
        for region in image.regions:
            answers = region.prediction.answers.items()
            words = "  ".join(f"{name}: {answer_in_words(answer)}" for name, answer in answers)
            print_line(f"{region.prediction.file}  {words}")
    _print_next(made)


def _print_next(made: Demo) -> None:
    from ._shared import print_line

    folder = made.folder
    print_line("")
    for name, what in (
        ("report.html", "the study: arms, intervals, settings"),
        ("sheet.png", "what the pretexts ask, and the model's answers"),
        ("predictions.png", "the predictions above, drawn"),
    ):
        print_line(f"look at {folder / name}: {what}")
    print_line("try next:")
    run, page = made.example_run().path, folder / "run.html"
    print_line(f"  mtl report {in_shell(run)} --out {in_shell(page)}")
    print_line(
        f"  mtl study run {in_shell(folder / 'study.toml')}    # first add seeds in this file"
    )
    print_line("  mtl init    # a configuration for your own images")
