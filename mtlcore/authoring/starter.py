"""`mtl init`: a commented configuration for own data, to read, edit and train."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import tomli_w
from attrs import frozen

from ..config.load import load
from ..config.read import MODULE_ATTRIBUTES
from ..config.write import require_utf8
from ..data.folder import split_folders
from ..errors import MtlError, nearest
from ..files import exists, in_shell, is_folder, write_atomically, write_errors_as_mtl_error
from .own_table import SPLIT, OwnTable, is_table, own_table

Start = Literal["folders", "csv", "faces"]
"""What the data are: a folder for each class, a table of paths, or faces in folders."""

STARTS: tuple[Start, ...] = get_args(Start)

Network = Literal["cnn", "vit"]
"""A convolutional network, or a vision transformer: each with a pretext of its own."""

NETWORKS: tuple[Network, ...] = get_args(Network)

_HEAD = """\
# {what}
#
#   mtl data check {label} {file} --sheet sheet.png   look at the data
#   mtl train {file} --dry-run                        check all, estimate time and memory
#   mtl train {file} --out runs/first
#   mtl report runs/first --out report.html           needs the extra `report`
#
# Baseline, supervised only, at equal compute:
#   --set pretext.{pretext}.weight=0 {baseline}--set train.steps={equal_steps}
#
# All keys: mtl config show {file}. Other components: mtl plugins.

seed = 0
"""

_CNN = """
# The network that all tasks share. Pretrained: name = "timm:resnet18" and weights = "imagenet".
[encoder]
name = "resnet_small"
stem_stride = 2      # 1 keeps more detail and costs more
"""

_VIT = """
# The network that all tasks share: a vision transformer. It needs the extra `timm`.
[encoder]
name = "vit_small"
patch = 8            # pixels: input.size = 64 has 8 x 8 patches
width = 128
"""

_TASKS = {
    "folders": """
# The supervised task. The names of the folders are the classes.
[task.label]
name = "classification"
""",
    "csv": """
# The supervised task: {reads!r} is a column of the table. {other_task}
[task.{task}]
name = "{component}"
{reads_line}""",
    "faces": """
# The supervised task. The names of the folders are the classes, such as emotions.
[task.label]
name = "classification"
""",
}

_DATA = {
    "folders": """
# {root}/<class>/*, or {root}/<train | val | test>/<class>/*
[data.{label}]
name = "image_folder"
{root_line}
""",
    "csv": """
# One row for each image. `path` is the column of images, or of their paths: relative to the folder
# of the table. group = "person" keeps all images of one person in the same split.
[data.{label}]
name = "{dataset}"
{root_line}
{table_lines}
""",
    "faces": """
# Cropped faces: {root}/<class>/*, or {root}/<train | val | test>/<class>/*
[data.{label}]
name = "image_folder"
{root_line}
""",
}

_PUZZLING = """
# A pretext: it learns from images alone. `mtl plugins` lists others. What it brought, by data and
# labels: docs/when-it-helps.md.
[pretext.puzzling]
grid = 2
head = "spatial"
{samples}weight = 1.0
"""

_CLEAN_STATISTICS = """
# BatchNorm's running statistics are those of labeled images that are not puzzled.
[views]
statistics = "clean"
"""

_BOTH_VIEWS = """
# The supervised head reads the whole image and the puzzled one.
[views]
supervised = "both"
"""

_MASKED_IMAGE = """
# A pretext: it predicts hidden patches. The encoder reads the visible quarter alone, so it costs a
# third of a supervised step. What it brought, by data and labels: docs/when-it-helps.md.
[pretext.masked_image]
grid = 8             # input.size / patch: change the three together
ratio = 0.75
drop = true
{samples}weight = 5.0
"""

_REST = """
[input]
size = {size}            # pixels: half the size is a quarter of the work
batch_size = 64      # labeled images in a step
{validation}

# `mtl preview {file} --augment --out sheet.png` shows it.
[augment]
{augment}

