"""The output of the commands: brackets in labels and paths are printed as they are."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from mtlcore.callbacks.progress import TrainProgress
from mtlcore.cli import _progress, _shared
from mtlcore.cli._progress import Bars, arms_table, metrics_table, print_result
from mtlcore.demo import Arm
from mtlcore.evaluation.measure import Measured
from mtlcore.train.trainer import Result

NASTY = ["[/b]", "[red]x.txt", "a[", ":smile:", "c:\\["]


@pytest.fixture
def screen(monkeypatch) -> io.StringIO:
    out = io.StringIO()
    for module in (_progress, _shared):
        monkeypatch.setattr(module, "console", Console(file=out, width=200))
    return out


@pytest.mark.parametrize("name", NASTY)
def test_notes_bars_and_tables_print_brackets_as_they_are(name, screen) -> None:
    measured = Measured({f"{name}/accuracy": 0.25})
    with Bars(title=name) as bars:
        bars.note(f"note {name}")
        bars.progress(f"reading {name}", 1, 2)
        bars.step(TrainProgress(1, 2, {f"loss/{name}": 0.5}, 0.1, 3.0, 1))
        bars.evaluated(1, measured)
    arm = Arm("SL", measured.metrics, measured.metrics, 1.0)
    for table in (metrics_table(f"title {name}", measured), arms_table([arm])):
        _progress.console.print(table)
    found = screen.getvalue()
    expected = [
        f"note {name}",
        f"reading {name}",
        f"loss/{name} 0.500",
        "1 skipped",
        f"title {name}",
        f"{name}/accuracy",
        "compute (CPU s)",
    ]
    assert [text for text in expected if text not in found] == []


@pytest.mark.parametrize("name", NASTY)
def test_the_last_lines_of_training_name_the_run_folder_as_it_is(name, screen) -> None:
    folder = Path(name)
    print_result(Result(folder, 3, Measured(), 1.0, 24, 0))
    assert f"run folder: {folder}\nevaluate it: mtl eval {folder}\n" in screen.getvalue()
