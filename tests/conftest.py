"""Shared fixtures: real images, two ranks, Hypothesis profiles, freed memory, an unshrunk kit."""

from __future__ import annotations

import ctypes
import gc
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None, max_examples=25)
settings.register_profile("ci", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MTLCORE_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
MUCH_MEMORY = 2_500_000_000  # bytes of one worker


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory):
    """Return a function: name -> the folder with the unpacked `<name>.tar` of the real images.

    It skips the test, with the reason, where the file is absent.
    """
    done: dict[str, Path] = {}

    def unpack(name: str) -> Path:
        tar = DATA / f"{name}.tar"
        if not tar.is_file():
            pytest.skip(
                f"real images absent: {tar} (set MTLCORE_TEST_DATA to the folder that holds them)"
            )
        if name not in done:
            done[name] = tmp_path_factory.mktemp(name)
            with tarfile.open(tar) as archive:
                archive.extractall(done[name], filter="data")
        return done[name]

    return unpack


@pytest.fixture(autouse=True)
def registered_classes_are_forgotten() -> Iterator[None]:
    """`mtlcore.register` in one test must not change what the next one finds."""
    from mtlcore.registry.catalog import catalog

    known = catalog()
    records, classes = known._records, known._classes
    yield
    known._records, known._classes = records, classes


@pytest.fixture(scope="session")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[..., None]], Any]:
    """Return a function that runs work(fabric, file) on two gloo processes and loads the file.

    The workers of pytest-xdist share the file: the first one that needs it makes it.
    """
    import torch
    from filelock import FileLock
    from lightning_fabric import Fabric

    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def launch(work: Callable[..., None]) -> Any:
        file = shared / f"{work.__module__}.pt"
        with FileLock(f"{file}.lock"):
            if not file.exists():
                partial = file.with_suffix(".partial")
                Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn").launch(work, partial)
                partial.rename(file)
        return torch.load(file, weights_only=True)

    return launch


@pytest.fixture
def unshrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kit reports the first example that fails, instead of the smallest one: it is faster."""
    from hypothesis import Phase

    # Not another list in its source: the draws of a test follow from a hash of that.
    unshrunk = SimpleNamespace(generate=Phase.generate, shrink=Phase.generate)
    monkeypatch.setattr("mtlcore.testing.examples.Phase", unshrunk)


@pytest.fixture(autouse=True, scope="module")
def _free_memory() -> Iterator[None]:
    """Free memory after a module, once a worker holds much of it.

    Truncated torchvision networks are in reference cycles, and training keeps freed pages. A
    worker would grow to gigabytes. Freeing takes half a second, and as much for the pages that the
    next test asks for again.
    """
    yield
    if _resident_bytes() < MUCH_MEMORY:
        return
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _resident_bytes() -> int:
    """The memory of this process, or its maximum where the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return MUCH_MEMORY
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
