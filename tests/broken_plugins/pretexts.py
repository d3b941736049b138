"""Two right pretexts, and for each check of the kit one that fails this check only.

BROKEN: check -> class. The file is a plugin: `mtl_components` returns what a catalog accepts.
"""

from __future__ import annotations

import gc
from functools import partial
from itertools import count
from typing import Any, Literal

import torch
import torch.nn.functional as F
from attrs import field, frozen
from einops import rearrange
from torch import nn

from mtlcore import EMA, FrozenModule, Head, MtlError, PretextTask, hookimpl

BROKEN: dict[str, type[PretextTask]] = {}


def fails(check):
    """Register a class as the one that fails this check."""

    def register(cls):
        assert check not in BROKEN, check
        BROKEN[check] = cls
        return cls

    return register


# ----------------------------------------------------------------------------------- right pretexts


@frozen
class Turned(PretextTask):
    """Predict the quarter turn of the whole image."""

    cites = "Gidaris et al. 2018, arXiv:1803.07728"

    def views(self, batch, rng):
        turns = rng.randint(4, len(batch.clean.images))
        return [self.moved(batch.clean, turns)], turns

    def moved(self, view, turns):
        n = float(view.images.shape[-1])
        samples = [
            [1, 0, 0, 0, 1, 0],
            [0, 1, 0, -1, 0, n],
            [-1, 0, n, 0, -1, n],
            [0, -1, n, 1, 0, 0],
        ]
        quarter = torch.tensor([[*sample, 0, 0, 1] for sample in samples]).view(4, 3, 3)
        return view.rearrange(
            partial(turn, turns), quarter.to(turns.device, non_blocking=True)[turns]
        )

    def undo(self, view, target):
        return turn(-target % 4, view)

    def build(self, context):
        return TurnedHead(context)

    def metrics(self):
        from torchmetrics.classification import MulticlassAccuracy

        return {"accuracy": MulticlassAccuracy(4, average="micro")}

    def draw(self, images, target, output):
        return turn(-output.argmax(1) % 4, images)


class TurnedHead(Head):
    choices = 4

    def __init__(self, context):
        super().__init__()
        self.answer = nn.Linear(context.info.dim, 4)

    def forward(self, features):
        return self.answer(features.pooled)

    def loss(self, output, target):
        return F.cross_entropy(output, target, reduction="none")

    def ideal(self, target):
        return 20.0 * F.one_hot(target, 4).float()


@frozen
class Hidden(PretextTask):
    """Restore the gray tiles; the loss also compares features of a momentum copy."""

    cites = "Pathak et al. 2016, arXiv:1604.07379"

    def views(self, batch, rng):
        images = batch.clean.images
        cells = rng.permutations(len(images), 16) < 4
        mask = F.interpolate(
            rearrange(cells, "b (i j) -> b 1 i j", i=4).float(), images.shape[-2:]
        ).bool()
        return [batch.clean.repaint(self.painted(images, mask))], {"image": images, "mask": mask}

    def painted(self, images, mask):
        return images.masked_fill(mask, 0.5)

    def permute(self, target, order):
        return target | {"image": target["image"][order]}

    def build(self, context):
        return HiddenHead(context)


class HiddenHead(Head):
    def __init__(self, context):
        super().__init__()
        self.decoder = nn.Conv2d(context.info.channels[-1], 3, 1)
        self.momentum = EMA(context.encoder, 0.9)

    def forward(self, features):
        return F.interpolate(
            self.decoder(features.maps[-1]), features.images.shape[-2:], mode="bilinear"
        ).sigmoid()

    def loss(self, output, target):
        restored = torch.where(target["mask"], output, target["image"])
        return (restored - target["image"]).abs().mean((1, 2, 3)) + self.distance(
            restored, target["image"]
        )

    def distance(self, restored, clean):
        with torch.no_grad():
            wanted = self.momentum(clean).pooled
        return (self.momentum(restored).pooled - wanted).square().mean(1)

    def ideal(self, target):
        return target["image"]


def turn(turns, maps):
    return torch.stack([maps.rot90(k, (-2, -1)) for k in range(4)])[
        turns, torch.arange(len(maps), device=maps.device)
    ]


# --------------------------------------------------------------------------------- packaging, build


@fails("is_a_valid_component")
class ForgetsFrozen(Turned):
    """It lacks @frozen, so attrs would ignore its field."""

    tiles: int = 3


@fails("is_found_by_its_name")
@frozen
class TakesAName(Turned):
    """It has the name of another pretext."""

    name = "puzzling"


@fails("has_a_summary_line")
@frozen
class HasNoSummary(Turned):
    pass


