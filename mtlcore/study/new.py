"""Write a study from a configuration and what its arms differ in."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from ..config import load
from ..config.experiment import Experiment
from ..config.overrides import read_toml
from ..errors import MtlError
from ..files import (
    decoded,
    exists,
    in_shell,
    read_file,
    write_atomically,
    write_errors_as_mtl_error,
)
from ..registry.lookup import catalog_with
from .axes import Axis, legal
from .checks import prepared
from .definition import Definition
from .read import read

KINDS = ("pretext", "weighting", "encoder")
"""What `vary` takes by name."""


@frozen
class Level:
    """One value of what varies: the name of its arm, and what the arm sets."""

    name: str
    set: tuple[str, ...]


def new_study(
    config: Path,
    vary: Sequence[str],
    file: Path,
    *,
    tune: Sequence[str] = (),
    seeds: int = 3,
    plugins: Sequence[Path] = (),
    equal_compute: bool = True,
    mark: str = "",
) -> Definition:
    """Write a study file, and return the study as it is read again.

    vary: "pretext=A,B" has an arm for each pretext and one without any, which is the baseline.
        "weighting=A,B" and "encoder=A,B" take names. "KEY=V1,V2" takes values; the first one is the
        baseline. Of several, every combination is an arm.
    tune: "KEY=V1,V2", values to tune for each arm; of several, every combination is a trial.
    equal_compute: also run the baseline at the compute of each pretext.
    seeds: their number: 0, 1, 2, ...
    mark: the first line of the file. An earlier file that begins with it is replaced.

    Raises MtlError with all problems of the study; then no file is written.
    """
    if exists(file) and not (mark and read_file(file).startswith(mark.encode())):
        raise MtlError(f"{file} exists already: choose another --out, or edit it")
    if not vary:
        raise MtlError("a study needs --vary, such as --vary pretext=puzzling,rotation")
    if seeds < 1:
        raise MtlError(f"--seeds {seeds}: expected the number of seeds, 1 or more")
    base = load(config, (), plugins)
    axes = [_levels(text, base, plugins, config) for text in vary]
    arms = [_combined(levels) for levels in itertools.product(*axes)]
    tuned = [Axis.parse(text, "--tune").overrides for text in tune]
    trials = list(itertools.product(*tuned)) if tuned else []
    kinds = {text.partition("=")[0].strip() for text in vary}
    options = _options(kinds) if equal_compute else []
    text = _text(config, file, arms, trials, seeds, kinds, plugins, options)

    temporary = file.with_name(f".{file.name}.new")
    with write_errors_as_mtl_error(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(temporary, (mark + text).encode())
    try:
        study = prepared(read(temporary))
        with write_errors_as_mtl_error(file):
            temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return study


def _levels(text: str, base: Experiment, plugins: Sequence[Path], config: Path) -> list[Level]:
    """Return the values of one --vary."""
    axis = Axis.parse(text, "--vary")
    if axis.key == "seed":
        raise MtlError("--vary seed: set the number of seeds with --seeds")
    if axis.key not in KINDS:
        last = axis.key.rpartition(".")[2]
        return [
            Level(f"{last}_{legal(value)}", (override,))
            for value, override in zip(axis.values, axis.overrides)
        ]
    names = [value.strip("\"'") for value in axis.values]
    known = catalog_with([*_files(base), *plugins])
    for name in names:
        known.find(axis.key, name)  # raises on an unknown name, with the nearest one
    if axis.key == "pretext":
        return _pretexts(names, base, config)
    return [Level(_word(name), (f'{axis.key}={{ name = "{name}" }}',)) for name in names]


def _files(base: Experiment) -> list[Path]:
    return [Path(plugin.partition("#")[0]) for plugin in base.plugins]


def _pretexts(names: Sequence[str], base: Experiment, config: Path) -> list[Level]:
    """Return the level without any pretext, then one for each."""
    # A table of weight 0 is not in the experiment, but it is in the file.
    tables = read_toml(_read(config)).get("pretext", {})
    off = {label: f"pretext.{label}.weight=0" for label in tables}
    levels = [Level("supervised", tuple(off[label] for label in base.pretexts))]
    # All pretexts read the same images, or their comparison would be one of images.
    samples = {entry.samples for entry in base.pretexts.values()}
    for name in names:
        label = _word(name)
        others = [off[other] for other in base.pretexts if other != label]
        on = [] if label in base.pretexts else [f"pretext.{label}.weight=1.0"]
        if label not in tables and samples == {"unlabeled"}:
            on.append(f'pretext.{label}.samples="unlabeled"')
        if label != name and label not in tables:
            on.insert(0, f'pretext.{label}.name="{name}"')
        levels.append(Level(label, (*others, *on)))
    return levels


def _read(config: Path) -> str:
    return decoded(read_file(config))


def _word(name: str) -> str:
    """Return a name as the name of an arm: "torchjd:CAGrad" -> "torchjd_CAGrad"."""
    return re.sub(r"\W+", "_", name)


def _combined(levels: Sequence[Level]) -> Level:
    name = "_".join(level.name for level in levels)
    return Level(name, tuple(setting for level in levels for setting in level.set))


def _text(
    config: Path,
    file: Path,
    arms: Sequence[Level],
    trials: Sequence[Sequence[str]],
    seeds: int,
    kinds: set[str],
    plugins: Sequence[Path],
    options: Sequence[str],
) -> str:
    """Return the text of the study file."""
    folder, name = file.absolute().parent, in_shell(file.name)
    lines = [
        f"# Run it:            mtl study run {name}",
        f"# What is left:      mtl study plan {name}",
        f"# What it says:      mtl study table {name}",
        "",
        f"config = {_quoted(os.path.relpath(config.absolute(), folder))}  # what all arms share",
        f"seeds = {list(range(seeds))}  # every arm runs with each; arms are compared seed by seed",
        f"baseline = {_quoted(arms[0].name)}  # the others are compared with it",
    ]
    if plugins:
        found = ", ".join(_quoted(os.path.relpath(p.absolute(), folder)) for p in plugins)
        lines.append(f"plugins = [{found}]")
    if "encoder" in kinds:
        lines.append('differ = ["encoder"]  # what arms need not share')
    if trials:
        lines.append("# Each arm is tuned on validation, with one run of each of its trials:")
        lines.append("tune_seed = 0")
        lines.append("# tune_steps = 500  # default: the steps of a full run")
    lines += options
    for arm in arms:
        lines += ["", f"[arms.{_key(arm.name)}]", f"set = {_list(arm.set)}"]
        if trials:
            lines += ["trials = [", *(f"  {_list(trial)}," for trial in trials), "]"]
    return "\n".join(lines) + "\n"


def _options(kinds: set[str]) -> list[str]:
    if "pretext" not in kinds:
        return []
    return [
        "# The baseline with more steps, at the compute of the arms that encode more images:",
        "equal_compute = true",
        "# Does the pretext's loss help, or do its views? Its targets, or any targets?",
        '# controls = ["views_only", "random_target"]',
    ]


def _list(settings: Sequence[str]) -> str:
    return f"[{', '.join(map(_quoted, settings))}]"


def _quoted(text: str) -> str:
    """Return a TOML string: without escapes where that is possible."""
    if "'" not in text and ('"' in text or "\\" in text):
        return f"'{text}'"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _key(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name, re.ASCII) else _quoted(name)
