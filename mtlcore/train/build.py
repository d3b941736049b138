"""From a resolved experiment to an train_state that can step: networks, optimizers, starting weights, a dry run."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ..config import load
from ..config.experiment import Experiment
from ..config.write import component_table
from ..contracts import Batch, StepCounts, StepLosses
from ..encoders.weights import weights_from_checkpoint
from ..errors import MtlError
from ..model.hybrid import HybridModel
from ..model.inference import SharedEncoder
from ..model.views import prepare
from ..networks import EMA
from ..rng import WEIGHTING, WEIGHTS, KeyedRng
from ..runs import RunFolder
from .optim import loss_weighting_optimizer_for, optimizer_for
from .step import TrainState, task_weights

PLUGIN_FAILURES = (
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
)


def build_train_state(
    experiment: Experiment, fabric: Fabric, steps: int, steps_per_epoch: int, resume: bool = False
) -> TrainState:
    """Everything that a step works on; initial weights depend on the run's seed alone.

    resume: all weights will come from a checkpoint, so no file of weights and no other run is asked for them.
    """
    with torch.random.fork_rng(devices=[]), weights_from_checkpoint() if resume else nullcontext():
        torch.manual_seed(KeyedRng((experiment.seed,)).seed(WEIGHTS))
        model = HybridModel(experiment)
        loss_weighting = experiment.weighting.build(list(experiment.entries))
    if experiment.train.init_from is not None and not resume:
        start_from(model.encoder, experiment.train.init_from)
        for follower in model.followers():
            follower.reset()
    fabric.strategy.module_to_device(model)
    loss_weighting.to(fabric.device)
    ema = EMA(model.inference(), experiment.train.ema) if experiment.train.ema else None
    module: nn.Module = fabric.strategy.setup_module(model)
    optimizer = fabric.setup_optimizers(optimizer_for(model, experiment.optimizer))
    return TrainState(
        experiment=experiment,
        model=model,
        loss_weighting=loss_weighting,
        optimizer=optimizer,
        loss_weighting_optimizer=loss_weighting_optimizer_for(
            loss_weighting, experiment.optimizer.lr
        ),
        ema=ema,
        module=module,
        fabric=fabric,
        steps=steps,
        steps_per_epoch=steps_per_epoch,
    )


def start_from(encoder: SharedEncoder, run: Path) -> None:
    """Load the encoder of another run (its average, where it keeps one): fine-tuning. Raises MtlError where the nets differ."""
    folder = RunFolder.open(run)
    kept, before = folder.require("last").inference_weights(), load(folder.config).encoder
    for name, mine in (("mean", encoder.mean), ("std", encoder.std)):
        if not torch.allclose(mine.flatten(), torch.tensor(getattr(before, name))):
            raise MtlError(
                f"train.init_from = {str(run)!r}: that encoder read images normalized by another {name} "
                f"{getattr(before, name)}; this one has {tuple(round(v, 3) for v in mine.flatten().tolist())}"
            )
    prefix = "encoder."
    weights = {k.removeprefix(prefix): v for k, v in kept.items() if k.startswith(prefix)}
    load_exactly(encoder, weights, f"train.init_from = {str(run)!r}")


def load_exactly(net: nn.Module, weights: dict[str, Tensor], origin: str) -> None:
    """Load by name; MtlError tells what is missing, unexpected, or of another shape: a checkpoint of another configuration."""
    own = net.state_dict()
    missing, unexpected = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [k for k in own.keys() & weights.keys() if own[k].shape != weights[k].shape]
    problems = [
        f"{what}: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''} ({len(names)})"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", sorted(shapes)),
        )
        if names
    ]
    if problems:
        raise MtlError(f"{origin}: these weights belong to another network; {'; '.join(problems)}")
    net.load_state_dict(weights)


def try_weighting(experiment: Experiment, device: torch.device) -> None:
    """Build the weighting and ask it once, on made losses of all names: before images are read, and in milliseconds.

    Raises MtlError: a library or solver that is missing, an unknown option, or one whose value only shows in use to be wrong.
    """
    names, weighting = tuple(experiment.entries), experiment.weighting
    primary = torch.tensor([name in experiment.tasks for name in names], device=device)
    values = torch.ones(len(names), device=device)
    opposing = values.diag() - 0.1 / len(names)  # gradients that oppose each other a little
    gram = None if weighting.at == "losses" else opposing
    rng = KeyedRng((experiment.seed, 0), device)(WEIGHTING)
    try:
        with torch.random.fork_rng(devices=[]):
            loss_weighting = weighting.build(names).to(device)
            task_weights(loss_weighting, StepLosses(names, values, gram, primary, 0.0, 0, rng))
    except PLUGIN_FAILURES as error:
        told = ", ".join(f"{key} = {value!r}" for key, value in component_table(weighting).items())
        raise MtlError(
            f"[weighting] {told}: a trial on made losses failed: {type(error).__name__}: {error}"
        ) from error


def dry_run(train_state: TrainState, real: Batch) -> None:
    """Forward two samples, so that a view that the encoder can't read, a loss of a wrong shape, or features that hide their gradient
    are told before training starts.
    """
    samples = dict.fromkeys(train_state.experiment.tasks, 2)
    batch = Batch(
        real.images[:2],
        {k: v[:2] for k, v in real.targets.items()},
        {k: v[:2] for k, v in real.present.items()},
        StepCounts(samples, 2, 2),
        min(1, real.labeled_samples),
    )
    train_state.model.eval()
    try:
        with torch.set_grad_enabled(train_state.model.measuring), train_state.fabric.autocast():
            train_state.model(
                prepare(
                    train_state.experiment,
                    batch,
                    KeyedRng((train_state.experiment.seed,), train_state.fabric.device),
                )
            )
    except PLUGIN_FAILURES as error:
        names = ", ".join(train_state.experiment.entries)
        raise MtlError(
            f"a dry run of two samples failed ({names}; input.size = {train_state.experiment.input.size}): {error}"
        ) from error
    finally:
        train_state.model.train()
