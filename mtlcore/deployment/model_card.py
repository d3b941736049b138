"""The model card of a package: README.md with front matter, as model hubs read it."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from ..evaluation.evaluate import Evaluation
from ..evaluation.groups import group_of, without_groups
from ..evaluation.responsible_use import NAME as RESPONSIBLE_USE
from ..files import in_shell

UNKNOWN = "not stated"

LIMITS = f"""\
- Intended use: research, and tools where a person decides and a wrong answer costs nothing. Read
  [Responsible use]({RESPONSIBLE_USE}) before you show an answer to anybody.
- The model repeats the labels of its training data, with their errors and their imbalance.
- Labels that describe people describe their appearance as annotators saw it, not what they feel or
  are. Do not use such answers to judge, select or identify people.
- The metrics above hold for similar data only. Evaluate the model on your own images first."""


def model_card(
    config: Mapping[str, Any],
    preprocessor: Mapping[str, Any],
    provenance: Mapping[str, Any],
    measured: Evaluation | Mapping[str, float],
    license_name: str,
    study: str = "",
) -> str:
    """Return the text of a model card.

    config, preprocessor: the contents of the package's files. provenance: run.json.
    measured: metrics for the card: an evaluation, or those of validation that the run logged at the
        step of these weights; empty if it logged none.
    license_name: of the package; "" if it is not stated.
    study: Markdown of a study of this training, such as its table with controls and intervals.
    """
    parts = [
        _front_matter(config, license_name),
        _summary(config, preprocessor),
        _usage(config),
        _data(config),
        _metrics(config, provenance, measured),
        *([f"## Study\n\n{study.strip()}"] if study.strip() else []),
        "## Intended use and limits\n\n" + LIMITS,
        _origin(config, provenance),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(config: Mapping[str, Any], license_name: str) -> str:
    """Return YAML. JSON strings and lists are valid YAML."""
    hybrid = ["hybrid-multi-task-learning"] if config["trained_on"]["pretexts"] else []
    lines = {
        "library_name": "mtlcore",
        "license": license_name or "other",
        **_pipeline_tag(config),
        "tags": ["mtlcore", *hybrid, *config["answers"]],
    }
    text = "\n".join(f"{key}: {json.dumps(value)}" for key, value in lines.items())
    return f"---\n{text}\n---"


def _pipeline_tag(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the tag of the first task that a model hub has a tag for, or nothing."""
    for answer in config["answers"].values():
        if answer["form"] in ("label", "labels"):
            return {"pipeline_tag": "image-classification"}
        if answer["shape"] == "points":
            return {"pipeline_tag": "keypoint-detection"}
        if answer["shape"] == "map" and answer["names"]:
            return {"pipeline_tag": "image-segmentation"}
    return {}


