"""Load weights into a network by name, and report what does not fit."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from .errors import MtlError, first_few

SHOWN = 5  # names of each problem in a message
COUNTERS = "num_batches_tracked"  # of BatchNorm; nothing reads them
ANY_OTHER = ("",)
"""Value of `ignore`: ignore all names that `net` lacks, as when loading a part of a network."""


def load_weights(
    net: nn.Module,
    weights: Mapping[str, Tensor],
    origin: str,
    *,
    ignore: tuple[str, ...] = (),
    counters: bool = True,
    dtypes: bool = False,
) -> None:
    """Load every weight and buffer of `net` by name.

    origin: where the weights come from, for the message.
    ignore: prefixes of names that `net` may lack (`ANY_OTHER`: all names).
    counters: False if BatchNorm's batch counters may be missing, as in old files.
    dtypes: True if the dtypes must be those of `net`. Otherwise, tensors are converted.

    Raises MtlError with the names that are missing, unexpected, or of another shape or dtype. The
    network is then unchanged.
    """
    own = net.state_dict()
    common = [name for name in own if name in weights]
    missing = [name for name in own if name not in weights]
    if not counters:
        missing = [name for name in missing if not name.endswith(COUNTERS)]
    unexpected = [name for name in weights if name not in own and not name.startswith(ignore)]
    other_shapes = []
    for name in common:
        expected, found = own[name].shape, weights[name].shape
        if found != expected:
            other_shapes.append(f"{name} {_shape(found)}, not {_shape(expected)}")

    other_dtypes = []
    for name in common:
        mine, given = own[name].dtype, weights[name].dtype
        if dtypes and mine != given:
            other_dtypes.append(f"{name} {given}, not {mine}")

    problems = {
        "missing": missing,
        "unexpected": unexpected,
        "of another shape": other_shapes,
        "of another dtype": other_dtypes,
    }
    lines = [
        f"{len(names)} {what}: {first_few(names, SHOWN)}"
        for what, names in problems.items()
        if names
    ]
    if lines:
        raise MtlError(f"{origin}: the weights do not fit this network. {'; '.join(lines)}")
    net.load_state_dict({name: weights[name] for name in common}, strict=False)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