@fails("cites_its_origin")
@frozen
class CitesNothing(Turned):
    """It cites no paper."""

    cites = ""


@fails("builds_from_its_name")
@frozen
class NeedsAValue(Turned):
    """It has a field without a default."""

    tiles: int = field()


@fails("configuration_is_frozen")
@frozen(eq=False)
class EqualsNothing(Turned):
    """Two components with the same fields differ."""

    def __eq__(self, other):
        return self is other

    __hash__ = object.__hash__


@fails("copies_and_pickles")
@frozen
class KeepsALambda(Turned):
    """It stores a lambda, which cannot be pickled."""

    helper: Any = field(init=False, eq=False, factory=lambda: lambda x: x)


@fails("survives_a_toml_round_trip")
@frozen
class UntypedTuple(Turned):
    """TOML returns a list."""

    sides: Any = (2, 3)


@fails("refuses_an_unknown_key")
@frozen
class TakesAnyKey(Turned):
    """It accepts an unknown key."""

    _anything: int = field(default=0, alias="no_such_key")


@fails("builds_a_head")
@frozen
class BuildsALayer(Turned):
    """Its head is not a Head."""

    def build(self, context):
        return nn.Linear(context.info.dim, 4)


@fails("builds_for_each_size")
@frozen
class NotFor64(Turned):
    """It refuses images of 64 pixels, and does not declare so."""

    def build(self, context):
        if context.info.image_size == (64, 64):
            raise MtlError("64 pixels are too many")
        return super().build(context)


class _KeepsTheEncoder(TurnedHead):
    def __init__(self, context):
        super().__init__(context)
        self.encoder = context.encoder


@fails("head_holds_no_shared_network")
@frozen
class KeepsTheEncoder(Turned):
    """Its head contains the shared encoder."""

    def build(self, context):
        return _KeepsTheEncoder(context)


# -------------------------------------------------------------------------------------------- views


@fails("views_are_images")
@frozen
class ReturnsTensors(Turned):
    """Its views are bare tensors."""

    def views(self, batch, rng):
        return [batch.clean.images], rng.randint(4, len(batch.clean.images))


@fails("targets_hold_one_entry_per_sample")
@frozen
class OneTargetForAll(Turned):
    """Its target holds a number for the whole batch."""

    def views(self, batch, rng):
        views, turns = super().views(batch, rng)
        return views, {"answer": turns, "of": torch.tensor(4)}


@fails("leaves_global_generators_alone")
@frozen
class GlobalDraws(Turned):
    """It draws from torch's global generator."""

    def views(self, batch, rng):
        turns = torch.randint(4, (len(batch.clean.images),))
        return [self.moved(batch.clean, turns)], turns


_calls = count()


@fails("same_seed_same_views")
@frozen
class CountsCalls(Turned):
    """Its views depend on the number of calls."""

    def views(self, batch, rng):
        turns = (rng.randint(4, len(batch.clean.images)) + next(_calls)) % 4
        return [self.moved(batch.clean, turns)], turns


@fails("leaves_the_batch_unchanged")
@frozen
class WritesIntoTheBatch(Turned):
    """It paints over the clean view in place."""

    def views(self, batch, rng):
        batch.clean.images[..., :4, :] = 0.5
        return super().views(batch, rng)


@fails("values_stay_in_range")
@frozen
class Normalizes(Turned):
    """Its views reach from -1 to 1."""

    undo, draw = None, PretextTask.draw

    def views(self, batch, rng):
        (view,), turns = super().views(batch, rng)
        return [view.repaint(view.images * 2 - 1)], turns


@fails("accepts_channels_last")
@frozen
class NeedsContiguous(Turned):
    """It expects contiguous memory."""

    def views(self, batch, rng):
        x = batch.clean.images
        return super().views(
            _SingleView(batch.clean.repaint(x.view(len(x), -1).view(x.shape))), rng
        )


class _SingleView:
    """A batch of one view."""

    def __init__(self, clean):
        self.clean = clean


@fails("pixels_lie_where_the_geometry_says")
@frozen
class MovesWithoutGeometry(Turned):
    """It turns images with `repaint`."""

    def moved(self, view, turns):
        return view.repaint(turn(turns, view.images))


@fails("rigid_labels_follow_the_image")
@frozen
class ForgetsTheMatrix(Turned):
    """It turns images with `rearrange`, without a matrix."""

    def moved(self, view, turns):
        return view.rearrange(partial(turn, turns))


# ------------------------------------------------------------------------------------- draws, truth


