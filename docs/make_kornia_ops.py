"""Write kornia_ops.md: what each operation of kornia does here, and what it costs.

    python docs/make_kornia_ops.py

It measures each operation on the CPU: 64 images of 64 x 64 pixels. Use a quiet machine.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "tests"))

from kornia_cases import CASES  # noqa: E402 - the folder of tests is not a package

from mtlcore.augment.kornia_ops.augmentation import Kornia  # noqa: E402
from mtlcore.augment.kornia_ops.catalog import POLICIES, KorniaOp, catalog  # noqa: E402
from mtlcore.augment.kornia_ops.drawn import draw  # noqa: E402
from mtlcore.rng import KeyedRng, Rng  # noqa: E402

SAMPLES, SIDE, ROUNDS = 64, 64, 7
SIZE = (SIDE, SIDE)

INTRODUCTION = """\
# The operations of kornia

Written by `docs/make_kornia_ops.py` for kornia {version}. How to use them is in
[Augmentation](augment.md#any-operations-of-kornia). `mtl plugins show kornia:ColorJiggle` shows the
fields of one of them.

- **labels**: how labels follow. *matrix*: poses and points follow the matrix of the movement, maps
  its pixels. *dense only*: maps and points follow, poses have no share in the loss where it is
  applied. *in place*: pixels do not move.
- **one warp**: it is multiplied into the warp of its neighbors.
- **drawn for**: each *sample*, or the whole micro-*batch* (in brackets: what is drawn for all).
- **reads back**: how often the host waits for a value of the GPU in one call.
- **cost**: CPU time of drawing and applying it to {samples} images of {side} x {side} pixels, in
  copies of these images. It is a measurement: expect other numbers on another machine.
- All but the refused ones are tested: same result as kornia's own call with the same parameters
  (1e-5), same view for the same key, no draw from the global generator, labels on their pixels.

| operation | labels | one warp | drawn for | reads back | cost |
|---|---|---|---|---|---|
"""


class Reads(TorchDispatchMode):
    """Counts reads of values on the device by the host, on the device "meta"."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            self.count += 1
            return 1
        return func(*args, **(kwargs or {}))


def recipe(name: str) -> Kornia:
    """Return a list of this operation, which is applied to all images."""
    fields = dict(CASES.get(name, {}))
    if any(argument.name == "p" for argument in catalog()[name].arguments):
        fields["p"] = 1.0
    return Kornia(ops=[{"op": name, **fields}])  # type: ignore[arg-type]  # a table is converted


def rng(key: int) -> Rng:
    return KeyedRng((key,))("docs")


def images(device: str = "cpu") -> Tensor:
    drawn = torch.rand(SAMPLES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return (drawn * 255).byte().to(device)


def reads_back(augmentation: Kornia) -> str:
    """Return how often the host reads from the device in one view."""
    raw, most = images("meta"), 0
    for key in range(3):
        with Reads() as reads:
            try:
                augmentation.view(raw, SIZE, rng(key))
            except (RuntimeError, NotImplementedError):
                # The size of a tensor depends on values: the host must wait for them.
                return "at least 1"
        most = max(most, reads.count)
    return str(most)


def drawn_for(op: KorniaOp) -> str:
    """Return whether parameters are drawn for each sample, or for the whole batch."""
    if op.variant in POLICIES:
        return "batch (which operations), sample (how strong)"
    found: list[str] = []
    own = draw(op, 5, SIZE, SIZE, rng(0).generator)[0].params
    for name, value in own.items():
        is_draw = isinstance(value, Tensor) and name != "forward_input_shape"
        if is_draw and value.ndim and len(value) != 5:
            found.append(name)
    return f"batch ({', '.join(found)}), sample" if found else "sample"


def cost(augmentation: Kornia) -> float:
    """Return the CPU time of one view in copies of its float images."""
    raw = images()
    copied = raw.float()
    times = [_seconds(partial(augmentation.view, raw, SIZE, rng(key))) for key in range(ROUNDS)]
    copies = [_seconds(copied.clone) for _ in range(50)]
    return sorted(times)[ROUNDS // 2] / sorted(copies)[25]


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def facts(name: str) -> str:
    """Return the row of one operation without its cost."""
    from mtlcore.augment.kornia_ops.canvas import _sampling
    from mtlcore.augment.kornia_ops.movement import is_affine_class

    cls = catalog()[name]
    if cls.refused:
        return f"| {name} | refused: {cls.refused} | | | | |"
    if cls.mixes:
        return f"| {name} | [mixes two samples](mixing.md) | | | | |"
    augmentation = recipe(name)
    (op,) = augmentation.ops
    labels = "in place" if cls.moves == "not" else cls.moves
    is_warp = is_affine_class(cls.cls) and _sampling(op.module(SIZE)) is not None
    is_policy = name in POLICIES
    warp = "yes" if is_warp else ("its affine ones" if is_policy else "")
    return f"| {name} | {labels} | {warp} | {drawn_for(op)} | {reads_back(augmentation)} |"


def row(name: str) -> str:
    """Return the row of one operation."""
    cls = catalog()[name]
    if cls.refused or cls.mixes:
        return facts(name)
    return f"{facts(name)} {float(f'{cost(recipe(name)):.2g}'):g} |"


def page() -> str:
    """Return the page."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    head = INTRODUCTION.format(version=version("kornia"), samples=SAMPLES, side=SIDE)
    return head + "".join(f"{row(name)}\n" for name in catalog())


if __name__ == "__main__":
    (DOCS / "kornia_ops.md").write_text(page(), encoding="utf-8")
