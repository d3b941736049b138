"""The reader of .mat files: equal to scipy's, and safe on files that crash scipy's."""

from __future__ import annotations

import io

import numpy as np
import pytest
from mtl_faces.sources._mat import arrays
from scipy.io import loadmat, savemat


def saved(compressed: bool, **values) -> bytes:
    out = io.BytesIO()
    savemat(out, values, do_compression=compressed)
    return out.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
def test_every_number_type_is_read_as_scipy_reads_it(compressed):
    for dtype in ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"):
        values = {
            "a": np.arange(12).reshape(3, 4).astype(dtype),
            "b": np.array([[5]], dtype),
            "c": np.zeros((2, 3, 2), dtype),
        }
        data = saved(compressed, before=np.ones((2, 2)), **values)
        found = arrays(data, set(values))
        by_scipy = loadmat(io.BytesIO(data))
        for name, value in values.items():
            np.testing.assert_array_equal(found[name], value, err_msg=f"{dtype} {name}")
            np.testing.assert_array_equal(found[name], by_scipy[name], err_msg=f"{dtype} {name}")


def test_other_content_is_none_and_absent_names_are_absent():
    values = {
        "text": "abc",
        "cell": np.array([[1], "x"], dtype=object),
        "record": {"a": 1},
        "n": np.ones((1, 2)),
    }
    for compressed in (False, True):
        found = arrays(saved(compressed, **values), {*values, "absent"})
        assert found.keys() == values.keys()
        assert (found["text"], found["cell"], found["record"]) == (None, None, None)


def test_a_type_code_that_does_not_exist_is_an_error():
    data = bytearray(saved(False, Pose_Para=np.zeros((1, 7), dtype=np.float32)))
    place = data.index(b"\x07\x00\x00\x00\x1c\x00\x00\x00")
    data[place + 1] = 62
    with pytest.raises(ValueError, match=r"an element that leaves the file|without numbers"):
        arrays(bytes(data), {"Pose_Para"})


def test_other_files_are_an_error():
    for data in (b"", b"x" * 500, b"\x89HDF\r\n\x1a\n" + b"\0" * 300):
        with pytest.raises(ValueError, match="not a MATLAB file of version 5"):
            arrays(data, {"a"})


def test_a_compression_bomb_is_cut_off():
    bomb = saved(True, a=np.zeros((1, 1 << 23)))
    assert len(bomb) < 1 << 17
    with pytest.raises(ValueError, match="leaves the file"):
        arrays(bomb, {"a"})


def test_the_real_files_are_read_as_scipy_reads_them(unpacked):
    files = sorted(unpacked("aflw2000_sample").rglob("*.mat"))
    files += sorted(unpacked("headpose").rglob("*.mat"))[::200]
    assert len(files) > 30
    for file in files:
        by_scipy = loadmat(file)
        expected = {name: by_scipy[name] for name in by_scipy if not name.startswith("__")}
        found = arrays(file.read_bytes(), set(expected))
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)
