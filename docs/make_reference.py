"""Write docs/reference.md from the docstrings: public names of `mtlcore` and of its kit, and hooks.

Run:

    python docs/make_reference.py
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import attrs

import mtlcore
import mtlcore.testing
from mtlcore.contracts import BASES
from mtlcore.kinds import CheckedKind
from mtlcore.registry.hooks import Specs

PAGE = Path(__file__).with_name("reference.md")
WIDTH = 100
ITEM = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*): ")
"""The start of a docstring's line that explains a field or an argument: "mean, std: ..."."""

KINDS = [base.__name__ for base in BASES.values()]
HEAD = """# Reference

Generated from the docstrings by `python docs/make_reference.py`. Do not edit. The keys of a
configuration are listed in [Configuration](configuration.md).

Shapes: B samples, K tasks that are present, D width of the pooled features, (H, W) pixels, (h, w)
cells of a map. Images are RGB in [0, 1], float (B, 3, H, W).
"""

ALIASES = {
    "mtlcore.Answer": "The prediction of a task for one image: JSON values by name.",
    "mtlcore.Annotation": "One kind of label for N samples.\n\n"
    'Categories: (N,) strings, "" where missing. '
    "Numbers: (N,) or (N, ...) float, NaN where missing.\n\n"
    "Categories go by NAME, so the label orders of two datasets can't be mixed up.",
    "mtlcore.Column": "A column of an index: `Categories` for strings, a numpy array for numbers.",
    "mtlcore.ParameterGroup": "Parameters that share a learning rate and a weight decay, as torch's "
    "optimizers take them: `params`, `weight_decay`, and `lr` where it differs from that of the "
    "optimizer.",
    "mtlcore.Target": "A tensor, or a tuple, list or dict of tensors, each (B, ...).",
    "mtlcore.hookimpl": "Decorator: marks a function of a plugin module as a hook (pluggy).",
}
"""Texts for names that have no docstring of their own."""

SIGNATURES = {
    "mtlcore.Answer": "Answer = dict[str, Any]",
    "mtlcore.Annotation": "Annotation = numpy.ndarray",
    "mtlcore.Column": "Column = numpy.ndarray | Categories",
    "mtlcore.ParameterGroup": "ParameterGroup = dict[str, Any]",
    "mtlcore.Target": "Target = Any",
    "mtlcore.hookimpl": "@hookimpl",
}

for _kind in get_args(CheckedKind):
    _article = "an" if _kind[0] in "aeiou" else "a"
    ALIASES |= {
        f"mtlcore.testing.{_kind}_conformance": f"One pytest test of {_article} {_kind} "
        "that runs all its checks: `conformance` on its name or class.",
        f"mtlcore.testing.{_kind}_checks": f"The checks of {_article} {_kind}, as plain callables.",
    }


def reference() -> str:
    """Return the whole page."""
    names = [name for name in mtlcore.__all__ if name not in KINDS]
    parts = [HEAD, "## Kinds of components\n"]
    parts += [entry(f"mtlcore.{name}", getattr(mtlcore, name)) for name in KINDS]

    parts.append("## Data types and building blocks\n")
    parts += [entry(f"mtlcore.{name}", getattr(mtlcore, name)) for name in names]

    parts.append("## `mtlcore.testing`\n")
    parts.append(textwrap.dedent(mtlcore.testing.__doc__ or "").strip() + "\n")
    for name in testing_names():
        parts.append(entry(f"mtlcore.testing.{name}", getattr(mtlcore.testing, name)))

    parts.append("## Hooks\n")
    parts += [entry(name, getattr(Specs, name)) for name in hooks()]
    return "\n".join(parts)


def testing_names() -> list[str]:
    """Return the public functions and classes of the kit."""
    imported = ("partial", "test_of")
    return [
        name
        for name, thing in vars(mtlcore.testing).items()
        if name[0] != "_" and callable(thing) and name not in imported
    ]


def hooks() -> list[str]:
    """Return the names of all hooks."""
    return [name for name in vars(Specs) if name.startswith("mtl_")]


