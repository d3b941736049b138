"""Damage the files of a toy run, then evaluate and resume it, in this process.

    python tests/fuzz/run_files.py --damages 1000 --seed 0

Each damage must be noticed with an MtlError, or be harmless: the figures of the evaluation, the
weights at the end, and the log equal those of the undamaged run. The script prints counts, and
exits with 1 after a traceback or a silent difference.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

import mtlcore
from mtlcore import MtlError
from mtlcore.config import load
from mtlcore.runs import RunFolder
from mtlcore.training.trainer import Trainer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from dots_run import tiny_toml

TRAIN = """steps = 6
ema = 0.5
eval_every = 2
save_every = 4
log_every = 1
accelerator = "cpu"
"""

GARBAGE = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"{}",
    b"0",
    b"[" * 100_000,
    b'{"format": 3}',
    b'{"step": "x"}\n',
    b"\x00" * 64,
    b"\xff\xfe garbage \x80\n",
    b"a = 1\n",
    b"\x80\x04K\x01.",  # a pickle
]

Damage = Callable[[Path, Path, random.Random], str]
"""Damages the run folder (first argument); the second one is another run. -> what it did."""


def files(run: Path) -> list[Path]:
    """All files of a run that mtlcore reads."""
    found = sorted(path for path in run.rglob("*") if path.is_file())
    return [path for path in found if not path.name.startswith(".lock")]


def folders(run: Path) -> list[Path]:
    """The folders of the checkpoints."""
    return sorted((run / "checkpoints").iterdir())


def flip(run: Path, other: Path, rng: random.Random) -> str:
    file = rng.choice(files(run))
    data = bytearray(file.read_bytes())
    bit = rng.randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)
    return f"bit {bit} of {file.relative_to(run)}"


def truncate(run: Path, other: Path, rng: random.Random) -> str:
    file = rng.choice(files(run))
    size = rng.randrange(file.stat().st_size)
    file.write_bytes(file.read_bytes()[:size])
    return f"{file.relative_to(run)} cut to {size} bytes"


def extend(run: Path, other: Path, rng: random.Random) -> str:
    file = rng.choice(files(run))
    file.write_bytes(file.read_bytes() + rng.randbytes(rng.randrange(1, 100)))
    return f"{file.relative_to(run)} made longer"


def delete(run: Path, other: Path, rng: random.Random) -> str:
    path = rng.choice([*files(run), *folders(run)])
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    return f"{path.relative_to(run)} deleted"


def garbage(run: Path, other: Path, rng: random.Random) -> str:
    file, number = rng.choice(files(run)), rng.randrange(len(GARBAGE))
    file.write_bytes(GARBAGE[number])
    return f"{file.relative_to(run)} = garbage {number}"


def of_another_run(run: Path, other: Path, rng: random.Random) -> str:
    """One or several files of another run."""
    chosen = rng.sample(files(run), rng.randrange(1, 4))
    for file in chosen:
        source = other / file.relative_to(run)
        if source.is_file():
            shutil.copyfile(source, file)
    return f"of another run: {', '.join(str(file.relative_to(run)) for file in chosen)}"


def swap(run: Path, other: Path, rng: random.Random) -> str:
    """Two files of the run exchanged."""
    a, b = rng.sample(files(run), 2)
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    return f"{a.relative_to(run)} and {b.relative_to(run)} exchanged"


def duplicate(run: Path, other: Path, rng: random.Random) -> str:
    """A checkpoint copied beside itself, or renamed."""
    folder = rng.choice(folders(run))
    which, _, step = folder.name.partition("-")
    swapped = {"last": "best", "best": "last"}[which]
    names = [
        f"{folder.name} (copy)", f"{folder.name}.bak", f"{which}-{int(step) + 2:08d}", f"{which}-2",
        f"{swapped}-{step}", f"{which}-", f"{which}-x", f"{folder.name}.tmp", "notes",
    ]  # fmt: skip
    name = rng.choice(names)
    target = folder.with_name(name)
    if target.exists():
        shutil.rmtree(target)
    if rng.random() < 0.3:
        folder.rename(target)
        return f"{folder.name} renamed to {name}"
    shutil.copytree(folder, target)
    return f"{folder.name} copied to {name}"


DAMAGES: dict[Damage, int] = {
    flip: 10,
    truncate: 3,
    extend: 2,
    delete: 2,
    garbage: 4,
    of_another_run: 3,
    swap: 2,
    duplicate: 2,
}
"""Damage -> how often it is drawn."""


def make_run(folder: Path, seed: int) -> Path:
    """A run of 6 steps that stopped after step 5. Its last checkpoint is that of step 4."""
    config = folder / f"{seed}.toml"
    config.write_text(tiny_toml(TRAIN, top=f"seed = {seed}"))
    run = folder / f"run{seed}"
    mtlcore.train(load(config, ["train.steps=4"]), run, progress=False)
    experiment = load(run / "config.toml", ["train.steps=6"])
    trainer = Trainer(experiment, run, resume=True, progress=False)
    trainer.step()
    return run


def resumed(run: Path) -> dict[str, object]:
    """Resume the run to its end. -> its weights, log and results."""
    mtlcore.train(None, run, resume=True, progress=False)
    folder = RunFolder(run)
    checkpoint = folder.require()
    rows = folder.log.rows()
    for row in rows:
        row.pop("cpu_s", None)
    return {"weights": checkpoint.weights(), "ema": checkpoint.require_ema(), "rows": rows}


def evaluated(run: Path) -> dict[str, object]:
    """Evaluate the last checkpoint, the best one, and load the model."""
    loaded = mtlcore.load_run(run)
    last, best = loaded.evaluate(), loaded.evaluate(checkpoint="best")
    return {"last": last.metrics, "best": best.metrics, "weights": loaded.model().state_dict()}


def same(a: object, b: object) -> bool:
    """Whether two results are equal, bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


