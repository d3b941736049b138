"""What makes a run the run that it is: hashes of its configuration and of its weights.

Folders are left out, so a run on another machine has the same hashes.
"""

from __future__ import annotations

import copy
import hashlib
import json
import platform
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config.overrides import Table, apply, plain, read_toml
from ..config.same import FREE_DATA
from ..files import decoded, read_file

LENGTH = 16  # hexadecimal digits of a hash


def fingerprint(*configs: Path) -> str:
    """Hash the resolved configurations of a run's parts, whatever the folders are called."""
    text = "".join(file.read_text(encoding="utf-8") for file in configs)
    return hashlib.sha256(without_folders(text).encode()).hexdigest()[:LENGTH]


def without_folders(config: str) -> str:
    """Return the text of a configuration without the names of folders."""
    text = re.sub(r'(?m)^(root|init_from) = ".*"$', "", config)
    return re.sub(r'(?m)^(weights = ").*/', r"\1", text)


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """Hash every bit of a network's tensors, with their names."""
    sha256 = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        sha256.update(name.encode())
        sha256.update(raw.numpy().tobytes())
    return sha256.hexdigest()[:LENGTH]


def device() -> str:
    """Return the name of the GPU, or else the processor and its instruction set."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def settings_hash(config: Path, overrides: Sequence[str], plugins: Sequence[str]) -> str:
    """Hash what a run sets: its file with these overrides, and the code of its plugin files.

    The file is not completed by defaults, so the hash does not depend on the version of mtlcore.
    Paths of data and `seed` are left out: the seed is part of the run's key.
    """
    tables = copy.deepcopy(_tables(read_file(config)))
    apply(tables, overrides)
    tables.pop("seed", None)
    for table in tables.get("data", {}).values():
        for key in FREE_DATA if isinstance(table, dict) else ():
            table.pop(key, None)
    files = [*tables.pop("plugins", []), *plugins]
    tables["plugins"] = [_plugin_hash(config.parent / name.partition("#")[0]) for name in files]
    return definition_hash(_plain(tables))


@cache
def _tables(data: bytes) -> Table:
    """Read a TOML text once: a study asks for it with the settings of each row."""
    return read_toml(decoded(data))


def _plugin_hash(file: Path) -> str:
    return hashlib.sha256(read_file(file)).hexdigest()[:LENGTH]


def _plain(value: Any) -> Any:
    """Return TOML values without the words of `--set`, at any depth."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return plain(value)


def definition_hash(tables: Table) -> str:
    """Hash the keys of a study."""
    text = json.dumps(tables, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]
