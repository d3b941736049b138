"""Prove that training did not change by one bit between two checkouts.

A refactor must not change what a run computes. This tool trains small set-ups with one checkout,
hashes what each run leaves on disk, and compares the hashes of two checkouts:

    python benchmarks/bitwise.py run --python PY --checkout DIR --configs DIR --data DIR \
        --work DIR --out before.json
    python benchmarks/bitwise.py compare before.json after.json

It uses a checkout only through its command line and through the files of a run folder. So one copy
of this file serves both checkouts, even where names differ. Each checkout has its own configs,
since keys may have been renamed. A set-up is one TOML file of `--configs`. It is trained twice:

    whole     without a break
    resumed   killed by SIGKILL as soon as the checkpoint of KILL_STEP exists, then resumed

Hashes of a run, all from its last checkpoint except `losses`:

    model       weights of the encoder and of the supervised heads with their names, those of the
                pretext heads without names
    inference   weights that are evaluated (the EMA copy) with their names
    optimizer   its state in the order of the parameters, and the hyperparameters of its groups
    weighting   state of the loss weighting: buffers, learned weights, their optimizer, cached
                task weights
    losses      step, losses, learning rate and gradient norm of each training row of the log

Runs use one thread a process: with more threads, sums may round in another order.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from safetensors.torch import load_file
from torch import Tensor

STEPS, KILL_STEP = 60, 40  # of each set-up; KILL_STEP is one of its save steps
ATTEMPTS = 3  # a run may finish before the kill reaches it

# Names that differ between checkouts: each known spelling, newest first.
INFERENCE_FILE = ("ema.safetensors", "averaged.safetensors")
WEIGHTING = ("loss_weighting", "weigher")
WEIGHTING_OPTIMIZER = ("loss_weighting_optimizer", "weigher_optimizer")
CACHED_TASK_WEIGHTS = ("cached_task_weights", "kept")

RUNS = ("whole", "resumed")
STATE_HASHES = ("model", "inference", "optimizer", "weighting")
HASHES = (*STATE_HASHES, "losses")

# A file, not `python -c`: with two ranks, the first process starts the script again.
MTL = """import sys

from mtlcore.cli import main

sys.exit(main(sys.argv[1:]))
"""

# Prints where the packages are, and what "bit for bit" depends on.
ENVIRONMENT = """import json
import platform
from importlib.util import find_spec

import torch

packages = ("mtlcore", "mtl_faces", "mtl_pretexts")
environment = {
    "python": platform.python_version(),
    "torch": torch.__version__,
    "threads": torch.get_num_threads(),
    "cpu_capability": torch.backends.cpu.get_cpu_capability(),
}
print(json.dumps({"packages": [find_spec(p).origin for p in packages], **environment}))
"""

# ---------------------------------------------------------------------------------------- hashes


def digest(chunks: Iterable[bytes]) -> str:
    """Return the first 16 hex digits of the SHA-256 of all chunks."""
    sha256 = hashlib.sha256()
    for chunk in chunks:
        sha256.update(chunk)
    return sha256.hexdigest()[:16]


def tensor_bytes(tensor: Tensor) -> bytes:
    """Return dtype, shape and raw bytes of a tensor of any shape."""
    raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return f"{tensor.dtype} {tuple(tensor.shape)} ".encode() + raw.numpy().tobytes()


def named_bytes(tensors: Mapping[str, Tensor]) -> Iterator[bytes]:
    """Yield each name with its tensor, sorted by name."""
    for name in sorted(tensors):
        yield name.encode() + b" " + tensor_bytes(tensors[name])


def value_bytes(value: Any) -> Iterator[bytes]:
    """Yield the tensors and numbers of nested containers in their order.

    Keys, strings and None add nothing: they may be renamed without a change of the computation.
    """
    if isinstance(value, Tensor):
        yield tensor_bytes(value)
    elif isinstance(value, bool | int | float):
        yield f"{value!r} ".encode()
    elif isinstance(value, Mapping):
        yield from value_bytes(list(value.values()))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from value_bytes(inner)


def model_hash(weights: Mapping[str, Tensor], tasks: Iterable[str]) -> str:
    """Hash all weights. Names count for the encoder and for the heads of `tasks` alone.

    The other tensors are ordered by their content: a new name must not move one.
    """
    prefixes = ("encoder.", *(f"heads.{task}." for task in tasks))
    named = {name: tensor for name, tensor in weights.items() if name.startswith(prefixes)}
    unnamed = [tensor_bytes(tensor) for name, tensor in weights.items() if name not in named]
    return digest([*named_bytes(named), *sorted(unnamed)])


def optimizer_bytes(state: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield each parameter's state by its number, then each group's hyperparameters by name."""
    for number, values in sorted(state.get("state", {}).items()):
        yield f"parameter {number} ".encode()
        for key in sorted(values):
            yield from value_bytes(values[key])
    for group in state.get("param_groups", []):
        for key in sorted(group):
            yield f"{key} = {group[key]!r} ".encode()


