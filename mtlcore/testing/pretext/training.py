"""Checks of what training does with a pretext: gradients, what is saved, its answers permuted, images of them, real steps."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from attrs import evolve
from torch import Tensor, nn
from torch.utils._pytree import tree_structure

from ...contracts import PretextTask
from ...errors import MtlError
from ...model.hybrid import HybridModel
from ...model.views import prepare
from ...networks import EMA, FrozenModule
from ..generators import seeded, touched
from ..kit import Group, Skip, Unproven, require
from ..subject import Drawn
from ..toml import table
from .harness import LABEL, Asked, PretextSubject, raw, require_finite, same, samples, tensors
from .loss import STEADY, ideal_answer
from .views import EXACT_SIDE, TWICE

TRIES = 6  # batches over which every gradient must have been seen once: a threshold or a ReLU may hold one back
SAMPLES = 8
STEPS = 2


GRADIENTS_CHECKS = Group()


@GRADIENTS_CHECKS.check(
    "gradient",
    why="a pretext is there to teach the shared encoder.",
    mend="no detach() or no_grad() between the features of at least one view and the loss.",
    needs=STEADY,
    core=True,
)
def gradient_reaches_the_encoder(subject: PretextSubject) -> None:
    """The loss has a gradient at the encoder's first layer."""
    first = next(name for name, _ in subject.fresh().encoder.named_parameters())
    require(f"encoder.{first}" in _reached(subject), "no gradient arrives there")


@GRADIENTS_CHECKS.check(
    "gradient",
    why="a weight without gradient stays random for ever, and stops DDP.",
    mend="use every layer that is built, in forward or loss; take away those that are not needed; FrozenModule for fixed ones.",
    needs=STEADY,
    core=True,
)
def gradient_reaches_the_whole_head(subject: PretextSubject) -> None:
    """Every trainable weight of the head has a gradient in one of a few batches."""
    own = [name for name, p in subject.built.named_parameters() if p.requires_grad]
    if not own:
        raise Skip("its head has no weights of its own")
    without = [name for name in own if f"heads.{LABEL}.{name}" not in _reached(subject)]
    require(not without, f"without gradient: {', '.join(without)}")


@GRADIENTS_CHECKS.check(
    "gradient",
    why="a teacher or a judge that learns from the loss it gives makes the loss small by itself: collapse.",
    mend="leave EMA and FrozenModule as they are: no requires_grad_(True) on what is in them.",
    needs=STEADY,
    core=True,
)
def frozen_networks_get_no_gradient(subject: PretextSubject) -> None:
    """Weights of momentum copies and frozen networks take part in no gradient."""
    model = subject.fresh()
    frozen = [net for _, net in _frozen(model.heads[LABEL])]
    if not frozen:
        raise Skip("it has no frozen network")
    subject.loss(model, subject.ask(Drawn(SAMPLES, 32, 0))).sum().backward()
    moved = [
        n
        for net in frozen
        for n, p in net.named_parameters()
        if p.requires_grad or p.grad is not None
    ]
    require(not moved, f"they take gradients: {', '.join(moved[:5])}")


@GRADIENTS_CHECKS.check(
    "gradient",
    why="in train mode BatchNorm and dropout make the fixed network a moving target.",
    mend="wrap it: FrozenModule(net) or EMA(net) stay in eval; EMA(net, batch_stats=True) where batch statistics are meant.",
    needs=STEADY,
)
def frozen_networks_stay_in_eval(subject: PretextSubject) -> None:
    """After model.train(), frozen networks are still in eval mode (an EMA with batch_stats follows the model)."""
    model = subject.fresh().train()
    frozen = [*_frozen(model.heads[LABEL]), *_frozen_by_hand(model.heads[LABEL])]
    if not frozen:
        raise Skip("it has no frozen network")
    for owner, net in frozen:
        expected = isinstance(owner, EMA) and owner.batch_stats
        wrong = [type(m).__name__ for m in net.modules() if m.training and not expected]
        require(not wrong, f"in train mode: {', '.join(wrong[:5])}")


