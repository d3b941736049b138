"""The image cache: the same images in memory and on demand; all unreadable ones are reported."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtlcore import MtlError, Sample
from mtlcore.data.cache import (
    CHUNK,
    MemoryImageCache,
    OnDemandImageCache,
    cache_size,
    memory_budget,
    open_images,
    usable_memory,
)


def image(index: int) -> Sample:
    """Sizes and colors that depend on the sample."""
    rng = np.random.default_rng(index)
    return Sample(rng.integers(0, 255, (10 + index % 7, 8 + index % 5, 3), dtype=np.uint8))


def some_unreadable(index: int) -> Sample:
    if index % 100 == 3:
        raise MtlError(f"sample {index} is broken")
    return image(index)


@given(indices=st.lists(st.integers(0, 39), max_size=30), size=st.integers(1, 20))
def test_images_on_demand_equal_those_in_memory(indices, size):
    chosen = np.array(indices, dtype=np.int64)
    in_memory, _ = open_images(image, 40, (size, size))
    on_demand, _ = open_images(image, 40, (size, size), memory=40 * 3 * size * size - 1)
    assert isinstance(in_memory, MemoryImageCache)
    assert isinstance(on_demand, OnDemandImageCache)
    assert in_memory.size == on_demand.size == (size, size)
    assert torch.equal(in_memory.take(chosen).images, on_demand.take(chosen).images)
    assert in_memory.take(chosen).images.shape == (len(indices), 3, size, size)
    assert in_memory.take(chosen).images.dtype == torch.uint8


def test_images_that_just_fit_are_cached_in_memory():
    assert isinstance(open_images(image, 40, (8, 8), memory=40 * 3 * 8 * 8)[0], MemoryImageCache)


def test_images_are_taken_by_index_channels_first():
    images, _ = open_images(
        lambda index: Sample(np.full((4, 4, 3), (index % 256, index // 256, 9), dtype=np.uint8)),
        700,
        (4, 4),
    )
    found = images.take(np.array([699, 0, 300])).images
    assert found[:, :, 2, 1].tolist() == [[187, 2, 9], [0, 0, 9], [44, 1, 9]]


def test_take_returns_a_copy():
    images, _ = open_images(image, 4, (8, 8))
    images.take(np.array([1])).images.zero_()
    assert images.take(np.array([1])).images.any()


def test_slow_images_are_decoded_by_several_threads_with_the_same_result(monkeypatch):
    monkeypatch.setattr("mtlcore.data.cache.WORTH_A_THREAD_S", 0.0)
    monkeypatch.setattr("mtlcore.data.cache.threads", lambda: 3)
    seen = set()

    def decode(index: int) -> Sample:
        seen.add(threading.current_thread().name)
        return some_unreadable(index)

    images, unreadable = open_images(decode, 5 * CHUNK, (8, 8))
    assert len(seen) > 1
    assert sorted(unreadable) == list(range(3, 5 * CHUNK, 100))
    monkeypatch.setattr("mtlcore.data.cache.WORTH_A_THREAD_S", 10.0)
    by_one_thread, _ = open_images(some_unreadable, 5 * CHUNK, (8, 8))
    everything = np.arange(5 * CHUNK)
    assert torch.equal(images.take(everything).images, by_one_thread.take(everything).images)


@pytest.mark.parametrize("memory", [None, 0])
def test_unreadable_samples_are_reported_with_their_reasons(memory):
    _, unreadable = open_images(some_unreadable, 250, (8, 8), memory=memory)
    assert unreadable == {
        3: "sample 3 is broken",
        103: "sample 103 is broken",
        203: "sample 203 is broken",
    }


@pytest.mark.parametrize("memory", [None, 0])
def test_an_array_that_is_no_image_is_unreadable(memory):
    def decode(index: int) -> Sample:
        return Sample(np.zeros((4, 4) if index == 2 else (4, 4, 3), dtype=np.uint8))

    _, unreadable = open_images(decode, 5, (8, 8), memory=memory)
    assert unreadable == {2: "an image must be (H, W, 3) uint8; got (4, 4) uint8"}


@pytest.mark.parametrize("memory", [None, 0])
def test_reading_stops_as_soon_as_the_check_raises(memory):
    decoded = []

    def decode(index: int) -> Sample:
        decoded.append(index)
        raise MtlError("broken")

    def check(unreadable):
        raise MtlError(f"{len(unreadable)} are too many")

    with pytest.raises(MtlError, match="128 are too many"):
        open_images(decode, 100 * CHUNK, (8, 8), check=check, memory=memory)
    assert len(decoded) == CHUNK


def test_an_image_that_breaks_after_opening_is_an_error():
    broken: set[int] = set()

    def decode(index: int) -> Sample:
        if index in broken:
            raise MtlError(f"sample {index} is broken")
        return image(index)

    images, unreadable = open_images(decode, 250, (8, 8), memory=0)
    assert not unreadable
    broken.add(103)
    images.take(np.array([1, 2, 4]))
    with pytest.raises(MtlError, match="sample 103 is broken"):
        images.take(np.array([1, 103, 4]))


def test_a_bug_in_a_dataset_does_not_count_as_an_unreadable_image():
    def decode(index: int) -> Sample:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        open_images(decode, 10, (8, 8))


@pytest.mark.parametrize(("memory", "activity"), [(None, "reading images"), (0, "checking images")])
def test_progress_rises_to_the_total(memory, activity):
    calls = []
    open_images(
        image,
        300,
        (4, 4),
        progress=lambda what, done, total: calls.append((what, done, total)),
        memory=memory,
    )
    assert [done for _, done, _ in calls] == [128, 256, 300]
    assert {(what, total) for what, _, total in calls} == {(activity, 300)}


@pytest.mark.parametrize(
    ("limit", "usable"), [("4194304\n", 1 << 22), ("max\n", None), ("9" * 19, None), (None, None)]
)
def test_a_container_has_at_most_the_memory_of_its_limit(limit, usable, tmp_path, monkeypatch):
    monkeypatch.setattr("mtlcore.data.cache.CGROUPS", tmp_path)
    monkeypatch.setattr("mtlcore.data.cache.OWN_CGROUPS", tmp_path / "own")
    expected = usable or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # Version 2 has one tree of groups, version 1 has one for each resource.
    for own, root, name in [
        ("0::/a/b\n", tmp_path, "memory.max"),
        ("3:cpu:/x\n2:memory:/a/b\n", tmp_path / "memory", "memory.limit_in_bytes"),
    ]:
        for group in (root / "a" / "b", root):  # its own limit, or that of a parent
            (tmp_path / "own").write_text(own)
            group.mkdir(parents=True, exist_ok=True)
            if limit is not None:
                (group / name).write_text(limit)
            assert usable_memory() == expected
            (group / name).unlink(missing_ok=True)


def test_processes_of_one_machine_share_half_of_its_memory(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert memory_budget() == usable_memory() // 2
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert memory_budget() == usable_memory() // 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory_budget() == usable_memory() // 8


@pytest.mark.parametrize(
    ("image_sizes", "size", "configured", "expected"),
    [
        ([48], 48, None, 48),  # never enlarged
        ([200], 64, None, 96),  # 1.5 x size
        ([200], 64, 80, 80),
        ([48], 64, 80, 48),
        ([48, 200], 64, None, 96),  # of mixed sizes, the largest decides
        ([48, 90], 64, None, 90),
    ],
)
def test_the_size_of_the_cached_images(image_sizes, size, configured, expected):
    def decode(index: int) -> Sample:
        height = image_sizes[index % len(image_sizes)]
        return Sample(np.zeros((height, height + 20, 3), dtype=np.uint8))

    side = None if configured is None else (configured, configured)
    assert cache_size(decode, 1001, (size, size), side) == (expected, expected)


def test_unreadable_images_do_not_affect_the_size():
    def decode(index: int) -> Sample:
        if index < 900:
            raise MtlError("broken")
        return Sample(np.zeros((40, 40, 3), dtype=np.uint8))

    assert cache_size(decode, 1000, (64, 64), None) == (40, 40)


def test_the_size_is_found_by_decoding_64_images():
    decoded_indices = []

    def decode(index: int) -> Sample:
        decoded_indices.append(index)
        return Sample(np.zeros((40, 40, 3), dtype=np.uint8))

    cache_size(decode, 10_000, (64, 64), None)
    assert len(decoded_indices) == 64
    assert decoded_indices[0] == 0
    assert decoded_indices[-1] == 9_999
