"""One encoder, many heads: `PreparedBatch` in, one loss a label out; `inference()` keeps what a user needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..config.experiment import Experiment, PretextEntry, TaskEntry
from ..contracts import BuildContext, Features, Head, HeadInput, PreparedBatch
from ..errors import MtlError, nearest
from ..networks import EMA, SharedHead, losses_in_fp32, running_statistics_kept, total, world_size
from .inference import Inference, SharedEncoder


class HybridModel(nn.Module):
    """The network of a run, with the heads of every task and pretext.

    forward(prepared) -> losses by label (fp32 scalars, in units of the step's mean) and, for a weighting at the features, their
    Gramian (K, K). Supervised only, hybrid and pretext only are the same code with other tables.
    """

    def __init__(self, experiment: Experiment) -> None:
        super().__init__()
        self.views = experiment.views
        self.measuring = (
            experiment.weighting.at == "features"
        )  # whether a forward gives the Gramian; set by each step
        self.encoder = SharedEncoder(experiment.encoder, experiment.input.size)
        self.shared_heads: dict[
            str, set[str]
        ] = {}  # pretext label -> supervised heads that its loss goes through
        supervised = {
            label: self._build(label, e, _SharedHeads({})) for label, e in experiment.tasks.items()
        }
        self.tasks, self.heads = tuple(supervised), nn.ModuleDict(supervised)
        for label, entry in experiment.pretexts.items():
            self.heads[label] = head = self._build(label, entry, _SharedHeads(supervised))
            self.shared_heads[label] = _shared_labels(head, supervised)

    def _build(
        self, label: str, entry: TaskEntry | PretextEntry, shared_heads: _SharedHeads
    ) -> Head:
        head = entry.component.build(BuildContext(self.encoder.info, self.encoder, shared_heads))
        parts = set(head.modules())
        for name, module in {"the shared encoder": self.encoder, **shared_heads.heads}.items():
            if not parts.isdisjoint(module.modules()):
                raise MtlError(
                    f"head {label!r} keeps {name} as its own part: use context.info, EMA(module) or SharedHead(module)"
                )
        return head

    def forward(self, prepared: PreparedBatch) -> tuple[dict[str, Tensor], Tensor | None]:
        """The Gramian is measured HERE: outside, DDP and precision wrappers hand back copies that are not in the graph."""
        features, trunk = self.encode(prepared)
        outputs = self.forward_heads(features, prepared)
        losses = {
            label: self.compute_losses(label, output, prepared) for label, output in outputs.items()
        }
        gram = self.gramian(losses, trunk) if self.measuring and torch.is_grad_enabled() else None
        return self._touch_idle(losses), gram

    # ---------------------------------------------------------------------------------------- the three steps of a forward

    def encode(self, prepared: PreparedBatch) -> tuple[list[Features], list[Tensor]]:
        """-> the features of each image batch, and the points where all gradients pass.

        With `statistics = "clean"` in two forwards, joined again: the labeled rows of the clean views, then all the rest, which
        uses its own batch statistics and leaves the running ones alone.
        """
        if not prepared.clean:
            return self._encode(prepared.images)
        cut = dict(prepared.clean)
        first = [prepared.images[at][:n] for at, n in cut.items()]
        rest = [x[cut.get(i, 0) :] for i, x in enumerate(prepared.images)]
        kept = [i for i, x in enumerate(rest) if len(x)]
        clean, points = self._encode(first)
        others: list[Features] = []
        more: list[Tensor] = []
        if kept:
            with running_statistics_kept(self.encoder):
                others, more = self._encode([rest[i] for i in kept])
        features: dict[int, Features] = dict(zip(kept, others))
        for at, mine in zip(cut, clean):
            features[at] = (
                tree_map(lambda a, b: torch.cat([a, b]), mine, features[at])
                if at in features
                else mine
            )
        return [features[i] for i in range(len(rest))], points + more

    def _encode(self, images: Sequence[Tensor]) -> tuple[list[Features], list[Tensor]]:
        """joint: one forward for each SIZE of image. split: one for each image batch.

        The gradient points are taken before a joint forward is split: `pooled` does not hang on a slice of `maps`.
        """
        if self.views.forward == "split" or len(images) == 1:
            every = [self.encoder(x) for x in images]
            return every, [f.shared for f in every]
        features: dict[int, Features] = {}
        points = []
        for size in dict.fromkeys(x.shape[-2:] for x in images):
            same = [i for i, x in enumerate(images) if x.shape[-2:] == size]
            joint = self.encoder(torch.cat([images[i] for i in same]))
            features |= zip(same, _split(joint, [len(images[i]) for i in same]), strict=True)
            points.append(joint.shared)
        return [features[i] for i in range(len(images))], points

    def forward_heads(
        self, features: Sequence[Features], prepared: PreparedBatch
    ) -> dict[str, list[Any]]:
        """label -> the head's output for each of its head_inputs; also what metrics and previews look at."""
        return {
            label: [self.heads[label](*(features[i] for i in r.images)) for r in head_inputs]
            for label, head_inputs in prepared.head_inputs.items()
        }

    def compute_losses(self, label: str, outputs: Sequence[Any], prepared: PreparedBatch) -> Tensor:
        """The loss of one label, in fp32: over its head_inputs (views) first, for each SAMPLE, then over the samples.

        So the geometric mean of views is exact under ranks and micro-batches.
        """
        head, head_inputs = self.heads[label], prepared.head_inputs[label]
        assert isinstance(head, Head)
        with losses_in_fp32(prepared.images[0].device.type):
            views = torch.stack(
                [_loss(label, head, o, r) for o, r in zip(outputs, head_inputs, strict=True)]
            )
            loss = views.mean(0)
            if self.views.reduce == "geometric" and len(views) > 1:
                loss = views.clamp_min(1e-8).log().mean(0).exp()
            if head.coupled:  # already a mean over its samples
                return loss
            share = head_inputs[0].share
            return (
                loss if share is None else torch.where(share > 0, loss, 0)
            ).sum() * prepared.scale[label]

    # ---------------------------------------------------------------------------------------- gradients and parameters

    def gramian(self, losses: Mapping[str, Tensor], trunk: Sequence[Tensor]) -> Tensor:
        """(K, K) inner products of the gradients at the features, without touching any .grad. Over ranks, products add up.

        Raises MtlError where a loss does not pass them: what a compiled encoder gives hangs on nothing that can be seen from here.
        """
        k, world, device = len(losses), world_size(), trunk[0].device
        with torch.autocast(device.type, enabled=False):
            rows = [
                torch.autograd.grad(loss, trunk, retain_graph=True, allow_unused=True)
                for loss in losses.values()
            ]
        for label, row in zip(losses, rows, strict=True):
            if all(g is None for g in row):
                raise MtlError(
                    f'weighting.at = "features": no gradient of {label!r} passes the encoder\'s `shared` features (a compiled '
                    'network hides where its outputs come from). Set weighting.at = "parameters"'
                )
        gram = torch.zeros(k, k, device=device)
        for point, column in zip(trunk, zip(*rows, strict=True), strict=True):
            j = (
                torch.stack(
                    [
                        (torch.zeros_like(point) if g is None else g).flatten().float()
                        for g in column
                    ]
                )
                / world
            )
            gram += j @ j.T
        return total(gram)

    def used(self, names: Sequence[str]) -> set[str]:
        """Labels of the heads that these losses go through: their own, and those that a pretext took from `context.heads`."""
        return {*names, *(label for name in names for label in self.shared_heads.get(name, ()))}

    def shared(self) -> list[nn.Parameter]:
        """Parameters that more than one loss may move: the encoder's, and those of heads that pretexts took."""
        taken = sorted({label for labels in self.shared_heads.values() for label in labels})
        return [
            p
            for net in (self.encoder, *(self.heads[k] for k in taken))
            for p in net.parameters()
            if p.requires_grad
        ]

    def own(self, label: str) -> list[nn.Parameter]:
        """Parameters that this loss alone moves."""
        shared = {id(p) for p in self.shared()}
        return [
            p for p in self.heads[label].parameters() if p.requires_grad and id(p) not in shared
        ]

    def _touch_idle(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """DDP waits for every parameter: give those of absent tasks a zero gradient, which the step then drops."""
        if world_size() == 1:
            return losses
        idle = [
            p.sum()
            for k, head in self.heads.items()
            if k not in losses
            for p in head.parameters()
            if p.requires_grad
        ]
        if not idle:
            return losses
        first = next(iter(losses))
        return losses | {first: losses[first] + 0 * torch.stack(idle).sum()}

    def followers(self) -> list[EMA]:
        """The momentum copies that the step updates."""
        return [m for m in self.modules() if isinstance(m, EMA)]

    def inference(self) -> Inference:
        """The part that is kept. It shares its weights with this model."""
        heads = {label: self.heads[label] for label in self.tasks}
        return Inference(self.encoder, heads)  # type: ignore[arg-type]


class _SharedHeads(Mapping[str, Head]):
    """Supervised heads by label; an unknown label is answered with the known ones."""

    def __init__(self, heads: Mapping[str, Head]) -> None:
        self.heads = heads

    def __getitem__(self, label: str) -> Head:
        if label not in self.heads:
            raise MtlError(
                f"there is no supervised task {label!r} whose head could be shared; {nearest(label, self.heads)}"
            )
        return self.heads[label]

    def __contains__(self, label: object) -> bool:
        return label in self.heads

    def __iter__(self) -> Iterator[str]:
        return iter(self.heads)

    def __len__(self) -> int:
        return len(self.heads)


def _shared_labels(head: Head, supervised: Mapping[str, Head]) -> set[str]:
    """Labels of the supervised heads that this one sends gradient into: by `SharedHead`, whole or in part. EMA copies get none."""
    parts = {part for m in head.modules() if isinstance(m, SharedHead) for part in m.net.modules()}
    return {label for label, owner in supervised.items() if not parts.isdisjoint(owner.modules())}


def _loss(label: str, head: Head, output: Any, head_input: HeadInput) -> Tensor:
    """(B,), or () of a coupled head. With mixup a reading has two answers, whose shares add up to at most 1."""
    output = tree_map(
        lambda x: x.float() if isinstance(x, Tensor) and x.is_floating_point() else x, output
    )
    losses = []
    for target, share in head_input.targets:
        loss = head.loss(output, target, *(() if share is None or not head.coupled else (share,)))
        if loss.ndim != (0 if head.coupled else 1):
            expected = "()" if head.coupled else "(B,), one value a sample"
            hint = (
                f" (set `coupled = True` on {type(head).__name__} if samples are judged together)"
            )
            raise MtlError(
                f"{label!r}: the loss has the shape {tuple(loss.shape)}; expected {expected}{hint}"
            )
        losses.append(
            loss if share is None or head.coupled else torch.where(share > 0, loss, 0) * share
        )
    return torch.stack(losses).sum(0)


def _split(joint: Features, sizes: list[int]) -> list[Features]:
    leaves = [
        [m.split(sizes) for m in joint.maps],
        joint.pooled.split(sizes),
        joint.shared.split(sizes),
    ]
    assert joint.images is not None
    images = joint.images.split(sizes)
    return [
        Features(tuple(m[i] for m in leaves[0]), leaves[1][i], leaves[2][i], images[i])
        for i in range(len(sizes))
    ]
