"""The sheet: raw images, what the encoder reads, the right answers, and a model's own."""

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
from toys import Jitter, Plain, RelativeLocation, Rotation, Toy, experiment, train_state

from mtlcore import MtlError, PretextTask
from mtlcore.config.experiment import DataEntry, Experiment, PretextEntry
from mtlcore.data.dataset import open_data
from mtlcore.evaluation.preview import TRIES, Strip, preview, sheet, some_images, strips
from mtlcore.runs import RunFolder
from mtlcore.train.step import train_step

SIAMESE = ((1.01, 1.14), (1.0, 1.0), (0.57, 0.99))


@frozen(eq=False)
class Noise(InMemory):
    """Images that differ everywhere."""

    def decode(self, index: Any, row: int) -> np.ndarray:
        return np.random.default_rng(row).integers(
            0, 256, (self.side, self.side, 3), dtype=np.uint8
        )


def looked_at(
    pretexts: dict[str, PretextTask], size: int = 24, tasks: tuple[str, ...] = (), **more: Any
) -> Experiment:
    exp = experiment(tasks, augment=more.pop("augment", Plain()), size=size, **more)
    data = {
        "made": DataEntry(
            Noise(40, labels=cycle("abcdefgh", 40), name_of_labels="emotion", side=size)
        )
    }
    return evolve(exp, pretexts={k: PretextEntry(t) for k, t in pretexts.items()}, data=data)


