"""31 ways to break a pretext that trains without an error. The kit must notice each.

SABOTAGES: (what was done, a check that finds it, the class). Each class is a shipped pretext, or
the tutorial's, with one change that an author could make by mistake. Where `undo` would find the
change, it is removed, since a plugin need not have one: other checks must find it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from attrs import evolve, frozen
from mtl_pretexts.inpainting import Inpainting, InpaintingHead
from mtl_pretexts.jigsaw_permutation import JigsawPermutation, JigsawPermutationHead
from mtl_pretexts.local_rotation import LocalRotation, quadrant, turn_square
from mtl_pretexts.masked_image import MaskedImage, MaskedImageHead
from mtl_pretexts.puzzling import Puzzling, PuzzlingHead, shuffle
from mtl_pretexts.relative_location import RelativeLocation
from mtl_pretexts.rotation import Rotation
from mtl_pretexts.simclr import Simclr, SimclrHead
from torchmetrics import Metric

from mtlcore import Features, Head, PretextTask, View

TUTORIAL = Path(__file__).parents[2] / "docs" / "write-a-pretext.md"


def _of_the_tutorial() -> ModuleType:
    """The module `upside_down.py` of docs/write-a-pretext.md, with the matrix that it adds."""
    text = TUTORIAL.read_text()
    listing = re.findall(r"```python file=upside_down.py\n(.*?)```", text, re.S)[0]
    diff = re.findall(r"```diff file=upside_down.py\n(.*?)```", text, re.S)[0]
    removed = [line[1:] for line in diff.splitlines() if line.startswith("-")]
    added = [line[1:] for line in diff.splitlines() if line.startswith("+")]
    source = listing.replace("\n".join(removed), "\n".join(added))
    assert source != listing
    module = ModuleType("upside_down")
    exec(compile(source, str(TUTORIAL), "exec"), module.__dict__)
    return module


tutorial: Any = _of_the_tutorial()
SABOTAGES: list[tuple[str, str, type[PretextTask]]] = []


def sabotage(what: str, check: str) -> Callable[[type], type]:
    """Register a class with this change. check: must fail, though others may fail too."""

    def register(cls: type) -> type:
        cls.__doc__ = f"A broken pretext: {what}."
        made = frozen(cls)
        SABOTAGES.append((what, check, made))
        return made

    return register


def with_head(base: type[Head], *arguments: Any, **methods: Any) -> Head:
    """A head of this class with other methods."""
    return type(f"Broken{base.__name__}", (base,), methods)(*arguments)


# --------------------------------------------------------------------- answers of the wrong sample


@sabotage(
    "tutorial: answers rolled by one sample",
    "a_draw_changes_its_own_sample_alone",
)
class TutorialRolled(tutorial.UpsideDown):
    def views(self, batch, rng):
        views, flipped = super().views(batch, rng)
        return views, flipped.roll(1)


@sabotage(
    "puzzling: answers rolled by one sample",
    "a_draw_changes_its_own_sample_alone",
)
class PuzzlingRolled(Puzzling):
    undo = None

    def views(self, batch, rng):
        views, target = super().views(batch, rng)
        return views, {key: leaf.roll(1, 0) for key, leaf in target.items()}


@sabotage(
    "jigsaw: answers rolled by one sample",
    "a_draw_changes_its_own_sample_alone",
)
class JigsawRolled(JigsawPermutation):
    def views(self, batch, rng):
        views, number = super().views(batch, rng)
        return views, number.roll(1)


@sabotage(
    "local_rotation: answers rolled by one sample",
    "a_draw_changes_its_own_sample_alone",
)
class LocalRotationRolled(LocalRotation):
    undo = None

    def views(self, batch, rng):
        views, target = super().views(batch, rng)
        return views, target | {"label": target["label"].roll(1)}


@sabotage(
    "relative_location: another sample's pairs are queried",
    "a_draw_changes_its_own_sample_alone",
)
class RelativeLocationRolled(RelativeLocation):
    def views(self, batch, rng):
        views, target = super().views(batch, rng)
        return views, target | {"queried": target["queried"].roll(1, 0)}


@sabotage(
    "masked_image: the image of another sample is the target",
    "views_of_a_sample_depend_on_it_alone",
)
class MaskedImageRolled(MaskedImage):
    def views(self, batch, rng):
        views, target = super().views(batch, rng)
        return views, target | {"image": target["image"].roll(1, 0)}


@sabotage(
    "inpainting: the mask of another sample is in the target",
    "a_draw_changes_its_own_sample_alone",
)
class InpaintingRolled(Inpainting):
    undo = None

    def views(self, batch, rng):
        views, target = super().views(batch, rng)
        return views, target | {"hidden": target["hidden"].roll(1, 0)}


@sabotage(
    "simclr: the second view shows another image",
    "views_of_a_sample_depend_on_it_alone",
)
class SimclrRolled(Simclr):
    def views(self, batch, rng):
        (a, b), target = super().views(batch, rng)
        return [a, evolve(b, images=b.images.roll(1, 0))], target


@sabotage(
    "rotation: nine of ten samples have the answer of the first",
    "a_draw_changes_its_own_sample_alone",
)
class RotationOfTheFirst(Rotation):
    undo = None

    def views(self, batch, rng):
        views, turns = super().views(batch, rng)
        return views, torch.where(rng.rand(len(turns)) < 0.1, turns, turns[0])


# --------------------------------------------------------------- answers that the view cannot show


@sabotage(
    "rotation: the turn is drawn but not applied",
    "answers_change_with_their_views",
)
class RotationNotApplied(Rotation):
    undo = None

    def views(self, batch, rng):
        return [batch.clean], super().views(batch, rng)[1]


@sabotage(
    "tutorial: the flip is drawn but not applied",
    "answers_change_with_their_views",
)
class TutorialNotApplied(tutorial.UpsideDown):
    def views(self, batch, rng):
        return [batch.clean], super().views(batch, rng)[1]


@sabotage(
    "puzzling with turns: tiles are not turned",
    "answers_change_with_their_views",
)
class PuzzlingNotTurned(Puzzling):
    rotate: bool = True
    undo = None

    def _puzzled(self, view, size, target):
        move = partial(shuffle, target["tile"], None)
        return view.resize(self._divisible(size)).rearrange(move)


@sabotage(
    "jigsaw: the order in the target is drawn a second time",
    "answers_change_with_their_views",
)
class JigsawDrawnTwice(JigsawPermutation):
    def views(self, batch, rng):
        views, number = super().views(batch, rng)
        return views, rng.randint(self.permutations, len(number))


@sabotage(
    "relative_location: true places are drawn a second time",
    "answers_change_with_their_views",
)
class RelativeLocationDrawnTwice(RelativeLocation):
    def views(self, batch, rng):
        views, target = super().views(batch, rng)
        return views, target | {"true": rng.rand(*target["true"].shape)}


@sabotage(
    "local_rotation: another quadrant than the answer's is turned",
    "draws_a_right_prediction_as_the_clean_image",
)
class LocalRotationElsewhere(LocalRotation):
    undo = None

    def views(self, batch, rng):
        _, target = super().views(batch, rng)
        label = target["label"]
        place = rng.randint(4, len(label))
        box = quadrant(place, batch.clean.images)
        view = batch.clean.rearrange(partial(turn_square, box, label % 4))
        return [view], target


@sabotage(
    "jigsaw: answer = index % 6",
    "equal_samples_get_equal_answers",
)
class JigsawByIndex(JigsawPermutation):
    permutations: int = 6

    def views(self, batch, rng):
        views, number = super().views(batch, rng)
        return views, torch.arange(len(number), device=number.device) % 6


@sabotage(
    "rotation: answer = index % 4",
    "equal_samples_get_equal_answers",
)
class RotationByIndex(Rotation):
    undo = None

    def views(self, batch, rng):
        views, turns = super().views(batch, rng)
        return views, torch.arange(len(turns), device=turns.device) % 4


@sabotage(
    "tutorial: the flip is applied to even samples only",
    "equal_samples_get_equal_answers",
)
class TutorialEvenOnly(tutorial.UpsideDown):
    def views(self, batch, rng):
        (view,), flipped = super().views(batch, rng)
        even = torch.arange(len(flipped), device=flipped.device) % 2 == 0
        images = torch.where(even[:, None, None, None], view.images, batch.clean.images)
        return [View(images)], flipped


@sabotage(
    "inpainting: tiles are hidden in the target but not in the view",
    "pixels_outside_the_mask_are_untouched",
)
class InpaintingNotHidden(Inpainting):
    def views(self, batch, rng):
        return [batch.clean], super().views(batch, rng)[1]


@sabotage(
    "rotation: the same turns at every step",
    "another_seed_gives_other_views",
)
class RotationSeedsItself(Rotation):
    def views(self, batch, rng):
        rng.generator.manual_seed(3)
        return super().views(batch, rng)


@sabotage(
    "rotation: labels do not turn with the image",
    "pixels_lie_where_the_geometry_says",
)
class RotationRepaints(Rotation):
    def views(self, batch, rng):
        (view,), turns = super().views(batch, rng)
        return [batch.clean.repaint(view.images)], turns


# ------------------------------------------------------------------------------------------- heads


def _tiny(self: Any, *views: Features) -> Any:
    base = type(self).__mro__[1]
    return base.forward(self, *(v._replace(pooled=1e-6 * v.pooled) for v in views))


def _turns_detached(self: Any, *views: Features) -> Any:
    output = PuzzlingHead.forward(self, *views)
    alone = [v._replace(pooled=v.pooled.detach()) for v in views]
    return output | {"turn": PuzzlingHead.forward(self, *alone)["turn"]}


def _only_tiles(self: Any, output: Any, target: Any) -> Any:
    return F.cross_entropy(output["tile"], target["tile"], reduction="none").mean((1, 2))


def _first_tile_only(self: Any, *tiles: Features) -> Any:
    blank = tiles[0]._replace(pooled=torch.zeros_like(tiles[0].pooled))
    return JigsawPermutationHead.forward(self, tiles[0], *[blank] * (len(tiles) - 1))


def _from_pixels(self: Any, features: Features) -> Any:
    colors = F.adaptive_avg_pool2d(features.images, features.maps[-1].shape[-2:])
    coarse = colors.repeat(1, -(-self.decode.in_channels // 3), 1, 1)[:, : self.decode.in_channels]
    return MaskedImageHead.forward(self, features._replace(maps=(*features.maps[:-1], coarse)))


def _visible_pixels(self: Any, output: Any, target: Any) -> Any:
    return InpaintingHead.loss(self, output, target | {"hidden": ~target["hidden"]})


@sabotage(
    "rotation: the head reads 1e-6 x features",
    "every_output_reaches_the_encoder",
)
class RotationTiny(Rotation):
    def build(self, context):
        right = super().build(context)
        right.forward = partial(_tiny_forward, right)
        return right


def _tiny_forward(head: Any, features: Features) -> Any:
    return type(head).forward(head, features._replace(pooled=1e-6 * features.pooled))


@sabotage(
    "jigsaw: the head reads 1e-6 x features",
    "every_output_reaches_the_encoder",
)
class JigsawTiny(JigsawPermutation):
    def build(self, context):
        sizes = context.info.dim, self.grid**2, self.permutations
        return with_head(JigsawPermutationHead, *sizes, forward=_tiny)


@sabotage(
    "puzzling with turns: the turns are detached from the encoder",
    "every_output_reaches_the_encoder",
)
class PuzzlingDetached(Puzzling):
    rotate: bool = True

    def build(self, context):
        sizes = context.info.dim, context.info.channels[-1], self
        return with_head(PuzzlingHead, *sizes, forward=_turns_detached)


@sabotage(
    "puzzling with turns: the loss leaves the turns out",
    "equal_logits_give_log_choices",
)
class PuzzlingTilesOnly(Puzzling):
    rotate: bool = True

    def build(self, context):
        sizes = context.info.dim, context.info.channels[-1], self
        return with_head(PuzzlingHead, *sizes, loss=_only_tiles)


@sabotage(
    "jigsaw: the head reads the first tile only",
    "every_view_and_output_counts",
)
class JigsawOneTile(JigsawPermutation):
    def build(self, context):
        sizes = context.info.dim, self.grid**2, self.permutations
        return with_head(JigsawPermutationHead, *sizes, forward=_first_tile_only)


@sabotage(
    "masked_image: the head reads pixels instead of features",
    "gradient_reaches_the_encoder",
)
class MaskedImageFromPixels(MaskedImage):
    def build(self, context):
        return with_head(MaskedImageHead, context.info, forward=_from_pixels)


@sabotage(
    "inpainting: the loss reads visible pixels instead of hidden ones",
    "loss_reads_the_damaged_pixels",
)
class InpaintingVisible(Inpainting):
    def build(self, context):
        parts = context.info, self._distance(context), self.mix
        return with_head(InpaintingHead, *parts, loss=_visible_pixels)


@sabotage(
    "simclr: the loss compares a view with itself",
    "every_view_and_output_counts",
)
class SimclrWithItself(Simclr):
    def build(self, context):
        def loss(head: Any, output: Any, target: Any) -> Any:
            return SimclrHead.loss(head, (output[0], output[0]), target)

        return with_head(SimclrHead, context.info.dim, self, loss=loss)


# ----------------------------------------------------------------------------------------- metrics


class AlwaysOne(Metric):
    """A metric that no answer can lower."""

    higher_is_better = True
    plot_upper_bound = 1.0

    def update(self, output: Any, target: Any) -> None:
        pass

    def compute(self) -> torch.Tensor:
        return torch.tensor(1.0)


@sabotage(
    "rotation: a metric that is always 1",
    "metrics_depend_on_the_output",
)
class RotationAlwaysRight(Rotation):
    def metrics(self):
        return {"accuracy": AlwaysOne()}


@sabotage(
    "simclr: a metric that is always 1",
    "metrics_depend_on_the_output",
)
class SimclrAlwaysRight(Simclr):
    def metrics(self):
        return {"pairs": AlwaysOne()}


assert len(SABOTAGES) == 31, len(SABOTAGES)
