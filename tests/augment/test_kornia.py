"""[augment] name = "kornia": the operations of kornia, held to kornia's own calls."""

from __future__ import annotations

import importlib
import json
import threading
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from kornia_cases import CASES
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mtlcore import MtlError
from mtlcore.augment.kornia_ops.augmentation import Kornia
from mtlcore.augment.kornia_ops.catalog import POLICIES, KorniaOp, catalog
from mtlcore.augment.kornia_ops.drawn import draw
from mtlcore.augment.levels import Strong
from mtlcore.cli import main
from mtlcore.config.component import component
from mtlcore.rng import KeyedRng
from mtlcore.testing import conformance

warnings.filterwarnings("ignore", module="kornia")

DOCS = Path(__file__).parents[2] / "docs"
SIDE = 40
USABLE = [name for name, cls in catalog().items() if not cls.refused and not cls.mixes]
MOVING = [name for name in USABLE if catalog()[name].moves != "not"]
SIZES = {"CenterCrop": (32, 32), "RandomCrop": (32, 32), "PadTo": (48, 48)}
"""Operation -> the size of views at which kornia needs no further scaling."""

DRAWS_NOTHING = ("CenterCrop", "PadTo")


def recipe(*ops: dict[str, object]) -> Kornia:
    made = component("augmentation", "kornia", ops=list(ops))
    assert isinstance(made, Kornia)
    return made


def one(name: str, **fields: object) -> Kornia:
    """Return a recipe of one operation, which is applied to a part of the images if it can be."""
    chosen = {} if name in SIZES else {"p": 0.7}
    if not any(argument.name == "p" for argument in catalog()[name].arguments):
        chosen = {}
    return recipe({"op": name, **CASES.get(name, {}), **chosen, **fields})


def smooth_images(samples: int = 6, seed: int = 0) -> Tensor:
    """Draw smooth images (B, 3, SIDE, SIDE) uint8 that leave room above and below."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(samples, 3, 7, 7, generator=generator)
    smooth = F.interpolate(small, size=(SIDE, SIDE), mode="bicubic").clamp(0, 1)
    return (smooth * 200 + 25).byte()


def size_of(name: str) -> tuple[int, int]:
    return SIZES.get(name, (SIDE, SIDE))


def rng(key: int = 0):
    return KeyedRng((key,))("view")


def by_kornia(op: KorniaOp, raw: Tensor, size: tuple[int, int], key: int) -> Tensor:
    """Return what kornia's own modules make of the images, with the same parameters."""
    images = raw.float() / 255
    with torch.no_grad():
        for drawn in draw(op, len(raw), (SIDE, SIDE), size, rng(key).generator):
            images = drawn.module(images, params=drawn.params)
    return images.clamp(0, 1)


# ------------------------------------------------------------------------------ the same as kornia


def test_each_operation_computes_what_kornias_own_call_does(subtests):
    for name in USABLE:
        with subtests.test(name):
            raw, changed = smooth_images(), False
            augmentation, views = one(name), []
            # AutoAugment chains two operations: its affine ones become one warp, kornia's do not.
            keys = (1,) if name == "AutoAugment" else (0, 1, 2)
            for key in keys:
                view = augmentation.view(raw, size_of(name), rng(key)).images
                expected = by_kornia(augmentation.ops[0], raw, size_of(name), key)
                torch.testing.assert_close(view, expected, atol=1e-5, rtol=0)
                views.append(view)
                changed |= view.shape != raw.shape or not torch.equal(view, raw.float() / 255)
            assert changed, "it has no effect"
            same = all(torch.equal(views[0], view) for view in views[1:])
            assert not same or name in (*DRAWS_NOTHING, "AutoAugment"), "it ignores the key"


