"""The example of a dataset in one file."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from mtlcore import MtlError

FILE = Path(__file__).resolve().parents[1] / "examples" / "digits_source.py"


@pytest.fixture
def plugin():
    spec = importlib.util.spec_from_file_location("digits_source_under_test", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_returns_the_digits_of_scikit_learn_by_name(plugin):
    dataset = plugin.Digits()
    index = dataset.index()
    assert len(index) == 1797
    assert index.annotations["digit"][:10].tolist() == list("0123456789")
    image = dataset.decode(index, 0).image
    assert (image.shape, str(image.dtype)) == ((8, 8, 3), "uint8")
    assert int(image.max()) == 239  # 15 of 16


def test_without_scikit_learn_the_error_names_what_to_install(plugin, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MtlError, match="pip install scikit-learn"):
        plugin.Digits().index()
