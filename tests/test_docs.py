"""The documentation is run, word for word: files are written, commands typed, and what they print is compared.

In a page, a fence ```LANGUAGE file=NAME writes that file, ```diff file=NAME changes its lines; a fence ```console types each line
that starts with "$ ", and what stands below it must come (with "..." for what may differ). "# exit 1" after a command says that it
must end so; else it must end with 0.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
FENCE = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```", re.S | re.M)
PAGES = sorted(p for p in DOCS.rglob("*.md") if "```console" in p.read_text(encoding="utf-8"))
SAME = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def commands(block: str) -> list[tuple[str, str]]:
    """(command, what it must print), in order."""
    found: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return [(command, "\n".join(lines).strip()) for command, lines in found]


def change(file: Path, diff: str) -> None:
    """Put the lines with + in the place of those with -, which must stand there once."""
    old, new = (
        "".join(x[1:] for x in diff.splitlines(keepends=True) if x[0] == sign) for sign in "-+"
    )
    before = file.read_text(encoding="utf-8")
    assert before.count(old) == 1, old
    file.write_text(before.replace(old, new), encoding="utf-8")


def typed(command: str, where: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {
        "PATH": path,
        "COLUMNS": "120",
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }
    return subprocess.run(
        command,
        shell=True,
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(900)  # it types a dozen commands
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(DOCS).as_posix())
def test_a_page_does_what_it_says(page, tmp_path):
    for language, file, body in FENCE.findall(page.read_text(encoding="utf-8")):
        if file and language == "diff":
            change(tmp_path / file, body)
        elif file:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(body, encoding="utf-8")
        if language != "console":
            continue
        for command, expected in commands(body):
            wanted = re.search(r"# exit (\d+)$", command)
            done = typed(command, tmp_path)
            said = done.stdout + done.stderr
            assert done.returncode == (int(wanted[1]) if wanted else 0), f"$ {command}\n{said}"
            if expected:
                same = doctest.OutputChecker().check_output(
                    expected + "\n", said.strip() + "\n", SAME
                )
                assert same, f"$ {command}\nexpected:\n{expected}\ngot:\n{said}"


def test_every_relative_link_leads_somewhere():
    missing = []
    for page in [*DOCS.rglob("*.md"), DOCS.parent / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                missing.append(f"{page.name}: {target}")
    assert not missing
