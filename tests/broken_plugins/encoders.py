"""A right encoder, and for each check of the kit one that fails this check only.

BROKEN: check -> class.
"""

from __future__ import annotations

import contextlib
import socket

import numpy as np
import torch
from attrs import frozen
from torch import nn

from broken_plugins import Broken
from mtlcore import Encoder, Features, Layer, MtlError

BROKEN = Broken()


class Net(nn.Module):
    """Two strided convolutions."""

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.stem, self.body = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)

    def forward(self, x):
        fine = self.stem(x).relu()
        return self.features(fine, self.body(fine).relu())

    def features(self, fine, coarse):
        return Features((fine, coarse), coarse.mean((2, 3)), coarse)


@frozen
class Right(Encoder):
    """Two strided convolutions."""

    def build(self, size):
        if size[0] != size[1]:
            return self.wide(size)
        return self.net(size[0])

    def wide(self, size):
        return self.net(max(size))

    def net(self, size):
        return Net(size)


@frozen
class FixedStem(Right):
    """The same. Its stem is fixed, and keeps no graph."""

    def net(self, size):
        net = FixedStemNet(size)
        net.stem.requires_grad_(False)
        return net


class FixedStemNet(Net):
    def forward(self, x):
        with torch.no_grad():
            fine = self.stem(x).relu()
        return self.features(fine, self.body(fine).relu())


@BROKEN.fails("builds_for_some_size")
@frozen
class RefusesWithAValueError(Right):
    """It refuses a size with another exception than MtlError."""

    def net(self, size):
        if size == 32:
            raise ValueError("too small")
        return Net(size)


@BROKEN.fails("builds_for_each_size")
@frozen
class NotFor64(Right):
    """It refuses 64 pixels, and does not declare so."""

    def net(self, size):
        if size == 64:
            raise MtlError("64 pixels are too many")
        return Net(size)


@BROKEN.fails("builds_for_rectangles_or_refuses_them")
@frozen
class TakesEveryImageForASquare(Right):
    """It is built for squares, and fails on other images."""

    def wide(self, size):
        return SquaresOnlyNet(size)


class SquaresOnlyNet(Net):
    def features(self, fine, coarse):
        pixels = coarse.flatten(2)
        side = round(pixels.shape[-1] ** 0.5)
        square = pixels.view(*coarse.shape[:2], side, side)
        return super().features(fine, square)


@BROKEN.fails("builds_for_rectangles_or_refuses_them", also=True)
@frozen
class TakesRowsForColumns(Right):
    """Its coarse map has rows and columns in each other's number. In squares, it is right."""

    def net(self, size):
        return TakesRowsForColumnsNet(size)


class TakesRowsForColumnsNet(Net):
    def features(self, fine, coarse):
        height, width = coarse.shape[-2:]
        return super().features(fine, coarse.reshape(*coarse.shape[:2], width, height))


@BROKEN.fails("the_finest_map_lies_on_its_pixels")
@frozen
class MirrorsItsMap(Right):
    """Its fine map is mirrored."""

    def net(self, size):
        return MirrorsItsMapNet(size)


class MirrorsItsMapNet(Net):
    def features(self, fine, coarse):
        return super().features(fine.flip(-1), coarse)


@BROKEN.fails("finest_maps_are_the_first_of_the_forward")
@frozen
class CoarsestFirst(Right):
    """Its `finest_maps` are the coarsest ones."""

    def net(self, size):
        return CoarsestFirstNet(size)


class CoarsestFirstNet(Net):
    def finest_maps(self, images, number):
        return self(images).maps[::-1][:number]


@BROKEN.fails("layers_are_parts_of_the_network")
@frozen
class MisnamesALayer(Right):
    """It names a module that its network does not have."""

    def layers(self, net):
        return [Layer(0, ("stem",)), Layer(1, ("bodies.0",))]


@BROKEN.fails("normalizes_images_between_0_and_1")
@frozen
class MeanOf255(Right):
    """Its mean is in [0, 255]."""

    mean = (127.0, 127.0, 127.0)


@BROKEN.fails("builds_offline")
@frozen
class OpensAConnection(Right):
    """It opens a connection."""

    def net(self, size):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", 9), 0.01)
        return Net(size)


@BROKEN.fails("features_have_their_shapes")
@frozen
class CoarseFirst(Right):
    """Its maps are in the wrong order."""

    def net(self, size):
        return CoarseFirstNet(size)


class CoarseFirstNet(Net):
    def features(self, fine, coarse):
        return super().features(fine, coarse)._replace(maps=(coarse, fine))


@BROKEN.fails("leaves_images_to_the_core")
@frozen
class SetsImages(Right):
    """It sets the field that the core sets."""

    def net(self, size):
        return SetsImagesNet(size)


class SetsImagesNet(Net):
    def features(self, fine, coarse):
        return Features((fine, coarse), coarse.mean((2, 3)), coarse, fine)


def of_cells(features, cells):
    """Return the features with the tokens of these cells alone, and zeros elsewhere in the map."""
    fine, coarse = features.maps
    at = cells[:, None].expand(-1, coarse.shape[1], -1)
    tokens = coarse.flatten(2).gather(2, at)
    shown = torch.zeros_like(coarse.flatten(2)).scatter(2, at, tokens).view_as(coarse)
    return Features((fine, shown), tokens.mean(2), tokens.transpose(1, 2))


@BROKEN.fails("hidden_cells_change_no_feature")
@frozen
class SeesHiddenCells(Right):
    """It encodes the whole image, and selects the visible cells afterwards."""

    def net(self, size):
        return SeesHiddenCellsNet(size)


class SeesHiddenCellsNet(Net):
    def forward_visible(self, x, cells):
        return of_cells(self(x), cells)


