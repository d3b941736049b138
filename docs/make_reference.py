"""Write docs/reference.md from the docstrings: every public name of `mtlcore`, of `mtlcore.testing`, and every hook.

python docs/make_reference.py
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

import mtlcore
import mtlcore.testing
from mtlcore.registry import Specs

PAGE = Path(__file__).with_name("reference.md")
KINDS = ("Encoder", "SupervisedTask", "PretextTask", "LossWeighting", "DataSource", "AugmentRecipe", "Observer")
HEAD = """# Reference

Made from the docstrings by `python docs/make_reference.py`; do not edit. Shapes: B samples, K tasks present, D width of the pooled
features, (H, W) pixels, (h, w) cells of a map. Pictures are RGB in [0, 1], float (B, 3, H, W).
"""


def reference() -> str:
    """The whole page."""
    names = [n for n in mtlcore.__all__ if n not in KINDS]
    parts = [
        HEAD,
        "## Kinds of components\n",
        *(entry(f"mtlcore.{n}", getattr(mtlcore, n)) for n in KINDS),
        "## What flows, and what authors use\n",
        *(entry(f"mtlcore.{n}", getattr(mtlcore, n)) for n in names),
        "## `mtlcore.testing`\n",
        textwrap.dedent(mtlcore.testing.__doc__ or "").strip() + "\n",
        *(entry(f"mtlcore.testing.{n}", getattr(mtlcore.testing, n)) for n in testing_names()),
        "## Hooks\n",
        *(entry(n, getattr(Specs, n)) for n in hooks()),
    ]
    return "\n".join(parts)


def testing_names() -> list[str]:
    """The public names of the kit that are functions or classes of its own."""
    return [
        n for n, v in vars(mtlcore.testing).items() if n[0] != "_" and callable(v) and n not in ("partial", "test_of")
    ]


def hooks() -> list[str]:
    return [n for n in vars(Specs) if n.startswith("mtl_")]


def entry(name: str, thing: Any) -> str:
    """Heading, signature, docstring, and for a class its public methods."""
    lines = [f"### {name}\n", f"```python\n{signature(name, thing)}\n```\n", doc(thing) + "\n"]
    if inspect.isclass(thing):
        for method, what in methods(thing):
            lines.append(f"- `{method}{arguments(what)}`" + (f": {brief(what)}" if doc(what) else ""))
        lines.append("")
    return "\n".join(lines)


def doc(thing: Any) -> str:
    """Its own docstring; that of an alias of typing or of a partial is none."""
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return ALIASES.get(id(thing), "")
    return inspect.cleandoc(thing.__doc__ or "")


def brief(thing: Any) -> str:
    """A docstring in one paragraph."""
    return " ".join(doc(thing).split())


def signature(name: str, thing: Any) -> str:
    short = name.rpartition(".")[2]
    if inspect.isclass(thing) and attrs.has(thing):
        fields = [f"{f.alias}: {f.type}{_default(f)}" for f in attrs.fields(thing) if f.init]
        return f"{short}({', '.join(fields)})"
    return f"{short}{arguments(thing)}"


def arguments(thing: Any) -> str:
    try:
        return str(inspect.signature(thing)).replace("'", "")
    except (ValueError, TypeError):
        return ""


def methods(cls: type) -> Iterator[tuple[str, Any]]:
    for name, what in vars(cls).items():
        what = what.__func__ if isinstance(what, classmethod | staticmethod) else what
        if not name.startswith("_") and inspect.isfunction(what):
            yield name, what


def _default(field: Any) -> str:
    if field.default is attrs.NOTHING:
        return ""
    return " = ..." if isinstance(field.default, attrs.Factory) else f" = {field.default!r}"  # type: ignore[arg-type]


ALIASES = {
    id(mtlcore.Target): "A tensor, or a tuple, list or dict of tensors, each (B, ...).",
    id(mtlcore.hookimpl): "Marks a function of a plugin module as an implementation of a hook (pluggy).",
    **{
        id(getattr(mtlcore.testing, f"{kind}_{door}")): text.format(kind)
        for kind in ("pretext", "task", "encoder", "weighting", "source", "recipe")
        for door, text in {
            "conformance": "A pytest test, one case a check, of a {}: `conformance` on its name or class.",
            "checks": "The checks of a {} as plain callables.",
        }.items()
    },
}

if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