def weighting_bytes(state: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield everything that the loss weighting keeps in a checkpoint's state."""
    yield from value_bytes(pick(state, WEIGHTING))
    yield from optimizer_bytes(pick(state, WEIGHTING_OPTIMIZER) or {})
    yield from value_bytes(pick(state, CACHED_TASK_WEIGHTS))


def loss_bytes(log: Path) -> Iterator[bytes]:
    """Yield step, losses, learning rate and gradient norm of each training row of metrics.jsonl.

    `repr` of a float is exact, and so is JSON's notation of it.
    """
    for line in log.read_text().splitlines():
        row = json.loads(line)
        losses = [value for key, value in row.items() if key.startswith("loss/")]
        if losses:
            values = [row["step"], *losses, row["lr"], row["grad_norm"]]
            yield f"{values!r}\n".encode()


def pick(mapping: Mapping[str, Any], spellings: Sequence[str]) -> Any:
    """Return the value of the first spelling that is there. Raise KeyError if none is."""
    for key in spellings:
        if key in mapping:
            return mapping[key]
    raise KeyError(f"none of {', '.join(spellings)} is among {', '.join(mapping)}")


def run_hashes(run: Path, tasks: Iterable[str]) -> dict[str, str]:
    """Hash a finished run folder. tasks: labels of the supervised tasks."""
    checkpoint = checkpoint_path(run, STEPS)
    state = torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=True)
    files = {path.name: path for path in checkpoint.iterdir()}
    return {
        "model": model_hash(load_file(checkpoint / "model.safetensors"), tasks),
        "inference": digest(named_bytes(load_file(pick(files, INFERENCE_FILE)))),
        "optimizer": digest(optimizer_bytes(state["optimizer"])),
        "weighting": digest(weighting_bytes(state)),
        "losses": digest(loss_bytes(run / "metrics.jsonl")),
    }


def checkpoint_path(run: Path, step: int) -> Path:
    """Return the folder of the `last` checkpoint of this step."""
    return run / "checkpoints" / f"last-{step:08d}"


# ------------------------------------------------------------------------------------------ runs


@frozen
class Checkout:
    """One checkout, as its own Python runs it.

    python: interpreter with the checkout installed. folder: the checkout. data: the FER2013 folder.
    work: where scripts, run folders and logs are written.
    """

    python: Path
    folder: Path
    data: Path
    work: Path

    def environment(self) -> dict[str, Any]:
        """Return versions, threads and CPU capability. Exit if another checkout is installed."""
        command = [self.python, self._script("environment.py", ENVIRONMENT)]
        done = subprocess.run(command, env=variables(), check=True, capture_output=True, text=True)
        found: dict[str, Any] = json.loads(done.stdout)
        for package in found.pop("packages"):
            if not Path(package).resolve().is_relative_to(self.folder.resolve()):
                sys.exit(f"{self.python} imports {package}, which is not in {self.folder}")
        return found

    def train(self, config: Path, run: Path) -> list[str | Path]:
        """Return the command that trains a new run."""
        root = f"data.fer2013.root={self.data}"
        return [*self._mtl(), "train", config, "--out", run, "--set", root]

    def resume(self, run: Path) -> list[str | Path]:
        """Return the command that continues a run."""
        return [*self._mtl(), "train", "--resume", run]

    def _mtl(self) -> list[str | Path]:
        return [self.python, self._script("mtl.py", MTL)]

    def _script(self, name: str, text: str) -> Path:
        self.work.mkdir(parents=True, exist_ok=True)
        path = self.work / name
        path.write_text(text)
        return path


