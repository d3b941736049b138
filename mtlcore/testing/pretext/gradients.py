"""Checks of gradients: they reach the encoder, the head and every sample, and no fixed network."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ...networks import EMA, FrozenModule
from ..kit import Group
from ..requirements import Skip, require
from ..subject import Drawn
from .batch import OWN_LOSS
from .harness import LABEL, PretextSubject, features_of
from .loss import STEADY

TRIES = 6  # batches: a threshold or a ReLU may block a gradient in some of them
SAMPLES = 8
ENCODER = "gradient_reaches_the_encoder"
HEAD = "gradient_reaches_the_whole_head"

GRADIENTS_CHECKS = Group()


@GRADIENTS_CHECKS.check(
    "gradient",
    why="a pretext exists to teach the shared encoder.",
    mend="Use no detach() or no_grad() between the features of at least one view and the loss.",
    needs=STEADY,
    core=True,
)
def gradient_reaches_the_encoder(subject: PretextSubject) -> None:
    """The loss has a gradient at the encoder's first layer."""
    first = next(name for name, _ in subject.fresh().encoder.named_parameters())
    require(f"encoder.{first}" in _reached(subject), "no gradient arrives there")


@GRADIENTS_CHECKS.check(
    "gradient",
    why="a weight without a gradient stays random, and stops DDP.",
    mend="Use every layer in forward or loss. Remove layers that are not needed, and wrap fixed "
    "ones in FrozenModule.",
    needs=STEADY,
    core=True,
)
def gradient_reaches_the_whole_head(subject: PretextSubject) -> None:
    """Every trainable weight of the head has a gradient in one of a few batches."""
    trainable = [name for name, p in subject.built.named_parameters() if p.requires_grad]
    if not trainable:
        raise Skip("its head has no weights of its own")
    reached = _reached(subject)
    without = [name for name in trainable if f"heads.{LABEL}.{name}" not in reached]
    require(not without, f"without a gradient: {', '.join(without)}")


@GRADIENTS_CHECKS.check(
    "gradient",
    why="a sample that is detached teaches nothing, yet its weight counts in the loss.",
    mend="Use no detach(), no_grad() or masks by sample index between the features and the loss.",
    needs=(ENCODER, OWN_LOSS),
    core=True,
)
def gradient_reaches_every_sample(subject: PretextSubject) -> None:
    """In train mode, each sample's loss has a gradient at its own features in some batch."""
    if subject.built.coupled:
        raise Skip("its head is coupled: its loss compares samples")
    reached = torch.zeros(SAMPLES, dtype=torch.bool)
    for seed in range(TRIES):
        reached |= _samples_reached(subject, seed)
        if bool(reached.all()):
            break
    without = (~reached).nonzero().flatten().tolist()
    require(not without, f"samples {without} of {SAMPLES} have none")


@GRADIENTS_CHECKS.check(
    "gradient",
    why="a teacher that learns from its own loss makes that loss small: collapse.",
    mend="Do not call requires_grad_(True) on the contents of EMA and FrozenModule.",
    needs=STEADY,
    core=True,
)
def frozen_networks_get_no_gradient(subject: PretextSubject) -> None:
    """Weights of momentum copies and frozen networks get no gradient."""
    model = subject.fresh()
    frozen = [net for _, net in _frozen(model.heads[LABEL])]
    if not frozen:
        raise Skip("it has no frozen network")
    subject.loss(model, subject.batch(Drawn(SAMPLES, 32, 0))).sum().backward()
    moved = []
    for net in frozen:
        moved += [n for n, p in net.named_parameters() if p.requires_grad or p.grad is not None]
    require(not moved, f"these get gradients: {', '.join(moved[:5])}")


@GRADIENTS_CHECKS.check(
    "gradient",
    why="in train mode, BatchNorm and dropout turn a fixed network into a moving target.",
    mend="Wrap it: FrozenModule(net) and EMA(net) stay in eval mode. EMA(net, batch_stats=True) "
    "uses batch statistics.",
    needs=STEADY,
)
def frozen_networks_stay_in_eval(subject: PretextSubject) -> None:
    """After model.train(), frozen networks are in eval mode, apart from EMA with batch_stats."""
    head = subject.fresh().train().heads[LABEL]
    frozen = [*_frozen(head), *_frozen_without_wrapper(head)]
    if not frozen:
        raise Skip("it has no frozen network")
    for owner, net in frozen:
        if isinstance(owner, EMA) and owner.batch_stats:
            continue
        training = [type(module).__name__ for module in net.modules() if module.training]
        require(not training, f"in train mode: {', '.join(training[:5])}")


# ---------------------------------------------------------------------------------------- helpers


def _reached(subject: PretextSubject) -> set[str]:
    """Names of the model's weights with a gradient other than 0 in one of a few batches."""
    found: set[str] = set()
    for seed in range(TRIES):
        model = subject.fresh(seed=seed)
        subject.loss(model, subject.batch(Drawn(SAMPLES, 32, seed))).sum().backward()

        weights = dict(model.named_parameters())
        found |= {n for n, p in weights.items() if p.grad is not None and bool(p.grad.any())}
        own = {n for n, p in weights.items() if p.requires_grad and n.startswith(f"heads.{LABEL}.")}
        if own <= found and any(name.startswith("encoder.") for name in found):
            break
    return found


def _samples_reached(subject: PretextSubject, seed: int) -> Tensor:
    """(SAMPLES,) bool: each sample's loss has a nonzero gradient at its own features of a view."""
    model, batch = subject.fresh(seed=seed), subject.batch(Drawn(SAMPLES, 32, seed))
    features = features_of(model, batch.views)
    leaves = []
    for view_features in features:
        leaves += [*view_features.maps, view_features.pooled, view_features.shared]
    loss = subject.loss_of(model, model.heads[LABEL](*features), batch.target)

    found = torch.zeros(SAMPLES, dtype=torch.bool)
    if not loss.requires_grad:
        return found
    for i in range(SAMPLES):
        gradients = torch.autograd.grad(loss[i], leaves, retain_graph=True, allow_unused=True)
        found[i] = any(bool(g[i].any()) for g in gradients if g is not None)
    return found


def _frozen(head: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """(wrapper, network) of momentum copies and frozen networks."""
    for module in head.modules():
        if isinstance(module, EMA):
            yield module, module.copy
        if isinstance(module, FrozenModule):
            yield module, module.net


def _frozen_without_wrapper(head: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """(head, submodule) for submodules outside wrappers whose weights are all fixed."""
    wrapped: set[nn.Module] = set()
    for module in head.modules():
        if isinstance(module, EMA | FrozenModule):
            wrapped.update(module.modules())
    for module in head.modules():
        weights = list(module.parameters())
        fixed = bool(weights) and not any(p.requires_grad for p in weights)
        if module is not head and fixed and wrapped.isdisjoint(module.modules()):
            yield head, module