@BROKEN.fails("visible_tokens_have_their_places")
@frozen
class IgnoresTheOrderOfCells(Right):
    """It returns the tokens row by row, whatever the order of the cells."""

    def net(self, size):
        return IgnoresTheOrderOfCellsNet(size)


class IgnoresTheOrderOfCellsNet(Net):
    def forward_visible(self, x, cells):
        cells = cells.sort(1).values
        side = x.shape[-1] // 4
        shown = x.new_zeros(len(x), side**2).scatter(1, cells, 1.0).view(-1, 1, side, side)
        return of_cells(self(x * nn.functional.interpolate(shown, x.shape[-2:])), cells)


@BROKEN.fails("training_features_have_the_same_shapes")
@frozen
class OneMapInTraining(Right):
    """In train mode a map is missing."""

    def net(self, size):
        return OneMapInTrainingNet(size)


class OneMapInTrainingNet(Net):
    def features(self, fine, coarse):
        found = super().features(fine, coarse)
        return found._replace(maps=(coarse,)) if self.training else found


@BROKEN.fails("features_are_finite")
@frozen
class DividesBySpread(Right):
    """An image of one color has no spread to divide by."""

    def net(self, size):
        return DividesBySpreadNet(size)


class DividesBySpreadNet(Net):
    def forward(self, x):
        return super().forward(x / x.std((1, 2, 3), keepdim=True))


@BROKEN.fails("accepts_other_image_sizes")
@frozen
class OneSize(Right):
    """It accepts only the size that it was built for."""

    def net(self, size):
        return OneSizeNet(size)


class OneSizeNet(Net):
    def forward(self, x):
        if x.shape[-1] != self.size:
            raise RuntimeError("another size")
        return super().forward(x)


@BROKEN.fails("accepts_channels_last")
@frozen
class ViewsItsInput(Right):
    """It expects contiguous memory."""

    def net(self, size):
        return ViewsItsInputNet(size)


class ViewsItsInputNet(Net):
    def forward(self, x):
        return super().forward(x.view(len(x), -1).view(x.shape))


@BROKEN.fails("evaluation_is_repeatable")
@frozen
class NoiseInEvaluation(Right):
    """It adds noise in both modes."""

    def net(self, size):
        return NoiseInEvaluationNet(size)


class NoiseInEvaluationNet(Net):
    def __init__(self, size):
        super().__init__(size)
        self.generator = torch.Generator()

    def features(self, fine, coarse):
        return super().features(fine, coarse + torch.rand(coarse.shape, generator=self.generator))


@BROKEN.fails("features_of_a_sample_depend_on_it_alone")
@frozen
class CentersTheBatch(Right):
    """It subtracts the batch's mean, in eval mode too."""

    def net(self, size):
        return CentersTheBatchNet(size)


class CentersTheBatchNet(Net):
    def features(self, fine, coarse):
        return super().features(fine, coarse - 0.5 * coarse.mean(0, keepdim=True))


@BROKEN.fails("all_gradients_pass_through_shared")
@frozen
class GoesAroundShared(Right):
    """A part of pooled comes from the fine map."""

    def net(self, size):
        return GoesAroundSharedNet(size)


class GoesAroundSharedNet(Net):
    def features(self, fine, coarse):
        pooled = coarse.mean((2, 3)) + fine.mean((1, 2, 3))[:, None]
        return Features((fine, coarse), pooled, coarse)


@BROKEN.fails("every_parameter_gets_a_gradient")
@frozen
class KeepsItsClassifier(Right):
    """It has an unused layer."""

    def net(self, size):
        return KeepsItsClassifierNet(size)


class KeepsItsClassifierNet(Net):
    def __init__(self, size):
        super().__init__(size)
        self.classifier = nn.Linear(16, 1000)


@BROKEN.fails("same_seed_same_weights")
@frozen
class SeedsItself(Right):
    """Its weights come from its own generator."""

    def net(self, size):
        net, generator = Net(size), torch.Generator()
        generator.seed()
        nn.init.normal_(net.body.weight, std=0.1, generator=generator)
        return net


@BROKEN.fails("leaves_other_generators_alone")
@frozen
class DrawsWithNumpy(Right):
    """It draws from numpy's global generator."""

    def net(self, size):
        np.random.rand()
        return Net(size)


@BROKEN.fails("leaves_other_generators_alone", also=True)
@frozen
class SeedsTheWorld(Right):
    """All runs start from the same weights."""

    def net(self, size):
        torch.manual_seed(42)
        return Net(size)


@BROKEN.fails("state_round_trip_keeps_the_features")
@frozen
class ForgetsItsScale(Right):
    """A tensor is a plain attribute."""

    def net(self, size):
        return ForgetsItsScaleNet(size)


class ForgetsItsScaleNet(Net):
    def __init__(self, size):
        super().__init__(size)
        self.scale = 0.5 + torch.rand(())

    def features(self, fine, coarse):
        return super().features(fine, coarse * self.scale)


@BROKEN.fails("bf16_is_close_to_fp32")
@frozen
class LosesDigits(Right):
    """It adds a large number and subtracts it again."""

    def net(self, size):
        return LosesDigitsNet(size)


class LosesDigitsNet(Net):
    def features(self, fine, coarse):
        return super().features(fine, (coarse + 100) - 100)


@BROKEN.fails("traces_as_one_graph")
@frozen
class BranchesOnValues(Right):
    """Python branches on a value."""

    def net(self, size):
        return BranchesOnValuesNet(size)


class BranchesOnValuesNet(Net):
    def features(self, fine, coarse):
        return super().features(fine, coarse * 2 if coarse.sum().item() > 1e9 else coarse)
