"""What the fuzz scripts share: one case after the other, each within limits of time and memory."""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from types import FrameType

from mtlcore import MtlError

CASE_S = 60  # more is a hang
MEMORY = 3 * 2**30  # bytes that a case may take in addition

Case = Callable[[random.Random], str]
"""Run one case. Return what happened, in a word. An exception other than MtlError is a fault."""


class Hang(BaseException):
    """A case took too long."""


def arguments(doc: str, number: int) -> argparse.Namespace:
    """Read --number, --seed and --only from the command line."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--number", type=int, default=number, help="number of cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run this case alone, and show its MtlError")
    return parser.parse_args()


def run(case: Case, options: argparse.Namespace) -> int:
    """Run all cases and print the counts. Return the exit code: 1 if there was a fault."""
    _limit_memory()
    signal.signal(signal.SIGALRM, _hang)
    numbers = range(options.number) if options.only is None else [options.only]
    counts: Counter[str] = Counter()
    for number in numbers:
        rng = random.Random(f"{options.seed}:{number}")
        signal.alarm(CASE_S)
        try:
            counts[case(rng)] += 1
        except MtlError as error:
            text = str(error)
            counts["MtlError" if text.strip() else "MtlError without a message"] += 1
            if options.only is not None:
                print(text)
        except (Exception, Hang, SystemExit) as error:
            counts["FAULT"] += 1
            print(f"--seed {options.seed} --only {number}: {type(error).__name__}: {error}"[:300])
            traceback.print_exc(limit=-6)
        finally:
            signal.alarm(0)
    print(", ".join(f"{what}: {n}" for what, n in sorted(counts.items())))
    return int(bool(counts["FAULT"] or counts["MtlError without a message"]))


def _hang(_number: int, _frame: FrameType | None) -> None:
    raise Hang(f"more than {CASE_S} s")


def _limit_memory() -> None:
    """Let a case that takes too much memory end in a MemoryError."""
    if not sys.platform.startswith("linux"):
        return
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
