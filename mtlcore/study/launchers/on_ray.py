"""Train the runs of a study on a Ray cluster: each run is a Ray task with its resources.

The study file, its data and its folder must have the same paths on all nodes (shared storage). If a
node is lost, Ray starts the run again on another one, where it resumes from its last checkpoint. A
run is the same, bit for bit, as a local one with the same number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from ...errors import MtlError
from ...training.stop import Interrupted
from ..results import Run
from ..study import Study, selected
from ..working import Say

RETRIES = 20
"""How often a run may lose its node."""
LOOK_S = 5.0
SAVE_S = 120.0  # to save the runs after Ctrl-C


def run_on_ray(
    study: Study,
    *,
    cpus: int = 1,
    gpus: float | None = None,
    arms: Sequence[str] = (),
    say: Say = print,
) -> dict[str, str]:
    """Train what is left of a study on a cluster. Return arm -> why its run failed.

    The cluster is that of RAY_ADDRESS, or else one on this machine.

    cpus: processor cores and threads of each run. gpus: of each run; a share lets runs share one
    (default: 1 if the cluster has any, else 0). arms: these arms alone.
    Raises MtlError on an unknown arm, and KeyboardInterrupt after Ctrl-C. Each run then is saved
    where it is trained.
    """
    if study.file is None:
        raise MtlError("a cluster needs a study file: write one, and use Study.load")
    if cpus < 1:
        raise MtlError(f"cpus = {cpus}: expected the number of cores of a run, 1 or more")
    study.require_arms(arms)
    ray = _ray()
    study.save_copy(say)
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    resources = ray.cluster_resources()
    gpus = gpus if gpus is not None else float(resources.get("GPU", 0) > 0)
    say(f"Ray: {len(ray.nodes())} nodes; each run has {cpus} CPUs and {gpus:g} GPUs")
    _require_resources(resources, cpus, gpus)
    task = ray.remote(_train).options(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)
    where = (str(study.file.absolute()), str(study.folder.absolute()))
    return _train_all(ray, task, where, cpus, study, arms, say)


def _train_all(
    ray: ModuleType,
    task: Any,
    where: tuple[str, str],
    cpus: int,
    study: Study,
    arms: Sequence[str],
    say: Say,
) -> dict[str, str]:
    """Submit runs as the study knows them, until none is left."""
    submitted: dict[Any, Run] = {}
    failed: dict[str, str] = {}
    try:
        while True:
            busy = {run.name for run in submitted.values()}
            for run in selected(study.workspace.plan(), arms):
                if run.name not in busy and run.arm.name not in failed:
                    submitted[task.remote(*where, run.name, cpus)] = run
            if not submitted:
                return failed
            for done in ray.wait(list(submitted), timeout=LOOK_S)[0]:
                run = submitted.pop(done)
                lines, problems = _result(ray, done, run)
                failed |= problems
                for line in lines:
                    say(line)
    finally:
        _stop(ray, list(submitted))


def _stop(ray: ModuleType, submitted: Sequence[Any]) -> None:
    """Stop runs as Ctrl-C does, and wait until they are saved: the end of the driver kills them."""
    for reference in submitted:
        ray.cancel(reference)
    if submitted:
        ray.wait(submitted, num_returns=len(submitted), timeout=SAVE_S)


def _result(ray: ModuleType, reference: Any, run: Run) -> tuple[list[str], dict[str, str]]:
    """Return the lines that a run said, and its arm -> why it failed."""
    try:
        lines, reason = ray.get(reference)
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        lines = [f"{run.name} failed: {reason}"]
    return lines, {run.arm.name: reason} if reason else {}


def _train(file: str, folder: str, name: str, cpus: int) -> tuple[list[str], str]:
    """Train one run, in a process of the cluster. Return what it said, and why it failed or ""."""
    import torch

    from .one import train_one

    torch.set_num_threads(cpus)
    lines: list[str] = []
    try:
        failed = train_one(Study.load(file, folder), name, lines.append)
    except (MtlError, Interrupted) as error:
        # A message, rather than an exception: Ray would hide it in a traceback.
        return [*lines, f"{name}: {error}"], str(error)
    return lines, next(iter(failed.values()), "")


def _require_resources(resources: dict[str, float], cpus: int, gpus: float) -> None:
    """Raise MtlError if the whole cluster is smaller than one run: it would wait forever."""
    for name, needed in (("CPU", cpus), ("GPU", gpus)):
        if needed > resources.get(name, 0):
            raise MtlError(
                f"a run needs {needed:g} {name}s, and the cluster has {resources.get(name, 0):g}: "
                f"choose a smaller --{name.lower()}s, or add nodes"
            )


def _ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise MtlError("--launcher ray needs ray: type `pip install 'mtlcore[ray]'`") from error
    return ray
