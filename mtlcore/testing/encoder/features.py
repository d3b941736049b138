"""Checks of what every encoder has: its build, its features, gradients, and state."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ...contracts import Features
from ...errors import MtlError
from ...model.inference import SharedEncoder
from ..generators import require_no_global_draws, require_torch_draws_alone, seeded
from ..kit import Group
from ..requirements import Skip, require, require_shape
from ..subject import Drawn, patterns
from ..tracing import trace
from .harness import SIZES, EncoderSubject, outputs, require_close
from .offline import offline

BUILT = "builds_for_some_size"
SHAPES = "features_have_their_shapes"
FINITE = "features_are_finite"
REPEATABLE = "evaluation_is_repeatable"

FEATURES_CHECKS = Group()

# ------------------------------------------------------------------------------------------ build


@FEATURES_CHECKS.check(
    "build",
    why="no run can use an encoder that cannot be built, and a traceback does not help its user.",
    mend="Let `build` work for some of 32, 48, 56, 64 and 224 pixels. Raise MtlError for sizes "
    "that the network cannot process.",
    needs="builds_from_its_name",
    core=True,
)
def builds_for_some_size(subject: EncoderSubject) -> None:
    """It builds a module for 32, 48, 56, 64 or 224 pixels; other sizes raise MtlError."""
    require(isinstance(subject.net, nn.Module), f"build returns {type(subject.net).__name__}")
    for size in SIZES:
        try:
            subject.fresh(size=size)
        except MtlError:
            continue


@FEATURES_CHECKS.check(
    "build",
    why="`input.size` depends on the data. Encoders that support few sizes cannot be compared.",
    mend='Remove what depends on the size, or declare it: lacks = {"any_size": "needs whole '
    'patches of 14 pixels"}.',
    needs=BUILT,
    capability="any_size",
    tests_lacks=True,
)
def builds_for_each_size(subject: EncoderSubject) -> None:
    """It builds for 32, 48 and 64 pixels, and processes images of that size."""
    for size in SIZES:
        subject.features(subject.images(2, size=size), subject.fresh(size=size))


@FEATURES_CHECKS.check(
    "build",
    why="the core normalizes images in [0, 1] by them. A mean in 0 ... 255 makes all inputs alike.",
    mend="Set mean and std of RGB in [0, 1], three numbers each.",
    needs="builds_from_its_name",
    core=True,
)
def normalizes_images_between_0_and_1(subject: EncoderSubject) -> None:
    """`mean` holds three numbers in [0, 1], `std` three in (0, 1]."""
    mean, std = tuple(subject.component.mean), tuple(subject.component.std)
    require(len(mean) == 3 and all(0 <= x <= 1 for x in mean), f"mean = {mean}")
    require(len(std) == 3 and all(0 < x <= 1 for x in std), f"std = {std}")


@FEATURES_CHECKS.check(
    "build",
    why="a run must start offline, and from the weights that its configuration names.",
    mend="Use random weights by default. Load published ones only if a field requests them "
    '(weights = "imagenet").',
    needs=BUILT,
)
def builds_offline(subject: EncoderSubject) -> None:
    """With these fields, `build` opens no network connection."""
    size = subject.size
    with offline() as requests:
        subject.fresh(size=size)
    require(not requests, f"it requests {', '.join(requests)}")


# --------------------------------------------------------------------------------------- features


@FEATURES_CHECKS.check(
    "features",
    why="heads are built for these shapes. With maps in another order, decoders use wrong scales.",
    mend="Return mtlcore.Features(maps=(fine, ..., coarse), pooled (B, D), shared), each with B "
    "samples.",
    needs=BUILT,
    core=True,
)
def features_have_their_shapes(subject: EncoderSubject, drawn: Drawn) -> None:
    """Features: float maps (B, C, h, w), fine to coarse, pooled (B, D), shared (B, ...)."""
    features = subject.features(subject.drawn(drawn))
    require(isinstance(features, Features), f"it returns {type(features).__name__}")
    maps = features.maps
    has_maps = isinstance(maps, tuple) and len(maps) > 0
    require(has_maps, "maps is not a tuple with at least one map")
    for name, x in outputs(features).items():
        is_float = isinstance(x, Tensor) and x.is_floating_point()
        require(is_float, f"{name} is not a floating-point tensor")
        require(len(x) == drawn.samples, f"{name} has {len(x)} samples for {drawn.samples} images")
    require(features.pooled.ndim == 2, f"pooled has {features.pooled.ndim} dimensions; expected 2")
    require(all(m.ndim == 4 for m in maps), "a map does not have four dimensions")
    sizes = [min(m.shape[-2:]) for m in maps]
    require(sizes == sorted(sizes, reverse=True), f"the sizes of the maps, in order, are {sizes}")


@FEATURES_CHECKS.check(
    "features",
    why="the core sets `images` to the images in [0, 1], which decoders and teachers read.",
    mend="Leave `images` and `cells` of Features at None.",
    needs=SHAPES,
)
def leaves_images_to_the_core(subject: EncoderSubject) -> None:
    """`Features.images` and `Features.cells` are None."""
    features = subject.features(subject.images())
    require(features.images is None, "images are set")
    require(features.cells is None, "cells are set")


@FEATURES_CHECKS.check(
    "features",
    why="heads are built for the shapes in eval mode. Other shapes in training do not fit.",
    mend="Use the same maps, channels and pooled width in train and eval mode.",
    needs=SHAPES,
)
def training_features_have_the_same_shapes(subject: EncoderSubject) -> None:
    """In train mode, features have the shapes that the core measured in eval mode."""
    size = subject.size
    with seeded(0):
        wrapper = SharedEncoder(subject.component, (size, size)).train()
        features = wrapper(torch.rand(3, 3, size, size))
    info = wrapper.info
    require_shape(features.pooled, (3, info.dim), "pooled")
    channels = tuple(m.shape[1] for m in features.maps)
    sizes = tuple(tuple(m.shape[-2:]) for m in features.maps)
    same = (channels, sizes) == (info.channels, info.map_sizes)
    expected = f"expected {info.channels}, {info.map_sizes}"
    require(same, f"maps have the channels and sizes {channels}, {sizes}; {expected}")


@FEATURES_CHECKS.check(
    "features",
    why="one NaN in a feature makes all losses NaN, and every step from then on is skipped.",
    mend="Guard divisions and logarithms. Do not divide an image by its own standard deviation "
    "without an epsilon.",
    needs=SHAPES,
)
def features_are_finite(subject: EncoderSubject) -> None:
    """Black, white, gray and drawn images have finite features in eval and in train mode."""
    shape = (3, subject.size, subject.size)
    plain = torch.stack([torch.full(shape, v, dtype=torch.uint8) for v in (0, 255, 128)])
    images = torch.cat([subject.normalized(plain), subject.images()])
    for net in (subject.net, subject.fresh().train()):
        with seeded(0):
            found = outputs(subject.features(images, net))
        broken = [name for name, x in found.items() if not bool(x.isfinite().all())]
        mode = "train" if net.training else "eval"
        require(not broken, f"not finite in {mode} mode: {', '.join(broken)}")


@FEATURES_CHECKS.check(
    "features",
    why="`input.size` may be [height, width]. A user needs a message, not a traceback.",
    mend="`build` gets (height, width): use both. Raise MtlError if it reads squares only.",
    needs=SHAPES,
)
def builds_for_rectangles_or_refuses_them(subject: EncoderSubject) -> None:
    """Built for images twice as wide as high, no map is higher than wide. Or it raises MtlError."""
    size = (subject.size, 2 * subject.size)
    try:
        net = subject.fresh(size=size)
    except MtlError:
        return
    wide = patterns(2, size[1], 0)[..., : size[0], :]
    dim = subject.features(subject.images(2)).pooled.shape[1]
    features = subject.features(subject.normalized(wide), net)
    pixels = f"of {size[0]} x {size[1]} pixels"
    require_shape(features.pooled, (2, dim), f"pooled {pixels}")
    for height, width in (m.shape[-2:] for m in features.maps):
        require(height <= width, f"a map {pixels} has {height} x {width} cells")


@FEATURES_CHECKS.check(
    "features",
    why="pretexts may make views of other sizes: patches and scales.",
    mend='Remove what depends on the size, or declare it: lacks = {"other_sizes": "position '
    'embeddings of one size"}.',
    needs=SHAPES,
    capability="other_sizes",
    tests_lacks=True,
)
def accepts_other_image_sizes(subject: EncoderSubject) -> None:
    """A network built for one size processes other sizes, and pooled keeps its width."""
    dim = subject.features(subject.images()).pooled.shape[1]
    for size in SIZES:
        pooled = subject.features(subject.images(2, size=size)).pooled
        built = f"(built for {subject.size} pixels)"
        require_shape(pooled, (2, dim), f"pooled of {size} pixels {built}")


# ------------------------------------------------------------------------------------- evaluation


@FEATURES_CHECKS.check(
    "evaluation",
    why="the same image would get another prediction each time.",
    mend="Switch dropout and noise off if `self.training` is false.",
    needs=FINITE,
)
def evaluation_is_repeatable(subject: EncoderSubject) -> None:
    """In eval mode, the same images give the same features twice."""
    images = subject.images()
    require_close(subject.features(images), subject.features(images), tolerance=1e-6)


@FEATURES_CHECKS.check(
    "features",
    why="images may come in the faster channels_last. `view` on the input then raises.",
    mend="Use reshape or einops on the input, or call .contiguous() first.",
    needs=REPEATABLE,
)
def accepts_channels_last(subject: EncoderSubject) -> None:
    """The memory format of the images does not change the features."""
    images = subject.images()
    channels_last = images.contiguous(memory_format=torch.channels_last)
    require_close(subject.features(images), subject.features(channels_last), tolerance=1e-3)


@FEATURES_CHECKS.check(
    "evaluation",
    why="predictions would depend on the other images, and accuracy on the batch size.",
    mend="In eval mode, use no statistics over samples (BatchNorm's running ones are right) and "
    "no sums over dimension 0.",
    needs=REPEATABLE,
)
def features_of_a_sample_depend_on_it_alone(subject: EncoderSubject, drawn: Drawn) -> None:
    """In eval mode, other images in the batch do not change an image's features."""
    images = subject.drawn(drawn)
    others = subject.images(drawn.samples - 1, drawn.seed + 1)
    changed = torch.cat([images[:1], others])
    require_close(subject.features(images), subject.features(changed), slice(1), 1e-3)


