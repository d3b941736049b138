"""Checks of maps in their places, and of optional members: finest maps, layers, visible cells."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...contracts import Features
from ..kit import Group
from ..requirements import Skip, require, require_shape
from .features import BUILT, REPEATABLE
from .harness import EncoderSubject, require_close, require_near

PARTS_CHECKS = Group()


@PARTS_CHECKS.check(
    "features",
    why="decoders and points would be off by a mirror or a transposition.",
    mend="Keep rows and columns when tokens become a map: they are counted row by row, "
    '"b (h w) c -> b c h w". If no cell belongs to a place, declare it: lacks = {"places": "..."}.',
    needs=REPEATABLE,
    capability="places",
)
def the_finest_map_lies_on_its_pixels(subject: EncoderSubject) -> None:
    """Other pixels in the upper right quarter change the finest map most in that quarter."""
    images, others = subject.images(4), subject.images(4, 1)
    half = subject.size // 2
    changed = images.clone()
    changed[..., :half, half:] = others[..., :half, half:]
    # Cells of coarser maps may see the whole image.
    before, after = (subject.features(x).maps[0] for x in (images, changed))
    rows, columns = (n // 2 for n in before.shape[-2:])
    if not (rows and columns):
        raise Skip("its maps have one row or one column")
    moved = (after - before).abs().mean((0, 1))
    quarters = {
        "upper left": moved[:rows, :columns],
        "upper right": moved[:rows, -columns:],
        "lower left": moved[-rows:, :columns],
        "lower right": moved[-rows:, -columns:],
    }
    most = max(quarters, key=lambda name: float(quarters[name].mean()))
    require(most == "upper right", f"it changes most in the {most} quarter")


@PARTS_CHECKS.check(
    "features",
    why="the perceptual loss of inpainting would compare other maps.",
    mend="In `finest_maps(images, number)`, return the first `number` maps of the forward.",
    needs=REPEATABLE,
)
def finest_maps_are_the_first_of_the_forward(subject: EncoderSubject) -> None:
    """`finest_maps(images, number)` returns the first maps of the forward, for each number."""
    finest_maps = getattr(subject.net, "finest_maps", None)
    if finest_maps is None:
        raise Skip("it has no method finest_maps")
    images = subject.images(2)
    maps = subject.features(images).maps
    for number in range(len(maps), 0, -1):
        with torch.no_grad():
            found = finest_maps(images, number)
        require(len(found) == number, f"it returns {len(found)} maps for number = {number}")
        for i, (wanted, got) in enumerate(zip(maps, found)):
            require_shape(got, tuple(wanted.shape), f"maps[{i}] of number = {number}")
            require_near(wanted, got, f"maps[{i}] of number = {number}")


@PARTS_CHECKS.check(
    "layers",
    why="`encoder.freeze` and `optimizer.layer_decay` would leave out the layers that it misnames.",
    mend="Return the names of net.named_modules() or net.named_parameters(), from the image to the "
    "features, each in one layer.",
    needs=BUILT,
)
def layers_are_parts_of_the_network(subject: EncoderSubject) -> None:
    """`layers(net)` names existing modules and parameters, each once, and stages never fall."""
    layers = subject.component.layers(subject.net)
    if not layers:
        raise Skip("it does not declare its layers")
    known = {name for name, _ in subject.net.named_modules()}
    known |= {name for name, _ in subject.net.named_parameters()}
    names = [name for layer in layers for name in layer.names]
    unknown = [name for name in names if name not in known]
    require(not unknown, f"the network has no {', '.join(unknown[:3])}")
    repeated = sorted({name for name in names if names.count(name) > 1})
    require(not repeated, f"in several layers: {', '.join(repeated[:3])}")
    stages = [layer.stage for layer in layers]
    require(stages == sorted(stages) and stages[0] >= 0, f"the stages, in order, are {stages}")


@PARTS_CHECKS.check(
    "features",
    why="a pretext that hides parts of an image would train an encoder that sees them.",
    mend="In `forward_visible`, select the visible cells before they are mixed with others.",
    needs=REPEATABLE,
)
def hidden_cells_change_no_feature(subject: EncoderSubject) -> None:
    """In `forward_visible`, hidden pixels change nothing; with all cells, it is the forward."""
    encode, images, cells = _visible_cells(subject)
    whole = subject.features(images)
    size = whole.maps[-1].shape[-2:]
    every = torch.arange(size.numel()).expand(len(images), -1)
    shown = torch.zeros(len(images), size.numel()).scatter(1, cells, 1.0).view(-1, 1, *size)
    pixels = nn.functional.interpolate(shown, images.shape[-2:]).bool()
    changed = torch.where(pixels, images, subject.images(len(images), 1))
    with torch.no_grad():
        require_close(encode(images, cells), encode(changed, cells))
        found = encode(images, every)
    require_near(whole.pooled, found.pooled, "pooled")
    require_near(whole.maps[-1], found.maps[-1], "maps[-1]")


@PARTS_CHECKS.check(
    "features",
    why="a decoder puts the tokens in the places that `cells` names.",
    mend="In `forward_visible`, return as `shared` (B, n, D) one token for each of `cells`, in "
    "their order, and no class token. Put the same tokens into the map, and zeros elsewhere.",
    needs=REPEATABLE,
)
def visible_tokens_have_their_places(subject: EncoderSubject) -> None:
    """In `forward_visible`, each cell has its token in `shared`, and in its place in the map."""
    encode, images, cells = _visible_cells(subject)
    with torch.no_grad():
        found, turned = encode(images, cells), encode(images, cells.flip(1))
    tokens, columns = found.shared, found.maps[-1].flatten(2).transpose(1, 2)
    require_shape(tokens, (*cells.shape, columns.shape[2]), "shared")
    require_near(tokens, turned.shared.flip(1), "shared of the same cells in another order")
    places = cells[..., None].expand(-1, -1, columns.shape[2])
    require_near(tokens, columns.gather(1, places), "maps[-1] at the visible cells")
    others = columns.scatter(1, places, 0.0)
    require(not bool(others.any()), "maps[-1] is not zero at the hidden cells")


def _visible_cells(
    subject: EncoderSubject,
) -> tuple[Callable[[Tensor, Tensor], Features], Tensor, Tensor]:
    """Return `forward_visible`, images, and half of their cells: other ones in each image."""
    encode = getattr(subject.net, "forward_visible", None)
    if encode is None:
        raise Skip("it has no method forward_visible")
    images = subject.images(2)
    number = subject.features(images).maps[-1].shape[-2:].numel()
    order = torch.rand(2, number, generator=torch.Generator().manual_seed(0)).argsort(1)
    return encode, images, order[:, : -(-number // 2)]