def variables() -> dict[str, str]:
    """Return the environment variables of a training process: one thread."""
    return os.environ | {"OMP_NUM_THREADS": "1"}


@contextmanager
def started(command: Sequence[str | Path], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command in a process group of its own. At the end, kill the group if it still runs.

    All ranks of a run are in that group.
    """
    env = variables()
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=env, start_new_session=True)
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def finish(command: Sequence[str | Path], log: Path) -> None:
    """Run a command to its end. Exit with the end of its log if it fails."""
    with started(command, log) as process:
        if process.wait() != 0:
            fail(log)


def kill_at_checkpoint(command: Sequence[str | Path], run: Path, log: Path) -> bool:
    """Start training, and kill it once the checkpoint of KILL_STEP is complete.

    Return whether that is the newest checkpoint. It is not if the run was too fast.
    """
    with started(command, log) as process:
        while not checkpoint_path(run, KILL_STEP).exists():
            if process.poll() is not None:
                break
            time.sleep(0.002)
    if process.returncode not in (0, -signal.SIGKILL):
        fail(log)
    names = [path.name for path in (run / "checkpoints").glob("last-*")]
    return max(names, default="") == checkpoint_path(run, KILL_STEP).name


def fail(log: Path) -> None:
    """Exit with the last lines of a log."""
    last = log.read_text(errors="replace").splitlines()[-20:]
    sys.exit("\n".join([f"training failed; the end of {log}:", *last]))


def emptied(folder: Path) -> Path:
    """Return a folder path at which nothing exists."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def train_whole(checkout: Checkout, config: Path, run: Path, log: Path) -> None:
    """Train without a break."""
    finish(checkout.train(config, emptied(run)), log)


def train_resumed(checkout: Checkout, config: Path, run: Path, log: Path) -> None:
    """Train, kill at KILL_STEP, and resume."""
    for _ in range(ATTEMPTS):
        if kill_at_checkpoint(checkout.train(config, emptied(run)), run, log):
            finish(checkout.resume(run), log)
            return
    sys.exit(f"{run}: {ATTEMPTS} runs passed step {KILL_STEP} before they were killed")


def set_up_hashes(checkout: Checkout, config: Path) -> dict[str, dict[str, str]]:
    """Train one set-up in both ways, and hash both runs."""
    tasks = list(tomllib.loads(config.read_text()).get("task", {}))
    folder = checkout.work / config.stem
    folder.mkdir(parents=True, exist_ok=True)
    hashes = {}
    for name, train in zip(RUNS, (train_whole, train_resumed), strict=True):
        train(checkout, config, folder / name, folder / f"{name}.log")
        hashes[name] = run_hashes(folder / name, tasks)
    return hashes


def chosen(configs: Path, only: Sequence[str]) -> list[Path]:
    """Return the config files to run, by name. Exit if a name of `only` is unknown."""
    files = {path.stem: path for path in sorted(configs.glob("*.toml"))}
    unknown = [name for name in only if name not in files]
    if unknown or not files:
        sys.exit(f"{configs}: no config {', '.join(unknown)}; there are: {', '.join(files)}")
    return [path for name, path in files.items() if not only or name in only]


def run_all(checkout: Checkout, configs: Sequence[Path], out: Path) -> None:
    """Run each set-up that `out` does not hold yet, and save after each of them."""
    environment = checkout.environment()
    results: dict[str, Any] = {"environment": environment, "set_ups": {}}
    if out.exists():
        results = json.loads(out.read_text())
    if results["environment"] != environment:
        sys.exit(f"{out} is from {results['environment']}; now it is {environment}: use a new file")
    for config in configs:
        if config.stem in results["set_ups"]:
            print(f"{config.stem}: already in {out}")
            continue
        begun = time.perf_counter()
        hashes = set_up_hashes(checkout, config)
        results["set_ups"][config.stem] = hashes
        write_whole(out, json.dumps(results, indent=2) + "\n")
        resumed = different(hashes["whole"], hashes["resumed"], STATE_HASHES)
        seconds = time.perf_counter() - begun
        print(f"{config.stem}: {seconds:.0f} s; resumed against whole: {resumed}", flush=True)


def write_whole(file: Path, text: str) -> None:
    """Write a file, so that it is never seen half written."""
    temporary = file.with_name(f"{file.name}.tmp")
    temporary.write_text(text)
    temporary.replace(file)


# ------------------------------------------------------------------------------------- comparison


def different(before: Mapping[str, Any], after: Mapping[str, Any], keys: Iterable[str]) -> str:
    """Return "equal", or the keys whose values differ."""
    names = [key for key in keys if before.get(key) != after.get(key)]
    return f"differ: {', '.join(names)}" if names else "equal"


def table(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of the comparison: set-up, whole, resumed, resumed against whole."""
    names = sorted(before["set_ups"].keys() | after["set_ups"].keys())
    rows = []
    for name in names:
        one, two = before["set_ups"].get(name), after["set_ups"].get(name)
        if one is None or two is None:
            rows.append([name, *[f"missing {'before' if one is None else 'after'}"] * 3])
            continue
        cells = [different(one[run], two[run], HASHES) for run in RUNS]
        rows.append([name, *cells, different(two["whole"], two["resumed"], STATE_HASHES)])
    return rows


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Print the comparison as Markdown. Return whether everything is equal."""
    print("| set-up | whole | killed and resumed | resumed against whole (after) |")
    print("|---|---|---|---|")
    rows = table(before, after)
    for row in rows:
        print(f"| {' | '.join(row)} |")
    one, two = before["environment"], after["environment"]
    environment = different(one, two, sorted(one.keys() | two.keys()))
    print(f"\nEnvironment: {environment}. Before: {one}. After: {two}.")
    cells = {environment}.union(*(row[1:] for row in rows))
    return bool(rows) and cells == {"equal"}


# ----------------------------------------------------------------------------------- command line


def parser() -> argparse.ArgumentParser:
    """Return the parser of the two commands."""
    top = argparse.ArgumentParser(description="Compare training of two checkouts, bit for bit.")
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train all set-ups with one checkout, and hash them")
    run.add_argument("--python", type=Path, required=True, help="the checkout's interpreter")
    run.add_argument("--checkout", type=Path, required=True, help="the checkout")
    run.add_argument("--configs", type=Path, required=True, help="a folder of TOML files")
    run.add_argument("--data", type=Path, required=True, help="FER2013: holds train/ and test/")
    run.add_argument("--work", type=Path, required=True, help="for run folders and logs")
    run.add_argument("--out", type=Path, required=True, help="the JSON file of hashes")
    run.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these set-ups alone")
    both = commands.add_parser("compare", help="compare the hashes of two checkouts")
    both.add_argument("before", type=Path)
    both.add_argument("after", type=Path)
    return top


def main() -> int:
    """Run one command. Return 1 if a comparison finds a difference."""
    given = parser().parse_args()
    if given.command == "compare":
        before, after = (json.loads(path.read_text()) for path in (given.before, given.after))
        return 0 if compare(before, after) else 1
    # An interpreter of a virtual environment is a link: resolving it would leave the environment.
    python, data, work = (p.absolute() for p in (given.python, given.data, given.work))
    checkout = Checkout(python, given.checkout, data, work)
    configs = [path.absolute() for path in chosen(given.configs, given.only)]
    run_all(checkout, configs, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
