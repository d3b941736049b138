"""Several processes of this machine that work on one study."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import MtlError
from ..signals import handling
from ..training.stop import STOP_SIGNALS, Interrupted

LOOK_S = 0.2  # between two looks at the processes


def run_in_processes(words: Sequence[str], jobs: int) -> None:
    """Run `python -m mtlcore.study.jobs WORDS` in several processes, and wait for all of them.

    They share the processor cores evenly. A signal to stop is passed on to each, once: it saves its
    run. Raises Interrupted after a signal, and MtlError if a process failed.
    """
    environment = dict(os.environ)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (cores or 1) // jobs)))
    command = [sys.executable, "-m", "mtlcore.study.jobs", str(os.getpid()), *words]
    # In sessions of their own: Ctrl-C in the terminal reaches this process alone.
    processes = [
        subprocess.Popen(command, env=environment, start_new_session=True) for _ in range(jobs)
    ]
    received = _wait(processes)
    if received:
        raise Interrupted(Path(words[1]), 0, received)
    failed = [process.returncode for process in processes if process.returncode]
    if failed:
        raise MtlError(
            f"{len(failed)} of {jobs} processes failed (exit code {failed[0]}); see their messages"
        )


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all processes, and return the signal that was passed on to them, or 0."""
    received = 0

    def pass_on(number: int, _frame: object) -> None:
        nonlocal received
        received = number
        for process in processes:
            with suppress(ProcessLookupError):
                process.send_signal(number)

    with handling(STOP_SIGNALS, pass_on):
        while any(process.poll() is None for process in processes):
            time.sleep(LOOK_S)
    return received


def main(words: Sequence[str]) -> int:
    """Work on a study: PARENT STUDY FOLDER [ARM ...]. The exit code is that of `mtl`."""
    from .plan import Plan
    from .results import Run
    from .study import Study, selected
    from .working import Work

    parent, file, folder, *arms = words

    def chosen(plan: Plan) -> Sequence[Run]:
        # Without its parent, nobody could stop this process any more.
        return selected(plan, arms) if os.getppid() == int(parent) else []

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    try:
        Work(Study.load(file, folder).workspace, say).run(chosen)
    except MtlError as error:
        sys.stderr.write(f"mtl: {error}\n")
        return error.exit_code
    except (Interrupted, KeyboardInterrupt) as stopped:
        return stopped.exit_code if isinstance(stopped, Interrupted) else 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