def test_neighbors_that_are_affine_become_one_warp_by_the_product_of_kornias_matrices():
    crop = {"op": "RandomResizedCrop", "scale": [0.5, 0.9]}
    affine = {"op": "RandomAffine", "degrees": 20.0, "p": 1.0}
    augmentation = recipe(crop, {"op": "RandomHorizontalFlip"}, affine)
    raw, size = smooth_images(), (32, 32)
    view = augmentation.view(raw, size, rng())
    assert len(view.geometry.steps) == 1

    generator, frame = rng().generator, (SIDE, SIDE)
    points = 40 * torch.rand(len(raw), 3, 2)
    moved = points - 0.5  # kornia's points have (0, 0) at the center of the first pixel
    for op in augmentation.ops:
        (drawn,) = draw(op, len(raw), frame, size, generator)
        images = torch.zeros(len(raw), 3, *frame)
        matrix = drawn.module.get_transformation_matrix(images, drawn.params)
        moved = (torch.cat([moved, torch.ones(len(raw), 3, 1)], 2) @ matrix.mT)[..., :2]
        frame = size
    torch.testing.assert_close(view.geometry.points(points), moved + 0.5, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "ops",
    [
        [{"op": "RandomAffine", "degrees": [180.0, 180.0], "p": 1.0, "padding_mode": "fill"}],
        [
            {"op": "RandomRotation", "degrees": [0.0, 0.0], "p": 1.0},
            {"op": "RandomAffine", "degrees": [180.0, 180.0], "p": 1.0, "padding_mode": "border"},
        ],
        [
            {"op": "RandomRotation", "degrees": [0.0, 0.0], "p": 1.0, "resample": "nearest"},
            {"op": "CenterCrop", "size": 40},
        ],
    ],
)
def test_parameters_are_drawn_for_the_images_that_they_are_applied_to(ops):
    images = torch.zeros(2, 3, 80, 80, dtype=torch.uint8)
    images[..., 30:50, 30:50] = 255  # smaller after the view is scaled
    view = recipe(*ops).view(images, (40, 40), rng())
    middle = view.geometry.points(torch.full((2, 1, 2), 40.0))
    torch.testing.assert_close(middle, torch.full((2, 1, 2), 20.0), atol=1e-3, rtol=0)
    assert view.images[..., 18:22, 18:22].min() > 0.9


