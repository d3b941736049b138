"""`mtl config`: check, show and compare configurations, and write their JSON Schema."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..errors import MtlError
from ..files import in_shell
from ._options import ConfigFile, Json, Overrides, PluginFiles

if TYPE_CHECKING:
    from ..config.experiment import Experiment

Out = Annotated[Path | None, Parameter(show_default=False)]


def check(
    config: ConfigFile, *, set_: Overrides = (), plugin: PluginFiles = (), json: Json = False
) -> int:
    """Read CONFIG and report all its mistakes at once. No data are opened.

    Parameters
    ----------
    config
        The experiment, a TOML file, or a run folder.
    set_
        Set one key: `--set train.steps=500`. Repeatable.
    plugin
        Load a one-file plugin. Repeatable.
    json
        Print JSON: the tasks, the pretexts and the datasets.
    """
    from ._shared import print_json, print_line

    experiment = _experiment(config, set_, plugin)
    parts = {
        "tasks": list(experiment.tasks),
        "pretexts": list(experiment.pretexts),
        "data": list(experiment.data),
    }
    if json:
        print_json(parts)
        return 0
    print_line(f"{config} is valid")
    for name, labels in parts.items():
        print_line(f"  {name}: {', '.join(labels) or 'none'}")
    print_line(f"next: mtl train {in_shell(config)} --dry-run")
    return 0


def show(config: ConfigFile, *, set_: Overrides = (), plugin: PluginFiles = ()) -> int:
    """Print CONFIG with every default, as TOML.

    Parameters
    ----------
    config
        The experiment, a TOML file, or a run folder.
    set_
        Set one key: `--set train.steps=500`. Repeatable.
    plugin
        Load a one-file plugin. Repeatable.
    """
    from ..config import dump

    print(dump(_experiment(config, set_, plugin)), end="")
    return 0


def diff(first: ConfigFile, second: ConfigFile, *, plugin: PluginFiles = ()) -> int:
    """Print the keys in which two experiments differ. Exit code 1 if there are any.

    Parameters
    ----------
    first
        A TOML file, or a run folder.
    second
        Another one.
    plugin
        Load a one-file plugin. Repeatable.
    """
    from ..config.same import changed_keys
    from ..config.write import tables_of
    from ._shared import print_line

    before, now = (tables_of(_experiment(path, (), plugin)) for path in (first, second))
    lines = changed_keys(now, before, f"in {first}", f"in {second}", resumable=True)
    for line in lines:
        print_line(line)
    return 1 if lines else 0


def schema(*, out: Out = None, plugin: PluginFiles = ()) -> int:
    """Print the JSON Schema of a configuration, with the keys of all installed components.

    Editors with a TOML language server use it to complete keys and to mark mistakes. The first line
    of the configuration names it: `#:schema mtl.schema.json`.

    Parameters
    ----------
    out
        Write it to this file. An existing schema is replaced, no other file.
    plugin
        Load a one-file plugin, too. Repeatable.
    """
    from ..authoring.json_schema import config_schema
    from ..files import exists, to_json, write_atomically, write_errors_as_mtl_error
    from ..registry.lookup import catalog_with
    from ._shared import print_json, print_line

    found = config_schema(catalog_with(plugin))
    if out is None:
        print_json(found)
        return 0
    if exists(out) and not _is_schema(out):
        raise MtlError(f"{out} exists and is not a JSON Schema: choose another --out")
    with write_errors_as_mtl_error(out):
        write_atomically(out, f"{to_json(found, indent=2)}\n".encode())
    print_line(f"wrote {out}: begin your configuration with the line  #:schema {out.name}")
    return 0


def _is_schema(file: Path) -> bool:
    """Whether this is a JSON Schema."""
    try:
        return "$schema" in json_format.loads(file.read_bytes())
    except (OSError, ValueError, TypeError):
        return False


def _experiment(path: Path, overrides: tuple[str, ...], plugins: tuple[Path, ...]) -> Experiment:
    """The experiment of a TOML file or of a run."""
    from ..config import load
    from ..files import is_folder
    from ..runs import RunFolder

    if is_folder(path):
        return RunFolder.open(path).experiment(overrides, plugins)
    return load(path, overrides, plugins)
