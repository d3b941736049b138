"""The layers of encoders, the options of timm's networks, and messages about other files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mtlcore import MtlError, component
from mtlcore.contracts import Encoder
from mtlcore.encoders import Timm
from mtlcore.encoders.vision import NETS, Resnet18
from mtlcore.model.freezing import freeze_encoder, layers_of
from mtlcore.model.inference import SharedEncoder

STAGES = {
    "resnet18": [0, 1, 1, 2, 2, 3, 3, 4, 4],
    "resnet50": [0, *[1] * 3, *[2] * 4, *[3] * 6, *[4] * 3],
    "efficientnet_b0": [0, *[1] * 3, *[2] * 2, *[3] * 6, *[4] * 7],
    "mobilenet_v3_large": [0, *[1] * 3, *[2] * 3, *[3] * 6, *[4] * 4],
    "convnext_tiny": [0, *[1] * 3, *[2] * 4, *[3] * 10, *[4] * 4],
    "vit_b_16": list(range(13)),
}


def shared(encoder: Encoder, size: int = 64) -> SharedEncoder:
    return SharedEncoder(encoder, (size, size))


@pytest.mark.parametrize("large", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_parameter_of_the_core_s_networks_is_in_one_layer(subtests, large):
    """Layers are residual blocks (of a ViT: of attention), stages end with a feature map."""
    small = ("resnet18", "efficientnet_b0", "mobilenet_v3_large")
    nets = [net for net in NETS if net.name in STAGES and (net.name in small) != large]
    for encoder in [component("encoder", "resnet_small"), *(net() for net in nets)]:
        with subtests.test(name=type(encoder).__name__):
            built = shared(encoder)
            layers = layers_of(built, encoder, "", "")
            names = [name for layer in layers for name in layer.names]
            assert sorted(names) == sorted(name for name, _ in built.named_parameters())
            if encoder.name is not None:
                assert [layer.stage for layer in layers] == STAGES[encoder.name]


def test_layer_decay_of_timm_networks_equals_timm_s_own(subtests):
    timm = pytest.importorskip("timm")
    from timm.optim import param_groups_layer_decay

    for model in ("resnet10t", "tf_efficientnet_lite0", "vit_tiny_patch16_224", "convnext_atto"):
        with subtests.test(name=model):
            encoder = Timm(model)
            built = shared(encoder)
            mine = {name.removeprefix("net.net."): 1.0 for name, _ in built.named_parameters()}
            for below, layer in enumerate(reversed(layers_of(built, encoder, "", "")), 1):
                names = (name.removeprefix("net.net.") for name in layer.names)
                mine |= dict.fromkeys(names, 0.5**below)
            options = {"img_size": 64} if model.startswith("vit") else {}
            theirs = timm.create_model(model, **options)
            name_of = {id(p): name for name, p in theirs.named_parameters()}
            expected = {}
            for group in param_groups_layer_decay(theirs, layer_decay=0.5):
                names = (name_of[id(p)] for p in group["params"])
                expected |= dict.fromkeys(names, group["lr_scale"])
            assert mine == {name: expected[name] for name in mine}


def test_two_stages_of_a_torchvision_resnet_are_frozen_with_their_batchnorm():
    encoder = Resnet18()
    built = shared(encoder)
    freeze_encoder(built, encoder, 2)
    net = built.train().net.net
    assert {name.split(".")[2] for name, p in built.named_parameters() if not p.requires_grad} == {
        "conv1",
        "bn1",
        "layer1",
        "layer2",
    }
    norms = ("bn1", "layer1.0.bn1", "layer2.1.bn2", "layer3.0.bn1")
    assert [net.get_submodule(name).training for name in norms] == [False] * 3 + [True]


def test_frozen_blocks_of_an_efficientnet_are_not_dropped_at_random():
    """torchvision's stochastic depth skips blocks in train mode, and draws for each sample."""
    encoder = component("encoder", "efficientnet_b0")
    built = shared(encoder)
    freeze_encoder(built, encoder, 3)
    images = torch.rand(2, 3, 64, 64)
    fine, coarse = built.train()(images).maps[2:]
    again_fine, again_coarse = built(images).maps[2:]
    assert torch.equal(fine, again_fine)
    assert not torch.equal(coarse, again_coarse)


def test_options_reach_timm_s_network():
    pytest.importorskip("timm")
    net = Timm("vit_tiny_patch16_224", options={"dynamic_img_size": True, "img_size": 96})
    built = shared(net)
    assert built.net.net.pos_embed.shape[1] == 37  # of 96 px: 6 x 6 patches, and the class token
    assert built(torch.rand(1, 3, 32, 48)).maps[0].shape[-2:] == (2, 3)
    drops = Timm("resnet10t", options={"drop_path_rate": 0.2}).build((64, 64))
    assert any(type(m).__name__ == "DropPath" for m in drops.modules())


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("resnet10t", {"drop_path": 0.1}, "did you mean 'drop_path_rate'"),
        ("resnet10t", {"num_classes": 3}, "the heads are tables"),
        ("vit_tiny_patch16_224", {"img_size": 224}, "but input.size = 64"),
        ("vit_tiny_patch16_224", {"embed_dim": "x"}, r"options (embed_dim)"),
    ],
)
def test_options_that_timm_does_not_take_are_errors(model, options, message):
    pytest.importorskip("timm")
    with pytest.raises(MtlError) as raised:
        Timm(model, options=options).build((64, 64))
    assert message in str(raised.value)


def test_weights_of_another_network_say_how_many_tensors_fit(tmp_path: Path):
    own = Resnet18().build((64, 64)).state_dict()
    file = tmp_path / "net.pth"
    torch.save({f"x{n}": value for n, value in enumerate(own.values())}, file)
    with pytest.raises(MtlError) as raised:
        Resnet18(weights=str(file)).build((64, 64))
    text = str(raised.value)
    assert "0 fit by name and shape" in text


def test_renamed_weights_are_recognized_by_the_order_of_their_shapes(tmp_path: Path):
    own = Resnet18().build((64, 64)).state_dict()
    file = tmp_path / "net.pth"
    renamed = {
        name.replace("net.", "").replace("layer", "stage"): value
        for name, value in own.items()
        if "num_batches" not in name
    }
    renamed["_fc.weight"] = torch.zeros(10, 512)  # a classifier whose name is unknown here
    torch.save(renamed, file)
    with pytest.raises(MtlError) as raised:
        Resnet18(weights=str(file)).build((64, 64))
    text = str(raised.value)
    assert "Of its 100 tensors, 5 fit by name and shape, 100 by shape alone" in text
    assert "under other names (stage1.0.conv1.weight for layer1.0.conv1.weight)" in text


def test_a_folder_is_not_a_file_of_weights(tmp_path: Path):
    with pytest.raises(MtlError, match="is a folder; expected a file of weights"):
        Resnet18(weights=str(tmp_path)).build((64, 64))
    (tmp_path / "config.toml").write_text("seed = 0\n")
    with pytest.raises(MtlError, match="the folder of a run, which only an experiment reads"):
        Resnet18(weights=str(tmp_path)).build((64, 64))
