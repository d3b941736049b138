"""Settings that are right alone and wrong together: which keys conflict, and which setting mends it."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import nearest
from .experiment import Experiment


def conflicts(experiment: Experiment) -> Iterator[str]:
    """One line for each conflict."""
    if not experiment.tasks and not experiment.pretexts:
        yield "nothing to train: expected a table [task.<label>] or [pretext.<label>] (one of weight 0 does not count)"
    elif not experiment.tasks and all(
        p.control == "views_only" for p in experiment.pretexts.values()
    ):
        yield 'nothing is judged: every pretext has control = "views_only", and there is no [task.<label>]'
    yield from _views(experiment)
    yield from _unlabeled(experiment)
    yield from _weighting(experiment)
    best = experiment.train.best
    if best is not None:
        yield from _best(best, experiment)


def _views(experiment: Experiment) -> Iterator[str]:
    views = experiment.views
    if views.supervised == "pretext" and not any(
        p.supervised for p in experiment.pretexts.values()
    ):
        yield (
            'views.supervised = "pretext": there is no [pretext.<label>] whose views supervised heads may read: '
            'set views.supervised = "clean", or add one'
        )
    if views.statistics == "clean" and views.supervised == "pretext":
        yield (
            'views.statistics = "clean" and views.supervised = "pretext": no clean view is read: '
            'set views.statistics = "all", or views.supervised = "clean" or "both"'
        )
    if views.statistics == "clean" and not experiment.tasks:
        yield 'views.statistics = "clean": no [task.<label>] reads a clean view: set views.statistics = "all"'


def _unlabeled(experiment: Experiment) -> Iterator[str]:
    """What reads unlabeled samples needs a dataset that keeps them. Without tasks every sample is an unlabeled one."""
    keeps = any(entry.unlabeled == "keep" for entry in experiment.data.values())
    if not experiment.tasks or not experiment.data or keeps:
        return
    mend = 'set unlabeled = "keep" in a table [data.<label>]'
    for label, entry in experiment.pretexts.items():
        if entry.samples == "unlabeled":
            yield f'pretext.{label}.samples = "unlabeled": no dataset keeps samples without labels: {mend}'
    if experiment.input.unlabeled_batch is not None:
        n = experiment.input.unlabeled_batch
        yield f"input.unlabeled_batch = {n}: no dataset keeps samples without labels: {mend}"


def _weighting(experiment: Experiment) -> Iterator[str]:
    at, every, train = experiment.weighting.at, experiment.weighting.every, experiment.train
    if at == "losses" and every > 1:
        yield f"weighting.every = {every}: only task weights that are measured on gradients are kept: set weighting.every = 1"
    if at != "losses" and train.precision == "16-mixed":
        yield (
            f'train.precision = "16-mixed": the scaled gradients of a weighting at = "{at}" may overflow one by one: '
            'set train.precision = "bf16-mixed"'
        )
    if at == "features" and train.accumulate > 1:
        yield (
            f'weighting.at = "features" and train.accumulate = {train.accumulate}: each micro-batch would be weighed by its own '
            'Gramian: set weighting.at = "parameters", or train.accumulate = 1'
        )


def _best(best: str, experiment: Experiment) -> Iterator[str]:
    task, slash, metric = best.partition("/")
    if task in experiment.callbacks and metric:
        return
    if not experiment.tasks:
        yield (
            f"train.best = {best!r}: there is no task: leave it away, and the validation loss decides, or name a figure of an "
            "[callback.<label>]"
        )
    elif not slash or not task or not metric:
        yield f'train.best = {best!r}: expected "<task>/<metric>", such as "{next(iter(experiment.tasks))}/accuracy"'
    elif task not in experiment.tasks:
        yield f"train.best = {best!r}: unknown task {task!r}; {nearest(task, experiment.tasks)}"
