"""Linear and kNN probes: how well simple classifiers do on the frozen features of the encoder.

    features of labeled training samples (N, D), classes (N,)
        -> two classifiers -> accuracy on the validation samples

linear: logistic regression on standardized features, with the penalty |W|^2 / 2 on the summed loss
(scikit-learn's C = 1), minimized by L-BFGS (Alain & Bengio 2016, arXiv:1610.01644).
knn: a vote of the k nearest training samples by cosine, weighted by exp(cosine / 0.07)
(Wu et al. 2018, arXiv:1805.01978).
Both are deterministic: the same features give the same accuracies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import and_, ge, le
from torch import Tensor

from ..config.experiment import Experiment
from ..contracts import Callback, CallbackContext
from ..errors import MtlError
from ..tasks.classification import Classification

TEMPERATURE = 0.07
CHUNK = 1024  # samples whose neighbors are searched at once: bounds the (CHUNK, N) table of cosines


class LabeledSamples(NamedTuple):
    """The samples of one split that have one label.

    name: the annotation or task. indices: (N,) int64. classes: (N,) int64, on the CPU.
    class_count: number of classes.
    """

    name: str
    indices: np.ndarray
    classes: Tensor
    class_count: int


@frozen
class Probe(Callback):
    """Probe the features every `every` epochs and at the end of the run.

    It adds the validation accuracies "<name>/linear" and "<name>/knn" of each probed label.

    reads: annotations to probe (default: every classification task of the run; required in a run
        without such a task).
    every: epochs between two probes.
    k: neighbors of the kNN probe.
    limit: maximum number of training samples, evenly spread over all of them. It keeps the cost
        low on a large dataset.
    """

    cites = "Alain & Bengio 2016, arXiv:1610.01644; Wu et al. 2018, arXiv:1805.01978"

    reads: tuple[str, ...] = ()
    every: int = field(default=1, validator=and_(ge(1), le(10**9)))
    k: int = field(default=20, validator=and_(ge(1), le(10**6)))
    limit: int = field(default=10_000, validator=and_(ge(1), le(10**9)))

    def figures(self, experiment: Experiment) -> Mapping[str, bool]:
        figures: dict[str, bool] = {}
        for name in self._probed(experiment):
            figures |= {f"{name}/linear": True, f"{name}/knn": True}
        return figures

    def check(self, run: CallbackContext) -> None:
        if not self._probed(run.experiment):
            raise MtlError(
                "the run has no classification task: set the annotations to probe, "
                'such as reads = ["emotion"]'
            )
        for split in ("train", "validation"):
            for labeled in self._labeled_samples(run, split):
                if not len(labeled.indices):
                    raise MtlError(f"{labeled.name!r}: no sample of {split} has this label")

    def on_epoch_end(self, run: CallbackContext) -> None:
        if run.epoch % self.every == 0:
            self._probe(run)

    def on_train_end(self, run: CallbackContext) -> None:
        self._probe(run)

    def _probe(self, run: CallbackContext) -> None:
        # The last step can also be the end of an epoch: probe it once.
        if run.state.get("step") == run.step:
            return
        run.state["step"] = run.step
        train = {labeled.name: labeled for labeled in self._labeled_samples(run, "train")}
        for validation in self._labeled_samples(run, "validation"):
            self._add_accuracies(run, train[validation.name], validation)

    def _add_accuracies(
        self,
        run: CallbackContext,
        train: LabeledSamples,
        validation: LabeledSamples,
    ) -> None:
        used = spread(len(train.indices), self.limit)
        x = run.features(train.indices[used])
        new = run.features(validation.indices)
        y = train.classes[torch.from_numpy(used)].to(x.device)
        expected = validation.classes.to(x.device)
        predicted = {
            "linear": linear(x, y, validation.class_count, new),
            "knn": knn(x, y, validation.class_count, new, self.k),
        }
        accuracies: dict[str, float] = {}
        for kind, classes in predicted.items():
            accuracies[f"{validation.name}/{kind}"] = float((classes == expected).float().mean())
        run.add(accuracies)

    def _probed(self, experiment: Experiment) -> tuple[str, ...]:
        """Annotations of `reads`, or the labels of all classification tasks."""
        if self.reads:
            return self.reads
        labels = []
        for label, entry in experiment.tasks.items():
            if isinstance(entry.component, Classification):
                labels.append(label)
        return tuple(labels)

    def _labeled_samples(self, run: CallbackContext, split: str) -> Iterator[LabeledSamples]:
        """The labeled samples of a split, for each probed label."""
        indices = run.indices(split)
        for name in self._probed(run.experiment):
            task = self._task(run, name)
            if self.reads:
                targets, present = task.target(run.annotation(name, indices))
            else:
                targets, present = run.targets(name, indices)
            labeled = indices[present.numpy()]
            yield LabeledSamples(name, labeled, targets[present], len(task.classes))

    def _task(self, run: CallbackContext, name: str) -> Classification:
        """The task of this label, or one that is fitted on the annotation."""
        if not self.reads:
            task = run.experiment.tasks[name].component
            assert isinstance(task, Classification)
            return task
        return Classification(name).fit(run.annotation(name, run.indices("train")))


def spread(count: int, limit: int) -> np.ndarray:
    """(N,) positions out of `count`, at most `limit` of them, evenly spaced."""
    if count <= limit:
        return np.arange(count)
    return np.arange(limit) * count // limit


def linear(x: Tensor, y: Tensor, classes: int, new: Tensor) -> Tensor:
    """Logistic regression on features (N, D) and classes (N,) int64 -> classes (M,) of `new`."""
    # A feature that never varies has a standard deviation of 0.
    mean = x.mean(0)
    std = x.std(0, correction=0).clamp_min(1e-6)
    x = (x - mean) / std
    new = (new - mean) / std
    # Callbacks run without gradient.
    with torch.enable_grad():
        weight = torch.zeros(classes, x.shape[1], device=x.device, requires_grad=True)
        bias = torch.zeros(classes, device=x.device, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            penalty = weight.square().sum() / (2 * len(x))
            value = F.cross_entropy(x @ weight.T + bias, y) + penalty
            value.backward()
            return value

        optimizer.step(loss)
    return (new @ weight.detach().T + bias.detach()).argmax(1)


def knn(x: Tensor, y: Tensor, classes: int, new: Tensor, k: int) -> Tensor:
    """Weighted vote of the k nearest of x (N, D) with classes y (N,) -> classes (M,) of `new`."""
    k = min(k, len(x))
    x = F.normalize(x, dim=1)
    one_hot = F.one_hot(y, classes).float()
    predicted = []
    for chunk in F.normalize(new, dim=1).split(CHUNK):
        cosine, neighbors = (chunk @ x.T).topk(k, dim=1)
        weight = (cosine / TEMPERATURE).exp()[:, :, None]
        votes = (weight * one_hot[neighbors]).sum(1)
        predicted.append(votes.argmax(1))
    return torch.cat(predicted)