@GRADIENTS_CHECKS.check(
    "gradient",
    why="at weight 0 an arm must be as if the table were not there, or it is no control.",
    mend="build and draw nothing when the component is made: networks belong into build(), draws into views().",
    needs="survives_its_toml",
)
def weight_zero_leaves_no_trace(subject: PretextSubject) -> None:
    """Read with weight = 0, the table is dropped, and reading it moves no global generator."""
    from ...config import parse

    if not any(cls is subject.cls for cls in subject.catalog.classes.values()):
        raise Skip("a class that no entry point and no plugin file gives")
    task = {"category": {"name": "classification"}}
    tables = {
        "task": task,
        "train": {"steps": 1},
        "pretext": {LABEL: {**table(subject.component), "weight": 0}},
    }
    moved = touched(lambda: parse(tables, subject.catalog))
    require(not moved, f"the global generator of {' and '.join(moved)} has moved")
    read = parse(tables, subject.catalog)
    require(not read.pretexts, f"the run still has the pretext {read.pretexts}")


STATE_CHECKS = Group()


@STATE_CHECKS.check(
    "state",
    why="a resumed run would go on with another head than the one that was trained.",
    mend="nn.Parameter for what learns, register_buffer for what is drawn or counted: no bare tensors, no globals.",
    needs=STEADY,
    core=True,
)
def state_round_trip_keeps_the_loss(subject: PretextSubject) -> None:
    """A model in a new process that loads the state of one that was trained has the same loss."""
    one, other, drawn = (
        subject.fresh(seed=1),
        subject.in_a_new_process().fresh(seed=2),
        Drawn(4, 32, 0),
    )
    with seeded(1):  # what a step in train mode leaves behind must be in the state too
        subject.loss(one.train(), subject.ask(drawn)).sum().backward()
    _stir(one, drawn)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    with torch.no_grad():
        before, after = (subject.loss(m.eval(), subject.ask(drawn)) for m in (one, other))
    require(
        torch.allclose(before, after, rtol=1e-5, atol=1e-6),
        f"the loss goes from {before} to {after}",
    )


@STATE_CHECKS.check(
    "state",
    why="every checkpoint would carry a network that never changes, and that its users must be able to load.",
    mend="wrap a fixed network in FrozenModule(net): it moves with the model and is not saved.",
    needs=STEADY,
)
def frozen_networks_are_not_saved(subject: PretextSubject) -> None:
    """The head's state holds trained weights, momentum copies and buffers, and no fixed weights."""
    head = subject.model(32).heads[LABEL]
    copies = {id(p) for m in head.modules() if isinstance(m, EMA) for p in m.parameters()}
    saved = set(head.state_dict())
    fixed = [
        n
        for n, p in head.named_parameters()
        if n in saved and not p.requires_grad and id(p) not in copies
    ]
    require(not fixed, f"saved, though they never change: {', '.join(fixed[:5])}")


ANSWERS_CHECKS = Group()


@ANSWERS_CHECKS.check(
    "control",
    why="the control arm `random_target` would learn the truth, or crash: then it controls nothing.",
    mend="permute(target, order) gives sample i the answer of sample order[i]; what is part of the question stays.",
    needs=TWICE,
)
def answers_can_be_permuted(subject: PretextSubject, drawn: Drawn) -> None:
    """Permuted answers have the same shapes, are other samples' answers, and come back by the inverse order."""
    asked = subject.ask(drawn)
    target, order = asked.target, torch.arange(drawn.samples).roll(1)
    if not tensors(target):
        require(
            _refuses_random_target(subject, drawn),
            'control = "random_target" is taken without a target',
        )
        return
    moved = subject.component.permute(target, order)
    shapes = [[(x.shape, x.dtype) for x in tensors(t)] for t in (target, moved)]
    require(
        tree_structure(target) == tree_structure(moved) and shapes[0] == shapes[1],
        "shapes have changed",
    )
    back = subject.component.permute(moved, order.argsort())
    require(same(back, target), "the inverse order does not give the answers back")
    alike = all(torch.equal(x, x[:1].expand_as(x)) for x in tensors(target))
    require(alike or not same(moved, target), "no answer has changed")