# --------------------------------------------------------------------------------------- gradient


@FEATURES_CHECKS.check(
    "gradient",
    why="weightings at the features read gradients in `shared`. They miss any that bypass it.",
    mend="Compute pooled and the coarse map FROM the tensor that you return as shared.",
    needs=REPEATABLE,
)
def all_gradients_pass_through_shared(subject: EncoderSubject) -> None:
    """The gradients of pooled and of the coarse map reach the images through `shared` alone."""
    images = subject.images().requires_grad_()
    features: Features = subject.net(images)
    grad = partial(torch.autograd.grad, retain_graph=True, allow_unused=True)
    for name, output in (("pooled", features.pooled), ("maps[-1]", features.maps[-1])):
        with seeded(0):
            loss = (output * torch.randn_like(output)).sum()
        (at_shared,) = grad(loss, features.shared)
        require(at_shared is not None, f"{name} is not computed from shared")
        (through_shared,) = grad(features.shared, images, at_shared)
        (whole,) = grad(loss, images)
        if whole is None:
            raise Skip("its images get no gradient: its first layers are fixed")
        bypass = whole if through_shared is None else whole - through_shared
        share = float(bypass.norm() / whole.norm().clamp_min(1e-12))
        require(share < 1e-3, f"{share:.1%} of the gradient of {name} bypasses shared")


