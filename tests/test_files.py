"""Files that a user names: only regular ones up to a stated size are opened."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mtlcore import MtlError, load_run, read_image
from mtlcore.cli import main
from mtlcore.cli._png import require_png
from mtlcore.config import load
from mtlcore.data.csv_table import Csv
from mtlcore.data.folder import ImageFolder
from mtlcore.files import read_file, refuse_existing, text_encoding, write_atomically
from mtlcore.registry.plugin_file import PluginFile
from mtlcore.runs import RunFolder

READERS = {
    "image.png": read_image,
    "table.csv": lambda path: Csv(path).index(),
    "plugin.py": PluginFile.read,
    "run.toml": load,
}


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(20_000_000_000)


@pytest.mark.timeout(20)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("make", [pipe, endless, sparse])
@pytest.mark.parametrize("name", READERS)
def test_a_pipe_a_device_and_a_huge_file_are_refused_at_once(name, make, tmp_path):
    make(tmp_path / name)
    reason = "expected at most" if make is sparse else "expected a (regular|Python) file"
    with pytest.raises(MtlError, match=reason):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize(
    "use",
    [
        load_run,
        lambda path: RunFolder.refuse_existing(path),
        lambda path: refuse_existing(path / "model.onnx"),
        lambda path: ImageFolder(path).index(),
        lambda path: require_png("--out", path / "sheet.png"),
    ],
    ids=["run", "new run", "export", "data", "image"],
)
def test_a_name_that_is_too_long_is_one_message(use, tmp_path):
    with pytest.raises(MtlError, match="File name too long"):
        use(tmp_path / ("x" * 300))


def test_a_deleted_working_directory_is_one_message(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    assert main(["plugins"]) == 2
    assert "mtl: can't read the working directory" in capfd.readouterr().err


def test_a_link_to_a_regular_file_is_followed(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_file(tmp_path / "b", 3) == b"abc"
    with pytest.raises(OSError, match=r"3 bytes; expected at most 2"):
        read_file(tmp_path / "b", 2)
    with pytest.raises(OSError, match="null character"):
        read_file("a\0b")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_configuration_may_have_a_byte_order_mark_or_be_utf_16(encoding, tmp_path):
    text = 'seed = 3  # é\n[task.fer]\n[data.d]\nname = "synthfaces"\n[train]\nsteps = 1\n'
    (tmp_path / "run.toml").write_bytes(text.encode(encoding))
    assert load(tmp_path / "run.toml").seed == 3


def test_text_with_few_null_bytes_and_no_text_are_utf_8():
    assert text_encoding(b"") == text_encoding(b"path,a\n1.png,b\0c\n" * 9) == "utf-8"


def test_several_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    file = tmp_path / "table.md"
    texts = [str(i).encode() * 5000 for i in range(8)]

    def write(text: bytes) -> None:
        for _ in range(10):
            write_atomically(file, text)
            assert file.read_bytes() in texts

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, texts))
    assert list(tmp_path.iterdir()) == [file]
