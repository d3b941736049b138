"""What every encoder must hold."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...contracts import Features
from ...errors import MtlError
from ...model.inference import SharedEncoder
from ..common import COMMON
from ..generators import seeded, touched
from ..kit import CheckList, Group, require
from ..subject import Drawn, draws
from ..tracing import trace
from .harness import SIZES, EncoderSubject, outputs, require_same
from .offline import offline

ENCODER_CHECKS = Group()

# ---------------------------------------------------------------------------------------------------- build


@ENCODER_CHECKS.check(
    "build",
    why="nothing is trained where the encoder can't be built, and a traceback tells a user nothing.",
    mend="let `build` work for some of 32, 48, 56, 64 and 224 pixels, and raise MtlError for sides that the network can't read.",
    needs="builds_from_its_name",
    core=True,
)
def builds_for_some_size(subject: EncoderSubject) -> None:
    """It builds a module for one of 32, 48, 56, 64 and 224 pixels at least; sides that it refuses raise MtlError."""
    require(isinstance(subject.net, nn.Module), f"build gives {type(subject.net).__name__}")
    for size in SIZES:
        try:
            subject.fresh(size=size)
        except MtlError:
            continue


@ENCODER_CHECKS.check(
    "build",
    why="`input.size` is chosen for the data: an encoder for some sides only can't be compared on all of them.",
    mend='remove what hangs on the side, or say why not: lacks = {"any_size": "reads whole patches of 14 pixels"}.',
    needs="builds_for_some_size",
    capability="any_size",
)
def builds_for_each_size(subject: EncoderSubject) -> None:
    """It builds for 32, 48 and 64 pixels, and reads images of that side."""
    for size in SIZES:
        subject.features(subject.images(2, size=size), subject.fresh(size=size))


@ENCODER_CHECKS.check(
    "build",
    why="images are normalized by them once, in the core: means on the scale 0 ... 255 feed the network a constant.",
    mend="give mean and std of RGB in [0, 1], three numbers each.",
    needs="builds_from_its_name",
    core=True,
)
def normalizes_images_between_0_and_1(subject: EncoderSubject) -> None:
    """`mean` holds three numbers in [0, 1], `std` three in (0, 1]."""
    mean, std = tuple(subject.component.mean), tuple(subject.component.std)
    require(len(mean) == 3 and all(0 <= x <= 1 for x in mean), f"mean = {mean}")
    require(len(std) == 3 and all(0 < x <= 1 for x in std), f"std = {std}")


@ENCODER_CHECKS.check(
    "build",
    why="a run must start without a network, and must not start from other weights than its configuration says.",
    mend='let random weights be the default; load published ones only where a field asks for them (weights = "imagenet").',
    needs="builds_for_some_size",
)
def builds_without_a_network(subject: EncoderSubject) -> None:
    """With the given fields, `build` opens no connection."""
    size = subject.size
    with offline() as asked:
        subject.fresh(size=size)
    require(not asked, f"it asked for {', '.join(asked)}")


# ---------------------------------------------------------------------------------------------------- features


@ENCODER_CHECKS.check(
    "features",
    why="heads are built for what `Features` promises: a map in the wrong order gives a decoder the wrong scale.",
    mend="return mtlcore.Features(maps=(fine, ..., coarse), pooled (B, D), shared), each with B samples.",
    needs="builds_for_some_size",
    core=True,
)
def features_have_their_shapes(subject: EncoderSubject, drawn: Drawn) -> None:
    """Features: floating maps (B, C, h, w), fine to coarse, pooled (B, D), shared (B, ...)."""
    features = subject.features(subject.drawn(drawn))
    require(isinstance(features, Features), f"it returns {type(features).__name__}")
    require(
        isinstance(features.maps, tuple) and len(features.maps) > 0,
        "maps is no tuple of at least one map",
    )
    for name, x in outputs(features).items():
        require(
            isinstance(x, Tensor) and x.is_floating_point(), f"{name} is no floating-point tensor"
        )
        require(len(x) == drawn.samples, f"{name} has {len(x)} samples for {drawn.samples} images")
    require(features.pooled.ndim == 2, f"pooled has {features.pooled.ndim} dimensions")
    require(all(m.ndim == 4 for m in features.maps), "a map has not four dimensions")
    sides = [min(m.shape[-2:]) for m in features.maps]
    require(
        sides == sorted(sides, reverse=True), f"the maps' sides are {sides}, from first to last"
    )


@ENCODER_CHECKS.check(
    "features",
    why="the core sets `images` to the images in [0, 1]: decoders take their size from it, teachers read it.",
    mend="leave `images` of Features at None.",
    needs="features_have_their_shapes",
)
def leaves_images_to_the_core(subject: EncoderSubject) -> None:
    """`Features.images` is None."""
    require(subject.features(subject.images()).images is None, "it is set")


@ENCODER_CHECKS.check(
    "features",
    why="heads are built for the sizes measured on one image in eval mode: in training they would not fit.",
    mend="let the number and the channels of maps, and the width of pooled, be the same in train and eval mode.",
    needs="features_have_their_shapes",
)
def trains_with_the_shapes_of_evaluation(subject: EncoderSubject) -> None:
    """In train mode, features are as wide, as many and as large as the core measured them in eval mode."""
    size = subject.size
    with seeded(0):
        wrapper = SharedEncoder(subject.component, size).train()
        features = wrapper(torch.rand(3, 3, size, size))
    info, maps = wrapper.info, features.maps
    require(
        features.pooled.shape == (3, info.dim),
        f"pooled is {tuple(features.pooled.shape)}, D = {info.dim}",
    )
    found = tuple(m.shape[1] for m in maps), tuple(tuple(m.shape[-2:]) for m in maps)
    require(
        found == (info.channels, info.map_sizes),
        f"maps are {found}; measured: {info.channels, info.map_sizes}",
    )


@ENCODER_CHECKS.check(
    "features",
    why="one NaN in a feature makes all losses NaN: the step is skipped, and so is every one after it.",
    mend="guard divisions and logarithms; do not normalize an image by its own spread without an epsilon.",
    needs="features_have_their_shapes",
)
def features_are_finite(subject: EncoderSubject) -> None:
    """Of black, white, gray and drawn images, in eval and in train mode, all features are finite."""
    plain = torch.stack(
        [torch.full((3, subject.size, subject.size), v, dtype=torch.uint8) for v in (0, 255, 128)]
    )
    images = torch.cat([subject.normalized(plain), subject.images()])
    for net in (subject.net, subject.fresh().train()):
        with seeded(0):
            found = outputs(subject.features(images, net))
        broken = [name for name, x in found.items() if not bool(x.isfinite().all())]
        require(
            not broken,
            f"not finite in {'train' if net.training else 'eval'} mode: {', '.join(broken)}",
        )


@ENCODER_CHECKS.check(
    "features",
    why="views of other sizes (patches, scales) are one more thing that pretexts may give.",
    mend='remove what hangs on the side, or say why not: lacks = {"other_sizes": "position embeddings of one size"}.',
    needs="features_have_their_shapes",
    capability="other_sizes",
)
def reads_views_of_other_sizes(subject: EncoderSubject) -> None:
    """Built for one side, it reads images of another, and pooled keeps its width."""
    dim = subject.features(subject.images()).pooled.shape[1]
    for size in SIZES:
        found = subject.features(subject.images(2, size=size)).pooled.shape
        require(
            found == (2, dim),
            f"built for {subject.size} pixels, of {size} pixels pooled is {tuple(found)}",
        )


# ---------------------------------------------------------------------------------------------------- evaluation


@ENCODER_CHECKS.check(
    "evaluation",
    why="the same image would get another answer each time it is asked.",
    mend="switch dropout and noise off where `self.training` is false.",
    needs="features_are_finite",
)
def evaluation_repeats_itself(subject: EncoderSubject) -> None:
    """In eval mode, the same images give the same features twice."""
    images = subject.images()
    require_same(subject.features(images), subject.features(images), tolerance=1e-6)


@ENCODER_CHECKS.check(
    "features",
    why="images come in channels_last where that is faster; a `view` of the input then raises.",
    mend="use reshape or einops on the input, or call .contiguous() first.",
    needs="evaluation_repeats_itself",
)
def reads_channels_last(subject: EncoderSubject) -> None:
    """The features do not depend on the memory layout of the images."""
    images = subject.images()
    other = subject.features(images.contiguous(memory_format=torch.channels_last))
    require_same(subject.features(images), other, tolerance=1e-3)


@ENCODER_CHECKS.check(
    "evaluation",
    why="an answer would depend on who else stands in the batch, so accuracy would depend on the batch size.",
    mend="use no statistics over samples in eval mode (BatchNorm's running ones are right), and no sums over dimension 0.",
    needs="evaluation_repeats_itself",
)
def a_sample_depends_on_itself_alone(subject: EncoderSubject, drawn: Drawn) -> None:
    """In eval mode, other images in the batch do not change an image's features."""
    images = subject.drawn(drawn)
    others = torch.cat([images[:1], subject.images(drawn.samples - 1, drawn.seed + 1)])
    require_same(subject.features(images), subject.features(others), slice(1), 1e-3)


