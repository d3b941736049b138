"""What a run says about itself: its state, compute, versions and configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from filelock import FileLock, Timeout

from ..config.experiment import Experiment
from ..runs import RunFolder
from .blocks import Block, Code, Facts, Missing, Table, Text
from .curves import VALIDATION
from .numbers import joined, seconds, shown

Summary = Mapping[str, Any]
Row = Mapping[str, Any]


def state_of(folder: RunFolder, summary: Summary, rows: Sequence[Row]) -> str:
    """Whether a run is complete, in one sentence."""
    last = max((int(row["step"]) for row in rows), default=0)
    if summary.get("finished"):
        early = summary.get("stopped_early")
        if early:
            return (
                f"It ended at step {summary['steps']:,} of {early['of']:,}: {early['by']} stopped "
                f"it ({early['reason']})."
            )
        return f"It is complete: {summary.get('steps', last):,} steps."
    if _is_training(folder):
        return f"It is being trained now. Its last logged step is {last:,}."
    return f"It is not complete. Its last logged step is {last:,}; mtl train --resume continues it."


def _is_training(folder: RunFolder) -> bool:
    """Whether a process holds the lock of the run."""
    if not (folder.path / ".lock.json").exists():
        return False
    lock = FileLock(folder.path / ".lock", timeout=0, thread_local=False)
    try:
        with lock:
            return False
    except (Timeout, OSError):
        return True


def trained_on(summary: Summary, experiment: Experiment | None) -> str:
    """What was trained on what, in one sentence."""
    if experiment is None:
        return ""
    components = summary.get("components", {})
    encoder = components.get("encoder", {}).get("name") or type(experiment.encoder).__name__
    tasks, pretexts = joined(experiment.tasks), joined(experiment.pretexts)
    data = joined(experiment.data)
    return f"Encoder {encoder}; tasks: {tasks}; pretexts: {pretexts}; data: {data}. "


def headline(
    summary: Summary, rows: Sequence[Row], experiment: Experiment | None
) -> list[tuple[str, str]]:
    """The facts below the title."""
    last: Row = rows[-1] if rows else {}
    steps = summary.get("steps", last.get("step"))
    pairs = [("steps", f"{steps:,}" if steps is not None else "0")]
    if "samples" in summary:
        pairs.append(("training samples", f"{summary['samples'].get('train', 0):,}"))
    cpu_s = summary.get("cpu_s", next((r["cpu_s"] for r in reversed(rows) if "cpu_s" in r), None))
    if cpu_s is not None:
        pairs.append(("compute", f"{seconds(cpu_s)} of CPU"))
    if "device" in summary:
        pairs.append(("device", str(summary["device"])))
    seed = summary.get("seed", experiment.seed if experiment else None)
    if seed is not None:
        pairs.append(("seed", str(seed)))
    if "started" in summary:
        pairs.append(("started", str(summary["started"]).replace("T", " ").removesuffix("+00:00")))
    return pairs


def compute(summary: Summary, rows: Sequence[Row]) -> list[Block]:
    """Steps, skipped steps, images through the encoder, and time."""
    last = next((row for row in reversed(rows) if "cpu_s" in row), {})
    pairs: list[tuple[str, str]] = []
    for name, key in (
        ("steps", "steps"),
        ("skipped steps", "skipped"),
        ("images through the encoder", "encoded"),
    ):
        value = summary.get(key, last.get(key))
        if value is not None:
            pairs.append((name, f"{int(value):,}"))
    if "cpu_s" in summary or "cpu_s" in last:
        pairs.append(("CPU time", seconds(summary.get("cpu_s", last.get("cpu_s")))))
    if "wall_s" in summary:
        pairs.append(("wall time", seconds(summary["wall_s"])))
    for name, key in (("device", "device"), ("processes", "world"), ("threads", "threads")):
        if key in summary:
            pairs.append((name, str(summary[key])))
    if not pairs:
        return [Missing("compute", "The run has neither logged a step nor ended.")]
    failures = summary.get("callback_failures", {})
    lines = [Text(f"callback.{label}: {failed}", quiet=True) for label, failed in failures.items()]
    return [Facts(pairs), *lines]


def versions(summary: Summary) -> list[Block]:
    """Versions of packages, of the code of each component, and of the data."""
    packages = {"Python": summary.get("python"), **summary.get("versions", {})}
    rows = [(name, str(version)) for name, version in packages.items() if version]
    found: list[Block] = []
    if rows:
        found.append(Table("Versions", ("package", "version"), rows, numbers=False))
    components = []
    for path, origin in summary.get("components", {}).items():
        where = origin.get("package") or origin.get("file") or "a script"
        components.append((path, str(origin.get("name")), str(where), origin.get("version") or ""))
    if components:
        columns = ("table", "component", "from", "version")
        found.append(Table("Components", columns, components, numbers=False, folded=True))
    lines = []
    if "command" in summary:
        lines.append(f"Command: {summary['command']}")
    if "data_fingerprint" in summary:
        lines.append(f"Fingerprint of the data: {summary['data_fingerprint']}")
    found += [Text(line, quiet=True) for line in lines]
    return found or [Missing("versions", "run.json does not have them: the run has not started.")]


def configuration(folder: RunFolder) -> list[Block]:
    """The resolved configuration, as the run saved it."""
    try:
        text = folder.config.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        return [Missing("the configuration", f"{folder.config} can't be read: {error}")]
    return [Code(f"The resolved configuration ({len(text.splitlines())} lines)", text)]


def latest_validation(summary: Summary, rows: Sequence[Row]) -> tuple[dict[str, float], int]:
    """The last validation metrics of the run, from run.json or the log, and their step."""
    if summary.get("validation"):
        return dict(summary["validation"]), int(summary.get("steps", 0))
    for row in reversed(rows):
        found = {k.removeprefix(VALIDATION): v for k, v in row.items() if k.startswith(VALIDATION)}
        if found:
            return found, int(row["step"])
    return {}, 0


def recorded_metrics(summary: Summary, rows: Sequence[Row]) -> list[Block]:
    """The last validation metrics, as a table."""
    metrics, step = latest_validation(summary, rows)
    if not metrics:
        why = "The run has not been evaluated yet, or it has no validation split."
        return [Missing("validation metrics", why)]
    cells = [(name, shown(float(value))) for name, value in metrics.items()]
    caption = f"Validation at step {step:,}, as the run recorded it"
    return [Table(caption, ("metric", "value"), cells, folded=True)]
