"""`mtl affinity`: which pretext helps which task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ..files import in_shell
from ._options import ConfigFile, PluginFiles


def affinity(
    config: ConfigFile,
    *,
    pretexts: Annotated[str, Parameter(show_default=False)] = "",
    seeds: int = 3,
    jobs: int = 1,
    out: Annotated[Path | None, Parameter(show_default=False)] = None,
    format_: Annotated[
        Literal["markdown", "csv", "latex"], Parameter(name="--format")
    ] = "markdown",
    plugin: PluginFiles = (),
) -> int:
    """Train CONFIG without any pretext, and with each one alone: which one helps which task?

    It writes a study, runs it, and compares each task by seed. The same command resumes. With more
    seeds, the runs that have ended still count.

    Parameters
    ----------
    config
        The experiment, a TOML file.
    pretexts
        Names with commas: `--pretexts puzzling,rotation`; default: the pretexts of CONFIG.
    seeds
        The number of seeds.
    jobs
        The number of processes to start on this machine.
    out
        The study file; default: CONFIG's name with -affinity.toml, beside it.
    format_
        The format of the table.
    plugin
        Load a one-file plugin. Repeatable.
    """
    from ..study.affinity import affinity as compare
    from ..study.affinity import affinity_study
    from ..training.stop import Interrupted
    from ._progress import StudyBars
    from ._shared import print_line

    file = out or config.with_name(f"{config.stem}-affinity.toml")
    names = [name.strip() for name in pretexts.split(",") if name.strip()]
    study = affinity_study(config, file, pretexts=names, seeds=seeds, plugins=plugin)
    try:
        with StudyBars(quiet=jobs > 1) as bars:
            report = study.run(jobs=jobs, say=print_line, reporter=bars)
    except (Interrupted, KeyboardInterrupt) as stopped:
        print_line(f"stopped; the same command resumes the study in {study.folder}")
        return stopped.exit_code if isinstance(stopped, Interrupted) else 130
    print_line(compare(study).table().as_format(format_))
    print_line(f"\nthe arms: mtl study table {in_shell(file)}")
    return 2 if report.errors else 0
