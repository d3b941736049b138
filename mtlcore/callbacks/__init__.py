"""The built-in callbacks: a probe of the features, early stopping, TensorBoard, and MLflow.

Every run also has `metrics_file` and, in a terminal, the progress bars: no table configures them.
"""

from __future__ import annotations

from ..contracts import Callback
from ..registry.hooks import hookimpl
from .early_stopping import EarlyStopping
from .mlflow import Mlflow
from .probe import Probe
from .tensorboard import TensorBoard


@hookimpl
def mtl_components() -> list[type[Callback]]:
    return [EarlyStopping, Mlflow, Probe, TensorBoard]
