"""The beginning of a plugin: a folder with one module, its packaging, a conformance test and a README.

The templates are real files below `mtlcore/templates`: modules that import, pass the kit and train as they stand, under the name
`plugin_name`. A new plugin is a copy with another name.
"""

from __future__ import annotations

import keyword
import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

from torch import nn

from ..errors import MtlError
from ..registry.catalog import Catalog, catalog
from ..registry.components import snake
from ..registry.plugin_file import PluginFile
from .describe import example

TEMPLATES = Path(__file__).with_name("templates")
LONGEST = 50  # letters of a name

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def scaffold(name: str, kind: str, out: Path, known: Catalog | None = None) -> Path:
    """Write the plugin's folder out / name, as a whole or not at all -> that folder.

    known: the catalog in which the name must be free; default: every installed plugin. Raises MtlError on a name that can't be
    used or is taken, and where the folder exists or can't be written.
    """
    folder = out / name
    if folder.exists():
        raise MtlError(f"{folder} exists already: choose another name, or another --out")
    require_name(name, kind, known or catalog())
    part = out / f".{name}.{os.getpid()}.tmp"
    try:
        for path, text in _files(name, kind).items():
            file = part / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        part.rename(folder)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise MtlError(f"can't write {folder}: {error.strerror or error}") from error
    return folder


def require_name(name: str, kind: str, known: Catalog) -> None:
    """Raises MtlError where no plugin can be called so, or where one is."""
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or len(name) > LONGEST:
        legal = re.sub(r"[^a-z0-9_]+", "_", snake(name)).strip("_0123456789")[:LONGEST]
        hint = (
            f", such as {legal!r}"
            if _NAME.fullmatch(legal) and not keyword.iskeyword(legal)
            else ""
        )
        raise MtlError(
            f"{name!r} can't be a plugin's name: expected lower-case letters, digits and _{hint}"
        )
    for row in known.records():
        if (row["kind"], row["name"]) == (kind, name):
            giver = (
                f"{row['distribution']} {row['version']}" if row["distribution"] else row["origin"]
            )
            raise MtlError(
                f"the {kind} {name!r} is given by {giver} already: choose another name, such as 'my_{name}'"
            )
    if name in dir(nn.ModuleDict()):
        raise MtlError(
            f"{name!r} can't be the label of a table, since torch uses the word: choose 'my_{name}'"
        )
    module = find_spec(name)
    if module is not None and module.origin is not None:  # a mere folder of that name has no origin
        raise MtlError(
            f"there is a module {name!r} already, which the plugin's would hide: choose 'my_{name}'"
        )


def _files(name: str, kind: str) -> dict[Path, str]:
    """Path below the folder -> text."""
    words = {
        "plugin_table": _table(TEMPLATES / kind / "plugin_name.py"),
        "plugin_name": name,
        "plugin-name": name.replace("_", "-").strip("-"),
        "PluginName": "".join(word.capitalize() for word in name.split("_")),
        "plugin_kind": kind,
        "pretext_conformance": f"{kind}_conformance",
    }
    found: dict[Path, str] = {}
    for root in (TEMPLATES / "common", TEMPLATES / kind):
        for file in sorted(root.rglob("*")):
            if file.suffix in (".py", ".toml", ".md"):
                path = str(file.relative_to(root)).replace("plugin_name", name)
                found[Path(path)] = _replaced(file.read_text(encoding="utf-8"), words)
    return found


def _table(module: Path) -> str:
    """How a configuration names the template's component; its keys are the author's to change, so none is written down."""
    (cls,) = PluginFile.read(module).module().mtl_components()
    lines = example(cls, "plugin_name").splitlines(keepends=True)
    return "".join(line for line in lines if line.startswith(("[", "name = ")))


def _replaced(text: str, words: dict[str, str]) -> str:
    for word, said in words.items():
        text = text.replace(word, said)
    return text
