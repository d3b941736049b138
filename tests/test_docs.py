"""The pages of docs/ are executed: files are written, commands are run, and output is compared.

In a page,

- a fence ```LANGUAGE file=NAME writes that file;
- a fence ```diff file=NAME replaces its "-" lines by its "+" lines;
- a fence ```console runs each line that starts with "$ ". The lines below it are the expected
  output, where "..." matches any text.

"# exit 1" after a command is its expected exit code. Without it, 0 is expected.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
FENCE = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```", re.S | re.M)
PAGES = sorted(p for p in DOCS.rglob("*.md") if "```console" in p.read_text(encoding="utf-8"))
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def commands(block: str) -> list[tuple[str, str]]:
    """Return (command, expected output) of a console fence, in order."""
    found: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return [(command, "\n".join(lines).strip()) for command, lines in found]


def marked(diff: str, mark: str) -> str:
    """Return the lines of a diff that begin with `mark`, without it."""
    return "".join(line[1:] for line in diff.splitlines(keepends=True) if line[0] == mark)


def apply_diff(file: Path, diff: str) -> None:
    """Replace the "-" lines by the "+" lines. The "-" lines must occur exactly once."""
    old, new = marked(diff, "-"), marked(diff, "+")
    before = file.read_text(encoding="utf-8")
    assert before.count(old) == 1, old
    file.write_text(before.replace(old, new), encoding="utf-8")


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder`, as a user would type it."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "120",
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }
    return subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def write_file(file: Path, language: str, body: str) -> None:
    """Write or change a file as a fence describes it."""
    if language == "diff":
        apply_diff(file, body)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(body, encoding="utf-8")


def check_command(command: str, expected: str, folder: Path) -> None:
    """Run a command of a page; compare its exit code and its output."""
    exit_code = re.search(r"# exit (\d+)$", command)
    done = run(command, folder)
    output = done.stdout + done.stderr
    assert done.returncode == (int(exit_code[1]) if exit_code else 0), f"$ {command}\n{output}"
    if expected:
        checker = doctest.OutputChecker()
        matches = checker.check_output(expected + "\n", output.strip() + "\n", OPTIONS)
        assert matches, f"$ {command}\nexpected:\n{expected}\ngot:\n{output}"


@pytest.mark.slow
@pytest.mark.timeout(900)  # a page runs up to a dozen commands
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(DOCS).as_posix())
def test_the_commands_of_a_page_run(page, tmp_path):
    for language, file, body in FENCE.findall(page.read_text(encoding="utf-8")):
        if file:
            write_file(tmp_path / file, language, body)
        if language == "console":
            for command, expected in commands(body):
                check_command(command, expected, tmp_path)


@pytest.mark.slow
def test_the_readme_trains_a_model_in_ten_lines(tmp_path):
    fences = FENCE.findall(README.read_text(encoding="utf-8"))
    [(file, body)] = [(file, body) for _, file, body in fences if file]
    assert len(body.splitlines()) == 10
    (tmp_path / file).write_text(body, encoding="utf-8")

    small = "--set train.steps=1 --set data.synthfaces.train=60 --set data.synthfaces.test=10"
    check_command(f"mtl train {file} --out runs/hmtl {small}", "", tmp_path)
    assert (tmp_path / "runs" / "hmtl" / "config.toml").is_file()


def test_every_relative_link_has_a_target():
    missing = []
    for page in [*DOCS.rglob("*.md"), README, ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                missing.append(f"{page.name}: {target}")
    assert not missing


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    words = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {word.replace(" ", "-") for word in words}


def test_every_anchor_has_a_heading():
    missing = []
    for page in [*DOCS.rglob("*.md"), README, ROOT / "CONTRIBUTING.md"]:
        text = page.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]*)\)", text):
            linked = (page.parent / target) if target else page
            if anchor not in anchors(linked):
                missing.append(f"{page.name}: {target}#{anchor}")
    assert not missing


def test_a_recipe_is_short_and_uses_public_names(subtests):
    for page in sorted((DOCS / "recipes").glob("*.md")):
        with subtests.test(page=page):
            scripts = [
                body
                for language, file, body in FENCE.findall(page.read_text())
                if file[-3:] == ".py"
            ]
            assert scripts
            for script in scripts:
                lines = [line for line in script.splitlines() if line.strip()]
                assert len(lines) < 25
                assert "mtlcore." not in re.sub(r"mtlcore\.(\w+)", check_public, script)


def check_public(name: re.Match[str]) -> str:
    """Return "" for a public name, and the text itself for another one."""
    import mtlcore

    return "" if name[1] in mtlcore.__all__ else name[0]