@FEATURES_CHECKS.check(
    "gradient",
    why="parameters without a gradient cost memory and weight decay, and make DDP wait forever.",
    mend="Remove layers that no feature needs (a classifier), or freeze them with "
    "requires_grad_(False).",
    needs=FINITE,
)
def every_parameter_gets_a_gradient(subject: EncoderSubject) -> None:
    """In train mode, a loss on all features gives each trainable parameter a finite gradient."""
    net = subject.fresh().train()
    with seeded(0):
        loss = torch.zeros(())
        for x in outputs(net(subject.images(4))).values():
            loss = loss + (x * torch.randn_like(x)).sum()
        loss.backward()
    gradients = {name: p.grad for name, p in net.named_parameters() if p.requires_grad}
    idle, broken = [], []
    for name, gradient in gradients.items():
        if gradient is None:
            idle.append(name)
        elif not bool(gradient.isfinite().all()):
            broken.append(name)
    require(not idle, f"{len(idle)} parameters get no gradient: {', '.join(idle[:3])}")
    require(not broken, f"gradients that are not finite: {', '.join(broken[:3])}")


# ------------------------------------------------------------------------------ randomness, state


@FEATURES_CHECKS.check(
    "randomness",
    why="paired runs must start from the same weights, and a run must be repeatable.",
    mend="Draw initial weights from torch's global generator only, as torch.nn.init does.",
    needs=REPEATABLE,
)
def same_seed_same_weights(subject: EncoderSubject) -> None:
    """Two networks built after the same torch.manual_seed are equal."""
    one, other = subject.fresh(3).state_dict(), subject.fresh(3).state_dict()
    differ = [name for name in one if not torch.equal(one[name], other[name])]
    require(not differ, f"{', '.join(differ[:3])} differ")


