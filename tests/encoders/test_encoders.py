"""Every encoder: its features, the gradients of its parameters, the sizes that it refuses."""

from __future__ import annotations

import copy
import subprocess
import sys
from importlib.util import find_spec

import attrs
import pytest
import torch
from torch import Tensor, nn

from mtlcore.contracts import Encoder, Features
from mtlcore.encoders import ResnetSmall, Timm, mtl_components
from mtlcore.encoders.vision import (
    NETS,
    ConvnextTiny,
    EfficientnetB0,
    MobilenetV3Large,
    Resnet18,
    Resnet50,
    VitB16,
)
from mtlcore.errors import MtlError


def read(encoder: Encoder, size: int, samples: int = 2) -> tuple[nn.Module, Features]:
    torch.manual_seed(0)
    net = encoder.build((size, size))
    return net, net(torch.randn(samples, 3, size, size))


def untouched(net: nn.Module, features: Features, zeros: bool = False) -> list[str]:
    """Return the parameters without a gradient from the features. zeros: accept a gradient of 0."""
    read_by_heads = (features.pooled, features.shared, *features.maps)
    sum(x.square().mean() for x in read_by_heads).backward()
    return [
        name
        for name, p in net.named_parameters()
        if p.grad is None or not (zeros or p.grad.abs().sum() > 0)
    ]


SMALL = [
    (ResnetSmall(width=4), 16, [(4, 16), (8, 8), (16, 4), (32, 2)]),
    (ResnetSmall(width=4, stem_stride=2, depths=(1, 2)), 16, [(4, 8), (8, 4)]),
    (Resnet18(), 64, [(64, 16), (128, 8), (256, 4), (512, 2)]),
    (MobilenetV3Large(), 64, [(24, 16), (40, 8), (112, 4), (960, 2)]),
    (EfficientnetB0(), 64, [(24, 16), (40, 8), (112, 4), (1280, 2)]),
]
LARGE = [
    (Resnet50(), 64, [(256, 16), (512, 8), (1024, 4), (2048, 2)]),
    (ConvnextTiny(), 64, [(96, 16), (192, 8), (384, 4), (768, 2)]),
]


@pytest.mark.parametrize(
    ("encoder", "size", "maps"),
    [*SMALL, *(pytest.param(*case, marks=pytest.mark.slow) for case in LARGE)],
    ids=lambda x: type(x).__name__ if isinstance(x, Encoder) else "",
)
def test_maps_run_from_fine_to_coarse_and_every_parameter_learns(
    encoder: Encoder, size: int, maps: list[tuple[int, int]]
) -> None:
    net, features = read(encoder, size)
    assert [(m.shape[1], m.shape[2]) for m in features.maps] == maps
    assert features.pooled.shape == (2, maps[-1][0])
    assert features.shared is features.maps[-1]
    assert features.images is None
    assert untouched(net, features) == []


def test_the_finest_maps_alone_are_those_of_the_forward_and_later_stages_do_not_run(
    subtests,
) -> None:
    of_timm = (Timm("resnet10t"), 64, [(64, 32), (64, 16), (128, 8), (256, 4), (512, 2)])
    cases = [*SMALL, of_timm] if find_spec("timm") else SMALL  # timm is an extra
    for encoder, size, maps in cases:
        net, _ = read(encoder, size)
        names = net.state_dict().keys()
        images = torch.rand(2, 3, size, size)
        convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
        ran: list[nn.Module] = []
        for module in convolutions:
            module.register_forward_hook(lambda m, *_, ran=ran: ran.append(m))
        for mode in (True, False):
            torch.manual_seed(1)  # of stochastic depth
            features = net.train(mode)(images)
            assert [(m.shape[1], m.shape[2]) for m in features.maps] == maps
            net.finest_maps(images, 1)
            for number in range(1, len(maps) + 1):
                with subtests.test(encoder=encoder, train=mode, number=number):
                    ran.clear()
                    torch.manual_seed(1)
                    found = net.finest_maps(images, number)
                    assert len(found) == number
                    assert all(torch.equal(a, b) for a, b in zip(found, features.maps))
                    assert (len(ran) == len(convolutions)) == (number == len(maps))
        assert net.state_dict().keys() == names

        # A copy, such as that of a momentum teacher, runs its own layers.
        other = copy.deepcopy(net.eval())
        for p in other.parameters():
            p.data.mul_(0.5)
        assert torch.equal(other.finest_maps(images, 1)[0], other(images).maps[0])


