"""The sheet of a preview: raw images, views, targets, and the predictions of a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve, frozen
from hypothesis import given
from hypothesis import strategies as st
from mtl_pretexts.inpainting import Inpainting
from mtl_pretexts.puzzling import Puzzling, shuffle
from toy_datasets import InMemory, cycle, numbers_of
from toys import (
    Jitter,
    Plain,
    RelativeLocation,
    Rotation,
    Toy,
    counted,
    experiment,
    train_state,
)

from mtlcore import MtlError, PretextTask, Sample
from mtlcore.checkpoints import Contents
from mtlcore.config.experiment import DataEntry, Experiment, PretextEntry
from mtlcore.data.dataset import open_data
from mtlcore.evaluation.preview import TRIES, preview, some_images, strips
from mtlcore.evaluation.sheet import Strip, sheet
from mtlcore.runs import RunFolder
from mtlcore.training.step import train_step

SIAMESE = ((1.01, 1.14), (1.0, 1.0), (0.57, 0.99))


@frozen(eq=False)
class Noise(InMemory):
    """Images that differ everywhere."""

    def decode(self, index: Any, i: int) -> Sample:
        shape = (self.size, self.size, 3)
        return Sample(np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8))


def noise_experiment(
    pretexts: dict[str, PretextTask], size: int = 24, tasks: tuple[str, ...] = (), **more: Any
) -> Experiment:
    exp = experiment(tasks, augment=more.pop("augment", Plain()), size=size, **more)
    noise = Noise(40, labels=cycle("abcdefgh", 40), name_of_labels="emotion", size=size)
    entries = {label: PretextEntry(task) for label, task in pretexts.items()}
    return evolve(exp, pretexts=entries, data={"made": DataEntry(noise)})


def images(n: int = 4, size: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


def by_label(found: list[Strip]) -> dict[str, torch.Tensor]:
    return {s.label.replace("\n", ": "): s.images for s in found}


def test_each_strip_shows_what_its_label_names():
    raw = images()
    pretexts = {"puzzling": Puzzling(grid=2, scales=SIAMESE), "painting": Inpainting()}
    found = by_label(strips(noise_experiment(pretexts), raw))
    names = list(found)
    assert names[:2] == ["raw: 24 px", "clean view: 24 px"]
    assert [n.split(",")[0] for n in names[2:5]] == [f"puzzling: view {i} of 3" for i in (1, 2, 3)]
    assert names[5:] == [
        "puzzling: target, view 1",
        "painting: view 1 of 1, 24 px",
        "painting: target",
    ]
    assert torch.equal(found["raw: 24 px"], raw / 255)
    assert torch.equal(found["clean view: 24 px"], raw / 255)
    assert torch.equal(found["painting: target"], raw / 255)
    assert not torch.equal(found["painting: view 1 of 1, 24 px"], raw / 255)


@pytest.mark.parametrize(
    "task",
    [
        Puzzling(grid=2),
        Puzzling(grid=3, rotate=True),
        Puzzling(grid=2, head="spatial", shuffled=0.3),
    ],
)
def test_the_target_of_a_puzzle_is_the_whole_image(task):
    raw = images(8)
    found = by_label(strips(noise_experiment({"puzzling": task}), raw))
    assert torch.equal(found["puzzling: target"], raw / 255)


def test_the_clean_view_is_that_of_training_with_its_cutout():
    exp = noise_experiment({"location": RelativeLocation()}, tasks=("fer",), augment=Jitter())
    found = by_label(strips(exp, images()))
    # A pretext that reads the clean view adds no strip.
    assert list(found) == ["raw: 24 px", "clean view: 24 px"]
    assert ((found["clean view: 24 px"] == 0.5).float().mean() > 0.05).item()


def test_a_pretext_that_draws_nothing_has_no_strip_for_its_target():
    found = by_label(strips(noise_experiment({"turned": Rotation()}), images()))
    assert [name.split(":")[0] for name in found] == ["raw", "clean view", "turned"]


@given(st.integers(0, 2**31), st.sampled_from([2, 3]), st.booleans())
def test_a_drawn_prediction_puts_each_tile_at_its_best_score(seed, grid, rotate):
    g = torch.Generator().manual_seed(seed)
    p, task = grid**2, Puzzling(grid=grid, rotate=rotate)
    scores, turns = torch.rand(3, p, 1, p, generator=g), torch.rand(3, 4, 1, p, generator=g)
    view = torch.rand(3, 3, 4 * grid, 4 * grid, generator=g)
    drawn = task.draw(view, {}, {"tile": scores, "turn": turns})

    def tile(x: torch.Tensor, at: int) -> torch.Tensor:
        return x[:, at // grid * 4 : at // grid * 4 + 4, at % grid * 4 : at % grid * 4 + 4]

    for n in range(3):
        for place in range(p):
            claims = [q for q in range(p) if int(scores[n, :, 0, q].argmax()) == place]
            here = tile(drawn[n], place)
            if not claims:
                assert ((here == 0.75) | (here == 0.95)).all()  # stripes
                continue
            best = max(claims, key=lambda q: float(scores[n, place, 0, q]))
            back = -int(turns[n, :, 0, best].argmax()) if rotate else 0
            assert torch.equal(here, tile(view[n], best).rot90(back, (-2, -1)))


def test_a_wrong_prediction_is_drawn_wrong():
    task, raw = Puzzling(grid=2), images() / 255
    order = torch.tensor([[1, 0, 3, 2]] * 4)
    puzzled = shuffle(order, None, raw)
    stays = 20.0 * torch.eye(4).expand(4, 4, 4)[:, :, None]  # predicts that every tile is in place
    assert torch.equal(task.draw(puzzled, {}, {"tile": stays}), puzzled)


# ---------------------------------------------------------------------------- predictions of a run


def saved(exp: Experiment, folder, steps: int = 3):
    """A run folder with the weights of a few steps."""
    from toys import batch

    state = train_state(evolve(exp, data={}))
    unlabeled = 1 if exp.tasks else 6
    for _ in range(steps):
        images = batch(size=24, tasks=tuple(exp.tasks), unlabeled=unlabeled)
        train_step(state, counted([images]))
    run = RunFolder.create(folder, "", {})
    contents = Contents(
        run.provenance()["run"], steps, steps, "", state.model.state_dict(), None, {}
    )
    run.save("last", contents)
    return state


def test_the_predictions_of_a_run_are_those_of_its_saved_weights(tmp_path):
    exp = noise_experiment({"painting": Inpainting(), "puzzling": Puzzling(grid=2)}, tasks=("fer",))
    state = saved(exp, tmp_path / "run")
    found = by_label(strips(exp, images(), tmp_path / "run"))
    assert [n for n in found if "prediction" in n] == [
        "painting: prediction",
        "puzzling: prediction",
    ]
    state.model.eval()
    view, clean = found["painting: view 1 of 1, 24 px"], found["clean view: 24 px"]
    with torch.no_grad():
        output = state.model.heads["painting"](state.model.encoder(view))
    hidden = (view != clean).any(1, keepdim=True).expand_as(output)
    prediction = found["painting: prediction"]
    torch.testing.assert_close(prediction[hidden], output[hidden])
    assert torch.equal(prediction[~hidden], clean[~hidden])


def test_weights_of_another_configuration_are_refused(tmp_path):
    saved(noise_experiment({"puzzling": Puzzling(grid=2)}), tmp_path / "run")
    other = noise_experiment({"puzzling": Puzzling(grid=2)}, encoder=Toy(width=6))
    with pytest.raises(MtlError, match="weights do not fit this network"):
        strips(other, images(), tmp_path / "run")


def test_a_preview_does_not_touch_the_global_generator():
    before = torch.random.get_rng_state()
    strips(noise_experiment({"puzzling": Puzzling(grid=2)}), images())
    assert torch.equal(torch.random.get_rng_state(), before)


# ---------------------------------------------------------------------------- the sheet


@pytest.mark.parametrize(("size", "shown"), [(24, 96), (36, 108), (48, 96), (112, 112)])
def test_small_images_are_enlarged_in_whole_blocks_to_at_least_96_pixels(size, shown):
    raw = images(2, size) / 255
    made = sheet([Strip("raw", raw)], (size, size))
    assert made.dtype == np.uint8
    assert made.shape[0] == shown + 8
    cell = made[4 : 4 + shown, -2 * (shown + 4) - 4 :][:, :shown]
    pixels = (raw[0] * 255).round().byte()
    blocks = pixels.repeat_interleave(shown // size, 1).repeat_interleave(shown // size, 2)
    assert np.array_equal(cell, blocks.permute(1, 2, 0).numpy())


def test_labels_fit_into_a_white_margin():
    short = Strip("short", images(1) / 255)
    long = Strip("a much longer label\nof two lines", images(1) / 255)
    made = sheet([short, long], (24, 24))
    margin = made[:, : made.shape[1] - 96 - 8]
    ink = (margin < 128).all(2)
    assert ink[:100].any()
    assert ink[104:].any()
    assert not ink[:, -2:].any()
    assert not ink[:, :2].any()


def test_the_preview_of_an_experiment_has_eight_columns():
    made = preview(noise_experiment({"puzzling": Puzzling(grid=2)}, tasks=("fer",)))
    assert made.dtype == np.uint8
    assert made.shape[0] == 4 * 100 + 4
    assert made.shape[1] > 8 * 100


def test_a_dataset_of_fewer_images_shows_each_once():
    exp = noise_experiment({"puzzling": Puzzling(grid=2)})
    exp = evolve(
        exp, data={"made": DataEntry(Noise(3, size=24))}, input=evolve(exp.input, validation=0.0)
    )
    assert preview(exp).shape[1] < 5 * 100 + 130


def previewed(n: int, bad: frozenset[int], columns: int) -> list[int]:
    """The positions of the samples that a preview of n images shows."""
    labels, split = cycle("ab", n), ("train",) * n
    dataset = InMemory(n, labels=labels, name_of_labels="emotion", split=split, bad=bad)
    exp = noise_experiment({}, tasks=("fer",), size=8)
    exp = evolve(exp, data={"made": DataEntry(dataset, max_bad=0)})
    exp = evolve(exp, input=evolve(exp.input, validation=0.0))
    data = open_data(exp, {"train", "validation"}, lazy=True).data
    return numbers_of(some_images(data, columns))


def test_the_next_image_replaces_an_unreadable_one():
    assert previewed(400, frozenset(), 4) == [50, 150, 250, 350]
    assert previewed(400, frozenset([150, 151, 350]), 4) == [50, 152, 250, 351]


def test_a_column_is_left_out_if_no_near_image_can_be_read():
    assert previewed(4, frozenset([1, 3]), 4) == [0, 2]
    assert previewed(400, frozenset(range(150, 150 + TRIES)), 4) == [50, 250, 350]


def test_a_dataset_without_a_readable_image_is_an_error_with_a_reason():
    message = r"none of the images .* can be read: .* is not a readable image: made so"
    with pytest.raises(MtlError, match=message):
        previewed(100, frozenset(range(100)), 4)


def test_a_preview_shows_a_dataset_with_an_unreadable_image():
    labels, split, bad = cycle("ab", 4), ("train",) * 4, frozenset([2])
    broken = InMemory(4, labels, "emotion", split=split, size=24, bad=bad)
    exp = noise_experiment({}, tasks=("fer",), size=24)
    exp = evolve(exp, data={"made": DataEntry(broken, max_bad=0)})
    exp = evolve(exp, input=evolve(exp.input, validation=0.0))
    assert preview(exp, images=4).shape[1] < 4 * 100 + 130