[optimizer]
name = "adamw"
lr = {lr}            # `mtl lr-find {file}` suggests one

[schedule]
warmup = 200         # steps

[train]
steps = {steps}
eval_every = 200
save_every = 200
"""

_CUT = "validation = 0.1     # the share of the training images to choose by"

_OWN_VALIDATION = """\
# The data have a validation split, which is used as it is: none is cut from the training images."""

_OTHER_TASK = {
    "classification": 'For numbers: name = "regression".',
    "regression": """It holds numbers.
# If they are classes: name = "classification" here, and categorical = [{quoted}] below.""",
}

_UNLABELED = """
# Images of the same kind, at any depth. annotation = "": they have no labels. The pretext learns
# from them. A step reads as many of them as labeled images; input.unlabeled_batch changes that.
{on_faces}[data.more]
name = "image_folder"
{unlabeled_line}
annotation = ""
"""

_ON_FACES = """\
# On FER2013, no form with them was ahead of the recipe without them, at equal compute
# (docs/which-pretext.md). Compare with it: mtl init --for faces, without --unlabeled.
"""

_NO_UNLABELED = """
# Do you have images without labels? The pretext can learn from them, too. For the pretext on these
# images alone: samples = "unlabeled" in [pretext.{pretext}]{and_clean}.
# [data.more]
# name = "image_folder"
# root = "unlabeled"
# annotation = ""
"""

_TIGHT_FACES = """\
name = "strong"
crop = [0.69, 0.99]  # for faces that are cropped tight
noise = 0.011        # noise and blur: what remains at 48 px of those for 224
blur_sigma_px = 0.32

# The middle of the training crops: faces have the scale that the encoder learned.
[augment.validation]
crop = 0.85"""


@frozen
class _Recipe:
    """What differs between the examples for few labels.

    encoder, tables: parts of the file; `tables` are those of the pretext and of the views.
    equal_steps: the steps of the baseline at equal compute. baseline: its other settings.
    augment: lines of [augment]; "" for the usual ones of the images.
    """

    encoder: str
    tables: str
    pretext: str
    lr: str
    steps: int
    equal_steps: int
    size: int = 64
    baseline: str = ""
    augment: str = ""


_RECIPES: dict[Network, _Recipe] = {
    "cnn": _Recipe(_CNN, _PUZZLING + _CLEAN_STATISTICS, "puzzling", "5e-3", 2000, 4000),
    "vit": _Recipe(_VIT, _MASKED_IMAGE, "masked_image", "1e-3", 2000, 2660),
}

# Without unlabeled images: the head can't read a puzzled image that has no label.
_FACES = _Recipe(
    _CNN,
    _PUZZLING + _BOTH_VIEWS,
    "puzzling",
    "3e-3",
    3000,
    6000,
    size=48,
    baseline="--set views.supervised=clean ",
    augment=_TIGHT_FACES,
)

_WHAT = {
    "folders": "Images in folders, one for each class.",
    "csv": "A table of images with their labels.",
    "faces": "Cropped faces in folders, one for each class.",
}


