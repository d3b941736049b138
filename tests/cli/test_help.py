"""The command line itself, in real processes: help without torch, usage errors, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtlcore import __version__

MTL = [sys.executable, "-c", "import sys; from mtlcore.cli import main; sys.exit(main())"]
COMMANDS = ("train", "eval", "serve", "study", "sweep", "demo", "preview", "plugins", "data")


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)


def mtl(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return run([*MTL, *map(str, words)])


def python(code: str) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-c", code])


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["train", "--help"], ["plugins", "--help"], ["data", "--help"], []],
)
def test_help_imports_no_torch(words: list[str], record_property) -> None:
    done = python(f"""
import resource, sys
from mtlcore.cli import main
try:
    code = main({words})
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    heavy = {{"torch", "numpy", "mtlcore.registry", "mtlcore.contracts"}} & set(sys.modules)
    print("heavy:", sorted(heavy), file=sys.stderr)
    print("cpu:", used.ru_utime + used.ru_stime, file=sys.stderr)
""")
    assert done.returncode == 0
    heavy, cpu = done.stderr.splitlines()
    record_property("cpu_s", cpu)
    assert heavy == "heavy: []"


def test_help_lists_every_command() -> None:
    text = mtl("--help").stdout
    assert [name for name in COMMANDS if f" {name} " not in text] == []


def test_the_help_of_plugins_lists_its_commands_and_options() -> None:
    text = mtl("plugins", "--help").stdout
    names = ("check", "show", "new", "--plugin", "--json")
    assert [name for name in names if f" {name} " not in text] == []


def test_python_m_mtlcore_is_the_same_command_line() -> None:
    expected = mtl("trian")
    found = run([sys.executable, "-m", "mtlcore", "trian"])
    assert (found.returncode, found.stdout, found.stderr) == (
        expected.returncode,
        expected.stdout,
        expected.stderr,
    )


def test_version_prints_the_version() -> None:
    assert mtl("--version").stdout.strip() == __version__


def test_an_unknown_command_names_the_nearest_and_exits_2() -> None:
    done = mtl("trian")
    assert done.returncode == 2
    assert 'Did you mean "train"' in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_option_names_the_nearest_and_exits_2() -> None:
    done = mtl("plugins", "--jsn")
    assert done.returncode == 2
    assert "--json" in done.stderr


@pytest.mark.slow
def test_an_error_of_the_user_is_one_line_on_stderr_and_exits_2(tmp_path: Path) -> None:
    done = mtl("train", tmp_path / "absent.toml", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "absent.toml" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


COMMAND = """
import sys
from mtlcore.cli import app, main
@app.command
def boom():
    {body}
sys.exit(main(["boom"]))
"""


def test_a_bug_of_the_program_keeps_its_traceback() -> None:
    done = python(COMMAND.format(body="raise LookupError('our fault')"))
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "LookupError: our fault" in done.stderr


def test_ctrl_c_exits_130_without_a_traceback() -> None:
    # A shell that starts the tests in the background makes its children ignore SIGINT. The handler
    # of a terminal is restored first.
    listen = "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    done = python(COMMAND.format(body=listen + "os.kill(os.getpid(), signal.SIGINT)"))
    assert done.returncode == 130
    assert done.stderr == ""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_removes_what_a_command_was_writing(tmp_path: Path, name: str, code: int) -> None:
    temporary = tmp_path / "temporary"
    listen = f"import os, signal; signal.signal(signal.{name}, signal.SIG_DFL)"
    body = f"""
    import pathlib
    from mtlcore.files import removed_after_failure
    folder = pathlib.Path({str(temporary)!r})
    with removed_after_failure(folder):
        folder.mkdir()
        os.kill(os.getpid(), signal.{name})
    """
    done = python(f"{listen}\n{COMMAND.format(body=body)}")
    assert (done.returncode, done.stderr) == (code, "")
    assert not temporary.exists()


def test_a_number_that_a_command_returns_is_the_exit_code() -> None:
    assert python(COMMAND.format(body="return 7")).returncode == 7


def test_a_torchvision_built_for_another_torch_is_one_line_and_exits_2() -> None:
    done = python(
        COMMAND.format(body="raise RuntimeError('operator torchvision::nms does not exist')")
    )
    assert done.returncode == 2
    assert "install --upgrade torch torchvision" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_closes_the_pipe_early_is_no_error() -> None:
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