def entry(name: str, thing: object) -> str:
    """Return heading, signature and docstring, and for a class its public members."""
    lines = [
        f"### {name}\n",
        f"```python\n{signature(name, thing)}\n```\n",
        doc(name, thing) + "\n",
    ]
    if inspect.isclass(thing) and name not in ALIASES:
        found = [member_line(member, value) for member, value in members(thing)]
        lines += ["Members:\n", *found, ""] if found else [""]
    return "\n".join(lines)


def member_line(name: str, member: object) -> str:
    """Return one list item: a member with its signature, and its docstring if it has one."""
    if isinstance(member, property):
        shown = arguments(member.fget).replace("(self) -> ", ": ")
    else:
        shown = arguments(member)
    text = brief(member)
    return wrapped(f"- `{name}{shown}`: {text}" if text else f"- `{name}{shown}`")


def wrapped(text: str) -> str:
    """Wrap one paragraph or list item."""
    return textwrap.fill(
        text,
        WIDTH,
        subsequent_indent="  " if text.startswith("- ") else "",
        break_long_words=False,
        break_on_hyphens=False,
    )


def doc(name: str, thing: object) -> str:
    """Return the docstring, or the text of `ALIASES`: an alias has the docstring of its target."""
    if name in ALIASES:
        return "\n\n".join(map(wrapped, ALIASES[name].split("\n\n")))
    if inspect.isclass(thing) or inspect.isroutine(thing):
        return "\n\n".join(map(items, inspect.cleandoc(thing.__doc__ or "").split("\n\n")))
    return ""


def items(paragraph: str) -> str:
    """Turn a paragraph that explains fields or arguments into a list with one item for each."""
    if not ITEM.match(paragraph) or re.search(r"^[ \t]*- ", paragraph, re.M):
        return paragraph
    found: list[str] = []
    for line in paragraph.splitlines():
        if ITEM.match(line):
            found.append(ITEM.sub(r"- `\1`: ", line, count=1))
        else:
            found[-1] += " " + line.strip()
    return "\n".join(map(wrapped, found))


def brief(thing: object) -> str:
    """Return a docstring as one paragraph."""
    return " ".join(inspect.cleandoc(thing.__doc__ or "").split())


def signature(name: str, thing: object) -> str:
    """Return the signature to show for a public name."""
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


def arguments(thing: object) -> str:
    """Return arguments and result: "(a: int = 1) -> str".

    A default that is a function is shown as "...": its address differs in each process.
    """
    if not callable(thing):
        return ""
    try:
        found = inspect.signature(thing)
    except (ValueError, TypeError):
        return ""

    shown = []
    for parameter in found.parameters.values():
        default = _Verbatim("...") if inspect.isroutine(parameter.default) else parameter.default
        annotation = _without_quotes(parameter.annotation)
        shown.append(parameter.replace(annotation=annotation, default=default))
    result = _without_quotes(found.return_annotation)
    return str(found.replace(parameters=shown, return_annotation=result))


def _without_quotes(annotation: object) -> object:
    """Return a postponed annotation so that a signature shows it without quotes."""
    text = getattr(annotation, "__forward_arg__", annotation)
    return _Verbatim(text) if isinstance(text, str) else annotation


class _Verbatim(str):
    """A string whose repr is the string itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def members(cls: type) -> Iterator[tuple[str, object]]:
    """Yield name and value of the public methods and properties that the class itself defines."""
    for name, value in vars(cls).items():
        if isinstance(value, classmethod | staticmethod):
            value = value.__func__
        is_member = inspect.isfunction(value) or isinstance(value, property)
        if is_member and not name.startswith("_"):
            yield name, value


def _annotation(cls: type, field: str) -> str:
    """Return the annotation as it is written: attrs may have resolved its own copy."""
    for base in cls.__mro__:
        written = vars(base).get("__annotations__", {})
        if field in written:
            return str(written[field])
    raise KeyError(field)


def _default(field: attrs.Attribute[object]) -> str:
    if field.default is attrs.NOTHING:
        return ""
    if isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]
        return " = ..."
    return f" = {field.default!r}"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