def test_strong_equals_its_twin_of_kornias_functions():
    from kornia.enhance import adjust_brightness, adjust_contrast
    from kornia.filters import gaussian_blur2d
    from kornia.geometry.transform import get_rotation_matrix2d, warp_affine

    raw, strong = smooth_images(16), Strong()
    view = strong.view(raw, (SIDE, SIDE), rng()).images

    draws = rng()
    flip, crop, turn, contrast, shift, std, blurred = draws.rand(7, len(raw))
    low, high = strong.crop
    zoom = 1 / (low + (high - low) * crop)
    center = torch.full((len(raw), 2), (SIDE - 1) / 2)
    turned = get_rotation_matrix2d(
        center, strong.turn_deg * (2 * turn - 1), zoom[:, None].expand(-1, 2)
    )
    mirror = torch.eye(3).repeat(len(raw), 1, 1)
    mirror[flip < strong.mirror, 0] = torch.tensor([-1.0, 0.0, SIDE - 1])
    images = warp_affine(
        raw.float() / 255,
        turned @ mirror,
        (SIDE, SIDE),
        padding_mode="reflection",
        align_corners=False,
    )
    low, high = strong.contrast
    images = adjust_contrast(images, low + (high - low) * contrast)
    images = adjust_brightness(images, strong.brightness * (2 * shift - 1))
    images = images + draws.randn(*images.shape) * (std * strong.noise)[:, None, None, None]
    sigma = torch.full((len(raw), 2), strong.blur_sigma_px)
    blurry = gaussian_blur2d(images, 3, sigma)
    images = torch.where((blurred < 0.5)[:, None, None, None], blurry, images).clamp(0, 1)
    torch.testing.assert_close(view, images, atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------------ random draws


def test_each_operation_draws_from_the_given_generator_alone(subtests):
    for name in USABLE:
        with subtests.test(name):
            augmentation, raw = one(name), smooth_images()
            before = torch.get_rng_state()
            view = augmentation.view(raw, size_of(name), rng()).images
            assert torch.equal(before, torch.get_rng_state())
            again = augmentation.view(raw, size_of(name), rng()).images
            assert torch.equal(view, again)

            others = torch.cat([raw[:1], smooth_images(seed=9)[1:]])
            beside_others = augmentation.view(others, size_of(name), rng()).images
            assert torch.equal(view[0], beside_others[0]), "it depends on its neighbors"


def test_draws_in_another_thread_do_not_disturb_the_global_generator():
    augmentation = one("RandAugment")
    done, failed = threading.Event(), []

    def draw_ahead() -> None:
        try:
            for key in range(20):
                augmentation.view(smooth_images(), (SIDE, SIDE), rng(key))
        except Exception as error:
            failed.append(error)
        done.set()

    torch.manual_seed(3)
    expected = [torch.rand(1).item() for _ in range(100)]
    torch.manual_seed(3)
    thread = threading.Thread(target=draw_ahead)
    thread.start()
    found = []
    while not (done.is_set() and len(found) >= len(expected)):
        if len(found) < len(expected):
            found.append(torch.rand(1).item())
    thread.join()
    assert not failed
    assert found == expected


# ------------------------------------------------------------------------------------- labels move


def spots(samples: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Return images with one bright spot each, masks of the spots (ids), and their centers."""
    generator = torch.Generator().manual_seed(1)
    center = 12 + 16 * torch.rand(samples, 2, generator=generator)
    axis = torch.arange(SIDE) + 0.5
    away_x = axis[None, None, :] - center[:, 0, None, None]
    away_y = axis[None, :, None] - center[:, 1, None, None]
    distance = (away_x**2 + away_y**2).sqrt()
    image = 255 * torch.exp(-((distance / 2.5) ** 2))
    raw = image[:, None].expand(-1, 3, -1, -1).round().byte().contiguous()
    ids = 2**40 + torch.arange(samples)
    mask = torch.where(distance < 3, ids[:, None, None], 0)
    return raw, mask, center


def test_a_marked_pixel_keeps_its_mask_and_its_point(subtests):
    raw, mask, center = spots()
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    coordinates = torch.stack([x, y]).repeat(len(raw), 1, 1, 1)
    # The colors of policies change the spot: their operations that move pixels are tested alone.
    cases = {name: one(name) for name in MOVING if name not in POLICIES}
    cases["all kinds together"] = recipe(
        {"op": "RandomHorizontalFlip"},
        {"op": "RandomPerspective", "distortion_scale": 0.3, "p": 1.0},
        {"op": "RandomElasticTransform", **CASES["RandomElasticTransform"], "p": 1.0},
        {"op": "RandomAffine", "degrees": 20.0, "fill_value": 0.0, "padding_mode": "fill"},
        {"op": "RandomRotation", "degrees": 20.0, "resample": "bicubic"},
        {"op": "RandomThinPlateSpline", "scale": 0.1},
        {"op": "CenterCrop", "size": 36, "p": 0.5},
    )
    for name, augmentation in cases.items():
        with subtests.test(name):
            size, seen = size_of(name), 0
            # Several stretches of a spot move its center of mass.
            most_px = 0.6 if name in MOVING else 1.2
            for key in range(3):
                view = augmentation.view(raw, size, rng(key))
                moved = view.geometry.points(center[:, None])[:, 0]
                followed = view.geometry.warp(mask)
                shown = _read(view.geometry.warp(coordinates, "bilinear"), moved)
                for i, (x, y) in enumerate(moved.tolist()):
                    # The spot must be complete: a cut one has another center of mass.
                    if not (7 < x < size[1] - 7 and 7 < y < size[0] - 7):
                        continue
                    seen += 1
                    assert _offset_px(view.images[i, 0], x, y) < most_px
                    assert (shown[i] - center[i]).norm() < 0.25
                    assert followed[i, int(y), int(x)] == mask.flatten(1).amax(1)[i]
            assert seen > 5


def _read(maps: Tensor, points: Tensor) -> Tensor:
    """Return (B, C): maps (B, C, h, w) at points (B, 2), by bilinear interpolation."""
    size = torch.tensor([maps.shape[-1], maps.shape[-2]])
    grid = (points * 2 / size - 1)[:, None, None]
    return F.grid_sample(maps, grid, align_corners=False)[:, :, 0, 0]


def _offset_px(image: Tensor, x: float, y: float) -> float:
    """Return how far the center of mass of the light lies from a point."""
    light = (image - 0.1).clamp_min(0)
    at_x = torch.arange(image.shape[1]) + 0.5
    at_y = torch.arange(image.shape[0]) + 0.5
    total = light.sum()
    mean_x = (light.sum(0) * at_x).sum() / total
    mean_y = (light.sum(1) * at_y).sum() / total
    return float(torch.hypot(mean_x - x, mean_y - y))


def test_maps_are_empty_where_a_warp_shows_nothing():
    augmentation = recipe({"op": "RandomTranslate", "translate_x": [0.5, 0.5], "p": 1.0})
    view = augmentation.view(torch.full((2, 3, 40, 40), 200, dtype=torch.uint8), (40, 40), rng())
    classes = view.geometry.warp(torch.full((2, 40, 40), 7))
    shown = view.images[:, 0] > 0.4
    assert 0.4 < shown.float().mean() < 0.6
    assert torch.equal(classes == 7, shown)
    assert torch.equal(classes == 0, ~shown)


def test_a_pose_has_no_share_where_an_elastic_operation_is_applied():
    head_pose = component("task", "headpose")
    raw = smooth_images()
    raw = torch.randint(0, 256, (8, 3, SIDE, SIDE), dtype=torch.uint8)
    elastic = one("RandomElasticTransform", p=0.5)
    rotation = torch.eye(3).expand(len(raw), 3, 3)
    geometry = elastic.view(raw, (SIDE, SIDE), rng()).geometry
    _, share = head_pose.move(rotation, geometry)
    changed = (elastic.view(raw, (SIDE, SIDE), rng()).images - raw.float() / 255).flatten(1)
    assert torch.equal(share == 0, changed.abs().amax(1) > 1e-4)
    assert 0 < share.sum() < len(raw)

    turned = recipe({"op": "RandomPerspective", "p": 1.0}).view(raw, (SIDE, SIDE), rng())
    _, share = head_pose.move(rotation, turned.geometry)
    assert torch.equal(share, torch.ones(len(raw)))


# ------------------------------------------------------------------------------------ after pretext


def test_an_operation_after_the_pretexts_runs_in_finish_and_only_there():
    augmentation = recipe(
        {"op": "RandomHorizontalFlip"}, {"op": "RandomErasing", "p": 1.0, "after_pretext": True}
    )
    raw = smooth_images()
    view = augmentation.view(raw, (SIDE, SIDE), rng())
    flips_only = recipe({"op": "RandomHorizontalFlip"}).view(raw, (SIDE, SIDE), rng())
    assert torch.equal(view.images, flips_only.images)
    before = view.images.clone()
    finished = augmentation.finish(view.images, rng(1))
    assert torch.equal(view.images, before)
    erased = (finished == 0).all(1).flatten(1).any(1)
    assert bool(erased.all())


# ---------------------------------------------------------------------------------------- mistakes


def test_a_mistake_in_the_list_names_its_place(subtests):
    for op, message in [
        ({"op": "ColorJigle"}, r"ops\[0\]\.op = 'ColorJigle': .*did you mean 'ColorJiggle'"),
        ({"p": 1.0}, r"ops\[0\]: the key 'op' is missing"),
        ({"op": "RandomErasing", "scales": [0, 1]}, r"scales: unknown key; did you mean 'scale'"),
        ({"op": "RandomErasing", "p": 2.0}, r"ops\[0\]\.p: .*<= 1"),
        ({"op": "RandomAffine"}, r"ops\[0\]\.degrees is missing: expected a number or a list of 2"),
        ({"op": "ColorJiggle", "hue": 0.9}, r"ops\[0\]: kornia refuses it: hue out of bounds"),
        ({"op": "Normalize", "mean": 0.5, "std": 0.5}, r"can't have Normalize: .*normalizes"),
        ({"op": "RandomCrop", "size": [9, 9], "padding_mode": "circular"}, r"circular"),
        ({"op": "RandomAffine", "degrees": 9.0, "after_pretext": True}, r"after_pretext: unknown"),
    ]:
        with subtests.test(op=op, message=message), pytest.raises(MtlError, match=message):
            recipe(op)


def test_an_empty_list_is_refused():
    with pytest.raises(MtlError, match=r"ops = \[\]: expected a list of operations"):
        recipe()


# -------------------------------------------------------------------------------------- conformance


CONFORMING = {
    "affine": [
        {"op": "RandomResizedCrop", "scale": [0.5, 1.0]},
        {"op": "RandomHorizontalFlip"},
        {"op": "RandomAffine", "degrees": 15.0, "padding_mode": "reflection"},
        {"op": "ColorJiggle", "brightness": 0.2, "hue": 0.05},
        {"op": "RandomErasing", "p": 0.3, "after_pretext": True},
    ],
    "policy": [{"op": "TrivialAugment"}],
    "solarized": [{"op": "RandomSolarize"}],
    "bent": [{"op": "RandomPerspective"}, {"op": "RandomElasticTransform"}, {"op": "RandomInvert"}],
}


def conforms(ops: list[dict[str, object]], examples: int) -> None:
    report = conformance("augmentation", "kornia", examples=examples, ops=ops).report()
    assert not report.of("failed", "blocked", "xfailed"), report.failures()


def test_a_list_conforms():
    conforms(CONFORMING["affine"], examples=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFORMING)
def test_each_kind_of_list_conforms(name):
    conforms(CONFORMING[name], examples=4)


# --------------------------------------------------------------------------------- no host syncs


class _Reads(TorchDispatchMode):
    """Counts reads of values on the device by the host, on the device "meta"."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            self.count += 1
            return 1
        return func(*args, **(kwargs or {}))


def test_crops_flips_warps_and_erasing_read_nothing_back_from_the_device():
    augmentation = recipe(
        {"op": "RandomResizedCrop", "scale": [0.5, 1.0]},
        {"op": "RandomHorizontalFlip"},
        {"op": "RandomAffine", "degrees": 15.0},
        {"op": "ColorJiggle", "brightness": 0.2, "hue": 0.1},
        {"op": "RandAugment", "n": 2, "m": 9},
        {"op": "RandomErasing", "p": 0.3},
    )
    with _Reads() as reads:
        view = augmentation.view(smooth_images().to("meta"), (SIDE, SIDE), rng())
    assert view.images.is_meta
    assert reads.count == 0


# ---------------------------------------------------------------------------------------- the docs


@pytest.mark.slow
def test_the_table_in_the_docs_says_what_each_operation_does(monkeypatch):
    """All but the measured cost, which is the last column."""
    monkeypatch.syspath_prepend(str(DOCS))
    make_kornia_ops = importlib.import_module("make_kornia_ops")
    page = (DOCS / "kornia_ops.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line[:1] == "|"][2:]
    for row, name in zip(rows, catalog(), strict=True):
        assert row.startswith(make_kornia_ops.facts(name)), name
    assert version("kornia") in page


def test_plugins_show_prints_the_fields_of_an_operation(capsys):
    assert main(["plugins", "show", "kornia:RandomErasing", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    keys = {key["name"]: (key["type"], key["default"]) for key in found["keys"]}
    assert keys["scale"] == ("a list of 2: a number, a number", "[0.02, 0.33]")
    assert keys["after_pretext"] == ("true or false", "false")
    assert 'ops = [{ op = "RandomErasing" }]' in found["example"]
