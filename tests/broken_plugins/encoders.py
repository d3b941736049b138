"""An encoder that is right, and for each check of the kit one that fails it and nothing else. BROKEN: the check -> the class."""

from __future__ import annotations

import contextlib
import socket

import numpy as np
import torch
from attrs import frozen
from torch import nn

from broken_plugins import Broken
from mtlcore import Encoder, Features, MtlError

BROKEN = Broken()


class Net(nn.Module):
    """Two strided convolutions."""

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.stem, self.body = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)

    def forward(self, x):
        fine = self.stem(x).relu()
        return self.give(fine, self.body(fine).relu())

    def give(self, fine, coarse):
        return Features((fine, coarse), coarse.mean((2, 3)), coarse)


@frozen
class Right(Encoder):
    """Two strided convolutions."""

    def build(self, image_size):
        return self.net(image_size)

    def net(self, size):
        return Net(size)


@BROKEN.fails("builds_for_some_size")
@frozen
class RefusesWithAValueError(Right):
    """It says no in the wrong way."""

    def net(self, size):
        if size == 32:
            raise ValueError("too small")
        return Net(size)


@BROKEN.fails("builds_for_each_size")
@frozen
class NotFor64(Right):
    """It refuses 64 pixels, and does not say so beforehand."""

    def net(self, size):
        if size == 64:
            raise MtlError("64 pixels are too many")
        return Net(size)


@BROKEN.fails("normalizes_images_between_0_and_1")
@frozen
class MeanOf255(Right):
    """Its mean is on the scale of bytes."""

    mean = (127.0, 127.0, 127.0)


@BROKEN.fails("builds_without_a_network")
@frozen
class AsksTheNetwork(Right):
    """It calls home."""

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
    def give(self, fine, coarse):
        return super().give(fine, coarse)._replace(maps=(coarse, fine))


@BROKEN.fails("leaves_images_to_the_core")
@frozen
class SetsImages(Right):
    """It fills the field that is the core's."""

    def net(self, size):
        return SetsImagesNet(size)


class SetsImagesNet(Net):
    def give(self, fine, coarse):
        return super().give(fine, coarse)._replace(images=fine)


@BROKEN.fails("trains_with_the_shapes_of_evaluation")
@frozen
class OneMapInTraining(Right):
    """In train mode a map is missing."""

    def net(self, size):
        return OneMapInTrainingNet(size)


class OneMapInTrainingNet(Net):
    def give(self, fine, coarse):
        found = super().give(fine, coarse)
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


@BROKEN.fails("reads_views_of_other_sizes")
@frozen
class OneSize(Right):
    """It reads the size that it was built for, and no other."""

    def net(self, size):
        return OneSizeNet(size)


class OneSizeNet(Net):
    def forward(self, x):
        if x.shape[-1] != self.size:
            raise RuntimeError("another size")
        return super().forward(x)


@BROKEN.fails("reads_channels_last")
@frozen
class ViewsItsInput(Right):
    """It asks for a memory layout that nobody promised."""

    def net(self, size):
        return ViewsItsInputNet(size)


class ViewsItsInputNet(Net):
    def forward(self, x):
        return super().forward(x.view(len(x), -1).view(x.shape))


@BROKEN.fails("evaluation_repeats_itself")
@frozen
class NoiseInEvaluation(Right):
    """It adds noise whatever the mode."""

    def net(self, size):
        return NoiseInEvaluationNet(size)


class NoiseInEvaluationNet(Net):
    def __init__(self, size):
        super().__init__(size)
        self.generator = torch.Generator()

    def give(self, fine, coarse):
        return super().give(fine, coarse + torch.rand(coarse.shape, generator=self.generator))


@BROKEN.fails("a_sample_depends_on_itself_alone")
@frozen
class CentersTheBatch(Right):
    """It takes the batch's mean away, in eval mode too."""

    def net(self, size):
        return CentersTheBatchNet(size)


class CentersTheBatchNet(Net):
    def give(self, fine, coarse):
        return super().give(fine, coarse - 0.5 * coarse.mean(0, keepdim=True))


@BROKEN.fails("all_gradient_passes_shared")
@frozen
class GoesAroundShared(Right):
    """A part of pooled comes from the fine map."""

    def net(self, size):
        return GoesAroundSharedNet(size)


class GoesAroundSharedNet(Net):
    def give(self, fine, coarse):
        found = super().give(fine, coarse)
        return found._replace(pooled=found.pooled + fine.mean((1, 2, 3))[:, None])


@BROKEN.fails("every_parameter_learns")
@frozen
class KeepsItsClassifier(Right):
    """It has a layer that nobody reads."""

    def net(self, size):
        return KeepsItsClassifierNet(size)


class KeepsItsClassifierNet(Net):
    def __init__(self, size):
        super().__init__(size)
        self.classifier = nn.Linear(16, 1000)


@BROKEN.fails("same_seed_same_weights")
@frozen
class SeedsItself(Right):
    """Its weights come from a generator of its own."""

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


@BROKEN.fails("state_comes_back")
@frozen
class ForgetsItsScale(Right):
    """A tensor is a plain attribute."""

    def net(self, size):
        return ForgetsItsScaleNet(size)


class ForgetsItsScaleNet(Net):
    def __init__(self, size):
        super().__init__(size)
        self.scale = 0.5 + torch.rand(())

    def give(self, fine, coarse):
        return super().give(fine, coarse * self.scale)


@BROKEN.fails("bf16_agrees")
@frozen
class LosesDigits(Right):
    """A large number is added and taken away again."""

    def net(self, size):
        return LosesDigitsNet(size)


class LosesDigitsNet(Net):
    def give(self, fine, coarse):
        return super().give(fine, (coarse + 100) - 100)


@BROKEN.fails("traces_as_one_graph")
@frozen
class BranchesOnValues(Right):
    """Python looks at a value."""

    def net(self, size):
        return BranchesOnValuesNet(size)


class BranchesOnValuesNet(Net):
    def give(self, fine, coarse):
        return super().give(fine, coarse * 2 if coarse.sum().item() > 1e9 else coarse)
