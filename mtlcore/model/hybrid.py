"""The network of a run: one shared encoder, and one head for each task and pretext.

PreparedBatch -> encoder -> heads -> one loss for each label. Supervised, hybrid and pretext-only
runs use the same code: they differ only in the heads that they have.

Shapes: B samples, V views of a head, K losses, P gradient points.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..config.experiment import Experiment, PretextEntry, TaskEntry
from ..contracts import BuildContext, Features, Head, Output, PreparedBatch, Visible
from ..errors import MtlError, nearest
from ..networks import (
    EMA,
    SharedHead,
    frozen_running_statistics,
    losses_in_fp32,
    split,
    sum_over_ranks,
    world_size,
)
from .freezing import freeze_encoder
from .inference import Inference, SharedEncoder
from .losses import label_loss

Encoded = tuple[list[Features], list[Tensor]]
"""The features of each image batch, and the gradient points.

The gradients of all losses with respect to the encoder pass through the gradient points. They are
the `shared` tensors of each forward.
"""


class HybridModel(nn.Module):
    """The network of a run, with the heads of all its tasks and pretexts.

    forward(prepared) -> (losses, gram).

    encoder: the shared encoder.
    heads: label -> head, of tasks first.
    tasks: labels of the supervised tasks.
    shared_heads: label -> labels of the supervised heads that its loss also trains.
    measuring: True if a forward computes the Gramian. Each step sets it.

    tasks_only: build no pretext heads, as inference needs none.
    """

    def __init__(self, experiment: Experiment, *, tasks_only: bool = False) -> None:
        super().__init__()
        self.views = experiment.views
        self.measuring = experiment.weighting.at == "features"
        self.encoder = SharedEncoder(experiment.encoder, experiment.input.size)
        freeze_encoder(self.encoder, experiment.encoder, experiment.freeze)
        self.shared_heads: dict[str, set[str]] = {}
        # Label -> the parameters that its loss can move: those of the encoder, of its head, and of
        # the parts that its head shares. `only_moved` leaves out what a loss does not reach.
        self.moved_by: dict[str, set[nn.Parameter]] = {}
        self._idle: dict[tuple[str, ...], list[nn.Parameter]] = {}

        # Supervised heads are built first: a pretext head may share them. A supervised head may
        # share a part of those above it.
        supervised: dict[str, Head] = {}
        for label, task in experiment.tasks.items():
            head = self._build(label, task, _SharedHeads(supervised))
            shared = _shared_labels(head, supervised)
            if shared:
                self.shared_heads[label] = shared
            supervised[label] = head
        self.tasks = tuple(supervised)
        self.heads = nn.ModuleDict(supervised)
        if tasks_only:
            return
        for label, entry in experiment.pretexts.items():
            head = self._build(label, entry, _SharedHeads(supervised))
            self.heads[label] = head
            self.shared_heads[label] = _shared_labels(head, supervised)

    def _build(
        self, label: str, entry: TaskEntry | PretextEntry, shared_heads: _SharedHeads
    ) -> Head:
        """Build one head. Raises MtlError if it registered a network that is not its own."""
        head = entry.component.build(BuildContext(self.encoder.info, self.encoder, shared_heads))
        modules = set(head.modules())
        foreign: dict[str, nn.Module] = {"the shared encoder": self.encoder, **shared_heads.heads}
        for name, module in foreign.items():
            # A registered module would be trained and saved twice.
            if not modules.isdisjoint(module.modules()):
                raise MtlError(
                    f"head {label!r} has {name} as its own submodule: use context.info, "
                    "EMA(module) or SharedHead(module)"
                )
        parts = {p for module in _modules(head) for p in module.parameters()}
        self.moved_by[label] = parts | set(self.encoder.parameters())
        return head

    def forward(self, prepared: PreparedBatch) -> tuple[dict[str, Tensor], Tensor | None]:
        """Compute the losses of one micro-batch.

        Returns label -> loss, an fp32 scalar in units of the step's mean, and the Gramian (K, K) of
        the gradients at the features if `measuring`.
        """
        features, gradient_points = self.encode(prepared)
        outputs = self.forward_heads(features, prepared)
        losses = {
            label: self.compute_losses(label, output, prepared) for label, output in outputs.items()
        }

        # Measured here and not by the caller: DDP and precision wrappers return copies of the
        # features that are not part of the graph.
        gram = None
        if self.measuring and torch.is_grad_enabled():
            gram = self.gramian(losses, gradient_points)
        return self._touch_idle(losses), gram

    # ------------------------------------------------------------------- the steps of a forward

    def encode(self, prepared: PreparedBatch) -> Encoded:
        """Encode every image batch once.

        With `statistics = "clean"` there are two forwards: first the labeled samples of the clean
        views, then everything else. The second forward normalizes by its own batch and does not
        update BatchNorm's running statistics. The results are joined again, in order.
        """
        if not prepared.clean:
            return self._encode(prepared.images, prepared.visible)

        labeled = dict(prepared.clean)
        clean_images = [prepared.images[at][:n] for at, n in labeled.items()]
        clean_features, points = self._encode(clean_images, {})

        # The other samples of the clean views, and all samples of the other views.
        rest = {at: x[labeled.get(at, 0) :] for at, x in enumerate(prepared.images)}
        rest = {at: x for at, x in rest.items() if len(x)}
        visible = prepared.visible  # of other views than the clean ones
        features: dict[int, Features] = {}
        if rest:
            with frozen_running_statistics(self.encoder):
                rest_features, rest_points = self._encode(
                    list(rest.values()),
                    {i: visible[at] for i, at in enumerate(rest) if at in visible},
                )
            features = dict(zip(rest, rest_features))
            points = points + rest_points

        for at, first in zip(labeled, clean_features):
            features[at] = _concatenate(first, features[at]) if at in features else first
        return [features[at] for at in range(len(prepared.images))], points

    def _encode(self, images: Sequence[Tensor], visible: Mapping[int, Visible]) -> Encoded:
        """Encode image batches, each (B, 3, H, W). visible: position in `images` -> its parts.

        `views.forward = "joint"`: one forward for each SIZE of image, and one for each batch with
        hidden parts. "split": one for each batch.
        """
        if self.views.forward == "split" or len(images) == 1:
            every = [self.encoder(x, visible.get(at)) for at, x in enumerate(images)]
            return every, [f.shared for f in every]

        features: dict[int, Features] = {}
        points = []
        whole = {at: x for at, x in enumerate(images) if at not in visible}
        for size in dict.fromkeys(x.shape[-2:] for x in whole.values()):
            same_size = [at for at, x in whole.items() if x.shape[-2:] == size]
            joint = self.encoder(torch.cat([images[at] for at in same_size]))
            parts = _split(joint, [len(images[at]) for at in same_size])
            features |= zip(same_size, parts, strict=True)

            # Taken before the split: no gradient of `pooled` flows through a slice of `shared`.
            points.append(joint.shared)
        for at, shown in visible.items():
            features[at] = self.encoder(images[at], shown)
            points.append(features[at].shared)
        return [features[at] for at in range(len(images))], points

    def forward_heads(
        self, features: Sequence[Features], prepared: PreparedBatch
    ) -> dict[str, list[Output]]:
        """Return label -> the outputs of its head, one for each of its inputs.

        Metrics and previews use them, too.
        """
        outputs: dict[str, list[Output]] = {}
        for label, head_inputs in prepared.head_inputs.items():
            head = self.heads[label]
            outputs[label] = []
            for head_input in head_inputs:
                arguments = [features[at] for at in head_input.images]
                outputs[label].append(head(*arguments))
        return outputs

    def compute_losses(
        self, label: str, outputs: Sequence[Output], prepared: PreparedBatch
    ) -> Tensor:
        """Return the loss of one label, an fp32 scalar.

        Losses are averaged first over the views of each SAMPLE, then over the samples. So the
        geometric mean over views is exact under any number of ranks and micro-batches. A view to
        which a sample's label can't be moved is left out of its mean; where images are mixed, it
        counts as 0.
        """
        head = self.heads[label]
        assert isinstance(head, Head)
        with losses_in_fp32(prepared.images[0].device.type):
            return label_loss(
                label,
                head,
                outputs,
                prepared.head_inputs[label],
                prepared.scale[label],
                self.views.reduce,
                prepared.labeled.get(label),
            )

    # ----------------------------------------------------------------- gradients and parameters

    def gramian(self, losses: Mapping[str, Tensor], gradient_points: Sequence[Tensor]) -> Tensor:
        """Return (K, K), inner products of the losses' gradients at the gradient points.

        It does not touch any `.grad`. The products of all ranks are summed.

        Raises MtlError if a loss has no gradient there, as with a compiled encoder: its outputs
        have no visible dependence on `shared`.
        """
        k = len(losses)
        world = world_size()
        device = gradient_points[0].device
        with torch.autocast(device.type, enabled=False):
            rows = [
                torch.autograd.grad(loss, gradient_points, retain_graph=True, allow_unused=True)
                for loss in losses.values()
            ]
        for label, row in zip(losses, rows, strict=True):
            if all(gradient is None for gradient in row):
                raise MtlError(
                    f'weighting.at = "features": no gradient of {label!r} flows through the '
                    "`shared` features (a compiled network hides where its outputs come from): "
                    'set weighting.at = "parameters"'
                )

        gram = torch.zeros(k, k, device=device)
        for point, column in zip(gradient_points, zip(*rows, strict=True), strict=True):
            jacobian = _jacobian(point, column) / world
            gram += jacobian @ jacobian.T
        return sum_over_ranks(gram)

    def idle(self, names: Sequence[str]) -> list[nn.Parameter]:
        """Return the trainable parameters that none of these losses moves."""
        key = tuple(names)
        if key not in self._idle:
            moved = set().union(*(self.moved_by[name] for name in names))
            trainable = [p for p in self.parameters() if p.requires_grad]
            self._idle[key] = [p for p in trainable if p not in moved]
        return self._idle[key]

    def only_moved(self, label: str, reached: set[nn.Parameter]) -> None:
        """Leave out the parameters that no gradient of this label's loss reaches.

        Examples are the layers of the encoder behind the maps that a head reads.
        """
        self.moved_by[label] &= reached
        self._idle.clear()

    def shared(self) -> list[nn.Parameter]:
        """Return the parameters that several losses can train.

        They are those of the encoder, and those of the heads that others share.
        """
        labels = sorted(set().union(*self.shared_heads.values()))
        networks = [self.encoder, *(self.heads[label] for label in labels)]
        return [p for network in networks for p in network.parameters() if p.requires_grad]

    def own(self, label: str) -> list[nn.Parameter]:
        """Return the parameters that only the loss of this label trains."""
        shared = {id(p) for p in self.shared()}
        trainable = [p for p in self.heads[label].parameters() if p.requires_grad]
        return [p for p in trainable if id(p) not in shared]

    def _touch_idle(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give the parameters that no loss of this step moves a zero gradient.

        DDP waits for the gradient of every parameter. The step then drops these zeros.
        """
        idle = self.idle(tuple(losses)) if world_size() > 1 else []
        if not idle:
            return losses
        first = next(iter(losses))
        zero = 0 * torch.stack([p.sum() for p in idle]).sum()
        return losses | {first: losses[first] + zero}

    @cached_property
    def followers(self) -> Sequence[EMA]:
        """The momentum copies that each step updates."""
        # A walk over all modules takes half a millisecond, so each step does not repeat it.
        return tuple(m for m in self.modules() if isinstance(m, EMA))

    def inference(self) -> Inference:
        """Return the network of inference. It shares its weights with this model."""
        heads = {label: self.heads[label] for label in self.tasks}
        return Inference(self.encoder, heads)  # type: ignore[arg-type]


