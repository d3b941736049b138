"""The two arms of the demo: they differ in their pretext tasks alone."""

from __future__ import annotations

from mtl_faces.emotion import mtl_examples

from mtlcore.callbacks.progress import SilentReporter
from mtlcore.config import load
from mtlcore.demo import arms, next_folder, run_arm


def test_both_arms_train_and_report_every_metric(tmp_path) -> None:
    small = [
        "data.synthfaces.train=32",
        "data.synthfaces.test=16",
        "train.steps=2",
        "input.batch_size=8",
    ]
    both = arms(load(mtl_examples()["demo"], small))
    assert not both["SL"].pretexts
    done = [
        run_arm(name, experiment, tmp_path, SilentReporter()) for name, experiment in both.items()
    ]
    assert set(done[0].test) == set(done[1].test)
    assert {name.partition("/")[0] for name in done[0].test} == {"fer", "pose", "gender"}
    assert {name.partition("/")[0] for name in done[1].pretexts} == {"puzzling", "inpainting"}
    assert done[0].pretexts == {}


def test_the_next_folder_is_the_first_free_one(tmp_path) -> None:
    (tmp_path / "demo-1").mkdir()
    assert next_folder(tmp_path) == tmp_path / "demo-2"
