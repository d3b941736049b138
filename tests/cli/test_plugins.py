"""`mtl plugins` in real processes, with broken plugins installed beside the shipped ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MTL = [sys.executable, "-c", "import sys; from mtlcore.cli import main; sys.exit(main())"]

HEAD = """
from __future__ import annotations
from attrs import frozen
from mtlcore import LossWeighting, hookimpl
"""
WEIGHTING = """
class {name}(LossWeighting):
    power: float = 1.0
    def build(self, names): ...
@hookimpl
def mtl_components(): return [{name}]
"""
PLUGINS = {
    "raising": "raise ZeroDivisionError('no luck')",
    "misspelled": HEAD + "@hookimpl\ndef mtl_component(): return []",
    "unfrozen": HEAD + WEIGHTING.format(name="Unfrozen"),
    "duplicate": HEAD + "@frozen" + WEIGHTING.format(name="Equal"),
    "healthy": HEAD + "@frozen" + WEIGHTING.format(name="Healthy"),
    "vision": "import torchvision",
}
CONFIG = """
[task.classification]
[weighting]
name = "{weighting}"
[data.synthfaces]
[train]
steps = 1
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with six installed distributions."""
    folder = tmp_path_factory.mktemp("site")
    for name, body in PLUGINS.items():
        (folder / f"{name}_plugin.py").write_text(body)
        info = folder / f"mtl_{name}-0.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mtl-{name}\nVersion: 0.3\n")
        (info / "entry_points.txt").write_text(f"[mtlcore]\n{name} = {name}_plugin\n")
    return folder


def mtl(site: Path, *words: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"} | environ
    return subprocess.run(
        [*MTL, *map(str, words)], capture_output=True, text=True, env=env, check=False
    )


@pytest.fixture(scope="module")
def listed(site: Path) -> subprocess.CompletedProcess[str]:
    return mtl(site, "plugins", "--json")


@pytest.fixture
def rows(listed: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(listed.stdout)
    return found


def only(rows: list[dict[str, Any]], distribution: str) -> dict[str, Any]:
    [row] = [row for row in rows if row["distribution"] == distribution]
    return row


def test_each_row_of_the_json_list_has_all_keys(
    listed: subprocess.CompletedProcess[str], rows
) -> None:
    assert listed.returncode == 0
    assert {tuple(row) for row in rows} == {
        ("kind", "name", "distribution", "version", "status", "origin", "reason")
    }
    assert {row["status"] for row in rows} == {"ok", "failed"}


SHIPPED = [
    ("encoder", "resnet_small"),
    ("task", "classification"),
    ("task", "fer"),
    ("pretext", "puzzling"),
    ("weighting", "equal"),
    ("weighting", "uncertainty"),
    ("augmentation", "strong"),
    ("dataset", "fer2013"),
    ("dataset", "synthfaces"),
]


def test_shipped_components_are_complete_beside_broken_plugins(rows) -> None:
    intact = {
        (row["kind"], row["name"])
        for row in rows
        if (row["status"], row["distribution"], row["reason"]) == ("ok", "mtlcore", "")
    }
    assert set(SHIPPED) - intact == set()


def test_a_healthy_plugin_loads_beside_broken_ones(rows) -> None:
    row = only(rows, "mtl-healthy")
    assert row == {
        "kind": "weighting",
        "name": "healthy",
        "distribution": "mtl-healthy",
        "version": "0.3",
        "status": "ok",
        "origin": "healthy_plugin",
        "reason": "",
    }


@pytest.mark.parametrize(
    ("distribution", "kind", "name", "reason"),
    [
        ("mtl-raising", None, "raising", "ZeroDivisionError: no luck"),
        ("mtl-misspelled", None, "misspelled", "did you mean 'mtl_components'"),
        ("mtl-unfrozen", "weighting", "unfrozen", "@frozen"),
        ("mtl-duplicate", "weighting", "equal", "mtlcore"),
    ],
)
def test_a_broken_plugin_is_listed_with_its_reason_and_causes_one_warning(
    listed, rows, distribution: str, kind: str | None, name: str, reason: str
) -> None:
    row = only(rows, distribution)
    assert (row["status"], row["kind"], row["name"]) == ("failed", kind, name)
    assert reason in row["reason"]
    assert len([line for line in listed.stderr.splitlines() if distribution in line]) == 1


@pytest.mark.slow
def test_a_configuration_with_a_broken_plugin_shows_its_original_error(
    site: Path, tmp_path: Path
) -> None:
    config = tmp_path / "run.toml"
    config.write_text(CONFIG.format(weighting="raising"))
    done = mtl(site, "train", config, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "ZeroDivisionError: no luck" in done.stderr.split(str(config))[1]
    assert "mtl-raising 0.3" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_blocked_plugin_is_listed_as_blocked_and_causes_no_warning(site: Path) -> None:
    done = mtl(
        site,
        "plugins",
        "--json",
        MTLCORE_PLUGINS_BLOCK="raising,mtl-misspelled,unfrozen,duplicate,vision",
    )
    assert done.stderr == ""
    row = only(json.loads(done.stdout), "mtl-raising")
    assert (row["status"], row["kind"]) == ("blocked", None)
    assert "MTLCORE_PLUGINS_BLOCK" in row["reason"]


@pytest.mark.slow
def test_the_first_failure_stops_the_program_if_failures_are_fatal(site: Path) -> None:
    done = mtl(site, "plugins", MTLCORE_PLUGINS_FATAL="1", MTLCORE_PLUGINS_ONLY="raising")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "no luck" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_torchvision_built_for_another_torch_has_a_clear_reason(
    site: Path, tmp_path: Path
) -> None:
    fake = tmp_path / "torchvision"
    fake.mkdir()
    (fake / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    done = mtl(
        site,
        "plugins",
        "--json",
        MTLCORE_PLUGINS_ONLY="vision",
        PYTHONPATH=f"{tmp_path}{os.pathsep}{site}",
    )
    row = only(json.loads(done.stdout), "mtl-vision")
    assert row["status"] == "failed"
    assert "install --upgrade torch torchvision" in row["reason"]


def test_the_table_has_files_failures_and_reasons(site: Path, tmp_path: Path) -> None:
    good, broken = tmp_path / "good.py", tmp_path / "broken.py"
    good.write_text(HEAD + "@frozen" + WEIGHTING.format(name="Filed"))
    broken.write_text("raise KeyError('whoops')")
    done = mtl(
        site,
        "plugins",
        "--plugin",
        good,
        "--plugin",
        broken,
        MTLCORE_PLUGINS_ONLY="weighting",
        COLUMNS="200",
    )
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert any("filed" in line and "ok" in line and str(good) in line for line in lines)
    assert any("broken" in line and "whoops" in line for line in lines)
    assert any("uncertainty" in line and "mtlcore" in line for line in lines)


@pytest.mark.slow
def test_a_file_that_replaces_an_installed_plugin_is_listed_and_causes_a_warning(
    site: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(HEAD + "@frozen" + WEIGHTING.format(name="Healthy").replace("1.0", "2.0"))
    done = mtl(site, "plugins", "--plugin", file, MTLCORE_PLUGINS_ONLY="healthy", COLUMNS="250")
    assert done.returncode == 0
    [warning] = done.stderr.splitlines()
    assert warning.startswith(
        f"mtl: warning: weighting 'healthy' comes from {file}, "
        "which replaces 'healthy' of mtl-healthy"
    )
    lines = [line for line in done.stdout.splitlines() if "healthy" in line]
    assert any("shadowed" in line and "mtl-healthy 0.3" in line for line in lines)
    assert any(" ok " in line and str(file) in line for line in lines)
    assert f"healthy (shadowed): replaced by 'mine' ({file})" in done.stdout


@pytest.mark.slow
def test_an_absent_plugin_file_is_an_error(site: Path, tmp_path: Path) -> None:
    done = mtl(
        site, "plugins", "--plugin", tmp_path / "absent.py", MTLCORE_PLUGINS_ONLY="weighting"
    )
    assert done.returncode == 2
    assert "absent.py" in done.stderr