# ---------------------------------------------------------------------------------------------------- gradient


@ENCODER_CHECKS.check(
    "gradient",
    why="weightings at the features look at the gradients in `shared`: one that goes around it is not seen.",
    mend="compute pooled and the coarse map FROM the tensor that you return as shared, not beside it from an earlier one.",
    needs="evaluation_repeats_itself",
)
def all_gradient_passes_shared(subject: EncoderSubject) -> None:
    """The gradient of pooled, and of the coarse map, reaches the images through `shared` alone."""
    images = subject.images().requires_grad_()
    features: Features = subject.net(images)
    for name, output in (("pooled", features.pooled), ("maps[-1]", features.maps[-1])):
        with seeded(0):
            loss = (output * torch.randn_like(output)).sum()
        (at_shared,) = torch.autograd.grad(
            loss, features.shared, retain_graph=True, allow_unused=True
        )
        require(at_shared is not None, f"{name} is not computed from shared")
        (through,) = torch.autograd.grad(features.shared, images, at_shared, retain_graph=True)
        (whole,) = torch.autograd.grad(loss, images, retain_graph=True)
        apart = float((through - whole).norm() / whole.norm().clamp_min(1e-12))
        require(apart < 1e-3, f"{apart:.1%} of the gradient of {name} does not pass shared")