@fails("another_seed_gives_other_views")
@frozen
class SeedsItself(Turned):
    """It seeds its own generator the same in each call."""

    def views(self, batch, rng):
        images, own = batch.clean.images, torch.Generator().manual_seed(3)
        turns = torch.randint(4, (len(images),), generator=own).to(images.device, non_blocking=True)
        return [self.moved(batch.clean, turns)], turns


@fails("undo_restores_the_image")
@frozen
class UndoesAgain(Turned):
    """Its `undo` turns in the same direction again."""

    def undo(self, view, target):
        return turn(target, view)


@fails("equal_samples_get_equal_answers")
@frozen
class TurnsByIndex(Turned):
    """Its turn depends on the place in the batch."""

    def views(self, batch, rng):
        images = batch.clean.images
        index = torch.arange(len(images), device=images.device)
        turns = (rng.randint(4, len(images)) + index) % 4
        return [self.moved(batch.clean, turns)], turns


@fails("a_draw_changes_its_own_sample_alone")
@frozen
class AnswersOfTheNext(Turned):
    """Its answers are rolled by one sample."""

    undo = None
    draw = PretextTask.draw

    def views(self, batch, rng):
        views, turns = super().views(batch, rng)
        return views, turns.roll(1)


@fails("answers_change_with_their_views")
@frozen
class TurnsNothing(Turned):
    """Its turn is drawn but not applied."""

    undo = None
    draw = PretextTask.draw

    def views(self, batch, rng):
        return [batch.clean], super().views(batch, rng)[1]


@fails("pixels_outside_the_mask_are_untouched")
@frozen
class PaintsTooMuch(Hidden):
    """It darkens pixels outside its mask."""

    def painted(self, images, mask):
        return 0.9 * super().painted(images, mask)


@fails("targets_are_valid")
@frozen
class CountsFromOne(Turned):
    """Its classes are 1 to 4 of 4."""

    def views(self, batch, rng):
        views, turns = super().views(batch, rng)
        return views, turns + 1

    def undo(self, view, target):
        return super().undo(view, target - 1)


# ---------------------------------------------------------------------------------- losses, batches


def with_head(name, doc, check, *, base=Turned, head=TurnedHead, **methods):
    """Register a pretext whose head has these methods as the one that fails `check`."""
    made = type(f"_{name}Head", (head,), methods)
    task = type(
        name,
        (base,),
        {"__doc__": doc, "__module__": __name__, "build": lambda self, context: made(context)},
    )
    globals()[name] = fails(check)(frozen(task))


def _with_norm(self, context):
    TurnedHead.__init__(self, context)
    self.norm = nn.BatchNorm1d(context.info.dim)


with_head(
    "MeanOverBatch",
    "Its loss is the mean over the batch.",
    "loss_is_one_value_per_sample",
    loss=lambda self, output, target: F.cross_entropy(output, target),
)
with_head(
    "DropsInEval",
    "It drops features at random in evaluation too.",
    "loss_is_repeatable",
    forward=lambda self, features: self.answer(F.dropout(features.pooled)),
)
with_head(
    "DividesByNothing",
    "It divides by the norm of its output.",
    "loss_is_finite",
    loss=lambda self, output, target: (
        TurnedHead.loss(self, output, target) + 0.01 / output.norm(dim=1)
    ),
)
with_head(
    "IdealOfAnother",
    "Its ideal output is the next class.",
    "true_target_has_the_lowest_loss",
    ideal=lambda self, target: TurnedHead.ideal(self, (target + 1) % 4),
)
with_head(
    "SumsOverPixels",
    "Its loss grows with the area of the image.",
    "loss_does_not_grow_with_the_image",
    base=Hidden,
    head=HiddenHead,
    loss=lambda self, output, target: (
        HiddenHead.loss(self, output, target) * output.shape[-1] ** 2 / 1024
    ),
)
with_head(
    "SumsUp",
    "Its loss is a sum over the image's tiles.",
    "equal_logits_give_log_choices",
    loss=lambda self, output, target: 9 * TurnedHead.loss(self, output, target),
)
with_head(
    "MixesFeatures",
    "Each output is mixed with the batch's mean.",
    "loss_of_a_sample_depends_on_it_alone",
    forward=lambda self, features: self.answer(features.pooled + 0.3 * features.pooled.mean(0)),
)
with_head(
    "ScalesByBatchSize",
    "Its temperature is the number of samples.",
    "batch_loss_equals_single_losses",
    loss=lambda self, output, target: TurnedHead.loss(self, output * len(output), target),
)
with_head(
    "NormalizesOverSamples",
    "Its BatchNorm1d refuses one sample in train mode.",
    "accepts_a_single_sample",
    __init__=_with_norm,
    forward=lambda self, features: self.answer(self.norm(features.pooled)),
)


