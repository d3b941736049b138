"""Damage the example configurations at random and load each: it loads, or it is one MtlError.

    python tests/fuzz/tomls.py --number 1000 --seed 0
    python tests/fuzz/tomls.py --seed 0 --only 17      one case, with its message

A configuration that loads is written and read again. Its encoder and the heads of its pretexts are
built on torch's "meta" device, which allocates nothing, and its weighting is tried. The counts are
printed. The exit code is 1 if anything else than an MtlError was raised, a message was empty, a
case took a minute, or it took 3 GiB.
"""

from __future__ import annotations

import copy
import math
import random
import shutil
import string
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tomli_w
import torch
from attrs import evolve
from damage import arguments, run

from mtlcore import load_experiment
from mtlcore.callbacks.untouched import restored_generators
from mtlcore.config import dump, parse
from mtlcore.encoders.weights import weights_from_checkpoint
from mtlcore.model.hybrid import HybridModel
from mtlcore.training.build import try_weighting

EXAMPLES = Path(__file__).parents[2] / "examples"
DEMO = Path(__file__).parents[2] / "plugins" / "mtl_faces" / "demo.toml"
COMPONENTS = """
[encoder]
name = "resnet_small"
[task.emotion]
name = "classification"
class_weights = [1.0, 2.0]
classes = ["a", "b"]
[task.age]
name = "regression"
[pretext.byol]
[pretext.vicreg]
[pretext.simclr]
[pretext.barlow_twins]
[pretext.masked_image]
[pretext.relative_location]
[pretext.jigsaw_permutation]
[callback.probe]
[callback.early_stopping]
[data.own]
name = "image_folder"
root = "/data"
[weighting]
name = "schedule"
pretexts = [[0.0, 0.0], [0.5, 1.0]]
"""
"""Components that the examples do not use."""

NUMBERS: list[Any] = [
    0, -1, 1, 2, 3, 4, 8, 16, 96, 1000, 0.1, 0.25, 0.75, 0.99,
    10**6, 10**9, -(10**9), 2**31, 2**63, 10**30, -(10**30),
    0.0, -0.0, 1e-300, 1e300, -1e300, 1e-30, 1e30, math.nan, math.inf, -math.inf, 0.5, 1.5,
]  # fmt: skip
OTHERS: list[Any] = [
    True, "", "none", "a\0b", "x" * 100_000, "../..", "~nobody/x", "\x1b[31mred", "💥", "1", [],
    [1, "a"], [[1.0, 2.0]], [[[[]]]], {}, {"name": "a"}, {"a": {"b": {"c": 1}}}, [{"a": 1}],
    ["a"] * 10_000, "/dev/null", "nul#key", "timm:", "timm:resnet18", ":", "a:b:c",
]  # fmt: skip

Table = dict[str, Any]


def places(table: Table) -> Iterator[tuple[Table, str]]:
    """Yield each table with each of its keys."""
    for key, value in list(table.items()):
        yield table, key
        if isinstance(value, dict):
            yield from places(value)


def typo(word: str, rng: random.Random) -> str:
    """Return the word with one letter removed, doubled, or replaced."""
    at = rng.randrange(len(word) + 1)
    middle = rng.choice(["", rng.choice(string.ascii_lowercase), word[at : at + 1] * 2])
    return word[:at] + middle + word[at + 1 :]


def change_table(tables: Table, rng: random.Random) -> None:
    """Change one key of one table."""
    table, key = rng.choice(list(places(tables)))
    how = rng.randrange(8)
    if how <= 1:
        table[key] = rng.choice(NUMBERS)
    elif how == 2:
        table[key] = rng.choice(OTHERS)
    elif how == 3:
        value = table.pop(key)
        table[typo(key, rng)] = value
    elif how == 4:
        del table[key]
    elif how == 5:  # inside a list
        table[key] = [rng.choice([*NUMBERS, *OTHERS]) for _ in range(rng.randrange(1, 4))]
    elif how == 6:  # a key of another table
        other, name = rng.choice(list(places(tables)))
        table[name] = copy.deepcopy(other[name])
    else:
        table[key] = {key: copy.deepcopy(table[key])}