@ENCODER_CHECKS.check(
    "gradient",
    why="parameters without a gradient cost memory and decay, and DDP waits for them for ever.",
    mend="remove layers that no feature needs (a classifier), or freeze them with requires_grad_(False).",
    needs="features_are_finite",
)
def every_parameter_learns(subject: EncoderSubject) -> None:
    """In train mode, a loss on all features gives each trainable parameter a finite gradient."""
    net = subject.fresh().train()
    with seeded(0):
        found = outputs(net(subject.images(4)))
        sum((x * torch.randn_like(x)).sum() for x in found.values()).backward()  # type: ignore[union-attr]
    trained = {name: p.grad for name, p in net.named_parameters() if p.requires_grad}
    idle = [name for name, grad in trained.items() if grad is None]
    require(not idle, f"{len(idle)} parameters get no gradient: {', '.join(idle[:3])}")
    broken = [
        name
        for name, grad in trained.items()
        if grad is not None and not bool(grad.isfinite().all())
    ]
    require(not broken, f"gradients that are not finite: {', '.join(broken[:3])}")


# ---------------------------------------------------------------------------------------------------- randomness, state


@ENCODER_CHECKS.check(
    "randomness",
    why="paired arms of an experiment must start from the same weights, and a run must be repeatable.",
    mend="draw initial weights from torch's global generator alone, as torch.nn.init does.",
    needs="evaluation_repeats_itself",
)
def same_seed_same_weights(subject: EncoderSubject) -> None:
    """Built twice after the same torch.manual_seed, the networks are equal."""
    one, other = subject.fresh(3).state_dict(), subject.fresh(3).state_dict()
    differ = [name for name in one if not torch.equal(one[name], other[name])]
    require(not differ, f"{', '.join(differ[:3])} differ")


@ENCODER_CHECKS.check(
    "randomness",
    why="the core seeds torch alone: other generators make a run that nobody can repeat, or disturb a user's draws.",
    mend="draw initial weights with torch, and nothing at all in eval mode.",
    needs="builds_for_some_size",
)
def leaves_other_generators_alone(subject: EncoderSubject) -> None:
    """`build` draws from torch's global generator alone, an evaluation from none."""
    found = [
        name for name in touched(lambda: subject.component.build(subject.size)) if name != "torch"
    ]
    require(not found, f"build draws from {', '.join(found)}")
    images = subject.images()
    found = touched(lambda: subject.features(images))
    require(not found, f"an evaluation draws from {', '.join(found)}")


@ENCODER_CHECKS.check(
    "state",
    why="what is not in the state is lost with the process: a loaded network would answer otherwise.",
    mend="register tensors as parameters, or with register_buffer.",
    needs="evaluation_repeats_itself",
    core=True,
)
def state_comes_back(subject: EncoderSubject) -> None:
    """After training, another network that loads the state_dict gives the same features."""
    trained, other = subject.fresh(1).train(), subject.fresh(2)
    with seeded(0):
        features = trained(subject.images(4))
        features.pooled.square().mean().backward()
    with torch.no_grad():
        for p in trained.parameters():
            if p.grad is not None:
                p.sub_(0.01 * p.grad)
    other.load_state_dict(trained.eval().state_dict())
    images = subject.images()
    require_same(subject.features(images, trained), subject.features(images, other))


# ---------------------------------------------------------------------------------------------------- numerics, speed


@ENCODER_CHECKS.check(
    "numerics",
    why='with train.precision = "bf16-mixed" the network would learn something else than in fp32.',
    mend="keep small differences of large numbers in fp32: `with torch.autocast(device, enabled=False)`.",
    needs="evaluation_repeats_itself",
    capability="bf16",
)
def bf16_agrees(subject: EncoderSubject) -> None:
    """Under bf16 autocast, features are finite and within a tenth of those of fp32 (in norm)."""
    images = subject.images()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = outputs(subject.features(images))
    for name, exact in outputs(subject.features(images)).items():
        apart = float((rounded[name].float() - exact).norm() / exact.norm().clamp_min(1e-6))
        require(apart < 0.1, f"{name} differs by {apart:.1%}")


@ENCODER_CHECKS.check(
    "speed",
    why="with train.compile a graph that breaks costs its speed, and each new shape compiles anew.",
    mend="let Python decide nothing by the values of tensors: no .item(), no `if` on a tensor.",
    needs="evaluation_repeats_itself",
    capability="compiles",
)
def traces_as_one_graph(subject: EncoderSubject) -> None:
    """torch.compile(fullgraph=True) takes the network, and its features stay the same."""
    images = subject.images()
    with torch.no_grad():
        traced = trace(subject.net, images)
    require_same(subject.features(images), traced, tolerance=1e-3)


CHECKS, HARNESS = CheckList("encoder", draws((2, 3)), (COMMON, ENCODER_CHECKS)), EncoderSubject
