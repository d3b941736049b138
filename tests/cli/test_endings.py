"""How commands end: the table of exit codes in docs/runs.md, and a stdout that goes away.

Each command is a real process. They are forked from one that has imported torch, since the import
takes seconds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dots_run import BODY, DOTS

from mtlcore.runs import RunFolder

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full and fork")

# Runs each line of its stdin in a forked process, and prints the exit code.
SERVER = """
import gc, json, os, signal, sys, traceback
import kornia, mtlcore.api, mtlcore.study.sweep, mtlcore.training.trainer, torchmetrics
from mtlcore.cli import main
from mtlcore.registry.catalog import catalog

catalog()
gc.freeze()  # the forked processes share this memory

def open_stdout(kind):
    if kind == "closed":
        os.close(1)
        sys.stdout = sys.__stdout__ = None
        return
    if kind == "pipe without reader":
        reader, writer = os.pipe()
        os.close(reader)
    elif kind == "terminal that was closed":
        reader, writer = os.openpty()
        os.close(reader)
    else:
        writer = os.open(kind, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(writer, 1)

for line in sys.stdin:
    case = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(case["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)  # whatever started the tests may ignore them
        for number in case["ignored"]:
            signal.signal(number, signal.SIG_IGN)
        open_stdout(case["stdout"])
        try:
            code = main(case["words"])
            if sys.stdout:
                sys.stdout.flush()  # as at the end of a process
        except BaseException:
            traceback.print_exc()
            code = 1
        # Without the seconds that torch's modules take to be freed.
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""

Ended = tuple[int, str, str]
"""Exit code, stdout, stderr."""
Mtl = Callable[..., Ended]


@pytest.fixture(scope="module")
def mtl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mtl]:
    """Return a function that runs one command line in a process of its own."""
    folder = tmp_path_factory.mktemp("outputs")
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert server.stdin is not None
    assert server.stdout is not None

    def run(*words: str | Path, stdout: str = "", ignored: tuple[int, ...] = ()) -> Ended:
        assert server.stdin is not None
        assert server.stdout is not None
        out, err = folder / "stdout", folder / "stderr"
        out.write_text("")
        case = {"words": [str(word) for word in words], "stderr": str(err)}
        case |= {"stdout": stdout or str(out), "ignored": [int(number) for number in ignored]}
        server.stdin.write(json.dumps(case) + "\n")
        server.stdin.flush()
        return int(server.stdout.readline()), out.read_text(), err.read_text()

    yield run
    server.stdin.close()
    server.wait()


TROUBLES = Path(__file__).parents[1] / "training" / "troubles.py"
FAILING = TROUBLES.with_name("failing.py")
CONFIG = f"""plugins = ["{DOTS}", "{TROUBLES}", "{FAILING}"]
{BODY}
[train]
steps = 8
eval_every = 4
log_every = 4
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "dots.toml"
    file.write_text(CONFIG)
    return file


def ending(number: int) -> str:
    return f"[callback.ending]\nsignal = {number}\n"


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        *(
            pytest.param(number, marks=pytest.mark.slow)
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
        ),
    ],
    ids=lambda number: number.name,
)
def test_a_signal_saves_the_run_and_exits_with_128_plus_its_number(mtl, config, tmp_path, number):
    config.write_text(CONFIG + ending(number))
    code, out, err = mtl("train", config, "--out", tmp_path / "run")
    assert code == 128 + number, err
    assert f"stopped at step 4 and saved; resume with: mtl train --resume {tmp_path / 'run'}" in out
    assert err == ""
    code, _, err = mtl("train", "--resume", tmp_path / "run")
    assert code == 0, err
    assert RunFolder(tmp_path / "run").provenance()["steps"] == 8


def test_under_nohup_a_closed_terminal_does_not_stop_the_run(mtl, config, tmp_path):
    config.write_text(CONFIG + ending(signal.SIGHUP))
    code, out, err = mtl("train", config, "--out", tmp_path / "run", ignored=(signal.SIGHUP,))
    assert (code, err) == (0, "")
    assert "8 steps" in out


NAN = "[pretext.nan]\n"
ENDINGS = {
    "a callback that stopped the run": ([ending(0)], 0, ""),
    "a run that diverged": ([NAN, "--set=train.max_skipped=2"], 3, "2 steps in a row"),
    "a run of skipped steps alone": ([NAN], 3, "all 8 steps of the run were skipped"),
    "a wrong value": (["", "--set=train.steps=0"], 2, "train.steps"),
    "a task without labels": (['[task.odd]\nname = "classification"\n'], 2, "odd"),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_other_endings_have_the_exit_codes_of_the_table(mtl, config, tmp_path, name):
    (tables, *words), expected, message = ENDINGS[name]
    config.write_text(CONFIG + tables)
    code, _, err = mtl("train", config, "--out", tmp_path / "run", *words)
    assert code == expected, err
    assert message in err
    assert "Traceback" not in err
    if not message:
        stopped = RunFolder(tmp_path / "run").provenance()["stopped_early"]
        assert stopped == {"by": "ending", "reason": "enough", "of": 8}


GONE = ("pipe without reader", "terminal that was closed", "closed")


@pytest.mark.parametrize("stdout", [*GONE, "/dev/full"])
def test_a_run_whose_stdout_goes_away_trains_to_its_end(mtl, config, tmp_path, stdout):
    code, _, err = mtl("train", config, "--out", tmp_path / "run", stdout=stdout)
    assert RunFolder(tmp_path / "run").provenance()["finished"]
    assert RunFolder(tmp_path / "run").provenance().get("callback_failures") is None
    if stdout in GONE:
        assert (code, err) == (0, "")
    else:
        assert code == 2
        assert err.splitlines() == [
            "mtl: can't write to stdout: No space left on device: the output is not complete"
        ]


@pytest.mark.slow
def test_commands_that_print_exit_2_if_stdout_is_full_and_0_if_nobody_reads_it(
    mtl, config, tmp_path
):
    code, _, err = mtl("train", config, "--out", tmp_path / "run")
    assert code == 0, err
    commands = [
        ["--help"],
        ["plugins"],
        ["plugins", "--json"],
        ["plugins", "show", "puzzling"],
        ["plugins", "new", "mine", "--kind", "weighting", "--out", tmp_path],
        ["data", "check", "dots", config],
        ["data", "check", "dots", config, "--json"],
        ["preview", config, "--out", tmp_path / "sheet.png"],
        ["eval", tmp_path / "run"],
        ["eval", tmp_path / "run", "--json"],
        ["sweep", config, "--over", "optimizer.lr=0.001", "--out", tmp_path / "sweep", "--json"],
    ]
    found = {}
    for words in commands:
        for stdout in ("pipe without reader", "/dev/full"):
            created = tmp_path / "mine"
            if created.exists():
                created.rename(tmp_path / stdout.replace("/", "_"))
            code, _, err = mtl(*words, stdout=stdout)
            found[" ".join(map(str, words[:3])), stdout] = code, len(err.splitlines())
    wrong = {
        case: ended
        for case, ended in found.items()
        if ended != ((2, 1) if case[1] == "/dev/full" else (0, 0))
    }
    assert wrong == {}


def test_names_that_stdout_cannot_encode_are_escaped(mtl, config, tmp_path):
    """Such as a file name in other bytes."""
    page = tmp_path / os.fsdecode(b"caf\xe9.png")
    code, out, err = mtl("preview", config, "--out", page)
    assert code == 0, err
    assert "caf\\udce9.png" in out