@fails("views_of_a_sample_depend_on_it_alone")
@frozen
class MixesSamples(Turned):
    """Every view contains a little of the whole batch."""

    undo = None

    def views(self, batch, rng):
        (view,), turns = super().views(batch, rng)
        return [view.repaint(view.images * 0.999 + 0.001 * view.images.mean(0))], turns


# --------------------------------------------------------------------------------- gradients, state


def _with_fixed_norm(self, context):
    TurnedHead.__init__(self, context)
    # With momentum 0 the running statistics stay constant: no state holds them.
    self.fixed = FrozenModule(nn.BatchNorm2d(3, momentum=0.0))


def _with_saved_norm(self, context):
    TurnedHead.__init__(self, context)
    self.fixed = nn.BatchNorm2d(3).requires_grad_(False)


def _fixed_in_train_mode(self, mode=True):
    nn.Module.train(self, mode)
    self.fixed.net.train(mode)
    return self


def _fixed_in_eval_mode(self, mode=True):
    nn.Module.train(self, mode)
    self.fixed.eval()
    return self


def _with_fixed(self, features):
    return self.answer(features.pooled) + F.pad(self.fixed(features.images).mean((2, 3)), (0, 1))


def _with_unused(self, context):
    TurnedHead.__init__(self, context)
    self.unused = nn.Linear(context.info.dim, 4)


def _with_learning_teacher(self, context):
    TurnedHead.__init__(self, context)
    self.teacher = EMA(context.encoder)
    self.teacher.requires_grad_(True)


def _with_bare_tensor(self, context):
    TurnedHead.__init__(self, context)
    self.code = torch.rand(context.info.dim)


def _with_counter(self, context):
    TurnedHead.__init__(self, context)
    self.register_buffer("steps", torch.zeros(()))


def _dying(self, features):
    self.steps += float(self.training)
    return self.answer(features.pooled) / (self.steps < 2)


with_head(
    "Detaches",
    "It reads features without their gradient.",
    "gradient_reaches_the_encoder",
    forward=lambda self, features: self.answer(features.pooled.detach()),
)
with_head(
    "HasAnIdleLayer",
    "It builds an unused layer.",
    "gradient_reaches_the_whole_head",
    __init__=_with_unused,
)


def _half_detached(self, features):
    one, other = self.answer(features.pooled), self.answer(features.pooled.detach())
    return torch.cat([one[:, :2], other[:, 2:]], 1)


def _of_visible(self, output, target):
    restored = torch.where(target["mask"], target["image"], output)
    return (restored - target["image"]).abs().mean((1, 2, 3)) + self.distance(
        restored, target["image"]
    )


with_head(
    "DetachesTwoChoices",
    "Two of its four logits are detached from the encoder.",
    "every_output_reaches_the_encoder",
    forward=_half_detached,
)
with_head(
    "RestoresTheVisible",
    "Its loss reads the pixels that the view shows.",
    "loss_reads_the_damaged_pixels",
    base=Hidden,
    head=HiddenHead,
    loss=_of_visible,
)


class _FirstViewHead(TurnedHead):
    def forward(self, features, unread):
        return super().forward(features)


@fails("every_view_and_output_counts")
@frozen
class ReadsOneView(Turned):
    """Its head does not read the second view."""

    def views(self, batch, rng):
        views, turns = super().views(batch, rng)
        return [*views, batch.clean], turns

    def build(self, context):
        return _FirstViewHead(context)


with_head(
    "TeachesItsTeacher",
    "Its momentum copy learns from the loss.",
    "frozen_networks_get_no_gradient",
    __init__=_with_learning_teacher,
    forward=lambda self, f: self.answer(f.pooled) + 0.1 * self.teacher(f.images).pooled[:, :4],
)
with_head(
    "FrozenInTrainMode",
    "Its fixed network enters train mode with the model.",
    "frozen_networks_stay_in_eval",
    __init__=_with_fixed_norm,
    train=_fixed_in_train_mode,
    forward=_with_fixed,
)
with_head(
    "SavesTheFixed",
    "Its fixed network is saved with every checkpoint.",
    "frozen_networks_are_not_saved",
    __init__=_with_saved_norm,
    train=_fixed_in_eval_mode,
    forward=_with_fixed,
)
with_head(
    "BareTensor",
    "It draws a code that is not in the state.",
    "state_round_trip_keeps_the_loss",
    __init__=_with_bare_tensor,
    forward=lambda self, f: self.answer(f.pooled * (1 + self.code.to(f.pooled, non_blocking=True))),
)
with_head(
    "DiesAtTheSecondStep",
    "It counts its steps, and divides by 0 at the second.",
    "real_steps_train",
    __init__=_with_counter,
    forward=_dying,
)


