"""The site: its navigation, the evidence in its pages, and its build without warnings."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mtlcore.config import load

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT / "benchmarks"))

import evidence  # noqa: E402
from pages.protocol import Protocol, protocols  # noqa: E402
from pages.recipes import RECIPES  # noqa: E402


@pytest.fixture(scope="module")
def known() -> dict[str, Protocol]:
    """The committed protocols: reading them takes seconds."""
    return protocols()


def test_every_page_is_in_the_navigation_once() -> None:
    linked = re.findall(r"^- \[[^]]+\]\(([^)#]+)\)", (DOCS / "index.md").read_text(), re.M)
    pages = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")]
    shown = [page for page in pages if page != "index.md"]
    assert sorted(linked) == sorted(shown), "docs/index.md lists each page once"


def test_the_evidence_is_current() -> None:
    stale = []
    for page, made in evidence.tables().items():
        if evidence.filled(page, made) != (ROOT / page).read_text(encoding="utf-8"):
            stale.append(page)
    assert not stale, f"{stale}: run `python benchmarks/evidence.py`"


def test_the_header_of_a_recipe_lists_its_gains(known) -> None:
    for recipe in RECIPES:
        text = (ROOT / "examples" / recipe.example).read_text(encoding="utf-8")
        for measured in recipe.gains:
            line = f"#   {measured.line(known)}"
            assert line in text.splitlines(), f"the header of {recipe.example} needs {line!r}"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.example)
def test_a_recipe_has_the_settings_of_the_pretext_that_were_chosen(recipe, known) -> None:
    file = ROOT / "examples" / recipe.example
    for measured in recipe.gains:
        plan = known[measured.protocol].plan
        arm = plan.arm(measured.arm)
        chosen = [*arm.set, *arm.trials[plan.trial(arm)]]
        settings = [text for text in chosen if text.startswith(("pretext.", "views."))]
        assert len(settings) > 3
        assert load(file, settings) == load(file)


def test_the_recipe_for_faces_is_the_arm_that_was_measured(known) -> None:
    plan = known["fer2"].plan
    arm = plan.arm("puzzling_both")
    base = ROOT / "benchmarks" / "protocols" / "bases" / "fer2013.toml"
    measured = load(base, [*arm.set, *arm.trials[plan.trial(arm)]])
    recipe = load(ROOT / "examples" / "few_labels_faces.toml")
    for table in ("encoder", "pretexts", "views", "weighting", "input", "schedule", "optimizer"):
        assert getattr(recipe, table) == getattr(measured, table), table
    assert recipe.augment == measured.augment
    assert recipe.augmentations["validation"] == measured.augmentations["validation"]
    assert (recipe.train.steps, recipe.train.clip) == (plan.definition.steps, measured.train.clip)


def test_a_claim_shows_the_difference_its_interval_and_its_seeds() -> None:
    [line] = re.findall(r"\| `puzzling` minus `sl` \| ([^|]*) \| (\d+) \| (\w+)", claims_of("cpu2"))
    assert line == ("+2.06 [+1.35, +2.76]", "8", "better")
    for page in (DOCS / "index.md", ROOT / "README.md"):
        text = " ".join(page.read_text(encoding="utf-8").split())
        assert "2.06 points of accuracy (95 % CI 1.35 to 2.76, 8 seeds" in text, page.name


def claims_of(protocol: str) -> str:
    """The part of docs/results.md about one protocol."""
    text = (DOCS / "results.md").read_text(encoding="utf-8")
    return text.partition(f"### Protocol `{protocol}`\n")[2].partition("\n### ")[0]


def test_the_version_of_the_citation_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"\nversion: {project['version']}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("sphinx", "furo", "myst_parser"))),
    reason='the site needs pip install -e ".[docs]"',
)
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    options = ["-q", "-E", "-W", "--keep-going", "-b", "html"]
    command = [sys.executable, "-m", "sphinx", *options, str(DOCS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    home = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'href="plugins/pretext.html"' in home
    assert (tmp_path / "changelog.html").read_text(encoding="utf-8").count("Unreleased") >= 1