@ANSWERS_CHECKS.check(
    "draw",
    why="`mtl preview` shows what is asked and answered: the first look at a run.",
    mend="draw(images, target, output) gives (N, 3, h, w) floats in [0, 1].",
    needs=STEADY,
)
def draws_images(subject: PretextSubject, drawn: Drawn) -> None:
    """draw() gives an image (3, h, w) in [0, 1] a sample."""
    if type(subject.component).draw is PretextTask.draw:
        raise Skip("it draws nothing of its own")
    asked, model = subject.ask(drawn), subject.model(drawn.size)
    with torch.no_grad():
        shown = subject.component.draw(
            asked.views[0].images, asked.target, subject.forward_heads(model, asked)
        )
    require(
        shown.ndim == 4 and shown.shape[:2] == (drawn.samples, 3), f"it draws {tuple(shown.shape)}"
    )
    require(shown.is_floating_point(), f"it draws {shown.dtype}")
    require_finite(shown, "the drawing")
    low, high = float(shown.min()), float(shown.max())
    require(low >= -1e-4 and high <= 1 + 1e-4, f"it reaches from {low:.3g} to {high:.3g}")


@ANSWERS_CHECKS.check(
    "draw",
    why="a drawing that looks alike whatever is answered tells nobody what the network has learned.",
    mend="draw what `output` answers, not `target`; is an axis, a sign or the argmax wrong?",
    needs=("draws_images", "truth_loses_least"),
    shows=True,
)
def draws_right_and_wrong_apart(subject: PretextSubject, drawn: Drawn) -> None:
    """The drawing of the right answer differs from that of another sample's."""
    asked, right = _drawn_right(subject, evolve(drawn, samples=SAMPLES))
    wrong = ideal_answer(
        subject, asked, subject.component.permute(asked.target, torch.arange(SAMPLES).roll(1))
    )
    if same(wrong, ideal_answer(subject, asked)):
        raise Skip("its perfect answer is the same, whatever is asked")
    other = subject.component.draw(asked.views[0].images, asked.target, wrong)
    require(
        right.shape == other.shape, f"right is {tuple(right.shape)}, wrong {tuple(other.shape)}"
    )
    if torch.equal(right, other):
        raise Unproven("right and wrong answers look the same")


@ANSWERS_CHECKS.check(
    "draw",
    why="where the pieces of the image are put back as they are answered, a right answer must look right.",
    mend="compare `draw` with `undo`: the same pieces, in the same order, turned by the same angles.",
    needs=("draws_images", "undo_gives_the_image_back", "truth_loses_least"),
)
def a_right_answer_is_drawn_whole(subject: PretextSubject, drawn: Drawn) -> None:
    """A drawing of the right answer that is made of the clean image's own pixels is that image (or the view itself)."""
    if getattr(subject.component, "undo", None) is None:
        raise Skip("it has no `undo`, so no answer puts the image together")
    asked, right = _drawn_right(subject, evolve(drawn, size=EXACT_SIDE))
    clean, view = asked.augmented.clean.images, asked.views[0].images
    if right.shape != clean.shape or not bool(_same_pixels(right, clean).any()):
        raise Unproven("its drawings are not the clean image's pixels in another order")
    shown = [_equal_samples(right, x) for x in (clean, view) if x.shape == clean.shape]
    wrong = _same_pixels(right, clean) & ~torch.stack(shown).any(0)
    require(
        not bool(wrong.any()),
        "the pixels of the clean image stand in other places, though the answer is right",
    )


TRAINING_CHECKS = Group()


