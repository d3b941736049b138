"""Pretrained weights: files of torchvision and timm load, and what does not fit is an error."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from attrs import evolve
from safetensors.torch import save_file
from torchvision.models import get_model

from mtlcore.config import dump, parse
from mtlcore.config.resolve import resolve
from mtlcore.contracts import Encoder
from mtlcore.encoders import Timm
from mtlcore.encoders.resnet_small import ResnetSmall
from mtlcore.encoders.vision import ConvnextTiny, EfficientnetB0, MobilenetV3Large, Resnet18, VitB16
from mtlcore.encoders.weights import WeightsWarning
from mtlcore.errors import MtlError


def penultimate(net, layer, images):
    """Return the input of `layer`, the last linear layer, in a forward of torchvision's net."""
    seen = []
    layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        net.eval()(images)
    return seen[0]


def built(encoder: Encoder, size: int):
    return encoder.build((size, size)).eval()


@pytest.mark.parametrize(
    ("make", "last"),
    [
        (Resnet18, lambda net: net.fc),
        (MobilenetV3Large, lambda net: net.classifier[0]),
        (EfficientnetB0, lambda net: net.classifier[0]),
        pytest.param(ConvnextTiny, lambda net: net.classifier[2], marks=pytest.mark.slow),
        pytest.param(VitB16, lambda net: net.heads, marks=pytest.mark.slow),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_pooled_is_the_input_of_torchvisions_own_classifier(make, last, tmp_path: Path) -> None:
    options = {"image_size": 64} if make is VitB16 else {}
    theirs = get_model(make.name, weights=None, **options)
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        ours = built(make(weights=str(tmp_path / "net.pth")), 64)(images).pooled
    assert torch.allclose(ours, penultimate(theirs, last(theirs), images), atol=1e-4)


@pytest.fixture(scope="module")
def resnet18():
    torch.manual_seed(1)
    return get_model("resnet18", weights=None, num_classes=8)


def loads(path: Path, net) -> bool:
    mine = built(Resnet18(weights=str(path)), 32).net.state_dict()
    return all(torch.equal(value, net.state_dict()[key]) for key, value in mine.items())


def test_pth_safetensors_and_a_training_scripts_wrapper_all_load(resnet18, tmp_path: Path) -> None:
    """The file has another number of classes than ImageNet; its classifier is not used."""
    state = resnet18.state_dict()
    torch.save(state, tmp_path / "plain.pth")
    torch.save({"model": state, "epoch": 3}, tmp_path / "wrapped.pth")
    save_file(state, tmp_path / "net.safetensors")
    assert all(
        loads(tmp_path / name, resnet18) for name in ("plain.pth", "wrapped.pth", "net.safetensors")
    )


def test_a_file_without_classifier_or_batch_counters_loads(resnet18, tmp_path: Path) -> None:
    state = {
        k: v
        for k, v in resnet18.state_dict().items()
        if not k.startswith("fc.") and "num_batches" not in k
    }
    torch.save(state, tmp_path / "old.pth")
    assert loads(tmp_path / "old.pth", resnet18)


def test_the_error_lists_missing_unexpected_and_misshapen_tensors_five_of_each(
    resnet18, tmp_path: Path
) -> None:
    state = dict(resnet18.state_dict())
    for key in [k for k in state if k.startswith("layer4.1.")][:6]:
        del state[key]
    state |= {f"extra.{i}": torch.zeros(1) for i in range(7)}
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(MtlError) as error:
        Resnet18(weights=str(tmp_path / "wrong.pth")).build((32, 32))
    message = str(error.value)
    assert "resnet18" in message
    assert "missing: layer4.1.conv1.weight, layer4.1.bn1.weight" in message
    assert "7 unexpected: extra.0, extra.1, extra.2, extra.3, extra.4, ..." in message
    assert "1 of another shape: conv1.weight 64x1x7x7, not 64x3x7x7" in message


def test_a_file_with_all_tensors_and_a_further_one_names_that_one(resnet18, tmp_path: Path) -> None:
    torch.save(resnet18.state_dict() | {"projector.weight": torch.zeros(4)}, tmp_path / "more.pth")
    with pytest.raises(MtlError, match=r"1 unexpected: projector.weight.* 100 fit by name and"):
        Resnet18(weights=str(tmp_path / "more.pth")).build((32, 32))


def test_the_weights_of_another_network_are_refused(resnet18, tmp_path: Path) -> None:
    torch.save(resnet18.state_dict(), tmp_path / "resnet.pth")
    for other in (MobilenetV3Large, VitB16):
        with pytest.raises(MtlError, match=r"do not fit this network\. \d+ missing"):
            other(weights=str(tmp_path / "resnet.pth")).build((32, 32))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("garbage.pth", b"not a checkpoint", "can't be read as a file of tensors"),
        ("garbage.safetensors", b"not a checkpoint", "is not a safetensors file"),
        ("empty.pth", b"", "can't be read as a file of tensors"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(
    name: str, content: bytes, expected: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MtlError, match=expected):
        Resnet18(weights=str(tmp_path / name)).build((32, 32))


def test_a_pickled_network_is_refused_without_running_it(resnet18, tmp_path: Path) -> None:
    torch.save(resnet18, tmp_path / "module.pth")
    torch.save({"lr": 0.1}, tmp_path / "settings.pth")
    with pytest.raises(MtlError, match=r"it also holds a Python object .*ResNet") as error:
        Resnet18(weights=str(tmp_path / "module.pth")).build((32, 32))
    # torch's own message is colored, and advises to run the code in the file.
    assert "\x1b" not in str(error.value)
    assert "weights_only" not in str(error.value)
    with pytest.raises(MtlError, match="holds no network's state"):
        Resnet18(weights=str(tmp_path / "settings.pth")).build((32, 32))


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module._orig_mod.", "encoder.net."])
def test_the_prefix_of_a_training_script_is_removed_and_told(
    prefix: str, resnet18, tmp_path: Path
) -> None:
    state = {prefix + name: value for name, value in resnet18.state_dict().items()}
    torch.save({"state_dict": state | {"projector.0.weight": torch.zeros(2)}}, tmp_path / "net.pth")
    told = rf'tensors whose names begin with "{prefix}"; left out.*projector\.0\.weight'
    with pytest.warns(WeightsWarning, match=told):
        assert loads(tmp_path / "net.pth", resnet18)


def test_the_other_networks_of_a_file_are_offered_by_name(resnet18, tmp_path: Path) -> None:
    file, state = tmp_path / "net.pth", resnet18.state_dict()
    ema = {name: value + 1 for name, value in state.items()}
    more = {"optimizer": {"state": {}}, "args": argparse.Namespace(lr=0.1), "epoch": 3}
    torch.save({"state_dict": state, "state_dict_ema": ema, **more}, file)
    with pytest.warns(WeightsWarning, match=f'others: weights = "{file}#state_dict_ema"$'):
        assert loads(file, resnet18)
    mine = built(Resnet18(weights=f"{file}#state_dict_ema"), 32).net.state_dict()
    assert torch.equal(mine["conv1.weight"], ema["conv1.weight"])
    with pytest.raises(MtlError, match="no network named 'ema'; known: state_dict, state_dict_ema"):
        Resnet18(weights=f"{file}#ema").build((32, 32))
    torch.save({"state_dict_ema": ema}, file)
    with pytest.raises(MtlError, match=f'holds networks by name: set weights = "{file}#state_dict'):
        Resnet18(weights=str(file)).build((32, 32))


def test_a_file_in_the_spelling_of_the_other_library_says_which_encoder_reads_it(
    tmp_path: Path,
) -> None:
    timm = pytest.importorskip("timm", reason="timm is an extra: pip install 'mtlcore[timm]'")
    torch.save(timm.create_model("efficientnet_b0").state_dict(), tmp_path / "timm.pth")
    torch.save(get_model("efficientnet_b0", weights=None).state_dict(), tmp_path / "vision.pth")
    with pytest.raises(MtlError, match=r'as in timm: set encoder\.name = "timm:efficientnet_b0"'):
        EfficientnetB0(weights=str(tmp_path / "timm.pth")).build((32, 32))
    with pytest.raises(MtlError, match=r'as in torchvision: set encoder\.name = "efficientnet_b0"'):
        Timm("efficientnet_b0", weights=str(tmp_path / "vision.pth")).build((32, 32))


def test_a_file_in_the_spelling_of_the_authors_is_converted_by_timm(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is an extra: pip install 'mtlcore[timm]'")
    theirs = timm.create_model("convnext_atto").state_dict()
    authors = {}
    for name, value in theirs.items():
        spelled = name.replace("stem.", "downsample_layers.0.").replace("mlp.fc1", "pwconv1")
        spelled = re.sub(r"stages\.(\d)\.downsample", r"downsample_layers.\1", spelled)
        spelled = spelled.replace("mlp.fc2", "pwconv2").replace("conv_dw", "dwconv")
        authors[spelled.replace(".blocks.", ".").replace("head.norm", "norm")] = value
    torch.save(authors, tmp_path / "authors.pth")
    encoder = Timm("convnext_atto", weights=str(tmp_path / "authors.pth"))
    with pytest.warns(WeightsWarning, match="timm converted them"):
        mine = built(encoder, 32).net.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


def test_a_missing_file_and_a_misspelled_name_are_errors() -> None:
    with pytest.raises(
        MtlError, match=r'weights = "/nowhere/net.pth": no such file; expected "none", "imagenet"'
    ):
        Resnet18(weights="/nowhere/net.pth").build((32, 32))
    with pytest.raises(MtlError, match="did you mean 'imagenet'"):
        Resnet18(weights="imagenett").build((32, 32))


@pytest.mark.slow
def test_a_vits_position_embeddings_are_interpolated_to_the_runs_image_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = get_model("vit_b_16", weights=None, image_size=64).state_dict()
    torch.save(state, tmp_path / "vit.pth")
    mine = built(VitB16(weights=str(tmp_path / "vit.pth")), 32).net.state_dict()[
        "encoder.pos_embedding"
    ]
    assert mine.shape == (1, 1 + 4, 768)
    assert torch.equal(mine[:, 0], state["encoder.pos_embedding"][:, 0])


UNREACHABLE = {
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "HF_HUB_OFFLINE": "1",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", ["vision.Resnet18(weights='imagenet')", "Timm('resnet10t', weights='imagenet')"]
)
def test_unavailable_published_weights_stop_the_run_with_the_alternatives(
    make: str, tmp_path: Path
) -> None:
    """Runs in a process with empty caches and without network access."""
    if make.startswith("Timm"):
        pytest.importorskip("timm", reason="timm is an extra: pip install 'mtlcore[timm]'")
    code = (
        f"from mtlcore.encoders import Timm, vision\nfrom mtlcore.errors import MtlError\n"
        f"try: {make}.build((32, 32))\nexcept MtlError as error: print(error)"
    )
    caches = {"TORCH_HOME": str(tmp_path), "HF_HOME": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | caches | UNREACHABLE,
    )
    assert 'weights = "imagenet"' in found.stdout
    assert 'weights = "<file>"' in found.stdout


def test_published_weights_in_torchvisions_cache_are_used(
    resnet18, tmp_path: Path, monkeypatch
) -> None:
    """The test fills the cache: the hash in the file name is checked after a download only."""
    from torchvision.models import ResNet18_Weights

    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(resnet18.state_dict(), folder / ResNet18_Weights.DEFAULT.url.rpartition("/")[2])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    mine = built(Resnet18(weights="imagenet"), 32).net.state_dict()
    assert torch.equal(mine["conv1.weight"], resnet18.state_dict()["conv1.weight"])


def test_a_timm_file_loads_and_yields_timms_own_features(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is an extra: pip install 'mtlcore[timm]'")
    theirs = timm.create_model("resnet10t", num_classes=8).eval()
    save_file(theirs.state_dict(), tmp_path / "net.safetensors")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        ours = built(Timm("resnet10t", weights=str(tmp_path / "net.safetensors")), 32)(images)
        assert torch.allclose(theirs.fc(ours.pooled), theirs(images), atol=1e-5)
        assert torch.allclose(ours.maps[-1], theirs.forward_features(images), atol=1e-5)


def test_a_timm_vits_file_of_another_size_is_interpolated_and_a_foreign_file_refused(
    tmp_path: Path,
) -> None:
    timm = pytest.importorskip("timm", reason="timm is an extra: pip install 'mtlcore[timm]'")
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=64)
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    encoder = Timm("vit_tiny_patch16_224", weights=str(tmp_path / "vit.pth"))
    assert built(encoder, 32).net.state_dict()["pos_embed"].shape == (1, 1 + 4, 192)
    with pytest.warns(WeightsWarning, match="of 4 x 4 patches, and interpolated to 2 x 8"):
        wide = encoder.build((32, 128)).net
    wide_embedding = timm.layers.resample_abs_pos_embed(theirs.pos_embed, (2, 8), (4, 4))
    assert torch.equal(wide.pos_embed, wide_embedding)
    with pytest.raises(MtlError, match="timm:resnet10t: the weights do not fit this network"):
        Timm("resnet10t", weights=str(tmp_path / "vit.pth")).build((32, 32))


RUN_AS_WEIGHTS = """
[encoder]
name = "resnet18"
weights = "{weights}"
[task.fer]
emotions = 7
[data.synthfaces]
[train]
steps = 1
"""


def test_a_run_as_weights_brings_its_normalization(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    """It is saved as `train.init_from`, so the run needs the other one at its start alone."""
    run, small, member = (tmp_path / "runs" / name for name in ("a", "small", "timm"))
    encoders = (Resnet18(weights="imagenet"), ResnetSmall(), Timm("resnet10t"))
    for folder, encoder in zip((run, small, member), encoders, strict=True):
        folder.mkdir(parents=True)
        e = parse(tomllib.loads(RUN_AS_WEIGHTS.format(weights="none")))
        (folder / "config.toml").write_text(dump(evolve(e, encoder=encoder)))
    monkeypatch.chdir(tmp_path)
    tables = tomllib.loads(RUN_AS_WEIGHTS.format(weights="runs/a"))
    e = parse(tables)
    assert e.encoder == Resnet18(weights="imagenet")
    assert e.train.init_from == run
    assert parse(tomllib.loads(dump(e))) == e
    assert resolve(evolve(e, encoder=Resnet18(weights="runs/a"))) == e
    own = parse({**tables, "encoder": {"weights": "runs/small"}})  # without a key `weights`
    assert (own.encoder, own.train.init_from) == (ResnetSmall(), small)
    of_family = parse({**tables, "encoder": {"name": "timm:resnet10t", "weights": "runs/timm"}})
    assert (of_family.encoder, of_family.train.init_from) == (Timm("resnet10t"), member)

    wrong = {
        'the encoder of this run is "resnet_small", but encoder.name = "resnet18"': {
            "encoder": {"name": "resnet18", "weights": "runs/small"}
        },
        'the encoder of this run is "timm:resnet10t", but encoder.name = "timm:resnet18"': {
            "encoder": {"name": "timm:resnet18", "weights": "runs/timm"}
        },
        "are two runs: set one": {"train": {"steps": 1, "init_from": str(small)}},
        "no such file": {"encoder": {"name": "resnet18", "weights": "runs/b"}},
    }
    for message, table in wrong.items():
        with subtests.test(message), pytest.raises(MtlError, match=message):
            parse({**tables, **table}).encoder.build((32, 32))
