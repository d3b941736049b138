"""`Worker`: the one thread that predicts, so that the event loop always answers."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress

from attrs import define, evolve, field, frozen

from ..prediction.predictor import Predictor
from ..prediction.results import Prediction
from ..prediction.sources import Item
from .uploads import Upload

Answered = list[list[Prediction]]
"""For each image of a request, in order, the predictions: one, or one for each region."""


@frozen(eq=False)
class _Job:
    uploads: Sequence[Upload]
    future: Future[Answered] = field(factory=Future)


@define(eq=False)
class Worker:
    """Predicts the images of requests. Requests that wait together share forwards."""

    predictor: Predictor
    _jobs: queue.SimpleQueue[_Job | None] = field(factory=queue.SimpleQueue, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._work, name="predict", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish what was submitted, then end the thread."""
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join()

    def submit(self, uploads: Sequence[Upload]) -> Future[Answered]:
        """Predict images. The files must stay open until the result is there."""
        job = _Job(uploads)
        self._jobs.put(job)
        return job.future

    def _work(self) -> None:
        is_open = True
        while is_open:
            jobs, is_open = self._waiting()
            running = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            try:
                answered = self._predict([upload for job in running for upload in job.uploads])
            except BaseException as error:  # noqa: BLE001 (the app reports it)
                for job in running:
                    job.future.set_exception(error)
                continue
            for job in running:
                n = len(job.uploads)
                job.future.set_result(answered[:n])
                answered = answered[n:]

    def _waiting(self) -> tuple[list[_Job], bool]:
        """Wait for a job, and add those that wait with it: about one batch of images.

        The second value is False after `stop`.
        """
        first = self._jobs.get()
        if first is None:
            return [], False
        jobs = [first]
        with suppress(queue.Empty):
            while sum(len(job.uploads) for job in jobs) < self.predictor.batch_size:
                other = self._jobs.get_nowait()
                if other is None:
                    return jobs, False
                jobs.append(other)
        return jobs, True

    def _predict(self, uploads: Sequence[Upload]) -> Answered:
        # The number of an image is its name for the predictor: two files may have one name, and a
        # detector finds any number of regions in an image.
        items = [Item(str(number), upload.open) for number, upload in enumerate(uploads)]
        answered: Answered = [[] for _ in uploads]
        for prediction in self.predictor.stream(items):
            number = int(prediction.file)
            answered[number].append(evolve(prediction, file=uploads[number].name))
        return answered
