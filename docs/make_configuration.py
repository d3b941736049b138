"""Write docs/configuration.md: every table of a configuration, and every key that the core reads.

The meanings come from the docstrings in mtlcore/config/experiment.py. Run:

    python docs/make_configuration.py
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from mtlcore.authoring.describe import Key, keys_of
from mtlcore.config.experiment import (
    DataEntry,
    Experiment,
    GroupOverride,
    Input,
    ParameterGroups,
    PretextEntry,
    Schedule,
    TaskEntry,
    Train,
    Views,
)

PAGE = Path(__file__).with_name("configuration.md")
HEAD = """# Configuration

Generated from `mtlcore/config/experiment.py` by `python docs/make_configuration.py`. Do not edit.

A run is one TOML file. Keys that you leave out have defaults. The run saves the complete
configuration, with every default, as `RUN/config.toml`. Before anything starts, mtlcore reports all
errors of the file at once: unknown keys, values of a wrong type, and values out of range, each with
the nearest valid name.

This page lists the keys that the core reads. A table that names a component (an encoder, a task, a
pretext ...) also takes the fields of that component. `mtl plugins` lists the components.
`mtl plugins show NAME` prints the keys of one, and a table to copy.

## `--set`

`mtl train CONFIG --out RUN --set KEY=VALUE` sets one key. You can repeat it. Write the key with
dots, and the value as in TOML. A value that is not valid TOML is a string, so you can leave out
quotes:

```
--set train.steps=500 --set optimizer.lr=0.01 --set input.size=[48,64]
--set pretext.rotation.weight=0 --set encoder.name=timm:resnet18
```

`train.steps` replaces `train.epochs` of the file, and the other way round. Weight 0 removes a task
or pretext, as if its table did not exist. `mtl sweep` tries several values of a key.
"""

TABLES: dict[str, tuple[str, type | None]] = {
    "encoder": ("[encoder]", None),
    "tasks": ("[task.<label>]", TaskEntry),
    "pretexts": ("[pretext.<label>]", PretextEntry),
    "data": ("[data.<label>]", DataEntry),
    "weighting": ("[weighting]", None),
    "augment": ("[augment]", None),
    "augmentations": ("[augment.<label>]", None),
    "input": ("[input]", Input),
    "views": ("[views]", Views),
    "optimizer": ("[optimizer]", ParameterGroups),
    "parameter_groups": ("[[optimizer.groups]]", GroupOverride),
    "schedule": ("[schedule]", Schedule),
    "train": ("[train]", Train),
    "callbacks": ("[callback.<label>]", None),
}
"""Field of `Experiment` -> its table, and the class of the keys that the core reads.

The class is None if the table takes only `name` and the fields of the component.
"""

TOP = ("seed", "plugins")
MORE = {
    "encoder": "Keys: `name`, and the fields of that encoder. "
    "[Write an encoder](plugins/encoder.md).",
    "optimizer": "Keys: `name`, the fields of that optimizer (`lr`, `weight_decay`), and those "
    "below. [Fine-tuning](finetuning.md) shows them in use. "
    "[Write an optimizer](plugins/optimizer.md).",
    "parameter_groups": "A list of tables.",
    "tasks": "A label is one word. Tasks, pretexts and callbacks can't share a label. "
    "[Write a task](plugins/task.md).",
    "pretexts": "[Write a pretext task](plugins/pretext.md).",
    "data": "[Data](data.md) describes the datasets and their splits.",
    "weighting": "Keys: `name`, and the fields of that weighting. "
    "[Loss weighting](weighting.md) helps you choose.",
    "augment": "Keys: `name`, and the fields of that augmentation. "
    "[Write an augmentation](plugins/augmentation.md).",
    "augmentations": "Keys: `name` (default: the label), and the fields of that augmentation.",
    "train": "Set `steps` or `epochs`. Without this table, a run has 1000 steps.",
    "callbacks": "Keys: `name` (default: the label), and the fields of that callback. "
    "[Write a callback](plugins/callback.md).",
}


def configuration() -> str:
    """Return the whole page."""
    top = [key for key in keys_of(Experiment) if key.name in TOP]
    parts = [
        HEAD,
        "## At the top of the file\n",
        table(top, meanings(Experiment)),
        *map(section, TABLES),
    ]
    return "\n".join(parts)


def section(field: str) -> str:
    """Return heading, purpose and keys of one table."""
    title, cls = TABLES[field]
    purpose = [sentence(meanings(Experiment)[field])]
    if field in MORE:
        purpose.append(MORE[field])

    parts = [f"## `{title}`\n"]
    parts += [textwrap.fill(text, 100, break_on_hyphens=False) + "\n" for text in purpose]
    if field == "encoder":
        freeze = [key for key in keys_of(Experiment) if key.name == "freeze"]
        parts.append(table(freeze, meanings(Experiment)))
    if cls is not None:
        of_key = meanings(cls)
        if "component" in of_key:
            of_key["name"] = of_key["component"]
        keys = [named(key) if key.name == "component" else key for key in keys_of(cls)]
        parts.append(table(keys, of_key))
    return "\n".join(parts)


def named(component: Key) -> Key:
    """Replace the key `component` by `name`: a table holds the name of its component."""
    return attrs.evolve(component, name="name", type="a string", required=False)


def table(keys: Sequence[Key], of_key: Mapping[str, str]) -> str:
    """Return a Markdown table: key, type and range, default, meaning."""
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key in keys:
        kind = "; ".join(filter(None, (key.type, key.range)))
        default = f"`{key.default}`" if key.default else ""
        meaning = cell(sentence(of_key[key.name]))
        rows.append(f"| `{key.name}` | {cell(kind)} | {default} | {meaning} |")
    return "\n".join(rows) + "\n"


def meanings(cls: type) -> dict[str, str]:
    """Return key -> its paragraph in the docstring of `cls`, which begins with "key: ".

    "limit: at most this many samples." -> {"limit": "at most this many samples."}. Lines that are
    indented further belong to the same paragraph.
    """
    text = inspect.cleandoc(cls.__doc__ or "")
    found = re.findall(r"^(\w+): (.*(?:\n[ \t]+.*)*)", text, re.M)
    return {key: " ".join(meaning.split()) for key, meaning in found}


def cell(text: str) -> str:
    """Escape text for a cell of a Markdown table."""
    return text.replace("|", "\\|")


def sentence(text: str) -> str:
    """Capitalize the first letter."""
    return text[:1].upper() + text[1:]


if __name__ == "__main__":
    PAGE.write_text(configuration(), encoding="utf-8")
