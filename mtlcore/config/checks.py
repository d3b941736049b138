"""Conflicts between settings: values that are valid alone, but not together.

Each message names the keys in conflict, and a setting that solves it.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import nearest
from ..image_size import same_ratio, written
from ..registry.components import component_name
from .experiment import Experiment, Schedule


def conflicts(experiment: Experiment) -> Iterator[str]:
    """Yield one line for each conflict."""
    yield from _training(experiment)
    yield from _input(experiment)
    yield from _sampling(experiment)
    yield from _views(experiment)
    yield from _mixing(experiment)
    yield from _drawing(experiment)
    yield from _unlabeled(experiment)
    yield from _weighting(experiment)
    yield from _schedule(experiment)
    best = experiment.train.best
    if best is not None:
        yield from _best(best, experiment)


def _training(experiment: Experiment) -> Iterator[str]:
    if experiment.tasks:
        return
    pretexts = experiment.pretexts.values()
    if not pretexts:
        yield (
            "nothing to train: expected a table [task.<label>] or [pretext.<label>] "
            "(one of weight 0 does not count)"
        )
    elif all(entry.control == "views_only" for entry in pretexts):
        yield (
            'there is no loss: every pretext has control = "views_only", and there is no '
            "[task.<label>]: add a task, or set control of a pretext"
        )


def _input(experiment: Experiment) -> Iterator[str]:
    """Scale height and width equally, so that a rotation in the cache is one in the view."""
    size, cache_size = experiment.input.size, experiment.input.cache_size
    if cache_size is None or same_ratio(cache_size, size):
        return
    height, width = size
    such_as = written((round(1.5 * height), round(1.5 * width)))
    yield (
        f"input.cache_size = {written(cache_size)}: its aspect ratio differs from that of "
        f"input.size = {written(size)}: remove it, or set input.cache_size = {such_as}"
    )


def _sampling(experiment: Experiment) -> Iterator[str]:
    sampling, by = experiment.input.sampling, experiment.input.sampling_by
    tasks = experiment.tasks
    if sampling == "shuffle":
        if by is not None:
            yield (
                f'input.sampling_by = {by!r} has no effect with input.sampling = "shuffle": '
                'remove it, or set input.sampling = "balanced" or "weighted"'
            )
    elif not tasks:
        yield (
            f'input.sampling = "{sampling}": it is about labeled samples, and there is no '
            '[task.<label>]: set input.sampling = "shuffle"'
        )
    elif sampling == "weighted" and by is None:
        yield (
            'input.sampling = "weighted": set input.sampling_by to the annotation that holds the '
            "weight of each sample"
        )
    elif sampling == "balanced" and by is not None and by not in tasks:
        yield f"input.sampling_by = {by!r}: unknown task {by!r}; {nearest(by, tasks)}"


def _views(experiment: Experiment) -> Iterator[str]:
    views = experiment.views
    readable = any(entry.supervised for entry in experiment.pretexts.values())
    if views.supervised == "pretext" and not readable:
        yield (
            'views.supervised = "pretext": there is no [pretext.<label>] with views that '
            'supervised heads can read: set views.supervised = "clean", or add one'
        )
    whole = any(e.supervised and e.samples == "all" for e in experiment.pretexts.values())
    if views.supervised == "both" and experiment.pretexts and not whole:
        yield (
            'views.supervised = "both" has no effect: no [pretext.<label>] makes views that '
            'supervised heads can read of all samples: set samples = "all" in one of them, or '
            'views.supervised = "clean"'
        )
    if views.statistics == "clean" and views.supervised == "pretext":
        yield (
            'views.statistics = "clean" and views.supervised = "pretext": no clean view is read: '
            'set views.statistics = "all", or views.supervised = "clean" or "both"'
        )
    if views.statistics == "clean" and not experiment.tasks:
        yield (
            'views.statistics = "clean": no [task.<label>] reads a clean view: '
            'set views.statistics = "all"'
        )


def _mixing(experiment: Experiment) -> Iterator[str]:
    """Refuse mixed images (mixup, cutmix) where an answer would be wrong, or has no meaning."""
    named = {f"augment.{name}": of_name for name, of_name in experiment.augmentations.items()}
    mixing = {where for where, of_name in named.items() if of_name.mixes}
    if experiment.augment.mixes:
        mixing.add("augment")
    if not mixing:
        return

    if "augment.validation" in mixing:
        yield (
            "augment.validation: it mixes samples (mixup, cutmix), and evaluation needs images of "
            "one sample: remove the operation that mixes"
        )
    if "augment" in mixing and experiment.views.reduce == "geometric":
        yield (
            '[augment] mixes samples and views.reduce = "geometric": the loss of a mixed sample is '
            'a weighted sum, which a geometric mean is not: set views.reduce = "mean"'
        )
    for label, entry in experiment.pretexts.items():
        read = {f"augment.{name}" if name else "augment" for name in entry.component.augmentations}
        found = sorted(read & mixing)
        if found and not entry.component.reads_mixed:
            yield (
                f"pretext.{label} can't read images of [{found[0]}], which mixes samples (mixup, "
                "cutmix): remove the pretext, or the operation that mixes"
            )


def _drawing(experiment: Experiment) -> Iterator[str]:
    """Refuse an evaluation that draws: an answer would depend on the other images of its batch.

    An augmentation that draws nothing says so by `lacks`, where the conformance kit expects it.
    """
    augmentation = experiment.augmentations.get("validation")
    if augmentation is None or augmentation.mixes or "random" in augmentation.lacks:
        return  # one that mixes has its own message
    name = component_name(type(augmentation))
    yield (
        f'[augment.validation] name = "{name}": it draws random numbers, so the answer for an '
        "image would depend on its place in the batch; expected one that draws nothing: set name = "
        '"validation" (a class of a plugin declares it: lacks = {"random": "why"})'
    )


def _unlabeled(experiment: Experiment) -> Iterator[str]:
    """Unlabeled samples need a dataset that keeps them. Without tasks, no sample counts as labeled.

    An experiment without datasets passes.
    """
    may_keep = any(entry.unlabeled != "drop" for entry in experiment.data.values())
    if experiment.tasks and experiment.data and not may_keep:
        yield from without_unlabeled_samples(experiment, NOT_KEPT)


NOT_KEPT = 'no dataset keeps samples without labels: set unlabeled = "keep" in a [data.<label>]'
ALL_LABELED = (
    "every training sample has a label: remove the key, or lower labels in a [data.<label>]"
)


def without_unlabeled_samples(experiment: Experiment, why: str) -> Iterator[str]:
    """Yield a problem for each key that needs unlabeled samples, in a run without any.

    why: why there is none, and what to do.
    """
    for label, entry in experiment.pretexts.items():
        if entry.samples == "unlabeled":
            yield f'pretext.{label}.samples = "unlabeled": {why}'
    if experiment.input.unlabeled_batch is not None:
        yield f"input.unlabeled_batch = {experiment.input.unlabeled_batch}: {why}"


def _weighting(experiment: Experiment) -> Iterator[str]:
    at = experiment.weighting.at
    every = experiment.weighting.every
    train = experiment.train
    if at == "losses" and every > 1:
        yield (
            f"weighting.every = {every}: only a gradient-based weighting reuses its task weights: "
            "set weighting.every = 1"
        )
    if at == "features" and train.compile:
        yield (
            'train.compile and weighting.at = "features": a compiled encoder hides how its outputs '
            'depend on the features: set weighting.at = "parameters", or train.compile = false'
        )
    if at != "losses" and train.precision == "16-mixed":
        yield (
            f'train.precision = "16-mixed" and weighting.at = "{at}": the scaled gradient of a '
            'single loss can overflow: set train.precision = "bf16-mixed"'
        )


def _schedule(experiment: Experiment) -> Iterator[str]:
    schedule, default = experiment.schedule, Schedule()
    if schedule.name == "step":
        return
    for key in ("milestones", "gamma"):
        if getattr(schedule, key) != getattr(default, key):
            yield (
                f'schedule.{key} has no effect with schedule.name = "{schedule.name}": '
                'remove it, or set schedule.name = "step"'
            )


def _best(best: str, experiment: Experiment) -> Iterator[str]:
    task, slash, metric = best.partition("/")
    if task in experiment.callbacks and metric:
        return  # which metrics a callback adds is checked when the run starts
    if not experiment.tasks:
        yield (
            f"train.best = {best!r}: there is no task: remove the key, and the validation loss "
            "selects the best checkpoint, or name a metric of a [callback.<label>]"
        )
    elif not slash or not task or not metric:
        example = f"{next(iter(experiment.tasks))}/accuracy"
        yield f'train.best = {best!r}: expected "<task>/<metric>", such as "{example}"'
    elif task not in experiment.tasks:
        yield f"train.best = {best!r}: unknown task {task!r}; {nearest(task, experiment.tasks)}"