def change_number(tables: Table, rng: random.Random) -> None:
    """Replace one number by another one of its type."""
    found = [at for at in places(tables) if type(at[0][at[1]]) in (int, float)]
    table, key = rng.choice(found or [(tables, "seed")])
    kind = type(table.get(key, 0))
    scaled = [kind(factor * table.get(key, 0)) for factor in (0.1, 0.5, 2, 3, 10)]
    table[key] = rng.choice([*scaled, *(number for number in NUMBERS if type(number) is kind)])


def replace(text: bytes, old: bytes, new: bytes) -> bytes:
    return text.replace(old, new, 1)


BYTES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "BOM": lambda text, _: b"\xef\xbb\xbf" + text,
    "UTF-16": lambda text, _: text.decode().encode("utf-16"),
    "invalid UTF-8": lambda text, rng: inserted(text, b"\xff\xfe\xe9", rng),
    "NUL": lambda text, rng: inserted(text, b"\0", rng),
    "cut": lambda text, rng: text[: rng.randrange(len(text))],
    "doubled": lambda text, _: text + b"\n" + text,
    "one line twice": lambda text, rng: doubled_line(text, rng),
    "flipped byte": lambda text, rng: inserted(text, bytes([rng.randrange(256)]), rng, over=1),
    "deep list": lambda text, rng: text + b"\nx = " + b"[" * 9999 + b"]" * rng.choice([9999, 3]),
    "deep table": lambda text, _: text + b"\nx = " + b"{a = " * 3000 + b"1" + b"}" * 3000,
    "long key": lambda text, _: text + b"\n" + b".".join([b"a"] * 30_000) + b" = 1",
    "long header": lambda text, _: text + b"\n[" + b".".join([b"a"] * 30_000) + b"]",
    "long number": lambda text, _: replace(text, b" = ", b" = " + b"9" * 6000 + b" # "),
    "CRLF": lambda text, _: text.replace(b"\n", b"\r\n"),
    "CR": lambda text, _: text.replace(b"\n", b"\r"),
    "empty": lambda _text, _rng: b"",
}


def inserted(text: bytes, new: bytes, rng: random.Random, over: int = 0) -> bytes:
    at = rng.randrange(len(text))
    return text[:at] + new + text[at + over :]


def doubled_line(text: bytes, rng: random.Random) -> bytes:
    lines = text.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    return b"".join([*lines[:at], lines[at], *lines[at:]])


def case(rng: random.Random, texts: list[bytes], file: Path) -> str:
    """Damage one text, and load it."""
    text = rng.choice(texts)
    if rng.random() < 0.25:
        text = BYTES[rng.choice(list(BYTES))](text, rng)
    else:
        tables = tomllib.loads(text.decode())
        change = rng.choice([change_table, change_number])
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            change(tables, rng)
        text = tomli_w.dumps(tables).encode("utf-8", "surrogatepass")
    file.write_bytes(text)
    overrides: Table = {}
    if rng.random() < 0.2:
        key = rng.choice(["train.steps", "encoder.name", "pretext.x.weight", "a..b", "task", ""])
        overrides[key] = rng.choice([*NUMBERS, *OTHERS])
    experiment = load_experiment(file, overrides)
    assert parse(tomllib.loads(dump(experiment))) == experiment or holds_nan(experiment)
    generators = restored_generators(torch.device("cpu"))
    with generators, weights_from_checkpoint(), torch.device("meta"):
        HybridModel(evolve(experiment, tasks={}))
    try_weighting(experiment, torch.device("cpu"))
    return "loaded"


def holds_nan(experiment: object) -> bool:
    """Whether two equal experiments differ since NaN differs from itself."""
    return "nan" in repr(experiment)


def main() -> int:
    options = arguments(__doc__ or "", 1000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for plugin in EXAMPLES.glob("*.py"):
            shutil.copyfile(plugin, folder / plugin.name)
        texts = [file.read_bytes() for file in sorted(EXAMPLES.glob("*.toml"))]
        texts += [DEMO.read_bytes(), COMPONENTS.encode()]
        for text in list(texts):  # and with every default
            (folder / "run.toml").write_bytes(text)
            texts.append(dump(load_experiment(folder / "run.toml")).encode())
        return run(lambda rng: case(rng, texts, folder / "run.toml"), options)


if __name__ == "__main__":
    sys.exit(main())
