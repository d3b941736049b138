"""Write docs/configuration.md from mtlcore/experiment.py: every table of a configuration, and every key that the core reads.

python docs/make_configuration.py
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import attrs

from mtlcore.authoring.describe import Key, keys_of
from mtlcore.config.experiment import (
    DataEntry,
    Experiment,
    Input,
    Optimizer,
    PretextEntry,
    Schedule,
    TaskEntry,
    Train,
    Views,
)

PAGE = Path(__file__).with_name("configuration.md")
HEAD = """# Configuration

Made from `mtlcore/experiment.py` by `python docs/make_configuration.py`; do not edit.

A run is one TOML file. What is left out has its default; the run keeps the whole of it, every default written out, as
`RUN/config.toml`. A key that is unknown or misspelled, a value of another type and one out of its range are told before anything
starts, all of them at once, each with the nearest name.

Here stand the keys that the core reads. A table that names a component (an encoder, a task, a pretext ...) takes the fields of that
component too: `mtl plugins` lists the components, `mtl plugins show NAME` gives the keys of one, and a table to copy.

## `--set`

`mtl train CONFIG --out RUN --set KEY=VALUE` sets one key of the file; it may be given often. The key is written with dots, the
value as in TOML; a value that is no TOML is a string, so quotes may be left out:

```
--set train.steps=500 --set schedule.milestones=[0.3,0.6] --set pretext.rotation.weight=0 --set encoder.name=timm:resnet18
```

`train.steps` takes the file's `train.epochs` back, and the other way round. A task or pretext of weight 0 is as if its table were
not there. `mtl sweep` tries several values of a key.
"""
TABLES: dict[str, tuple[str, type | None]] = {
    "encoder": ("[encoder]", None),
    "tasks": ("[task.<label>]", TaskEntry),
    "pretexts": ("[pretext.<label>]", PretextEntry),
    "data": ("[data.<label>]", DataEntry),
    "weighting": ("[weighting]", None),
    "augment": ("[augment]", None),
    "augmentations": ("[augment.<name>]", None),
    "input": ("[input]", Input),
    "views": ("[views]", Views),
    "optimizer": ("[optimizer]", Optimizer),
    "schedule": ("[schedule]", Schedule),
    "train": ("[train]", Train),
    "callbacks": ("[callback.<label>]", None),
}
"""Field of `Experiment` -> its table, and the class of the keys that the core reads; None: of the component's alone."""
TOP = ("seed", "plugins")
MORE = {
    "encoder": "Keys: `name`, and those of that encoder. [An encoder](plugins/encoder.md) of your own.",
    "tasks": "A label is a word; tasks, pretexts and callbacks can't share one. [A task](plugins/task.md) of your own.",
    "pretexts": "[A pretext task](plugins/pretext.md) of your own.",
    "data": "[Data](data.md) tells which datasets there are, and what becomes of splits.",
    "weighting": "Keys: `name`, and those of that weighting. [Loss weighting](weighting.md) tells which is for what.",
    "augment": "Keys: `name`, and those of that augmentation. [An augmentation](plugins/augmentation.md) of your own.",
    "augmentations": "Keys: `name` (default: the table's own), and those of that augmentation.",
    "train": "Set `steps` or `epochs`; without the table a run has 1000 steps.",
    "callbacks": "Keys: `name` (default: the label), and those of that callback. [Callbacks](plugins/callback.md).",
}


def configuration() -> str:
    """The whole page."""
    top = [key for key in keys_of(Experiment) if key.name in TOP]
    parts = [
        HEAD,
        "## At the top of the file\n",
        table(top, meanings(Experiment)),
        *map(section, TABLES),
    ]
    return "\n".join(parts)


def section(field: str) -> str:
    """Heading, what the table is for, its keys."""
    title, cls = TABLES[field]
    said = [
        f"## `{title}`\n",
        sentence(meanings(Experiment)[field]) + (f" {MORE[field]}" if field in MORE else "") + "\n",
    ]
    if cls is not None:
        words = meanings(cls)
        keys = [named(key) if key.name == "component" else key for key in keys_of(cls)]
        said.append(table(keys, {**words, "name": words.get("component", "")}))
    return "\n".join(said)


def named(component: Key) -> Key:
    """A component stands in its table by name."""
    return attrs.evolve(component, name="name", type="a string", required=False)


def table(keys: list[Key], words: dict[str, str]) -> str:
    """Markdown: key, type and range, default, meaning."""
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key in keys:
        kind = "; ".join(filter(None, (key.type, key.range)))
        default = f"`{key.default}`" if key.default else ""
        rows.append(f"| `{key.name}` | {cell(kind)} | {default} | {cell(words[key.name])} |")
    return "\n".join(rows) + "\n"


def meanings(cls: Any) -> dict[str, str]:
    """key -> what the class's docstring says of it: a paragraph that begins with "key: ".

    "rows: which rows it looks at." -> {"rows": "which rows it looks at."}; lines that are indented further go on.
    """
    text = inspect.cleandoc(cls.__doc__ or "")
    found = re.findall(r"^(\w+): (.*(?:\n[ \t]+.*)*)", text, re.M)
    return {key: " ".join(said.split()) for key, said in found}


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


if __name__ == "__main__":
    PAGE.write_text(configuration(), encoding="utf-8")