@fails("weight_zero_removes_the_pretext")
@frozen
class SeedsTheWorld(Turned):
    """Made from its table, it seeds the global generator."""

    def __attrs_post_init__(self):
        torch.manual_seed(0)


# -------------------------------------------------------------------------------- metrics, numerics


@fails("metrics_depend_on_the_output")
@frozen
class CountsNothing(Turned):
    """Its accuracy is always 1."""

    def metrics(self):
        from torchmetrics import Metric

        class One(Metric):
            higher_is_better = True
            plot_upper_bound = 1.0

            def update(self, output, target):
                pass

            def compute(self):
                return torch.tensor(1.0)

        return {"accuracy": One()}


@fails("ideal_outputs_reach_the_best_metric")
@frozen
class CountsTheWorst(Turned):
    """Its accuracy looks at the least likely class."""

    def metrics(self):
        from torchmetrics.classification import MulticlassAccuracy

        class Worst(MulticlassAccuracy):
            def update(self, output, target):
                super().update(-output, target)

        return {"accuracy": Worst(4, average="micro")}


@fails("metrics_do_not_depend_on_batches")
@frozen
class MeanOfMeans(Turned):
    """Its metric is a mean of the batches' means."""

    def metrics(self):
        from torchmetrics import MeanMetric

        class Loss(MeanMetric):
            higher_is_better = False

            def update(self, output, target):
                super().update(F.cross_entropy(output, target))

        return {"loss": Loss()}


with_head(
    "FarFromZero",
    "Its large numbers are equal in bf16.",
    "bf16_is_close_to_fp32",
    forward=lambda self, features: (100 * self.answer(features.pooled) + 10_000) - 10_000,
)
with_head(
    "LogOfSoftmax",
    "It takes the log of a probability that may be 0.",
    "extreme_outputs_give_a_finite_loss",
    loss=lambda self, output, target: -output.softmax(1).gather(1, target[:, None])[:, 0].log(),
)


# ----------------------------------------------------------------------------- speed, control, draw


def _looks(self, output, target):
    loss = TurnedHead.loss(self, output, target)
    return loss * 1.0 if loss.max() > 100 else loss


def _collects(self, output, target):
    gc.isenabled()
    return TurnedHead.loss(self, output, target)


with_head("Looks", "It reads its loss on the host.", "reads_nothing_on_the_host", loss=_looks)
with_head(
    "CollectsGarbage",
    "It calls a function that dynamo cannot trace.",
    "traces_as_one_graph",
    loss=_collects,
)


@fails("never_waits_for_the_gpu")
@frozen
class CopiesAndWaits(Turned):
    """It copies a table to the device and waits for it."""

    def views(self, batch, rng):
        (view,), turns = super().views(batch, rng)
        return [view.repaint(view.images * torch.tensor([1.0]).to(view.images.device))], turns


@fails("targets_can_be_permuted")
@frozen
class PermutesNothing(Turned):
    """Its control learns the truth."""

    def permute(self, target, order):
        return target


@fails("draws_images")
@frozen
class DrawsBytes(Turned):
    """It draws in the range of bytes."""

    def draw(self, images, target, output):
        return 255 * images


@fails("draws_right_and_wrong_predictions_differently")
@frozen
class DrawsTheTarget(Turned):
    """It draws the target for any prediction."""

    def draw(self, images, target, output):
        return turn(-target % 4, images)


@fails("each_choice_has_an_effect")
@frozen
class ForgetsAField(Turned):
    """No method reads its field."""

    direction: Literal["left", "right"] = "left"


@fails("draws_a_right_prediction_as_the_clean_image")
@frozen
class DrawsTurnedOn(Turned):
    """It turns the image further instead of back."""

    def draw(self, images, target, output):
        return turn(output.argmax(1), images)


# ---------------------------------------------------------------------- for the tests of `kit`


@frozen
class BreaksFromThreeSamples(Turned):
    """Its views leave the range if there are three samples or more."""

    def views(self, batch, rng):
        (view,), turns = super().views(batch, rng)
        return [view.repaint(view.images + 2 * (len(turns) >= 3))], turns


REGISTERED = [
    Turned,
    Hidden,
    *(
        cls
        for check, cls in BROKEN.items()
        if check not in ("is_a_valid_component", "is_found_by_its_name")
    ),
]


@hookimpl
def mtl_components():
    return REGISTERED
