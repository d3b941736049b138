"""`mtl completion`: complete commands, options and names in a shell."""

from __future__ import annotations

from typing import Literal


def completion(shell: Literal["bash", "zsh", "fish", "powershell"]) -> int:
    """Print the script that completes `mtl` in SHELL. No file is changed.

    For bash, add this line to ~/.bashrc: `eval "$(mtl completion bash)"`.

    Parameters
    ----------
    shell
        The shell.
    """
    from . import app

    print(app.generate_completion(shell=shell), end="")
    return 0
