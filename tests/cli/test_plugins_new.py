"""`mtl plugins new`: a plugin of each kind is created, built, installed, trained and tested."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import get_args

import hatchling.build
import pytest

from mtlcore.cli import main
from mtlcore.kinds import CheckedKind

KINDS = get_args(CheckedKind)
NAMES = {kind: f"zz_new_{kind}" for kind in KINDS}
CONFIG = """
[encoder]
name = "zz_new_encoder"
[task.corner]
name = "zz_new_task"
[pretext.zz_new_pretext]
[weighting]
name = "zz_new_weighting"
[data.zz_new_dataset]
images = 40
size = 16
[augment]
name = "zz_new_augmentation"
[optimizer]
name = "zz_new_optimizer"
[input]
size = 16
batch_size = 8
[schedule]
warmup = 0

[train]
steps = 2
"""
MTL = "import sys; from mtlcore.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a new plugin of each kind."""
    out = tmp_path_factory.mktemp("made")
    for kind, name in NAMES.items():
        assert main(["plugins", "new", name, "--kind", kind, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def wheels(made: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A wheel of each plugin, built by its own build backend."""
    out, here = tmp_path_factory.mktemp("wheels"), Path.cwd()
    found = []
    for name in NAMES.values():
        os.chdir(made / name)
        try:
            found.append(out / hatchling.build.build_wheel(str(out)))
        finally:
            os.chdir(here)
    return found


@pytest.fixture(scope="module")
def python(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a virtual environment with all the wheels and this one's packages."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    parent = sysconfig.get_path("purelib")
    # addsitedir() also reads the .pth files of the parent, such as that of an editable mtlcore.
    (site / "parent.pth").write_text(f"import site; site.addsitedir({parent!r})\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    install = ["install", "--no-deps", "--no-index", "--quiet", *map(str, wheels)]
    subprocess.run([*pip, *install], check=True, capture_output=True)
    return python


def run(python: Path, *words: str | Path, where: Path) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {
        "OMP_NUM_THREADS": "1"
    }
    return subprocess.run(
        [str(python), *map(str, words)],
        capture_output=True,
        text=True,
        env=env,
        cwd=where,
        check=False,
    )


def test_a_new_plugin_has_a_module_its_packaging_a_test_and_a_readme(made: Path) -> None:
    for kind, name in NAMES.items():
        files = {str(p.relative_to(made / name)) for p in (made / name).rglob("*") if p.is_file()}
        assert files == {f"{name}.py", "pyproject.toml", "README.md", "tests/test_conformance.py"}
        texts = "".join((made / name / file).read_text() for file in files)
        assert "plugin_" not in texts.replace("plugin_name", "plugin_")  # no placeholder is left
        assert f"mtlcore.testing.{kind}_conformance({name.title().replace('_', '')})" in texts
    assert not list(made.glob(".*"))


def test_a_wheel_has_the_module_and_its_entry_point(wheels: list[Path]) -> None:
    for name, wheel in zip(NAMES.values(), wheels):
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            [points] = [n for n in names if n.endswith("entry_points.txt")]
            assert archive.read(points).decode().split() == ["[mtlcore]", name, "=", name]
        assert [n for n in names if ".dist-info/" not in n] == [f"{name}.py"]


@pytest.mark.slow
def test_those_of_training_train_together(python: Path, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(CONFIG)
    done = run(python, "-c", MTL, "train", "run.toml", "--out", "run", where=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"finished": true' in (tmp_path / "run" / "run.json").read_text()
    log = (tmp_path / "run" / "metrics.jsonl").read_text()
    for metric in ("validation/corner/accuracy", "validation/zz_new_pretext/accuracy"):
        assert metric in log


@pytest.mark.slow
def test_their_own_tests_pass(python: Path, made: Path) -> None:
    folders = [f"{name}/tests" for name in NAMES.values()]
    done = run(
        python,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--import-mode=importlib",
        *folders,
        where=made,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "failed" not in done.stdout


@pytest.mark.slow
def test_its_own_tests_pass_before_it_is_installed(made: Path) -> None:
    done = run(
        Path(sys.executable),
        "-m",
        "pytest",
        "-rP",
        "-p",
        "no:cacheprovider",
        where=made / NAMES["weighting"],
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    # -rP prints the checks that did not run: two of them need an installed plugin.
    assert "no entry point and no plugin file provides this class" in done.stdout


def test_the_readme_of_a_detector_shows_the_command(made: Path) -> None:
    text = (made / NAMES["detector"] / "README.md").read_text()
    assert f"mtl predict RUN photos/ --detector {NAMES['detector']}" in text
    assert "configuration" not in text


def test_the_readme_names_the_plugin_and_no_key_of_the_template(
    made: Path, subtests: pytest.Subtests
) -> None:
    for kind in [kind for kind in KINDS if kind != "detector"]:
        with subtests.test(kind=kind):
            text = (made / NAMES[kind] / "README.md").read_text()
            [table] = re.findall(r"```toml\n(.*?)```", text, re.S)
            _heading, *keys = table.splitlines()
            assert all(line.startswith("name = ") for line in keys)
            assert NAMES[kind] in table
            assert "pip install --no-deps --editable ." in text


def test_a_new_plugin_works_as_a_plugin_file_before_it_is_installed(made: Path, capsys) -> None:
    name = NAMES["weighting"]
    words = [
        "plugins",
        "check",
        name,
        "--plugin",
        str(made / name / f"{name}.py"),
        "--examples",
        "2",
    ]
    assert main(words) == 0
    assert " 0 failed" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Mirror-Half", "expected lower-case letters, digits and _, such as 'mirror_half'"),
        ("3d", "expected lower-case letters"),
        ("class", "can't be a plugin's name"),
        ("x" * 51, "can't be a plugin's name"),
        (
            "../up",
            "can't be a plugin's name: expected lower-case letters, digits and _, such as 'up'",
        ),
        (
            "puzzling",
            "already provides the pretext 'puzzling': choose another name, such as 'my_puzzling'",
        ),
        ("keys", "can't be the label of a table"),
        ("get", "can't be the label of a table"),
        ("torch", "there is already a module 'torch'"),
        ("head", "its class Head would hide an imported one: choose 'my_head'"),
    ],
)
def test_a_name_that_cannot_be_used_is_an_error_with_a_better_one(
    name: str, message: str, tmp_path: Path, capsys
) -> None:
    assert main(["plugins", "new", name, "--kind", "pretext", "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.rglob("*")) == []


def test_an_existing_folder_is_left_alone(tmp_path: Path, capsys) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.py").write_text("x")
    assert main(["plugins", "new", "mine", "--kind", "task", "--out", str(tmp_path)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert [p.name for p in tmp_path.rglob("*")] == ["mine", "precious.py"]


def test_a_failed_write_leaves_nothing(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(
        Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    assert main(["plugins", "new", "mine", "--kind", "task", "--out", str(tmp_path)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