def images(n: int = 4, size: int = 24) -> torch.Tensor:
    return torch.randint(
        0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def by_label(found: list[Strip]) -> dict[str, torch.Tensor]:
    return {s.label.replace("\n", ": "): s.images for s in found}


def test_each_row_shows_what_its_label_says():
    raw = images()
    found = by_label(
        strips(
            looked_at({"puzzling": Puzzling(grid=2, scales=SIAMESE), "painting": Inpainting()}), raw
        )
    )
    names = list(found)
    assert names[:2] == ["raw: 24 px", "clean view: 24 px"]
    assert [n.split(",")[0] for n in names[2:5]] == [f"puzzling: view {i} of 3" for i in (1, 2, 3)]
    assert names[5:] == [
        "puzzling: the right answer to view 1",
        "painting: view 1 of 1, 24 px",
        "painting: the right answer",
    ]
    assert torch.equal(found["raw: 24 px"], raw / 255)
    assert torch.equal(found["clean view: 24 px"], raw / 255)
    assert torch.equal(found["painting: the right answer"], raw / 255)
    assert not torch.equal(found["painting: view 1 of 1, 24 px"], raw / 255)


@pytest.mark.parametrize(
    "task",
    [
        Puzzling(grid=2),
        Puzzling(grid=3, rotate=True),
        Puzzling(grid=2, head="spatial", shuffled=0.3),
    ],
)
def test_a_puzzle_rightly_answered_is_the_whole_image(task):
    raw = images(8)
    found = by_label(strips(looked_at({"puzzling": task}), raw))
    assert torch.equal(found["puzzling: the right answer"], raw / 255)


def test_the_clean_view_is_the_one_that_training_reads_cutout_included():
    exp = looked_at({"location": RelativeLocation()}, tasks=("fer",), augment=Jitter())
    found = by_label(strips(exp, images()))
    assert list(found) == [
        "raw: 24 px",
        "clean view: 24 px",
    ]  # a pretext that asks about it adds no row
    assert ((found["clean view: 24 px"] == 0.5).float().mean() > 0.05).item()


def test_a_pretext_that_draws_nothing_has_no_answer_row():
    assert [
        n.split(":")[0] for n in by_label(strips(looked_at({"turned": Rotation()}), images()))
    ] == [
        "raw",
        "clean view",
        "turned",
    ]


@given(st.integers(0, 2**31), st.sampled_from([2, 3]), st.booleans())
def test_a_drawn_answer_puts_each_tile_where_its_best_score_says(seed, grid, rotate):
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
                assert (here == 0.5).all()
                continue
            best = max(claims, key=lambda q: float(scores[n, place, 0, q]))
            back = -int(turns[n, :, 0, best].argmax()) if rotate else 0
            assert torch.equal(here, tile(view[n], best).rot90(back, (-2, -1)))


def test_a_wrong_answer_is_drawn_wrong():
    task, raw = Puzzling(grid=2), images() / 255
    order = torch.tensor([[1, 0, 3, 2]] * 4)
    puzzled = shuffle(order, None, raw)
    stays = 20.0 * torch.eye(4).expand(4, 4, 4)[:, :, None]  # "every tile is at home"
    assert torch.equal(task.draw(puzzled, {}, {"tile": stays}), puzzled)


# ---------------------------------------------------------------------------------------------------- of a run


def saved(exp: Experiment, folder, steps: int = 3):
    """A run folder with the weights of a few steps."""
    from toys import batch, prepared_batches

    eng = train_state(evolve(exp, data={}))
    for _ in range(steps):
        train_step(
            eng,
            prepared_batches(
                eng, [batch(size=24, tasks=tuple(exp.tasks), unlabeled=1 if exp.tasks else 6)]
            ),
        )
    run = RunFolder.create(folder, "", {})
    run.save("last", steps, eng.model.state_dict(), None, {})
    return eng


def test_a_runs_answers_are_those_of_its_saved_weights(tmp_path):
    exp = looked_at({"painting": Inpainting(), "puzzling": Puzzling(grid=2)}, tasks=("fer",))
    eng = saved(exp, tmp_path / "run")
    found = by_label(strips(exp, images(), tmp_path / "run"))
    assert [n for n in found if "model" in n] == [
        "painting: the model's answer",
        "puzzling: the model's answer",
    ]
    eng.model.eval()
    with torch.no_grad():
        answer = eng.model.heads["painting"](
            eng.model.encoder(found["painting: view 1 of 1, 24 px"])
        )
    hidden = (
        (found["painting: view 1 of 1, 24 px"] != found["clean view: 24 px"])
        .any(1, keepdim=True)
        .expand_as(answer)
    )
    restored = found["painting: the model's answer"]
    torch.testing.assert_close(restored[hidden], answer[hidden])
    assert torch.equal(restored[~hidden], found["clean view: 24 px"][~hidden])


def test_weights_of_another_configuration_are_refused(tmp_path):
    saved(looked_at({"puzzling": Puzzling(grid=2)}), tmp_path / "run")
    other = looked_at({"puzzling": Puzzling(grid=2)}, encoder=Toy(width=6))
    with pytest.raises(MtlError, match="weights of another configuration"):
        strips(other, images(), tmp_path / "run")


def test_a_preview_changes_nobodys_draws():
    before = torch.random.get_rng_state()
    strips(looked_at({"puzzling": Puzzling(grid=2)}), images())
    assert torch.equal(torch.random.get_rng_state(), before)


# ---------------------------------------------------------------------------------------------------- the sheet


@pytest.mark.parametrize(("size", "side"), [(24, 96), (36, 108), (48, 96), (112, 112)])
def test_small_images_are_enlarged_in_whole_blocks_to_at_least_96_pixels(size, side):
    raw = images(2, size) / 255
    made = sheet([Strip("raw", raw)], size)
    assert made.dtype == np.uint8
    assert made.shape[0] == side + 8
    cell = made[4 : 4 + side, -2 * (side + 4) - 4 :][:, :side]
    wanted = (
        (raw[0] * 255)
        .round()
        .byte()
        .repeat_interleave(side // size, 1)
        .repeat_interleave(side // size, 2)
    )
    assert np.array_equal(cell, wanted.permute(1, 2, 0).numpy())


def test_labels_stand_in_a_white_margin_that_holds_them_whole():
    made = sheet(
        [
            Strip("short", images(1) / 255),
            Strip("a much longer label\nof two lines", images(1) / 255),
        ],
        24,
    )
    margin = made[:, : made.shape[1] - 96 - 8]
    ink = (margin < 128).all(2)
    assert ink[:100].any()
    assert ink[104:].any()
    assert not ink[:, -2:].any()
    assert not ink[:, :2].any()


def test_the_preview_of_an_experiment_is_one_image_of_eight_columns():
    made = preview(looked_at({"puzzling": Puzzling(grid=2)}, tasks=("fer",)))
    assert made.dtype == np.uint8
    assert made.shape[0] == 4 * 100 + 4
    assert made.shape[1] > 8 * 100


def test_a_set_of_fewer_images_shows_them_all_once():
    exp = looked_at({"puzzling": Puzzling(grid=2)})
    exp = evolve(
        exp, data={"made": DataEntry(Noise(3, side=24))}, input=evolve(exp.input, validation=0.0)
    )
    assert preview(exp).shape[1] < 5 * 100 + 130


def previewed(n: int, bad: frozenset[int], columns: int) -> list[int]:
    """The rows that a preview of n images shows, told by their values."""
    exp = looked_at({}, tasks=("fer",), size=8)
    source = InMemory(
        n, labels=cycle("ab", n), name_of_labels="emotion", split=("train",) * n, bad=bad
    )
    exp = evolve(
        exp, data={"made": DataEntry(source, max_bad=0)}, input=evolve(exp.input, validation=0.0)
    )
    data = open_data(exp, {"train", "validation"}, lazy=True)
    return numbers_of(some_images(data, columns))


def test_the_next_image_stands_in_for_an_unreadable_one():
    assert previewed(400, frozenset(), 4) == [50, 150, 250, 350]
    assert previewed(400, frozenset([150, 151, 350]), 4) == [50, 152, 250, 351]


def test_a_column_is_left_out_where_no_near_image_can_be_read():
    assert previewed(4, frozenset([1, 3]), 4) == [0, 2]
    assert previewed(400, frozenset(range(150, 150 + TRIES)), 4) == [50, 250, 350]


def test_a_set_that_cannot_be_read_at_all_is_told_with_a_reason():
    with pytest.raises(
        MtlError, match=r"none of the images .* can be read: .* is no readable image: made so"
    ):
        previewed(100, frozenset(range(100)), 4)


def test_a_preview_shows_a_set_with_an_unreadable_image():
    exp = looked_at({}, tasks=("fer",), size=24)
    broken = InMemory(
        4, cycle("ab", 4), "emotion", split=("train",) * 4, side=24, bad=frozenset([2])
    )
    exp = evolve(
        exp, data={"made": DataEntry(broken, max_bad=0)}, input=evolve(exp.input, validation=0.0)
    )
    assert preview(exp, images=4).shape[1] < 4 * 100 + 130