@FEATURES_CHECKS.check(
    "randomness",
    why="the core seeds torch only, once for a run. Draws from other generators cannot be "
    "repeated, and after another seed all runs start from the same weights.",
    mend="Draw initial weights with torch, without manual_seed, and nothing in eval mode.",
    needs=BUILT,
)
def leaves_other_generators_alone(subject: EncoderSubject) -> None:
    """`build` draws from torch's global generator alone, and seeds none; eval mode uses none."""
    size = (subject.size, subject.size)
    require_torch_draws_alone(lambda: subject.component.build(size))
    images = subject.images()
    require_no_global_draws(lambda: subject.features(images), "an evaluation")


@FEATURES_CHECKS.check(
    "state",
    why="a loaded network would give other features, since values outside the state are lost.",
    mend="Register tensors as parameters, or with register_buffer.",
    needs=REPEATABLE,
    core=True,
)
def state_round_trip_keeps_the_features(subject: EncoderSubject) -> None:
    """After training, another network that loads the state_dict gives the same features."""
    trained, loaded = subject.fresh(1).train(), subject.fresh(2)
    with seeded(0):
        features = trained(subject.images(4))
        features.pooled.square().mean().backward()
    with torch.no_grad():
        for p in trained.parameters():
            if p.grad is not None:
                p.sub_(0.01 * p.grad)
    loaded.load_state_dict(trained.eval().state_dict())
    images = subject.images()
    require_close(subject.features(images, trained), subject.features(images, loaded))


# -------------------------------------------------------------------------------- numerics, speed


@FEATURES_CHECKS.check(
    "numerics",
    why='with train.precision = "bf16-mixed" the network would learn something else.',
    mend="Compute small differences of large numbers in fp32: "
    "`with torch.autocast(device, enabled=False)`.",
    needs=REPEATABLE,
    capability="bf16",
)
def bf16_is_close_to_fp32(subject: EncoderSubject) -> None:
    """Under bf16 autocast, features are within a tenth of fp32 (in norm)."""
    images = subject.images()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = outputs(subject.features(images))
    for name, exact in outputs(subject.features(images)).items():
        error = (rounded[name].float() - exact).norm() / exact.norm().clamp_min(1e-6)
        require(float(error) < 0.1, f"{name} differs by {float(error):.1%}")


@FEATURES_CHECKS.check(
    "speed",
    why="with train.compile, a graph break costs speed, and each new shape compiles again.",
    mend="Do not let Python decide by values of tensors: no .item(), no `if` on a tensor.",
    needs=REPEATABLE,
    capability="compiles",
)
def traces_as_one_graph(subject: EncoderSubject) -> None:
    """torch.compile(fullgraph=True) traces the network, with the same features."""
    images = subject.images()
    with torch.no_grad():
        traced: Features = trace(subject.net, images)
    require_close(subject.features(images), traced, tolerance=1e-3)