@TRAINING_CHECKS.check(
    "training",
    why="this is the step that a run takes.",
    mend="look at what forward changes in train mode: counters, running means, buffers.",
    needs=("gradient_reaches_the_encoder", "state_round_trip_keeps_the_loss"),
    core=True,
)
def real_steps_train(subject: PretextSubject) -> None:
    """Real optimizer steps have finite losses and gradients, and move the encoder."""
    from lightning_fabric import Fabric  # late: seconds

    from ...train.build import build_train_state
    from ...train.step import train_step

    experiment = subject.experiment(32)
    batch = samples(raw(Drawn(SAMPLES, 32, 0)), subject.shared_labels)
    with seeded(0):
        train_state = build_train_state(
            experiment, Fabric(accelerator="cpu", devices=1), STEPS, STEPS
        )
        before = [p.detach().clone() for p in train_state.model.encoder.parameters()]
        for step in range(STEPS):
            logged = train_step(
                train_state,
                [
                    prepare(
                        experiment, batch, train_state.keyed_rng(0), progress=train_state.progress
                    )
                ],
            )
            require_finite(logged[f"loss/{LABEL}"], f"the loss of step {step + 1}")
            require(
                not bool(logged["skipped"]),
                f"step {step + 1} was skipped: its gradient is not finite",
            )
    require(
        not same(before, list(train_state.model.encoder.parameters())), "the encoder has not moved"
    )


# ---------------------------------------------------------------------------------------------------- helpers


def _drawn_right(subject: PretextSubject, drawn: Drawn) -> tuple[Asked, Tensor]:
    """A question, and the drawing of its right answer."""
    if type(subject.component).draw is PretextTask.draw:
        raise Skip("it draws nothing of its own")
    asked = subject.ask(drawn)
    return asked, subject.component.draw(
        asked.views[0].images, asked.target, ideal_answer(subject, asked)
    )


def _same_pixels(a: Tensor, b: Tensor) -> Tensor:
    """(B,) bool: are these images (B, 3, H, W) made of the same numbers in each channel, in any order?"""
    return _equal_samples(*(x.flatten(2).sort(2).values for x in (a, b)))


def _equal_samples(a: Tensor, b: Tensor) -> Tensor:
    return (a == b).flatten(1).all(1)


def _reached(subject: PretextSubject) -> set[str]:
    """Names of the model's weights that have had a gradient other than 0 in one of a few batches."""
    found: set[str] = set()
    for seed in range(TRIES):
        model = subject.fresh(seed=seed)
        subject.loss(model, subject.ask(Drawn(SAMPLES, 32, seed))).sum().backward()
        found |= {
            n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())
        }
        wanted = {
            n
            for n, p in model.named_parameters()
            if p.requires_grad and n.startswith(f"heads.{LABEL}.")
        }
        if wanted <= found and any(n.startswith("encoder.") for n in found):
            break
    return found


def _frozen(head: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """(owner, network) of momentum copies and frozen networks."""
    for m in head.modules():
        if isinstance(m, EMA):
            yield m, m.copy
        if isinstance(m, FrozenModule):
            yield m, m.net


def _frozen_by_hand(head: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Parts of the head, in none of our wrappers, whose weights are all fixed."""
    wrapped = {
        m
        for owner in head.modules()
        if isinstance(owner, EMA | FrozenModule)
        for m in owner.modules()
    }
    for m in head.modules():
        weights, outside = list(m.parameters()), wrapped.isdisjoint(m.modules())
        if m is not head and outside and weights and not any(p.requires_grad for p in weights):
            yield head, m


@torch.no_grad()
def _stir(model: HybridModel, drawn: Drawn) -> None:
    """Other weights than a new model has, momentum copies apart from their datasets."""
    rng = drawn.rng("stir")
    for p in model.parameters():
        p.add_(0.02 * rng.randn(*p.shape))


def _refuses_random_target(subject: PretextSubject, drawn: Drawn) -> bool:
    try:
        subject.prepared(drawn, control="random_target")
    except MtlError:
        return True
    return False
