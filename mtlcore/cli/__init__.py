"""The command line: `mtl`, or `python -m mtlcore`.

Commands are listed here and imported when they are called, so that `mtl --help` imports no torch.

Exit codes: 0 on success; 1 where `mtl plugins check` finds a failure, or where `mtl config diff`
finds a difference; 2 for an error that the user can fix (its message alone, on stderr), and for
output that can't be written; 3 for a run that diverged; 130 after Ctrl-C, and 128 + its number
after another signal. Any other exception is a bug of the program and keeps its traceback. A reader
of stdout that goes away (`mtl plugins | head`) changes nothing: the command does its work, and its
output is dropped.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

from cyclopts import App

from .. import __version__
from ..errors import MtlError
from ..stdout import lossy_stdout, open_missing_outputs
from ._signals import signals_end_the_command
from .plugins import plugins

COMMANDS = {
    "init": ("init:init", "Write a commented configuration for your own images."),
    "train": ("train:train", "Train an experiment, or resume a run."),
    "eval": ("eval:evaluate", "Evaluate a run on a split of its data, or on other data."),
    "predict": ("predict:predict", "Predict images, folders, tables or videos with a run."),
    "package": ("package:package", "Write the model of a run as a folder to share."),
    "export": ("export:export", "Write a run as one ONNX or torch.export file, and check it."),
    "benchmark": ("benchmark:benchmark", "Compare the formats of a run: accuracy, time, size."),
    "serve": ("serve:serve", "Serve a run as a web page and as JSON endpoints."),
    "report": ("report:report", "Write one HTML file about a run or a study."),
    "completion": ("completion:completion", "Print a script that completes mtl in your shell."),
    "demo": ("demo:demo", "Compare supervised and hybrid training on synthetic images."),
    "preview": ("preview:preview", "Draw what the pretext tasks see and what a run predicts."),
    "lr-find": ("lr_find:lr_find", "Suggest a learning rate from a few training steps."),
    "affinity": ("affinity:affinity", "Find out which pretext helps which task."),
    "compare": ("compare:compare", "Compare runs over seeds: what do they decide?"),
    "sweep": ("sweep:sweep", "Train several values of a key and write the best setting."),
}
"""name -> where the command is defined, and its line in `mtl --help`."""

GROUPS = {
    "data": "Inspect data before training.",
    "config": "Check, show and compare configurations.",
    "study": "Compare arms over seeds: write a study, run it, read its tables.",
    "plugins": "List all components, and plugins that failed or are blocked.",
}
IN_GROUPS = {
    "data check": (
        "data:check",
        "Count the samples of one [data.LABEL] and find broken files, copies and leaks.",
    ),
    "data pack": (
        "data_pack:pack",
        "Decode the images of one [data.LABEL] once, into a few large files.",
    ),
    "config check": ("config:check", "Report all mistakes of a configuration at once."),
    "config show": ("config:show", "Print a configuration with every default."),
    "config diff": ("config:diff", "Print the keys in which two configurations or runs differ."),
    "config schema": ("config:schema", "Print the JSON Schema of configurations, for editors."),
    "study new": (
        "study:new",
        "Write a study file from an experiment and what its arms differ in.",
    ),
    "study run": ("study:run", "Train the runs of a study that are left, and print its tables."),
    "study plan": ("study:plan", "Print what is left, with its estimated compute."),
    "study table": (
        "study:table",
        "Print what the finished runs say; --test reads the test split.",
    ),
    "study again": ("study:again", "Train a finished run again: is it the same, bit for bit?"),
    "plugins check": (
        "plugins_check:check",
        "Check that a component meets the contract of its kind.",
    ),
    "plugins show": (
        "plugins_show:show",
        "Show what a component is and which keys its table takes.",
    ),
    "plugins new": (
        "plugins_new:new",
        "Create a plugin: a folder that passes its tests and trains.",
    ),
}

OUTPUTS = ("--out", "--csv", "--parquet", "--draw", "--plot", "--sheet")
"""The options that name a file or folder to write."""

app = App(
    name="mtl",
    help=(
        "Hybrid multi-task learning: "
        "supervised tasks and self-supervised pretext tasks on one shared encoder."
    ),
    version=__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
for _name, (_where, _help) in COMMANDS.items():
    app.command(f"{__name__}.{_where}", name=_name, help=_help)

_groups = {name: App(name=name, help=line) for name, line in GROUPS.items()}
_groups["plugins"].default(plugins)  # `mtl plugins` lists them
for _words, (_where, _help) in IN_GROUPS.items():
    _group, _name = _words.split()
    _groups[_group].command(f"{__name__}.{_where}", name=_name, help=_help)
for _app in _groups.values():
    app.command(_app)


def main(tokens: Sequence[str] | None = None) -> int:
    """Run one command line (default: that of the process) -> the exit code."""
    open_missing_outputs()
    warnings.formatwarning = _short_warning
    with signals_end_the_command(), lossy_stdout() as output:
        code = _run(tokens)
    if output is None or output.lost is None:
        return code
    _print_error(f"can't write to stdout: {output.lost.strerror}: the output is not complete")
    return code or 2


def _run(tokens: Sequence[str] | None) -> int:
    try:
        _require_working_folder()
        words = sys.argv[1:] if tokens is None else tokens
        _require_a_name(words)
        result = app(tokens)
    except MtlError as error:
        _print_error(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        from ..registry.torch_version_hint import torch_version_hint

        hint = torch_version_hint(error)
        if hint is None:
            raise
        _print_error(str(hint))
        return hint.exit_code
    return result if isinstance(result, int) else 0


def _require_working_folder() -> None:
    """Raise MtlError in a shell whose working directory was deleted."""
    try:
        os.getcwd()  # noqa: PTH109 - only tried
    except OSError as error:
        raise MtlError(
            f"can't read the working directory: {error.strerror}: change to another one, "
            "such as `cd ~`"
        ) from error


def _require_a_name(words: Sequence[str]) -> None:
    """Raise MtlError if an output is empty, as of an unset variable.

    It would be the current folder.
    """
    for option in OUTPUTS:
        if f"{option}=" in words or (option, "") in pairwise(words):
            instead = ", or `--out .` for the current folder" if option == "--out" else ""
            raise MtlError(f"{option} is empty: give a name{instead}")


def _print_error(message: str) -> None:
    # stderr can be closed or full, too. The exit code still says what happened.
    with suppress(OSError):
        print(f"mtl: {message}", file=sys.stderr, flush=True)


def _short_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,  # noqa: ARG001 - part of the signature of `warnings.formatwarning`
) -> str:
    """One line. Warnings of mtlcore are for users; others name the line of code they come from."""
    if category.__module__.startswith("mtlcore"):
        return f"mtl: warning: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"