def test_a_vits_shared_features_are_its_tokens_and_its_map_is_its_patches() -> None:
    net, features = read(VitB16(), 32)
    assert features.shared.shape == (2, 1 + 4, 768)
    assert torch.equal(features.pooled, features.shared[:, 0])
    (patches,) = features.maps
    assert patches.shape == (2, 768, 2, 2)
    assert torch.equal(patches[:, :, 1, 0], features.shared[:, 1 + 2])  # row by row
    assert untouched(net, features) == []


def test_the_small_network_pools_by_the_mean_and_its_shapes_follow_width_and_stride() -> None:
    _, features = read(ResnetSmall(width=6, stem_stride=2), 48)
    assert [m.shape[1:] for m in features.maps] == [
        (6, 24, 24),
        (12, 12, 12),
        (24, 6, 6),
        (48, 3, 3),
    ]
    assert torch.allclose(features.pooled, features.maps[-1].mean((2, 3)))


@pytest.mark.parametrize(
    ("width", "layout"), [(16, torch.channels_last), (4, torch.contiguous_format)]
)
def test_the_small_networks_weights_are_contiguous_in_every_layout(width, layout) -> None:
    net, features = read(ResnetSmall(width=width), 16)
    assert features.maps[0].is_contiguous(memory_format=layout)
    features.pooled.sum().backward()
    assert all(p.is_contiguous() and p.grad.is_contiguous() for p in net.parameters())


def test_channels_last_does_not_change_what_the_small_network_computes() -> None:
    _, features = read(ResnetSmall(width=16), 16)
    torch.manual_seed(0)
    twin = ResnetSmall(width=16).build((16, 16))
    x: Tensor = twin.stem(torch.randn(2, 3, 16, 16))
    for stage, found in zip(twin.stages, features.maps, strict=True):
        x = stage(x)
        assert torch.allclose(x, found, atol=1e-4)


@pytest.mark.parametrize(
    "encoder", [ResnetSmall(width=4), MobilenetV3Large()], ids=lambda e: type(e).__name__
)
def test_a_deep_copy_and_eval_mode_work_as_in_any_module(encoder: Encoder) -> None:
    net, _ = read(encoder, 32)
    twin = copy.deepcopy(net).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(twin(images).pooled, twin(images).pooled)  # no dropout, no batch statistics
    assert torch.allclose(twin(images).pooled[:1], twin(images[:1]).pooled, atol=1e-5)


def test_each_component_is_a_frozen_attrs_class_of_its_own_with_its_own_name() -> None:
    classes = mtl_components()
    assert all("__attrs_attrs__" in vars(c) for c in classes)
    names = [vars(c).get("name") for c in classes]
    assert names == [
        None,
        None,
        "resnet18",
        "resnet50",
        "efficientnet_b0",
        "efficientnet_b2",
        "mobilenet_v3_large",
        "convnext_tiny",
        "vit_b_16",
        "timm",
    ]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Resnet18().weights = "imagenet"  # type: ignore[misc]


