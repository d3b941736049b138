"""The command line. Commands are named here and loaded when they are called, so that `mtl --help` imports no torch.

Exit codes: 0; 2 for what the user can mend (the message alone, on stderr); 130 after Ctrl-C. Anything else is a fault
of the program and keeps its traceback.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

from cyclopts import App

from .. import __version__
from ..errors import MtlError
from .plugins import plugins

COMMANDS = {
    "train": ("train:train", "Train an experiment, or go on with a run."),
    "eval": ("eval:evaluate", "The figures of a run on a split of its data, or of other data."),
    "demo": (
        "demo:demo",
        "The main job on images that need no download: supervised alone, then hybrid.",
    ),
    "preview": ("preview:preview", "A sheet of what the pretexts ask, and of what a run answers."),
    "sweep": (
        "sweep:sweep",
        "One experiment with several values of a key, over several seeds; the best one written.",
    ),
}

app = App(
    name="mtl",
    help="Hybrid multi-task learning: supervised tasks and self-supervised pretext tasks on one shared encoder.",
    version=__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
for _name, (_where, _help) in COMMANDS.items():
    app.command(f"{__name__}.{_where}", name=_name, help=_help)

_data = App(name="data", help="Look at data before anything is trained on it.")
_data.command(
    f"{__name__}.data:check",
    name="check",
    help="Counts, faults, copies and leaks of one [data.LABEL].",
)
app.command(_data)

_plugins = App(
    name="plugins", help="Every component there is, and every plugin that failed or is blocked."
)
_plugins.default(plugins)
_plugins.command(
    f"{__name__}.plugins_check:check",
    name="check",
    help="Prove that a component keeps its contract.",
)
_plugins.command(
    f"{__name__}.plugins_show:show",
    name="show",
    help="What a component is, and which keys its table takes.",
)
_plugins.command(
    f"{__name__}.plugins_new:new",
    name="new",
    help="Begin a plugin: a folder that passes its tests and trains.",
)
app.command(_plugins)


def main(tokens: Sequence[str] | None = None) -> int:
    """Run one command line (default: that of the process) -> the exit code."""
    warnings.formatwarning = _short_warning
    try:
        result = app(tokens)
        sys.stdout.flush()
    except MtlError as error:
        return _refuse(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `mtl plugins | head`: whoever reads has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        from ..registry.torch_version_hint import torch_version_hint

        known = torch_version_hint(error)
        if known is None:
            raise
        return _refuse(known)
    return result if isinstance(result, int) else 0


def _refuse(error: MtlError) -> int:
    print(f"mtl: {error}", file=sys.stderr)
    return 2


def _short_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,  # noqa: ARG001
) -> str:
    """Our own warnings are for users: one line. Others say where they come from."""
    if category.__module__.startswith("mtlcore"):
        return f"mtl: warning: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"
