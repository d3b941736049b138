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
from mtlcore.registry.catalog import Specs

PAGE = Path(__file__).with_name("reference.md")
KINDS = (
    "Encoder",
    "SupervisedTask",
    "PretextTask",
    "LossWeighting",
    "Dataset",
    "Augmentation",
    "Callback",
)
HEAD = """# Reference

Made from the docstrings by `python docs/make_reference.py`; do not edit. The keys of a configuration stand in
[Configuration](configuration.md). Shapes: B samples, K tasks present, D width of the pooled
features, (H, W) pixels, (h, w) cells of a map. Images are RGB in [0, 1], float (B, 3, H, W).
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
        n
        for n, v in vars(mtlcore.testing).items()
        if n[0] != "_" and callable(v) and n not in ("partial", "test_of")
    ]


def hooks() -> list[str]:
    return [n for n in vars(Specs) if n.startswith("mtl_")]


def entry(name: str, thing: Any) -> str:
    """Heading, signature, docstring, and for a class its public properties and methods."""
    lines = [
        f"### {name}\n",
        f"```python\n{signature(name, thing)}\n```\n",
        doc(name, thing) + "\n",
    ]
    if inspect.isclass(thing) and name not in ALIASES:
        for member, what in members(thing):
            lines.append(
                f"- `{member}{said_of(what)}`" + (f": {brief(what)}" if what.__doc__ else "")
            )
        lines.append("")
    return "\n".join(lines)


def doc(name: str, thing: Any) -> str:
    """Its own docstring; of an alias, whose docstring would be somebody else's, the words below."""
    if name in ALIASES:
        return ALIASES[name]
    return (
        inspect.cleandoc(thing.__doc__ or "")
        if inspect.isclass(thing) or inspect.isroutine(thing)
        else ""
    )


def brief(thing: Any) -> str:
    """A docstring in one paragraph."""
    return " ".join(inspect.cleandoc(thing.__doc__ or "").split())


def signature(name: str, thing: Any) -> str:
    short = name.rpartition(".")[2]
    if name in SIGNATURES:
        return SIGNATURES[name]
    if getattr(thing, "_is_protocol", False):
        return f"class {short}(Protocol)"
    if inspect.isclass(thing) and attrs.has(thing):
        fields = [
            f"{f.alias}: {_annotation(thing, f.name)}{_default(f)}"
            for f in attrs.fields(thing)
            if f.init
        ]
        return f"{short}({', '.join(fields)})"
    return f"{short}{arguments(thing)}"


def arguments(thing: Any) -> str:
    """(a: int = 1) -> str; a default that is a function is "...", since its address is another one each time."""
    try:
        found = inspect.signature(thing)
    except (ValueError, TypeError):
        return ""
    given = [
        p.replace(
            annotation=_bare(p.annotation),
            default=_Words("...") if inspect.isroutine(p.default) else p.default,
        )
        for p in found.parameters.values()
    ]
    return str(found.replace(parameters=given, return_annotation=_bare(found.return_annotation)))


def _bare(annotation: Any) -> Any:
    """An annotation that was postponed, without its quotes."""
    said = getattr(annotation, "__forward_arg__", annotation)
    return _Words(said) if isinstance(said, str) else annotation


class _Words(str):
    """Stands in a signature as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def said_of(member: Any) -> str:
    """What stands behind the name of a property or method."""
    return (
        arguments(member.fget).replace("(self) -> ", ": ")
        if isinstance(member, property)
        else arguments(member)
    )


def members(cls: type) -> Iterator[tuple[str, Any]]:
    for name, what in vars(cls).items():
        what = what.__func__ if isinstance(what, classmethod | staticmethod) else what
        if not name.startswith("_") and (inspect.isfunction(what) or isinstance(what, property)):
            yield name, what


def _annotation(cls: type, field: str) -> str:
    """As it is written in the source: attrs may have resolved its own copy by now."""
    return next(
        str(noted[field])
        for base in cls.__mro__
        if field in (noted := vars(base).get("__annotations__", {}))
    )


def _default(field: Any) -> str:
    if field.default is attrs.NOTHING:
        return ""
    return " = ..." if isinstance(field.default, attrs.Factory) else f" = {field.default!r}"  # type: ignore[arg-type]


SIGNATURES = {
    "mtlcore.Annotation": "Annotation = numpy.ndarray",
    "mtlcore.Target": "Target = Any",
    "mtlcore.hookimpl": "@hookimpl",
}
ALIASES = {
    "mtlcore.Annotation": 'One label kind of N rows. Categories: (N,) strings, "" where missing. Numbers: (N,) or (N, ...) '
    "float, NaN where missing.\nCategories travel by NAME, so the label orders of two data sets can never be mixed up.",
    "mtlcore.Target": "A tensor, or a tuple, list or dict of tensors, each (B, ...).",
    "mtlcore.hookimpl": "Marks a function of a plugin module as an implementation of a hook (pluggy).",
}
"""Words on what has no docstring of its own."""
for _kind in ("pretext", "task", "encoder", "weighting", "dataset", "augmentation"):
    _one = f"{'an' if _kind[0] in 'aeiou' else 'a'} {_kind}"
    ALIASES |= {
        f"mtlcore.testing.{_kind}_conformance": f"A pytest test, one case a check, of {_one}: "
        "`conformance` on its name or class.",
        f"mtlcore.testing.{_kind}_checks": f"The checks of {_one} as plain callables.",
    }

if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
