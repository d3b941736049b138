"""Create a plugin: a folder with one module, its packaging, a conformance test and a README.

The templates in `templates/` are real files: their modules import, pass the conformance kit and
train, under the name `plugin_name`. A new plugin is a copy with another name.
"""

from __future__ import annotations

import keyword
import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

from ..config.read import MODULE_ATTRIBUTES
from ..errors import MtlError
from ..files import exists
from ..registry.catalog import Catalog, catalog
from ..registry.components import snake
from ..registry.plugin_file import PluginFile
from .describe import example

TEMPLATES = Path(__file__).with_name("templates")
LONGEST = 50  # characters of a name

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def scaffold(name: str, kind: str, out: Path, known: Catalog | None = None) -> Path:
    """Write the folder out / name, as a whole or not at all -> that folder.

    known: the catalog in which the name must be free; default: all installed plugins.
    Raises MtlError on a name that can't be used or is taken, and where the folder exists or can't
    be written.
    """
    folder = out / name
    if exists(folder):
        raise MtlError(f"{folder} already exists: choose another name, or another --out")
    require_name(name, kind, known or catalog())

    # Written under a temporary name in the same folder, then renamed: the rename is atomic.
    temporary = out / f".{name}.{os.getpid()}.tmp"
    try:
        for path, text in _files(name, kind).items():
            file = temporary / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        temporary.rename(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise MtlError(f"can't write {folder}: {error.strerror or error}") from error
    return folder


def require_name(name: str, kind: str, known: Catalog) -> None:
    """Raise MtlError where a plugin can't have this name, or where another one has it."""
    if not _is_legal(name):
        similar = re.sub(r"[^a-z0-9_]+", "_", snake(name)).strip("_0123456789")[:LONGEST]
        hint = f", such as {similar!r}" if _is_legal(similar) else ""
        raise MtlError(
            f"{name!r} can't be a plugin's name: expected lower-case letters, digits and _{hint}"
        )
    for row in known.records():
        if (row["kind"], row["name"]) == (kind, name):
            owner = row["origin"]
            if row["distribution"]:
                owner = f"{row['distribution']} {row['version']}"
            raise MtlError(
                f"{owner} already provides the {kind} {name!r}: "
                f"choose another name, such as 'my_{name}'"
            )
    if name in MODULE_ATTRIBUTES:
        # The label of a table becomes a key of torch's containers.
        raise MtlError(
            f"{name!r} can't be the label of a table, since torch uses the word: choose 'my_{name}'"
        )
    if _class_name(name) in vars(PluginFile.read(TEMPLATES / kind / "plugin_name.py").module()):
        raise MtlError(
            f"{name!r}: its class {_class_name(name)} would hide an imported one: "
            f"choose 'my_{name}'"
        )
    module = find_spec(name)
    if module is not None and module.origin is not None:  # a plain folder has no origin
        raise MtlError(
            f"there is already a module {name!r}, which the plugin would hide: choose 'my_{name}'"
        )


def _is_legal(name: str) -> bool:
    if keyword.iskeyword(name) or len(name) > LONGEST:
        return False
    return _NAME.fullmatch(name) is not None


def _class_name(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def _files(name: str, kind: str) -> dict[Path, str]:
    """Path below the folder -> text."""
    # "plugin_table" comes first: its text contains "plugin_name", which is replaced next.
    placeholders = {
        "plugin_table": _table(TEMPLATES / kind / "plugin_name.py"),
        "plugin_name": name,
        "plugin-name": name.replace("_", "-").strip("-"),
        "PluginName": _class_name(name),
        "plugin_kind": kind,
        "pretext_conformance": f"{kind}_conformance",
    }
    files: dict[Path, str] = {}
    for root in (TEMPLATES / "common", TEMPLATES / kind):
        for file in sorted(root.rglob("*")):
            if file.suffix in (".py", ".toml", ".md"):
                path = str(file.relative_to(root)).replace("plugin_name", name)
                text = file.read_text(encoding="utf-8")
                for placeholder, value in placeholders.items():
                    text = text.replace(placeholder, value)
                files[Path(path)] = text
    return files


def _table(module: Path) -> str:
    """The table of the template's component, without keys: the author will change those."""
    (cls,) = PluginFile.read(module).module().mtl_components()
    lines = example(cls, "plugin_name").splitlines(keepends=True)
    return "".join(line for line in lines if line.startswith(("[", "name = ")))
