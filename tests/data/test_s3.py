"""A run trains from a real S3 server, which fails twice."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from mtlcore.cli import main
from mtlcore.data.packs import remote

CONFIG = """
[encoder]
name = "resnet_small"
width = 8
[task.kind]
name = "classification"
[data.own]
name = "image_folder"
annotation = "kind"
root = "{root}"
[input]
size = 16
batch_size = 16
[train]
steps = 12
"""


@pytest.fixture
def endpoint(monkeypatch):
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    pytest.importorskip("s3fs")
    import fsspec

    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    for name, value in {
        "ACCESS_KEY_ID": "x",
        "SECRET_ACCESS_KEY": "x",
        "ENDPOINT_URL": url,
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    system = fsspec.filesystem("s3")
    system.mkdir("packs")
    yield system
    server.stop()


def weights(run: Path) -> str:
    file = max(run.rglob("model.safetensors"))
    tensors = load_file(file)
    joined = b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))
    return hashlib.sha256(joined).hexdigest()


class Flaky:
    """The file system of S3, whose first two requests for a shard fail."""

    def __init__(self, system) -> None:
        self.system, self.requests = system, []

    def __getattr__(self, name):
        return getattr(self.system, name)

    def cat_file(self, path, **options):
        if path.endswith(".bin"):
            self.requests.append((path, options))
            if len(self.requests) < 3:
                raise ConnectionResetError("reset by peer")
        return self.system.cat_file(path, **options)


@pytest.mark.slow
def test_a_run_from_s3_survives_two_failures(endpoint, tmp_path, monkeypatch):
    for i in range(60):
        file = tmp_path / "photos" / ("cat", "dog")[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 24), (i, 4 * i, 255 - i)).save(file)
    config, out = tmp_path / "run.toml", tmp_path / "pack"
    config.write_text(CONFIG.format(root=tmp_path / "photos"))
    assert main(["data", "pack", "own", str(config), "--out", str(out), "--quality", "raw"]) == 0
    endpoint.put(f"{out}/", "packs/own", recursive=True)

    flaky = Flaky(endpoint)
    monkeypatch.setattr(remote, "_file_system", lambda url: (flaky, "packs/own"))
    monkeypatch.setattr(remote.RemoteFiles.__init__, "__defaults__", ((0.1, 0.1),))
    packed = config.with_name("packed.toml")
    text = CONFIG.replace('annotation = "kind"\n', f'cache_dir = "{tmp_path / "cache"}"\n')
    packed.write_text(text.replace("image_folder", "packed").format(root="s3://packs/own"))
    assert main(["train", str(config), "--out", str(tmp_path / "source")]) == 0
    assert main(["train", str(packed), "--out", str(tmp_path / "remote")]) == 0
    assert len(flaky.requests) == 3
    assert weights(tmp_path / "source") == weights(tmp_path / "remote")
