"""The output of the commands: brackets in labels and paths are printed as they are."""

from __future__ import annotations

import io
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from mtlcore import MtlError
from mtlcore.callbacks import bars as bars_module
from mtlcore.callbacks.bars import Bars
from mtlcore.cli import _shared, main
from mtlcore.cli._progress import metrics_table, print_result
from mtlcore.cli.predict import predict
from mtlcore.runs import RunFolder
from mtlcore.training.stop import Interrupted

NASTY = ["[/b]", "[red]x.txt", "a[", ":smile:", "c:\\["]


@pytest.fixture
def screen(monkeypatch) -> io.StringIO:
    out = io.StringIO()
    console = Console(file=out, width=200)
    monkeypatch.setattr(_shared, "console", console)
    monkeypatch.setattr(bars_module, "get_console", lambda: console)
    return out


def test_notes_bars_and_tables_print_brackets_as_they_are(screen, subtests) -> None:
    for name in NASTY:
        with subtests.test(name=name):
            metrics = {f"{name}/accuracy": 0.25}
            run = SimpleNamespace(step=0, steps=2)
            with Bars(title=name) as bars:
                bars.note(f"note {name}")
                bars.progress(f"reading {name}", 1, 2)
                bars.on_log(run, {"step": 1, "lr": 0.1, f"loss/{name}": 0.5, "skipped": 1})
                bars.on_log(run, {"step": 1, f"validation/{name}/accuracy": 0.25})
            _shared.console.print(metrics_table(f"title {name}", metrics))
            found = screen.getvalue()
            expected = [
                f"note {name}",
                f"reading {name}",
                f"  {name} 0.500",
                "1 skipped",
                f"title {name}",
                f"{name}/accuracy",
            ]
            assert [text for text in expected if text not in found] == []


def test_the_last_lines_of_training_name_the_run_folder_as_it_is(screen, subtests) -> None:
    for name in NASTY:
        with subtests.test(name=name):
            folder = Path(name)
            summary = {"steps": 3, "skipped": 0, "cpu_s": 1.0}
            print_result(SimpleNamespace(path=folder, summary=summary))
            typed = shlex.quote(name)
            assert f"run folder: {folder}\nevaluate it: mtl eval {typed}\n" in screen.getvalue()


def test_commands_in_messages_can_be_pasted(tmp_path: Path) -> None:
    run = tmp_path / "a run"
    typed = f"mtl train --resume {shlex.quote(str(run))}"
    assert str(Interrupted(run, 3)).endswith(typed)
    RunFolder(run).path.mkdir()
    RunFolder(run).config.write_text("")
    with pytest.raises(MtlError) as error:
        RunFolder.refuse_existing(run)
    assert f"{typed} (in Python" in str(error.value)
    with pytest.raises(MtlError) as error:
        predict(run)
    assert str(error.value).endswith(f"mtl predict {shlex.quote(str(run))} photos/")


@pytest.mark.parametrize("option", ["--csv", "--parquet", "--draw", "--plot", "--sheet"])
def test_an_empty_name_of_an_output_is_refused(option: str, capsys) -> None:
    assert main(["predict", "run", "photo.jpg", option, ""]) == 2
    assert main(["predict", "run", "photo.jpg", f"{option}="]) == 2
    line = f"mtl: {option} is empty: give a name\n"
    assert capsys.readouterr().err == 2 * line


def test_the_terminal_shows_each_line_of_the_log(screen) -> None:
    run = SimpleNamespace(step=4, steps=8)
    with Bars() as bars:
        bars.on_train_start(run)
        bars.on_log(run, {"step": 8, "lr": 0.1, "loss/fer": 0.5, "grad_norm": 1.0, "skipped": 0})
        metrics = {"validation/fer/accuracy": 0.25, "validation/fer/accuracy[race=white]": 0.5}
        metrics |= {"validation/fer/n[race=white]": 4.0, "validation/size/mae_x [mm]": 2.0}
        bars.on_log(run, {"step": 8, **metrics})
    found = screen.getvalue()
    assert "8/8" in found
    assert "steps/s  fer 0.500\n" in found
    assert "skipped" not in found
    assert "step 8, validation: fer/accuracy 0.250  size/mae_x [mm] 2.000\n" in found
