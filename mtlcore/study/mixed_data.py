"""Find runs of a study that saw other data than those they are compared with."""

from __future__ import annotations

from .plan import Plan


def mixed_data(plan: Plan) -> str:
    """Return where arms saw other data with one seed, though their settings do not say so."""
    if {"data", "input"} & {*plan.definition.differ}:
        return ""
    seen: dict[tuple[object, ...], dict[str, dict[str, None]]] = {}
    for row in plan.results.rows:
        if "data" in row:
            # Other tasks read other labels, and may cut other splits.
            tasks = tuple(key for key in row["set"] if key.startswith("task."))
            of_seed = seen.setdefault((row["stage"], row["seed"], tasks), {})
            of_seed.setdefault(row["data"], {})[row["arm"]] = None

    lines = [
        f"{stage}, seed {seed}: {' | '.join(map(', '.join, found.values()))}"
        for (stage, seed, _), found in seen.items()
        if len(found) > 1
    ]
    if not lines:
        return ""
    return (
        "NOT THE SAME DATA: files, labels or splits changed between the runs, so these arms "
        f"can't be compared ({'; '.join(lines)}). Delete the rows of the older runs from "
        "runs.jsonl, and their folders, then run the study again."
    )
