"""The command line itself, in real processes: help without torch, usage errors, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtlcore import __version__

MTL = [sys.executable, "-c", "import sys; from mtlcore.cli import main; sys.exit(main())"]


def mtl(*words: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MTL, *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | environ,
        check=False,
    )


def python(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | environ,
        check=False,
    )


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["train", "--help"], ["plugins", "--help"], ["data", "--help"], []],
)
def test_help_imports_no_torch(words: list[str], record_property) -> None:
    told = python(f"""
import resource, sys
from mtlcore.cli import main
try:
    code = main({words})
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    print("heavy:", sorted({{"torch", "numpy", "mtlcore.registry", "mtlcore.contracts"}} & set(sys.modules)), file=sys.stderr)
    print("cpu:", used.ru_utime + used.ru_stime, file=sys.stderr)
""")
    assert told.returncode == 0
    heavy, cpu = told.stderr.splitlines()
    record_property("cpu_s", cpu)
    assert heavy == "heavy: []"


def test_help_names_every_command() -> None:
    told = mtl("--help")
    assert [
        name
        for name in ("train", "eval", "sweep", "demo", "preview", "plugins", "data")
        if f" {name} " not in told.stdout
    ] == []


def test_help_names_what_there_is_to_do_with_plugins() -> None:
    told = mtl("plugins", "--help")
    assert [
        name
        for name in ("check", "show", "new", "--plugin", "--json")
        if f" {name} " not in told.stdout
    ] == []


def test_the_version_is_told() -> None:
    assert mtl("--version").stdout.strip() == __version__


def test_an_unknown_command_tells_the_nearest_and_exits_2() -> None:
    told = mtl("trian")
    assert told.returncode == 2
    assert 'Did you mean "train"' in told.stderr
    assert "Traceback" not in told.stderr


def test_an_unknown_option_tells_the_nearest_and_exits_2() -> None:
    told = mtl("plugins", "--jsn")
    assert told.returncode == 2
    assert "--json" in told.stderr


def test_a_mistake_of_the_user_is_its_message_alone_on_stderr_and_exits_2(tmp_path: Path) -> None:
    told = mtl("train", tmp_path / "absent.toml", "--out", tmp_path / "run")
    assert told.returncode == 2
    assert told.stdout == ""
    assert "absent.toml" in told.stderr
    assert len(told.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


COMMAND = """
import sys
from mtlcore.cli import app, main
@app.command
def boom():
    {body}
sys.exit(main(["boom"]))
"""


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    told = python(COMMAND.format(body="raise LookupError('our fault')"))
    assert told.returncode == 1
    assert "Traceback" in told.stderr
    assert "LookupError: our fault" in told.stderr


def test_ctrl_c_exits_130_without_a_traceback() -> None:
    """As at a terminal: a shell that starts the tests in the background makes its children ignore SIGINT."""
    listen = "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    told = python(COMMAND.format(body=listen + "os.kill(os.getpid(), signal.SIGINT)"))
    assert told.returncode == 130
    assert told.stderr == ""


def test_a_number_that_a_command_gives_back_is_the_exit_code() -> None:
    assert python(COMMAND.format(body="return 7")).returncode == 7


def test_a_torchvision_of_another_torch_is_one_line_and_exits_2() -> None:
    told = python(
        COMMAND.format(body="raise RuntimeError('operator torchvision::nms does not exist')")
    )
    assert told.returncode == 2
    assert "install --upgrade torch torchvision" in told.stderr
    assert len(told.stderr.splitlines()) == 1


def test_a_reader_that_leaves_early_is_no_error() -> None:
    code = COMMAND.format(body="print('x' * 10_000_000)")
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0
