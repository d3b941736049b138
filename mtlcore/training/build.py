"""Build a `TrainState` from a resolved experiment, and try it out before training starts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricOptimizer
from torch import Tensor, nn

from ..config.experiment import Experiment
from ..config.write import component_table
from ..contracts import Batch, StepLosses
from ..encoders.weights import weights_from_checkpoint
from ..errors import MtlError
from ..image_size import written
from ..model.hybrid import HybridModel
from ..model.inference import SharedEncoder
from ..model.plan import training_plan
from ..model.views import prepare
from ..networks import EMA, world_size
from ..rng import WEIGHTING, WEIGHTS, KeyedRng
from ..runs import RunFolder
from ..weights import load_weights
from .gradients import task_weights
from .groups import groups_of
from .optim import loss_weighting_optimizer_for
from .state import TrainState
from .step import graph_context

PLUGIN_FAILURES = (
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
)
"""What a plugin may raise on a setting that does not work. The user gets it as an MtlError."""


def build_train_state(
    experiment: Experiment,
    fabric: Fabric,
    steps: int,
    steps_per_epoch: int,
    continues: bool = False,
) -> TrainState:
    """Build everything that a step works on. Initial weights depend on the run's seed alone.

    continues: a checkpoint will be loaded, so no pre-trained weights and no other run are read.
    """
    # The weights of another run replace all others, too.
    replaced = continues or experiment.train.init_from is not None
    pretrained = weights_from_checkpoint() if replaced else nullcontext()
    with torch.random.fork_rng(devices=[]), pretrained:
        torch.manual_seed(KeyedRng((experiment.seed,)).seed(WEIGHTS))
        model = HybridModel(experiment)
        loss_weighting = experiment.weighting.build(list(experiment.entries))
    if experiment.train.init_from is not None and not continues:
        start_from(model.encoder, experiment, experiment.train.init_from)
        # Momentum copies were made of the random weights.
        for follower in model.followers:
            follower.reset()

    fabric.strategy.module_to_device(model)
    loss_weighting.to(fabric.device)
    ema = EMA(model.inference(), experiment.train.ema) if experiment.train.ema else None
    module: nn.Module = fabric.strategy.setup_module(model)
    _require_shared_parameters(model, experiment)
    parameters = groups_of(model, experiment)
    optimizer = fabric.setup_optimizers(experiment.optimizer.build(parameters.groups))
    assert isinstance(optimizer, _FabricOptimizer)
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
        group_lrs=parameters.lrs,
        steps_per_epoch=steps_per_epoch,
    )


def _require_shared_parameters(model: HybridModel, experiment: Experiment) -> None:
    """Raise MtlError if a weighting by gradients has no gradients to read."""
    at = experiment.weighting.at
    read = model.encoder.parameters() if at == "features" else model.shared()
    if at == "losses" or any(p.requires_grad for p in read):
        return
    freeze = f'"{experiment.freeze}"' if isinstance(experiment.freeze, str) else experiment.freeze
    raise MtlError(
        f'weighting.at = "{at}" and encoder.freeze = {freeze}: nothing that all losses share is '
        'trained, so their gradients can\'t be compared: set weighting.name = "equal", or freeze '
        "less"
    )


def start_from(encoder: SharedEncoder, experiment: Experiment, run: Path) -> None:
    """Load the encoder of another run for fine-tuning: its EMA weights if it has any.

    experiment: that of `encoder`.

    Raises MtlError if the normalization or the network differs, or if the EMA weights of a run with
    EMA are missing.
    """
    origin = f"train.init_from = {str(run)!r}"
    folder = RunFolder.open(run)
    other = folder.experiment()
    uses_ema = other.train.ema > 0
    _, saved = folder.read("last", lambda found: found.inference_weights(uses_ema=uses_ema))
    settings = other.encoder
    _check_normalization("mean", encoder.mean, settings.mean, origin)
    _check_normalization("std", encoder.std, settings.std, origin)

    prefix = "encoder."
    weights: dict[str, Tensor] = {}
    for name, weight in saved.items():
        if name.startswith(prefix):
            weights[name.removeprefix(prefix)] = weight
    mine, theirs = experiment.input.size, other.input.size
    other_size = (
        f"That run has input.size = {written(theirs)}, but this one {written(mine)}: "
        f"set input.size = {written(theirs)}"
    )
    # With as many patches in another grid, they would fit, but be those of other places.
    of_places = [name for name in weights if name.endswith(("pos_embed", "pos_embedding"))]
    if of_places and mine != theirs and experiment.encoder == settings:
        raise MtlError(
            f"{origin}: its position embedding ({of_places[0]}) belongs to one image size\n"
            f"{other_size}"
        )
    try:
        load_weights(encoder, weights, origin)
    except MtlError as error:
        if mine == theirs or experiment.encoder != settings:
            raise
        raise MtlError(f"{error}\n{other_size}") from error


def _check_normalization(
    name: str,
    mine: Tensor,
    other: tuple[float, float, float],
    origin: str,
) -> None:
    if torch.allclose(mine.flatten(), torch.tensor(other)):
        return
    own = tuple(round(value, 3) for value in mine.flatten().tolist())
    raise MtlError(
        f"{origin}: that encoder normalizes images with {name} = {other}, "
        f"but this one with {name} = {own}: set encoder.weights to this run instead, which "
        "normalizes as it does"
    )


def try_weighting(experiment: Experiment, device: torch.device) -> None:
    """Build the weighting and call it once on artificial losses.

    It takes milliseconds and runs before any image is read. Raises MtlError on a missing library
    or solver, on an unknown option, and on a value that the weighting refuses only in use.
    """
    names, weighting = tuple(experiment.entries), experiment.weighting
    primary = torch.tensor([name in experiment.tasks for name in names], device=device)
    values = torch.ones(len(names), device=device)
    # Gradients that conflict a little: a solver has something to do.
    conflicting = values.diag() - 0.1 / len(names)
    gram = None if weighting.at == "losses" else conflicting
    rng = KeyedRng((experiment.seed, 0), device)(WEIGHTING)
    try:
        with torch.random.fork_rng(devices=[]):
            loss_weighting = weighting.build(names).to(device)
            losses = StepLosses(names, values, gram, primary, 0.0, 0, rng)
            found = task_weights(loss_weighting, losses)
            if not found.isfinite().all():
                raise ValueError(f"its task weights are {found.tolist()}")
    except MtlError:
        raise
    except Exception as error:  # a solver may raise an exception of its own library
        settings = component_table(weighting)
        shown = ", ".join(f"{key} = {value!r}" for key, value in settings.items())
        raise MtlError(
            f"[weighting] {shown}: a trial on artificial losses failed: "
            f"{type(error).__name__}: {error}"
        ) from error


def dry_run(train_state: TrainState, real: Batch) -> None:
    """Run two samples forward before training starts, and find what each loss moves.

    Raises MtlError if the encoder cannot read a view, if a loss has a wrong shape, or if the
    features hide their gradient.
    """
    experiment = train_state.experiment
    model, rng = train_state.model, KeyedRng((experiment.seed,), train_state.fabric.device)
    # On one device, autograd leaves alone what a loss does not move: see `HybridModel.idle`.
    differentiates = world_size() > 1 or experiment.weighting.at != "losses"
    model.eval()
    try:
        with (
            torch.set_grad_enabled(differentiates),
            train_state.fabric.autocast(),
            graph_context(differentiates),
        ):
            losses, _ = model(prepare(training_plan(experiment), real.first(2), rng))
            if differentiates:
                _find_moved(model, losses)
    except PLUGIN_FAILURES as error:
        names = ", ".join(experiment.entries)
        reason = "; ".join([str(error), *getattr(error, "__notes__", ())])
        raise MtlError(
            f"a dry run of two samples failed "
            f"({names}; input.size = {written(experiment.input.size)}): {reason}"
        ) from error
    finally:
        model.train()


def _find_moved(model: HybridModel, losses: Mapping[str, Tensor]) -> None:
    """Find which parameters each loss moves, and leave no gradient."""
    try:
        for label, loss in losses.items():
            model.zero_grad(set_to_none=True)
            if loss.requires_grad:
                loss.backward(retain_graph=True)
            model.only_moved(label, {p for p in model.parameters() if p.grad is not None})
    except PLUGIN_FAILURES:
        pass  # in eval mode alone: the trial of a step, which follows, names what fails in training
    finally:
        model.zero_grad(set_to_none=True)