def _summary(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> str:
    encoder = config["experiment"]["encoder"]["name"]
    lines = [f"# {' and '.join(config['answers'])}", ""]
    tasks = "supervised tasks"
    if config["trained_on"]["pretexts"]:
        tasks += " and self-supervised pretext tasks at the same time"
    lines.append(
        f"An image model with the encoder `{encoder}`, which reads RGB images of "
        f"{preprocessor['size']} pixels. It was trained with mtlcore, on {tasks}. Inference uses "
        "the supervised tasks only."
    )
    lines += ["", "| task | answer |", "|---|---|"]
    lines += [f"| {label} | {_cell(_said(a))} |" for label, a in config["answers"].items()]
    return "\n".join(lines)


def _said(answer: Mapping[str, Any]) -> str:
    """What a task answers, in words."""
    names = ", ".join(answer["names"])
    if answer["shape"] == "points":
        return "points: x and y in pixels of the image"
    if answer["shape"] == "map":
        return f"a map of {names or 'numbers'}"
    forms = {"label": "one of", "labels": "any of", "values": "numbers:"}
    return f"{forms[answer['form']]} {names}"


def _cell(text: str) -> str:
    """Escape a text for a cell of a Markdown table."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def _usage(config: Mapping[str, Any]) -> str:
    plugins = "".join(f", plugins=[{name!r}]" for name in config["plugins"])
    files = "".join(f" --plugin {in_shell(name)}" for name in config["plugins"])
    install = " ".join(_packages(config)) or '"mtlcore"'
    return f"""## How to use it

```
pip install {install}
mtl predict FOLDER photo.jpg{files}
```

```python
import mtlcore

predictor = mtlcore.load_package("FOLDER"{plugins})
print(predictor("photo.jpg")[0].answers)
```"""


def _packages(config: Mapping[str, Any]) -> list[str]:
    """Return the packages of all components as pip takes them: '"mtlcore[timm]==0.1.0"'."""
    extras: dict[tuple[str, str], set[str]] = {}
    for origin in config["components"].values():
        if origin.get("package"):
            found = extras.setdefault((origin["package"], origin["version"]), set())
            found |= {origin["extra"]} if origin.get("extra") else set()
    packages = []
    for (name, number), of_package in sorted(extras.items()):
        shown = f"[{','.join(sorted(of_package))}]" if of_package else ""
        packages.append(f'"{name}{shown}=={number}"')
    return packages


def _data(config: Mapping[str, Any]) -> str:
    trained = config["trained_on"]
    lines = [
        "## Training data",
        "",
        "| data | dataset | labels used | license |",
        "|---|---|---|---|",
    ]
    for label, data in trained["datasets"].items():
        share = f"{100 * data['labels']:g} %"
        license_name = _cell(data["license"] or UNKNOWN)
        lines.append(f"| {label} | {_cell(data['name'])} | {share} | {license_name} |")
    counts = ", ".join(f"{n:,} {split}" for split, n in trained["samples"].items())
    lines += ["", f"Samples: {counts}. Fingerprint of the data: `{trained['fingerprint']}`."]
    pretexts = ", ".join(trained["pretexts"].values()) or "none"
    lines += ["", f"Pretext tasks: {pretexts}."]
    return "\n".join(lines)


def _metrics(
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    measured: Evaluation | Mapping[str, float],
) -> str:
    if isinstance(measured, Evaluation):
        title = f"On the split {measured.split} of {measured.data}. {_counts(measured.n)}"
        metrics: Mapping[str, float] = measured.metrics
    elif measured:
        labels = provenance["labels"]
        n = {label: labels[label].get("validation", 0) for label in config["answers"]}
        title = f"On the validation split. {_counts(n)} They also guided choices during training."
        metrics = measured
    else:
        return "## Metrics\n\nThe run measured none at the step of these weights."
    lines = ["## Metrics", "", title, "", "| metric | value |", "|---|---|"]
    for name, value in without_groups(metrics).items():
        lines.append(f"| {_cell(name)} | {value:.4f} |")
    for label in config["answers"]:
        lines += _groups(label, metrics)
    return "\n".join(lines)


def _counts(n: Mapping[str, int]) -> str:
    counts = ", ".join(f"{count:,} for {label}" for label, count in n.items())
    return f"Labeled images: {counts}."


def _groups(label: str, metrics: Mapping[str, float]) -> list[str]:
    """Return a table of the metrics of one task by group: "<task>/<metric>[<group>]"."""
    groups: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        group = group_of(name, metrics)
        if group and name.startswith(f"{label}/"):
            metric = name.removeprefix(f"{label}/").removesuffix(f"[{group}]")
            groups.setdefault(group, {})[metric] = value
    if not groups:
        return []

    columns = list(next(iter(groups.values())))
    lines = ["", f"{label} by group; n is the number of labeled images:", ""]
    titles = " | ".join(map(_cell, columns))
    lines += [f"| group | {titles} |", "|---" * (len(columns) + 1) + "|"]
    for group, values in groups.items():
        cells = [f"{values[c]:.0f}" if c == "n" else f"{values[c]:.4f}" for c in columns]
        lines.append(f"| {_cell(group)} | {' | '.join(cells)} |")
    return lines


def _origin(config: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in config["versions"].items())
    weights = config["weights"]
    ema = " (exponential moving average)" if weights["ema"] else ""
    compute = provenance.get("cpu_s")
    lines = [
        "## Origin",
        "",
        f"Weights of step {weights['step']:,}{ema}, SHA-256 `{weights['sha256']}`. Packaged with "
        f"{versions}.",
    ]
    if compute is not None:
        lines.append(f"Compute of the training: {compute:,.0f} CPU s on `{provenance['device']}`.")
    return "\n".join(lines)
