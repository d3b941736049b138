"""The log of a run as TensorBoard scalars, with its confusion matrices and its last sheet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from ..contracts import Callback, CallbackContext
from ..evaluation.matrix_image import matrix_image
from ..evaluation.preview import preview


@frozen
class TensorBoard(Callback):
    """Write each line of metrics.jsonl as TensorBoard scalars, into RUN/tensorboard.

    Each evaluation also writes its confusion matrices as images. At the end, a run with pretexts
    writes the sheet of `mtl preview --run`. View them with `tensorboard --logdir RUN`.
    """

    name = "tensorboard"
    cites = "original"
    reads_network = False

    def on_train_start(self, run: CallbackContext) -> None:
        # Imported here, since the import takes most of a second.
        from torch.utils.tensorboard.writer import SummaryWriter

        # A resumed run drops the rows after its checkpoint.
        folder = run.folder / "tensorboard"
        run.handles["writer"] = SummaryWriter(str(folder), purge_step=run.step + 1)

    def on_log(self, run: CallbackContext, row: Mapping[str, Any]) -> None:
        writer = run.handles.get("writer")
        if writer is None:  # on_train_start failed, and this was reported
            return
        for name, value in row.items():
            if name != "step":
                writer.add_scalar(name, value, int(row["step"]))

    def on_validation_end(self, run: CallbackContext) -> None:
        writer = run.handles.get("writer")
        if writer is None:
            return
        for name, matrix in run.tables.items():
            component = run.experiment.entries[name.partition("/")[0]].component
            image = matrix_image(matrix, getattr(component, "classes", ()))
            if image is not None:
                writer.add_image(name, image, run.step, dataformats="HWC")

    def on_train_end(self, run: CallbackContext) -> None:
        writer = run.handles.get("writer")
        if writer is not None and run.experiment.pretexts:
            sheet = preview(run.experiment, run.folder)
            writer.add_image("preview", sheet, run.step, dataformats="HWC")

    def teardown(self, run: CallbackContext) -> None:
        if "writer" in run.handles:
            run.handles["writer"].close()
