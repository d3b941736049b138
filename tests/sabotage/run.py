"""Run the conformance kit on each sabotage and print what catches it.

    python tests/sabotage/run.py            # all
    python tests/sabotage/run.py TEXT       # those with TEXT in their description

The exit code is 1 if one is not caught.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from mtlcore.testing import conformance
from sabotage.table import SABOTAGES


def main() -> int:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    text = "".join(sys.argv[1:2])
    missed = 0
    print("| sabotage | caught by |\n|---|---|")
    for what, _, cls in SABOTAGES:
        if text not in what:
            continue
        failed = [o.name for o in conformance("pretext", cls, examples=5).report().of("failed")]
        missed += not failed
        print(f"| {what} | {', '.join(failed) or 'NOT CAUGHT'} |", flush=True)
    print(f"\n{missed} not caught")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
