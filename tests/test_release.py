"""The wheel, installed into a fresh environment outside the checkout: what a user gets."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def run(*words: object, where: Path) -> str:
    """Run a command; fail with its output where it fails."""
    command = [str(word) for word in words]
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment that holds the wheel, and nothing of this checkout."""
    folder = tmp_path_factory.mktemp("release")
    build = f"from hatchling.build import build_wheel; build_wheel({str(folder)!r})"
    run(sys.executable, "-c", build, where=REPOSITORY)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=True)
    binaries = folder / "venv" / "bin"
    run(binaries / "python", "-m", "pip", "install", "--quiet", "uv", where=folder)
    target = ("--python", binaries / "python")
    run(binaries / "uv", "pip", "install", "--quiet", *target, f"{wheel}[testing]", where=folder)
    return binaries


def test_the_package_is_imported_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = "import mtlcore; print(mtlcore.__file__); mtlcore.PretextTask"
    printed = run(installed / "python", "-c", code, where=tmp_path)

    assert str(installed.parent) in printed


def test_every_shipped_plugin_loads(installed: Path, tmp_path: Path) -> None:
    printed = run(installed / "mtl", "plugins", "--json", where=tmp_path)

    assert '"failed"' not in printed
    for name in ("puzzling", "fer", "image_folder", "strong", "resnet_small", "early_stopping"):
        assert f'"{name}"' in printed


def test_serving_without_its_extra_says_what_to_install(installed: Path, tmp_path: Path) -> None:
    command = [installed / "mtl", "serve", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "pip install 'mtlcore[serve]'" in done.stderr


def test_the_pages_of_the_service_are_in_the_wheel(installed: Path) -> None:
    (core,) = installed.parent.glob("lib/python*/site-packages/mtlcore")
    docs = REPOSITORY / "docs" / "responsible-use.md"

    assert (core / "serve/page.html").is_file()
    assert (core / "evaluation/responsible-use.md").read_text() == docs.read_text()


def test_a_new_plugin_passes_its_checks_and_the_module_works_like_the_command(
    installed: Path, tmp_path: Path
) -> None:
    mtl = (installed / "python", "-m", "mtlcore")
    run(*mtl, "plugins", "new", "wheel_pretext", "--kind", "pretext", "--out", ".", where=tmp_path)
    plugin = tmp_path / "wheel_pretext" / "wheel_pretext.py"
    check = ("plugins", "check", "wheel_pretext", "--plugin", plugin)

    run(*mtl, *check, where=tmp_path)
