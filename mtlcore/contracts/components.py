"""Base classes of components, and what their methods receive and return.

A plugin subclasses `Encoder`, `PretextTask`, `Augmentation` or `LossWeighting`; or the class of
another kind, in `task.py`, `dataset.py`, `optimizer.py`, `callback.py` and `detector.py`.

Shapes: B samples of a micro-batch, N samples of a dataset, K tasks of a step, D pooled features,
(H, W) pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import frozen
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..rng import Rng
from .samples import AugmentedBatch, EncoderInfo, Output, Target, View

if TYPE_CHECKING:
    from torchmetrics import Metric


class Head(nn.Module):
    """The network of one task on top of the encoder, and its loss.

    forward(*features) -> output. A supervised head receives one `Features` a call. A pretext head
    receives one for each of its views, in their order. Outputs are tensors, or tuples, lists or
    dicts of tensors.

    coupled: True if the loss of a sample depends on the other samples of the batch, as in
    contrastive learning. `loss` then returns a scalar.

    The conformance kit and the preview use two optional members:

    - `ideal(target) -> output`: the output of a perfect prediction.
    - `choices`: the number of classes of a classification (an int; a dict by target leaf if there
      are several). Uniform logits (all 0) must then have the loss log(choices).
    """

    coupled: ClassVar[bool] = False

    def loss(self, output: Output, target: Target) -> Tensor:
        """Return (B,) fp32: the loss of each sample, a MEAN over its elements (tiles, pixels).

        Outputs arrive in fp32 under every `train.precision`, since the core casts their floats.
        The target of a sample without a label holds zeros. Its loss must be finite; the core
        excludes it.

        Coupled heads return a scalar instead. A coupled supervised head is called as
        loss(output, target, share): share (B,) in [0, 1] is the weight of each sample. Divide by
        the sum of the weights. A sample without a label has the share 0, and changes nothing.
        """
        raise NotImplementedError


@frozen(eq=False)
class BuildContext:
    """What `build` of a task receives.

    info: sizes of the encoder's features.
    encoder: the shared encoder, images (B, 3, H, W) in [0, 1] -> Features. Its method
    `finest_maps(images, number)` returns the first maps alone, and skips the layers behind them if
    the network has that method, too. `encodes_visible` is true if the network has a method
    `forward_visible(images, cells)`, which encodes some cells of the image alone (`View.only`).
    heads: the supervised heads by label. They are built before all pretext heads.

    A head must not register these modules as its own submodules. Wrap them: `EMA(module)` is a
    momentum copy, `SharedHead(module)` calls the module itself. A pretext that shares a supervised
    head also trains it.
    """

    info: EncoderInfo
    encoder: nn.Module
    heads: Mapping[str, Head]


@frozen(eq=False)
class StepLosses:
    """The input of a loss weighting: global values, equal on every rank.

    Only tasks that are present in this step are listed.

    names: labels of the K tasks.
    values: (K,) fp32, mean loss over all labeled samples of the step. It requires grad.
    gram: (K, K) inner products of the gradients of the weighted losses. None at level "losses".
    primary: (K,) bool on the device, True for supervised tasks.
    progress: completed share of the run, in [0, 1).
    epoch: number of completed passes over the labeled samples.
    rng: the generator for random draws.
    """

    names: tuple[str, ...]
    values: Tensor
    gram: Tensor | None
    primary: Tensor
    progress: float
    epoch: int
    rng: Rng


class Component(ABC):
    """Base class of all kinds. A component is a frozen attrs class.

    Its fields ARE its configuration. Its methods build modules or compute.

    kind: set by the base class of each kind.
    name: by default the class name in snake_case (`LocalRotation` -> `local_rotation`). A
    subclass does not inherit it.
    family: True if the part of a name after ":" is the value of the first field
    (`timm:resnet18`).
    cites: source of the method (authors, year, venue or arXiv number), or "original".
    lacks: capability that the conformance kit expects -> why this component does not have it:
    {"single_sample": "batch statistics need two samples"}. It is a class attribute, or a property
    if it depends on the fields.
    needs_extra: the extra of its package that it needs: "timm" for `pip install "mtlcore[timm]"`.
    """

    kind: ClassVar[str]
    name: ClassVar[str | None] = None
    family: ClassVar[bool] = False
    cites: ClassVar[str] = ""
    lacks: ClassVar[Mapping[str, str]] = {}
    needs_extra: ClassVar[str] = ""

    @classmethod
    def members(cls) -> Mapping[str, type]:
        """Return name -> attrs class of the tables that a list of this component can hold.

        `mtl plugins show NAME:MEMBER` shows the keys of one of them.
        """
        return {}


@frozen
class Layer:
    """One layer of an encoder's network, such as a residual block.

    stage: 0 is the stem; a stage is what `encoder.freeze` counts. names: its modules and parameters
    in the network that `Encoder.build` returned.
    """

    stage: int
    names: tuple[str, ...]


class Encoder(Component):
    """The network that all tasks share.

    mean, std: RGB statistics, in [0, 1], with which the core normalizes its input. They can
    depend on fields such as `weights`.
    """

    kind = "encoder"
    mean: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)
    std: ClassVar[tuple[float, float, float]] = (0.25, 0.25, 0.25)

    @abstractmethod
    def build(self, size: tuple[int, int]) -> nn.Module:
        """Return a module: normalized images (B, 3, H, W) -> Features.

        size: (H, W) of the run's images (`input.size`). Raises MtlError for a size that the network
        can't process, such as one that is not a square.

        The module leaves `Features.images` None.
        """

    def layers(self, net: nn.Module) -> Sequence[Layer]:
        """Return the layers of a built network, from the image to the features.

        `optimizer.layer_decay` and `encoder.freeze` need them. Parameters of no layer have the
        learning rate of the encoder, and are frozen only by `freeze = "all"`. Default: unknown.
        """
        return ()


class PretextTask(Component):
    """A self-supervised task: it makes inputs and targets from images alone.

    Its head is not part of the inference network.

    The conformance kit uses one optional member:

    - `undo(images, target) -> images`: the inverse of the FIRST view, or None if it has none.

    undo_tolerance: the largest difference that `undo` may leave in an image from 0 to 1. 0 means
    bit for bit; a gamma, for example, can only be undone up to rounding.
    augmentations: names of the augmentations whose views it reads. None is the run's own.
    reads_mixed: True if its target stays right for a view that is mixed from two samples (mixup,
    cutmix): it depends on the pixels of ONE view alone, as for rotation or in-painting. Two views
    with different partners do not show the same image. With False, a run whose augmentation mixes
    is refused.
    """

    kind = "pretext"
    undo_tolerance: ClassVar[float] = 0.0
    augmentations: tuple[str | None, ...] = (None,)
    reads_mixed: ClassVar[bool] = False

    @abstractmethod
    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], Target]:
        """Return the views that the encoder reads, and the target of the head.

        The target belongs to all views JOINTLY: a pytree of (B, ...), or None.
        """

    @abstractmethod
    def build(self, context: BuildContext) -> Head:
        """Return the head of this task."""

    def permute(self, target: Target, order: Tensor) -> Target:
        """Return the targets of other samples, for `control = "random_target"`.

        order: (B,) int64, a permutation of the samples.

        Override it if a leaf of the target is part of the INPUT, such as a mask: that leaf must
        stay with its sample.
        """
        return tree_map(lambda leaf: leaf[order], target)

    def metrics(self) -> dict[str, Metric]:
        """Return name -> new torchmetrics.Metric, updated with (output, target).

        They are computed on validation images. The outputs of `Head.ideal` must reach the bound
        that a metric declares: `plot_upper_bound`, or `plot_lower_bound` if `higher_is_better` is
        False. The conformance kit checks this.
        """
        return {}

    def draw(self, images: Tensor, target: Target, output: Output) -> Tensor:
        """Show what the head predicts: images (B, 3, H, W) of a view -> images of the prediction.

        target, output: of the same samples. Default: the view's images.
        """
        return images


class Augmentation(Component):
    """How a raw image becomes a view.

    Sample i of the result depends on sample i alone. An augmentation that mixes samples says so by
    `mixes`, and returns a view made by `View.mix`.

    mixes: True if `view` mixes samples of the batch (mixup, cutmix). It is a class attribute, or a
    property if it depends on the fields.

    [augment.validation] must draw nothing from `rng`, so that an answer depends on its image alone.
    Such an augmentation declares it: lacks = {"random": "for evaluation"}.
    """

    kind = "augmentation"
    mixes: bool = False

    @abstractmethod
    def view(self, images: Tensor, size: tuple[int, int], rng: Rng) -> View:
        """Convert raw uint8 images (B, 3, H0, W0) to a view of `size` (h, w), in pixels.

        Pretexts receive the result. Interpolate the pixels only once.
        """

    def finish(self, images: Tensor, rng: Rng) -> Tensor:
        """Change images (B, 3, H, W) after the pretexts, just before the encoder (cutout).

        Pixels must keep their places. Default: the images themselves.
        """
        return images


class LossWeighting(Component):
    """How several losses become one objective. Each item is a class attribute or a field.

    at: what it receives. "losses": their values. "parameters" or "features": also the Gramian of
    the gradients there.
    every: steps for which a gradient-based weighting uses the same task weights. They are measured
    at each `every`-th step, separately for each set of present tasks.
    additive: of a loss-based weighting: True if each micro-batch can be weighted on its own. The
    objective must be linear in the losses, and `forward` must change no state. Otherwise, the
    losses of all micro-batches are computed first, which costs one more forward if there are
    several.
    protects: True if no update ever opposes the sum of the weighted gradients. The guarantee holds
    in steps that measure gradients, at the parameters: reused task weights belong to older
    gradients, and at "features" it concerns the gradients of the features.
    """

    kind = "weighting"
    at: Literal["losses", "parameters", "features"] = "losses"
    every: int = 1
    additive: bool = False
    protects: bool = False

    @abstractmethod
    def build(self, names: Sequence[str]) -> nn.Module:
        """Return a module: StepLosses -> objective (), a scalar.

        The task weights are d objective / d values. Task weights of 1 give the sum of losses.

        The task weights of a gradient-based weighting apply to the SHARED parameters. A head that
        only one loss trains receives the gradient of its weighted loss, without the task weight.

        Learned state is keyed by task name. The module is called once a step (an additive one: once
        a micro-batch), and not at all while task weights are reused.
        """
