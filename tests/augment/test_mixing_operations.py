"""mixup, cutmix and kornia's own operations that mix: compared with kornia for the same draws."""

from __future__ import annotations

import pytest
import torch

from mtlcore import MtlError, View
from mtlcore.augment import General, Kornia
from mtlcore.augment.kornia_ops.catalog import KorniaOp
from mtlcore.augment.kornia_ops.drawn import draw
from mtlcore.augment.kornia_ops.general import recipe
from mtlcore.augment.kornia_ops.mixing import mixed
from mtlcore.config import load
from mtlcore.rng import KeyedRng

OPERATIONS = {
    "mixup": [{}, {"alpha": 1.0, "p": 0.5}],
    "cutmix": [{}, {"alpha": 0.3, "p": 0.5}],
    "RandomMixUpV2": [{}, {"lambda_val": (0.2, 0.4)}, {"p": 0.0}],
    "RandomCutMixV2": [{}, {"beta": 0.3, "cut_size": (0.1, 0.6)}, {"p": 0.0}],
}
SIZE = (24, 32)


def operation(name, **fields):
    return KorniaOp.variants()[name](**fields)


def drawn(op, samples=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    (found,) = draw(op, samples, SIZE, SIZE, generator)
    return found


def raw(samples=16):
    return torch.randint(0, 256, (samples, 3, *SIZE), dtype=torch.uint8)


def shares(name, samples=4000, **fields):
    view = View(torch.zeros(samples, 3, *SIZE))
    return mixed(view, drawn(operation(name, **fields), samples)).mixed.share


def test_images_are_those_of_kornia_for_the_same_parameters(subtests):
    images = torch.rand(16, 3, *SIZE)
    for name, settings in OPERATIONS.items():
        for fields in settings:
            with subtests.test(name, **fields):
                found = drawn(operation(name, **fields))
                view = mixed(View(images), found)
                expected = found.module(images, params=found.params)
                torch.testing.assert_close(view.images, expected, atol=1e-5, rtol=0)
                assert bool((view.images != images).any()) == (fields != {"p": 0.0})


def test_shares_of_cutmix_are_those_of_the_visible_pixels():
    images = torch.arange(16.0)[:, None, None, None].expand(16, 3, *SIZE)
    view = mixed(View(images), drawn(operation("cutmix")))
    own = (view.images[:, 0] == images[:, 0]).float().mean((1, 2))
    moved = view.mixed.partner != torch.arange(16)
    torch.testing.assert_close(view.mixed.share[moved], own[moved])


@pytest.mark.parametrize(("name", "atol"), [("mixup", 0.01), ("cutmix", 0.02)])
def test_shares_have_the_moments_of_their_beta_distribution(name, atol):
    """Mean 1/2, variance 1 / (4 (2 alpha + 1)); whole pixels make the boxes of cutmix smaller."""
    for alpha in (0.2, 1.0, 5.0):
        found = shares(name, alpha=alpha)
        assert float(found.mean()) == pytest.approx(0.5, abs=0.02 + 2 * atol)
        assert float(found.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=atol)


def test_p_is_the_share_of_samples_that_are_mixed():
    for name in ("mixup", "cutmix"):
        unmixed = (shares(name, alpha=5.0, p=0.3) == 1).float().mean()
        assert float(unmixed) == pytest.approx(0.7, abs=0.03)


def test_the_same_generator_mixes_alike_and_leaves_the_global_one_alone():
    images = raw()
    for name in OPERATIONS:
        kornia = Kornia(ops=(operation("RandomHorizontalFlip"), operation(name)))
        state = torch.get_rng_state()
        one = kornia.view(images, SIZE, KeyedRng((1,))("view"))
        torch.manual_seed(7)
        other = kornia.view(images, SIZE, KeyedRng((1,))("view"))
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.mixed.partner, other.mixed.partner)
        assert torch.equal(one.mixed.share, other.mixed.share)
        third = kornia.view(images, SIZE, KeyedRng((2,))("view"))
        assert not torch.equal(one.images, third.images)
        torch.set_rng_state(state)
        kornia.view(images, SIZE, KeyedRng((1,))("view"))
        assert torch.equal(torch.get_rng_state(), state)


CONFIG = """
[task.fer]

[data.fer2013]
root = "fer2013"

[augment]
name = "kornia"
ops = [{ops}]

[train]
steps = 1
"""


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        (
            '{ op = "mixup" }, { op = "RandomHorizontalFlip" }',
            "mixup mixes samples, and RandomHorizontalFlip follows it: move mixup to the end",
        ),
        ('{ op = "mixup" }, { op = "cutmix" }', "mix samples 2 times (mixup, cutmix): keep one"),
        ('{ op = "mixup", alpha = 0.0 }', "alpha = 0.0: expected more than 0"),
        ('{ op = "mixupp" }', "mixup"),
        ('{ op = "RandomCutMixV2", num_mix = 2 }', "num_mix"),
    ],
)
def test_a_list_that_mixes_wrong_is_refused(ops, message, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(CONFIG.replace("{ops}", ops))
    with pytest.raises(MtlError) as caught:
        load(path)
    assert message in str(caught.value)


def test_erasing_may_follow_a_mix(tmp_path):
    path = tmp_path / "run.toml"
    ops = '{ op = "mixup" }, { op = "RandomErasing", after_pretext = true }'
    path.write_text(CONFIG.replace("{ops}", ops))
    assert load(path).augment.mixes


# ------------------------------------------------------------ general


def test_general_is_its_list_of_operations():
    images = raw()
    for mix in ("none", "mixup", "cutmix"):
        general = General(mix=mix, erase=1.0)
        kornia = recipe(general)
        one = general.view(images, SIZE, KeyedRng((1,))("view"))
        other = kornia.view(images, SIZE, KeyedRng((1,))("view"))
        assert torch.equal(one.images, other.images)
        assert (one.mixed is not None) == general.mixes == kornia.mixes
        finished = general.finish(one.images, KeyedRng((1,))("finish"))
        hidden = (finished == 0.5).all(1).float().mean((1, 2))
        assert bool((hidden > 0.01).all())


def test_general_shows_the_area_that_crop_says_and_mirrors_as_often_as_mirror_says():
    general = General(crop=(0.25, 0.25), mirror=0.25, policy="none", erase=0.0)
    view = general.view(raw(400), SIZE, KeyedRng((0,))("view"))
    area = 1 / torch.linalg.det(view.geometry.matrix[:, :2, :2])
    assert float(area.abs().median()) == pytest.approx(0.25, abs=0.02)
    assert float((area < 0).float().mean()) == pytest.approx(0.25, abs=0.07)