def outcome(use: Callable[[Path], dict[str, object]], run: Path, expected: object) -> str:
    """What happened: "noticed", "harmless", "SILENT" or "TRACEBACK"."""
    try:
        found = use(run)
    except MtlError:
        return "noticed"
    except Exception:
        traceback.print_exc()
        return "TRACEBACK"
    return "harmless" if same(found, expected) else "SILENT"


def fuzz(damages: int, seed: int) -> int:
    """Try this many damages. -> the number of tracebacks and silent differences."""
    counts: Counter[tuple[str, str, str]] = Counter()
    bad: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, other = make_run(folder, 0), make_run(folder, 1)
        whole, copy = folder / "whole", folder / "copy"
        shutil.copytree(run, whole)
        uses = {"eval": (evaluated, evaluated(whole)), "resume": (resumed, resumed(whole))}
        for number in range(damages):
            rng = random.Random(f"{seed} {number}")
            damage = rng.choices([*DAMAGES], [*DAMAGES.values()])[0]
            done = damage_and_use(damage, rng, (run, other, copy), uses)
            for use, (what, happened) in done.items():
                counts[damage.__name__, use, happened] += 1
                if happened in ("SILENT", "TRACEBACK"):
                    bad.append(f"damage {number}: {what}: {use}: {happened}")
    print_table(counts)
    print("\n".join(bad))
    return len(bad)


def damage_and_use(
    damage: Damage,
    rng: random.Random,
    paths: tuple[Path, Path, Path],
    uses: dict[str, tuple[Callable[[Path], dict[str, object]], object]],
) -> dict[str, tuple[str, str]]:
    """Damage a copy of the run, evaluate it, then resume it. -> what happened in each use."""
    run, other, copy = paths
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)
    what = damage(copy, other, rng)
    return {name: (what, outcome(use, copy, expected)) for name, (use, expected) in uses.items()}


def print_table(counts: Counter[tuple[str, str, str]]) -> None:
    """One row for each damage and use."""
    columns = ("noticed", "harmless", "SILENT", "TRACEBACK")
    print(f"| damage | use | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}")
    for damage, use in sorted({key[:2] for key in counts}):
        cells = [str(counts[damage, use, column]) for column in columns]
        print(f"| {damage} | {use} | {' | '.join(cells)} |")
    totals = Counter[str]()
    for (_, _, happened), count in counts.items():
        totals[happened] += count
    print(f"| all | both | {' | '.join(str(totals[column]) for column in columns)} |")


def main() -> int:
    """Return 1 after a traceback or a silent difference."""
    parser = argparse.ArgumentParser(description="Damage the files of a run; see above.")
    parser.add_argument("--damages", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    return 1 if fuzz(given.damages, given.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