def starter(
    start: Start,
    data: Path,
    file: Path,
    reads: str = "label",
    unlabeled: Path | None = None,
    network: Network = "cnn",
) -> str:
    """Return a commented configuration, after a look at the data.

    data: the folder of the images, or the table. file: where the text will be, for its comments.
    reads: of "csv": the column of labels. unlabeled: a folder of images without labels.
    Raises MtlError for a table or a folder that can't be read.
    """
    label = _label(data.stem if start == "csv" else data.name)
    recipe = _RECIPES[network]
    if start == "faces" and network == "cnn" and unlabeled is None:
        recipe = _FACES
    augment = "strong" if start == "faces" else "general"
    facts = {
        "what": _WHAT[start],
        "label": label,
        "file": in_shell(file),
        "root": data,
        "root_line": _line("file" if start == "csv" else "root", str(data)),
        "pretext": recipe.pretext,
        "lr": recipe.lr,
        "steps": recipe.steps,
        "equal_steps": recipe.equal_steps,
        "size": recipe.size,
        "baseline": recipe.baseline,
        "on_faces": _ON_FACES if start == "faces" else "",
        "and_clean": ', and no "both" in [views]' if recipe is _FACES else "",
        "augment": recipe.augment or f'name = "{augment}"',
    }
    if start == "csv":
        table = own_table(data, reads)
        has_validation = table.has_validation
        facts |= _facts_of_table(table, reads, recipe.pretext)
    else:
        has_validation = "validation" in split_folders(data)
    facts["validation"] = _OWN_VALIDATION if has_validation else _CUT
    more, facts["samples"] = _NO_UNLABELED, ""
    if unlabeled is not None:
        more, facts["samples"] = _UNLABELED, 'samples = "unlabeled"\n'
        facts["unlabeled_line"] = _line("root", str(unlabeled))
    parts = (_HEAD, recipe.encoder, _TASKS[start], _DATA[start], more, recipe.tables)
    return "".join((*parts, _REST)).format(**facts)


def _facts_of_table(table: OwnTable, reads: str, pretext: str) -> dict[str, str]:
    """Return what the templates of a table need in addition. reads: the column of labels."""
    # The label of a task is also the name of a module, beside that of the pretext.
    is_label = reads.isascii() and reads.isidentifier()
    task = reads if is_label and reads not in (*MODULE_ATTRIBUTES, pretext) else "label"
    quoted = _quoted(reads)
    lines = [_line("path", table.path)]
    if table.categorical:
        lines.append(
            f"categorical = [{quoted}]  # numbers as classes; for regression, leave this out"
        )
    if table.split:
        lines.append(_line("split", SPLIT))
    return {
        "reads": reads,
        "task": task,
        "component": table.task,
        "reads_line": "" if task == reads else f"reads = {quoted}\n",
        "other_task": _OTHER_TASK[table.task].format(quoted=quoted),
        "dataset": table.dataset,
        "table_lines": "\n".join(lines),
    }


def write_starter(
    start: str,
    data: Path,
    file: Path,
    reads: str = "label",
    unlabeled: Path | None = None,
    network: str = "cnn",
) -> None:
    """Write a commented configuration for these data. Raises MtlError where it could not train."""
    if start not in STARTS:
        raise MtlError(f"--for {start!r}: unknown; {nearest(start, STARTS)}")
    if network not in NETWORKS:
        raise MtlError(f"--network {network!r}: unknown; {nearest(network, NETWORKS)}")
    if exists(file):
        raise MtlError(f"{file} exists: choose another --out")
    if start == "csv" and not is_table(data):
        raise MtlError(
            f"--data {data}: expected a table of images: a .csv file, a .parquet file, or a folder "
            "of .parquet files"
        )
    if start != "csv" and not is_folder(data):
        raise MtlError(f"--data {data}: expected a folder with one folder for each class")
    if unlabeled is not None and not is_folder(unlabeled):
        raise MtlError(f"--unlabeled {unlabeled}: expected a folder of images without labels")
    more = None if unlabeled is None else unlabeled.absolute()
    text = starter(start, data.absolute(), file, reads, more, network)
    require_utf8(text, "mtl init can't write")
    with write_errors_as_mtl_error(file):
        write_atomically(file, text.encode())
    try:
        load(file)
    except MtlError:
        file.unlink()
        raise


def _label(name: str) -> str:
    """A label for the data: a name without characters that a TOML key would have to quote."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in name)
    return "images" if kept in ("", "more") else kept  # "more" is the label of unlabeled images


def _line(key: str, value: str) -> str:
    return f"{key} = {_quoted(value)}"


def _quoted(text: str) -> str:
    """Return a TOML string."""
    return tomli_w.dumps({"x": text}).removeprefix("x = ").strip()
