"""Lists of labels in any encoding, and label files that are no regular files."""

from __future__ import annotations

import os

import numpy as np
import pytest
from mtl_faces.sources._files import text_lines
from mtl_faces.sources._mat import read_mat
from mtl_faces.sources.affectnet import Affectnet
from mtl_faces.sources.biwi import Biwi, read_pose

from mtlcore import MtlError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_a_list_may_be_utf_8_or_utf_16(encoding, tmp_path):
    (tmp_path / "list.txt").write_bytes("é.jpg 1\nb.jpg 2\n".encode(encoding))
    assert text_lines("x", tmp_path / "list.txt") == ["é.jpg 1", "b.jpg 2"]


def test_names_in_other_bytes_stay_different_and_name_their_files(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.jpg 1\ncaf\xe8.jpg 2\n")
    lines = text_lines("x", tmp_path / "list.txt")
    assert [os.fsencode(line) for line in lines] == [b"caf\xe9.jpg 1", b"caf\xe8.jpg 2"]


@pytest.mark.timeout(20)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_label_files_that_are_pipes_are_refused_at_once(tmp_path):
    for name in ("a.mat", "a_pose.txt", "train_set/annotations/1_exp.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="an unreadable"):
        read_mat(tmp_path / "a.mat", "pt2d")
    with pytest.raises(ValueError, match="no readable pose file"):
        read_pose(tmp_path / "a_pose.txt")
    (tmp_path / "train_set" / "images").mkdir()
    (tmp_path / "train_set" / "images" / "1.jpg").write_bytes(b"")
    assert list(Affectnet(tmp_path).index().skipped.names) == ["an unreadable _exp.npy"]
    with (tmp_path / "b.npz").open("wb") as file:
        file.truncate(20_000_000_000)
    with pytest.raises(MtlError, match="expected at most"):
        Biwi(tmp_path / "b.npz").index()
    np.savez(tmp_path / "c.npz", image=np.zeros((2, 4, 4, 3), np.uint8), pose=np.zeros((2, 3)))
    assert len(Biwi(tmp_path / "c.npz").index()) == 2