class _SharedHeads(Mapping[str, Head]):
    """Supervised heads by label. An unknown label raises MtlError, which lists the known ones."""

    def __init__(self, heads: Mapping[str, Head]) -> None:
        self.heads = heads

    def __getitem__(self, label: str) -> Head:
        if label not in self.heads:
            raise MtlError(
                f"there is no supervised task {label!r} with a head to share; "
                f"{nearest(label, self.heads)}"
            )
        return self.heads[label]

    def __contains__(self, label: object) -> bool:
        return label in self.heads

    def __iter__(self) -> Iterator[str]:
        return iter(self.heads)

    def __len__(self) -> int:
        return len(self.heads)


def _shared_labels(head: Head, supervised: Mapping[str, Head]) -> set[str]:
    """Return the labels of the supervised heads that another head shares, whole or in part.

    EMA copies are not counted: no gradient reaches the head that they copy.
    """
    shared = _modules(head) - set(head.modules())
    return {label for label, owner in supervised.items() if not shared.isdisjoint(owner.modules())}


def _modules(head: nn.Module) -> set[nn.Module]:
    """Return the modules of a head, and those that it shares."""
    found = set(head.modules())
    for module in head.modules():
        if isinstance(module, SharedHead):
            found |= _modules(module.net)
    return found


def _jacobian(point: Tensor, gradients: Sequence[Tensor | None]) -> Tensor:
    """Return (K, elements of `point`) fp32. A loss without a gradient there has a row of zeros."""
    rows = []
    for gradient in gradients:
        if gradient is None:
            gradient = torch.zeros_like(point)
        rows.append(gradient.flatten().float())
    return torch.stack(rows)


def _concatenate(first: Features, second: Features) -> Features:
    """Join the features of two batches along the samples."""

    def both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        # Only views with hidden parts have `cells`, and these are not split by their labels.
        assert (a is None) == (b is None)
        return None if a is None or b is None else torch.cat([a, b])

    joined: Features = tree_map(both, first, second)
    return joined


def _split(joint: Features, sizes: list[int]) -> list[Features]:
    """Split the features of a joint batch into batches of these sizes."""
    assert joint.images is not None
    maps = [split(m, sizes) for m in joint.maps]
    pooled = split(joint.pooled, sizes)
    shared = split(joint.shared, sizes)
    images = joint.images.split(sizes)

    parts = []
    for i in range(len(sizes)):
        part_maps = tuple(m[i] for m in maps)
        parts.append(Features(part_maps, pooled[i], shared[i], images[i]))
    return parts
