"""`benchmarks/run.py gpu` on the CPU: every part runs, and a run that is cut leaves its rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from gpu import main as suite  # noqa: E402
from gpu.worker import BUDGETS_S, PREFIX, TITLES  # noqa: E402


@pytest.mark.slow
@pytest.mark.timeout(1200)  # about a minute of CPU, in a process of its own
def test_every_part_of_the_gpu_suite_runs_on_a_cpu(tmp_path):
    file = tmp_path / "gpu.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "gpu", "--json", str(file)]
    done = subprocess.run([*command, "--device", "cpu", "--tiny"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(file.read_text())
    rows = result["rows"]
    assert not [row for row in rows if "error" in row]
    assert {row["part"] for row in rows} == set(TITLES)
    for part in "abcef":
        assert any("value" in row for row in rows if row["part"] == part), part
    assert {"device", "torch", "cuda", "cores"} <= result["machine"].keys()
    assert result["command"].endswith("--device cpu --tiny")


def test_the_gpu_suite_keeps_its_rows_and_goes_on_after_a_part_that_hangs(tmp_path, monkeypatch):
    """A part that ends its process, and one that hangs, cost their own rows only."""
    worker = tmp_path / "run.py"
    # Its first process dies in part a. The second one hangs in part c, and the third does the rest.
    worker.write_text(
        "import json, os, sys, time\n"
        f"say = lambda kind, text: print({PREFIX!r} + kind, text, flush=True)\n"
        "for part in sys.argv[sys.argv.index('--parts') + 1].split(','):\n"
        "    say('PART', part)\n"
        "    say('ROW', json.dumps({'part': part, 'name': 'x', 'value': 1, 'unit': 's'}))\n"
        "    if part == 'a': os._exit(3)\n"
        "    if part == 'c': time.sleep(60)\n"
        "    say('DONE', part)\n"
    )
    monkeypatch.setattr(suite, "RUN", worker)
    monkeypatch.setattr(suite, "GRACE_S", 0.0)
    monkeypatch.setitem(BUDGETS_S, "c", 0.5)
    file = tmp_path / "gpu.json"
    assert suite.main(["--device", "cpu", "--json", str(file)]) == 1
    rows = json.loads(file.read_text())["rows"]
    measured = [row["part"] for row in rows if "value" in row]
    assert measured == [*BUDGETS_S]
    failed = {row["part"]: row["error"] for row in rows if "error" in row}
    assert failed.keys() == {"a", "c"}
    assert "code 3" in failed["a"]
    assert "stopped after" in failed["c"]
