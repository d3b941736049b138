"""What did the pretext teach? Simple classifiers on frozen features (Alain & Bengio 2016, arXiv:1610.01644; kNN: Wu et al. 2018).

    features of labeled training samples (N, D), classes (N,)  ->  two classifiers  ->  accuracy on the validation samples

linear: logistic regression on standardized features, with the usual penalty |W|^2 / 2 on the summed loss (scikit-learn's C = 1),
its minimum found by L-BFGS. knn: the k nearest training samples by cosine vote with weights exp(cosine / 0.07) (arXiv:1805.01978).
Neither has randomness: the same features give the same figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor

from ..contracts import Callback, CallbackContext
from ..errors import MtlError
from ..tasks.classification import Classification

TEMPERATURE = 0.07
CHUNK = 1024  # samples whose neighbors are looked for at once: what bounds the (samples, N) table of cosines


@frozen
class Probe(Callback):
    """A linear and a kNN probe every N epochs and at the end: accuracies "<what>/linear" and "<what>/knn" on validation samples.

    reads: annotations to probe (default: each task of classes; without such a task it must be given). every: epochs between two
    probes. k: neighbors. limit: training samples at most (evenly spread over all), so that a probe of a large set stays cheap.
    """

    cites = "Alain & Bengio 2016, arXiv:1610.01644; Wu et al. 2018, arXiv:1805.01978"

    reads: tuple[str, ...] = ()
    every: int = field(default=1, validator=ge(1))
    k: int = field(default=20, validator=ge(1))
    limit: int = field(default=10_000, validator=ge(1))

    def figures(self, experiment: Any) -> Mapping[str, bool]:
        return {
            f"{what}/{kind}": True for what in self._asked(experiment) for kind in ("linear", "knn")
        }

    def check(self, run: CallbackContext) -> None:
        if not self._asked(run.experiment):
            raise MtlError(
                'the run has no task of classes: name annotations of the data, such as reads = ["emotion"]'
            )
        for split in ("train", "validation"):
            for what, indices, _, _ in self._questions(run, split):
                if not len(indices):
                    raise MtlError(f"{what!r}: no sample of {split} has this label")

    def on_epoch_end(self, run: CallbackContext) -> None:
        if run.epoch % self.every == 0:
            self._probe(run)

    def on_train_end(self, run: CallbackContext) -> None:
        self._probe(run)

    def _probe(self, run: CallbackContext) -> None:
        if run.state.get("step") == run.step:
            return
        run.state["step"] = run.step
        learned = {
            what: (indices, classes) for what, indices, classes, _ in self._questions(run, "train")
        }
        for what, indices, classes, number in self._questions(run, "validation"):
            train, answers = learned[what]
            kept = spread(len(train), self.limit)
            x, new = run.features(train[kept]), run.features(indices)
            y, wanted = answers[torch.from_numpy(kept)].to(x.device), classes.to(x.device)
            guesses = {"linear": linear(x, y, number, new), "knn": knn(x, y, number, new, self.k)}
            run.add(
                {
                    f"{what}/{kind}": float((g == wanted).float().mean())
                    for kind, g in guesses.items()
                }
            )

    def _asked(self, experiment: Any) -> tuple[str, ...]:
        if self.reads:
            return self.reads
        return tuple(
            label
            for label, e in experiment.tasks.items()
            if isinstance(e.component, Classification)
        )

    def _questions(
        self, run: CallbackContext, split: str
    ) -> Iterator[tuple[str, np.ndarray, Tensor, int]]:
        """what is asked, samples that have an answer, their classes (N,) int64, number of classes."""
        indices = run.indices(split)
        for what in self._asked(run.experiment):
            if self.reads:
                task = Classification(what).fit(run.annotation(what, run.indices("train")))
                targets, present = task.target(run.annotation(what, indices))
            else:
                task = run.experiment.tasks[what].component
                targets, present = run.targets(what, indices)
            yield what, indices[present.numpy()], targets[present], len(task.classes)


def spread(indices: int, limit: int) -> np.ndarray:
    """At most `limit` places of so many samples, at even distances."""
    return np.arange(indices) if indices <= limit else np.arange(limit) * indices // limit


def linear(x: Tensor, y: Tensor, classes: int, new: Tensor) -> Tensor:
    """Logistic regression of features (N, D) on classes (N,) int64 -> classes (M,) of `new` (M, D)."""
    mean, std = x.mean(0), x.std(0, correction=0).clamp_min(1e-6)
    x, new = (x - mean) / std, (new - mean) / std
    with torch.enable_grad():
        weight = torch.zeros(classes, x.shape[1], device=x.device, requires_grad=True)
        bias = torch.zeros(classes, device=x.device, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.cross_entropy(x @ weight.T + bias, y) + weight.square().sum() / (2 * len(x))
            value.backward()
            return value

        optimizer.step(loss)
    return (new @ weight.detach().T + bias.detach()).argmax(1)


def knn(x: Tensor, y: Tensor, classes: int, new: Tensor, k: int) -> Tensor:
    """The weighted vote of the k nearest of x (N, D) with classes y (N,) -> classes (M,) of `new` (M, D)."""
    x, answers = F.normalize(x, dim=1), F.one_hot(y, classes).float()
    guesses = []
    for part in F.normalize(new, dim=1).split(CHUNK):
        cosine, nearest = (part @ x.T).topk(min(k, len(x)), dim=1)
        votes = (cosine / TEMPERATURE).exp()[:, :, None] * answers[nearest]
        guesses.append(votes.sum(1).argmax(1))
    return torch.cat(guesses)