def test_images_are_normalized_by_imagenets_statistics_only_with_weights(subtests) -> None:
    for encoder in [c() for c in NETS]:
        with subtests.test(encoder=encoder):
            assert encoder.mean == Encoder.mean
            trained = attrs.evolve(encoder, weights="imagenet")
            assert (trained.mean, trained.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_a_size_that_the_network_cannot_process_is_refused_before_building() -> None:
    with pytest.raises(MtlError, match=r"input.size = 50: vit_b_16 .* multiple of 16, such as 48"):
        VitB16().build((50, 50))
    with pytest.raises(MtlError, match=r"input.size = 24: convnext_tiny .* at least 32"):
        ConvnextTiny().build((24, 24))


@pytest.mark.parametrize(
    "field", [{"width": 0}, {"stem_stride": 3}, {"depths": ()}, {"depths": (1, 0)}]
)
def test_an_impossible_shape_of_the_small_network_is_an_error_that_names_the_field(field) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        ResnetSmall(**field)


@pytest.mark.slow
def test_listing_the_encoders_imports_neither_torchvision_nor_timm() -> None:
    code = (
        "import sys, mtlcore.encoders\n"
        "print(sorted({'torchvision', 'timm', 'kornia'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.slow
def test_without_timm_the_message_contains_the_install_command() -> None:
    """Runs in a process in which timm can't be imported."""
    code = (
        "import sys; sys.modules['timm'] = None\n"
        "from mtlcore.encoders import Timm\nfrom mtlcore.errors import MtlError\n"
        "try: Timm('resnet18').build((32, 32))\nexcept MtlError as error: print(error)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "mtlcore[timm]"' in found.stdout


@pytest.fixture
def timm():
    return pytest.importorskip("timm", reason="timm is an extra: pip install 'mtlcore[timm]'")


def test_a_timm_network_has_one_map_for_each_resolution_and_pools_as_timm_does(
    timm, subtests: pytest.Subtests
) -> None:
    for model, size, maps, width, shared in [
        ("resnet10t", 32, [(64, 16), (64, 8), (128, 4), (256, 2), (512, 1)], 512, (512, 1, 1)),
        (
            "mobilenetv3_small_050",
            32,
            [(16, 16), (8, 8), (16, 4), (24, 2), (288, 1)],
            1024,
            (288, 1, 1),
        ),
        (
            "tf_efficientnet_lite0",
            32,
            [(16, 16), (24, 8), (40, 4), (112, 2), (1280, 1)],
            1280,
            (1280, 1, 1),
        ),
        ("vit_tiny_patch16_224", 48, [(192, 3)], 192, (1 + 9, 192)),
        ("deit_tiny_distilled_patch16_224", 32, [(192, 2)], 192, (2 + 4, 192)),
        (
            "swin_tiny_patch4_window7_224",
            64,
            [(96, 16), (192, 8), (384, 4), (768, 2)],
            768,
            (2, 2, 768),
        ),
    ]:
        with subtests.test(model=model, size=size, maps=maps, width=width, shared=shared):
            net, features = read(Timm(model), size)
            assert [(m.shape[1], m.shape[2]) for m in features.maps] == maps
            assert features.pooled.shape == (2, width)
            assert features.shared.shape == (2, *shared)
            assert (
                untouched(net, features, zeros=True) == []
            )  # timm starts residual branches at zero


def test_the_error_for_an_unknown_timm_model_or_tag_lists_similar_models_or_the_known_tags(
    timm,
) -> None:
    with pytest.raises(MtlError, match=r"timm:resnet19.*no such model; nearest: .*resnet18"):
        Timm("resnet19").build((32, 32))
    with pytest.raises(MtlError, match=r"timm:resnet18\.nope.*resnet18\.a1_in1k"):
        Timm("resnet18.nope").build((32, 32))


def test_a_timm_vit_refuses_a_size_with_incomplete_patches(timm) -> None:
    with pytest.raises(MtlError, match=r"input.size = 50: .*multiple of 16"):
        Timm("vit_tiny_patch16_224").build((50, 50))


@pytest.mark.parametrize(
    ("model", "lacks"),
    [("eva02_tiny_patch14_224", {"any_size", "other_sizes"}), ("resnet10t", set())],
)
def test_a_timm_network_of_patches_says_that_it_lacks_some_sizes(timm, model, lacks) -> None:
    assert set(Timm(model=model).lacks) == lacks


def test_a_timm_network_is_normalized_as_timm_records_for_its_weights(timm) -> None:
    assert Timm("tf_efficientnet_lite0").mean == Encoder.mean
    lite = Timm("tf_efficientnet_lite0", weights="imagenet")
    assert (lite.mean, lite.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert Timm("resnet18", weights="imagenet").mean == (0.485, 0.456, 0.406)


def test_channels_last_does_not_change_what_a_depthwise_timm_network_computes(timm) -> None:
    torch.manual_seed(0)
    lite, plain = (
        Timm("tf_efficientnet_lite0").build((32, 32)).eval(),
        Timm("resnet10t").build((32, 32)).eval(),
    )
    assert (lite.memory_format, plain.memory_format) == (
        torch.channels_last,
        torch.contiguous_format,
    )
    images = torch.randn(2, 3, 32, 32)
    found = lite(images).pooled
    lite.memory_format = torch.contiguous_format
    assert torch.allclose(found, lite(images).pooled, atol=1e-5)
