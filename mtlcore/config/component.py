"""Build one component by its kind and name, with the checks of a TOML table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, overload

from ..contracts import (
    BASES,
    Augmentation,
    Callback,
    Component,
    Dataset,
    Detector,
    Encoder,
    LossWeighting,
    Optimizer,
    PretextTask,
    SupervisedTask,
)
from ..errors import MtlError, nearest
from ..registry.lookup import catalog_with
from .overrides import require_text_keys
from .read import Reader
from .write import toml_value

Files = Sequence[str | os.PathLike[str]]
"""Paths of one-file plugins."""


@overload
def component(
    kind: Literal["encoder"], name: str, plugins: Files = ..., /, **fields: object
) -> Encoder: ...
@overload
def component(
    kind: Literal["task"], name: str, plugins: Files = ..., /, **fields: object
) -> SupervisedTask: ...
@overload
def component(
    kind: Literal["pretext"], name: str, plugins: Files = ..., /, **fields: object
) -> PretextTask: ...
@overload
def component(
    kind: Literal["weighting"], name: str, plugins: Files = ..., /, **fields: object
) -> LossWeighting: ...
@overload
def component(
    kind: Literal["optimizer"], name: str, plugins: Files = ..., /, **fields: object
) -> Optimizer: ...
@overload
def component(
    kind: Literal["dataset"], name: str, plugins: Files = ..., /, **fields: object
) -> Dataset: ...
@overload
def component(
    kind: Literal["augmentation"], name: str, plugins: Files = ..., /, **fields: object
) -> Augmentation: ...
@overload
def component(
    kind: Literal["callback"], name: str, plugins: Files = ..., /, **fields: object
) -> Callback: ...
@overload
def component(
    kind: Literal["detector"], name: str, plugins: Files = ..., /, **fields: object
) -> Detector: ...
def component(
    kind: str, name: str | None = None, plugins: Files = (), /, **fields: object
) -> Component:
    """Return a component by kind and name: component("encoder", "timm:resnet18", weights="none").

    kind: "encoder", "task", "pretext", "weighting", "optimizer", "dataset", "augmentation",
    "callback" or "detector".
    name: as in TOML.
    plugins: one-file plugins that may provide it.
    fields: the other keys of its table.

    Raises MtlError with one line for each problem.
    """
    if not isinstance(name, str):
        given = f"{kind!r}" if name is None else f"{kind!r}, {name!r}"
        raise MtlError(
            f"component({given}): expected a kind and a name, such as "
            'component("pretext", "puzzling")'
        )
    if kind not in BASES:
        raise MtlError(f"unknown kind {kind!r}; {nearest(kind, BASES)}")
    if "name" in fields:
        raise MtlError(
            f"{name}.name = {fields['name']!r}: the second argument is already the name: "
            "remove `name=`"
        )
    reader = Reader(catalog_with([Path(file) for file in plugins]))
    table = {key: toml_value(value) for key, value in fields.items() if value is not None}
    require_text_keys(table, name)
    built: Component = reader.component(kind, name, table, name)
    reader.raise_problems()
    return built
