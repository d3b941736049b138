"""`ViewPlan`: the settings of a run that preparing a batch needs, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from ..config.experiment import Experiment, PretextEntry, Views, augmentation_by_name
from ..contracts import Augmentation, StepCounts, SupervisedTask


@frozen(eq=False)
class ViewPlan:
    """Which views are made of a batch, and which heads read them.

    augment: the run's augmentation. augmentations: further ones by name.
    size: height and width of the views, in pixels.
    tasks: label -> supervised task.
    pretexts: label -> entry of a pretext task. Its weight is not read.
    views: which views supervised heads read.
    clean: name of the augmentation that makes the pretexts' clean view. None: `augment`.
    micro_batches: number of micro-batches of the whole step, over all ranks. The loss of the step
        is the mean of their losses.
    same_images: all heads must read the same images, as required by a weighting at the features.
    """

    augment: Augmentation
    augmentations: Mapping[str, Augmentation]
    size: tuple[int, int]
    tasks: Mapping[str, SupervisedTask] = field(factory=dict)
    pretexts: Mapping[str, PretextEntry] = field(factory=dict)
    views: Views = field(factory=Views)
    clean: str | None = None
    micro_batches: int = 1
    same_images: bool = False

    def augmentation(self, name: str | None) -> Augmentation:
        """Return an augmentation by name (None: the run's own).

        Raises MtlError if the name is unknown.
        """
        return augmentation_by_name(name, self.augment, self.augmentations)

    def samples(self, label: str, counts: StepCounts) -> int:
        """Return the number of samples in the whole step that the loss of this label averages."""
        if label in self.tasks:
            return counts.labeled[label]
        reads_all = self.pretexts[label].samples == "all"
        return counts.samples if reads_all else counts.unlabeled_samples

    def labels(self, counts: StepCounts) -> tuple[str, ...]:
        """Return the labels of the losses of a step with these counts: tasks, then pretexts.

        A label without samples in this step is left out. So is a pretext with the control
        "views_only": its views are encoded, but it has no loss.
        """
        without_loss = {
            label for label, entry in self.pretexts.items() if entry.control == "views_only"
        }
        return tuple(
            label
            for label in (*self.tasks, *self.pretexts)
            if label not in without_loss and self.samples(label, counts)
        )


def training_plan(experiment: Experiment, micro_batches: int = 1) -> ViewPlan:
    """Return the plan of a training step.

    micro_batches: number of micro-batches of the whole step, over all ranks.
    """
    return ViewPlan(
        augment=experiment.augment,
        augmentations=experiment.augmentations,
        size=experiment.input.size,
        tasks={label: entry.component for label, entry in experiment.tasks.items()},
        pretexts=experiment.pretexts,
        views=experiment.views,
        micro_batches=micro_batches,
        same_images=experiment.weighting.at == "features",
    )
