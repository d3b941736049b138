"""`mtl plugins new`: one plugin of each kind is generated, built, installed, trained with, and tested by its own tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import hatchling.build
import pytest

from mtlcore.cli import main

KINDS = ("pretext", "task", "encoder", "weighting", "dataset", "augmentation")
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
side = 16
[augment]
name = "zz_new_augmentation"
[input]
size = 16
batch_size = 8
[schedule]
warmup = 0

[train]
steps = 2
tensorboard = false
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
    """Each built as a wheel by its own build backend."""
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
    """The interpreter of a virtual environment that sees this one's packages, with all six wheels installed."""
    place = tmp_path_factory.mktemp("venv")
    venv.create(place, with_pip=False, symlinks=True)
    python = place / "bin" / "python"
    (site,) = place.glob("lib/python*/site-packages")
    parent = sysconfig.get_path("purelib")
    (site / "parent.pth").write_text(
        f"import site; site.addsitedir({parent!r})\n"
    )  # its own .pth files are read too
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--no-deps",
        "--no-index",
        "--quiet",
    ]
    subprocess.run([*command, *map(str, wheels)], check=True, capture_output=True)
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


def test_a_new_plugin_is_a_module_its_packaging_a_test_and_a_readme(made: Path) -> None:
    for kind, name in NAMES.items():
        files = {str(p.relative_to(made / name)) for p in (made / name).rglob("*") if p.is_file()}
        assert files == {f"{name}.py", "pyproject.toml", "README.md", "tests/test_conformance.py"}
        texts = "".join((made / name / file).read_text() for file in files)
        assert "plugin_" not in texts.replace("plugin_name", "plugin_")  # no placeholder is left
        assert f"mtlcore.testing.{kind}_conformance({name.title().replace('_', '')})" in texts
    assert not list(made.glob(".*"))


def test_a_wheel_holds_the_module_and_the_one_line_that_names_it(wheels: list[Path]) -> None:
    for name, wheel in zip(NAMES.values(), wheels):
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            [points] = [n for n in names if n.endswith("entry_points.txt")]
            assert archive.read(points).decode().split() == ["[mtlcore]", name, "=", name]
        assert [n for n in names if ".dist-info/" not in n] == [f"{name}.py"]


@pytest.mark.slow
def test_all_six_train_together(python: Path, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(CONFIG)
    told = run(python, "-c", MTL, "train", "run.toml", "--out", "run", where=tmp_path)
    assert told.returncode == 0, told.stdout + told.stderr
    assert '"finished": true' in (tmp_path / "run" / "run.json").read_text()
    log = (tmp_path / "run" / "metrics.jsonl").read_text()
    for figure in ("validation/corner/accuracy", "validation/zz_new_pretext/accuracy"):
        assert figure in log


@pytest.mark.slow
def test_the_tests_that_they_bring_pass(python: Path, made: Path) -> None:
    folders = [f"{name}/tests" for name in NAMES.values()]
    told = run(
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
    assert told.returncode == 0, told.stdout[-5000:] + told.stderr[-2000:]
    assert " passed" in told.stdout
    assert "failed" not in told.stdout


@pytest.mark.slow
def test_the_tests_that_it_brings_pass_before_it_is_installed(made: Path) -> None:
    told = run(
        Path(sys.executable),
        "-m",
        "pytest",
        "-rs",
        "-p",
        "no:cacheprovider",
        where=made / NAMES["weighting"],
    )
    assert told.returncode == 0, told.stdout[-5000:] + told.stderr[-2000:]
    assert " passed" in told.stdout
    assert "a class that no entry point and no plugin file gives" in told.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_the_readme_names_the_plugin_and_no_key_of_the_template(made: Path, kind: str) -> None:
    text = (made / NAMES[kind] / "README.md").read_text()
    [table] = re.findall(r"```toml\n(.*?)```", text, re.S)
    assert {line.partition(" = ")[0] for line in table.splitlines()} <= {
        "name",
        table.splitlines()[0],
    }
    assert NAMES[kind] in table
    assert "pip install --no-deps --editable ." in text


def test_a_new_plugin_is_usable_as_a_single_file_before_it_is_installed(made: Path, capsys) -> None:
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
    ("name", "told"),
    [
        ("Mirror-Half", "expected lower-case letters, digits and _, such as 'mirror_half'"),
        ("3d", "expected lower-case letters"),
        ("class", "can't be a plugin's name"),
        ("x" * 51, "can't be a plugin's name"),
        (
            "../up",
            "can't be a plugin's name: expected lower-case letters, digits and _, such as 'up'",
        ),
        ("puzzling", "the pretext 'puzzling' is given by mtlcore"),
        ("keys", "can't be the label of a table"),
        ("torch", "there is a module 'torch' already"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_with_a_better_one(
    name: str, told: str, tmp_path: Path, capsys
) -> None:
    assert main(["plugins", "new", name, "--kind", "pretext", "--out", str(tmp_path)]) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.rglob("*")) == []


def test_an_existing_folder_is_left_alone(tmp_path: Path, capsys) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.py").write_text("x")
    assert main(["plugins", "new", "mine", "--kind", "task", "--out", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert [p.name for p in tmp_path.rglob("*")] == ["mine", "precious.py"]


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(
        Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    assert main(["plugins", "new", "mine", "--kind", "task", "--out", str(tmp_path)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
