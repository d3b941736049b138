"""The vocabulary of mtlcore: the data that flows through a step, and the classes of a plugin."""

from __future__ import annotations

from .answers import AnswerFormat as AnswerFormat
from .callback import Callback as Callback
from .callback import CallbackContext as CallbackContext
from .columns import Categories as Categories
from .columns import Column as Column
from .components import Augmentation as Augmentation
from .components import BuildContext as BuildContext
from .components import Component as Component
from .components import Encoder as Encoder
from .components import Head as Head
from .components import Layer as Layer
from .components import LossWeighting as LossWeighting
from .components import PretextTask as PretextTask
from .components import StepLosses as StepLosses
from .dataset import Dataset as Dataset
from .dataset import Index as Index
from .dataset import MapColumn as MapColumn
from .dataset import PointColumn as PointColumn
from .dataset import Sample as Sample
from .dataset import SampleError as SampleError
from .dataset import Skipped as Skipped
from .detector import Detections as Detections
from .detector import Detector as Detector
from .optimizer import Optimizer as Optimizer
from .optimizer import ParameterGroup as ParameterGroup
from .samples import Annotation as Annotation
from .samples import Answer as Answer
from .samples import AugmentedBatch as AugmentedBatch
from .samples import Batch as Batch
from .samples import EncoderInfo as EncoderInfo
from .samples import Features as Features
from .samples import HeadInput as HeadInput
from .samples import Mix as Mix
from .samples import Output as Output
from .samples import PreparedBatch as PreparedBatch
from .samples import StepCounts as StepCounts
from .samples import Target as Target
from .samples import View as View
from .task import AlignedTask as AlignedTask
from .task import Moved as Moved
from .task import SupervisedTask as SupervisedTask
from .visible import Visible as Visible

_BASES: tuple[type[Component], ...] = (
    Encoder,
    SupervisedTask,
    PretextTask,
    LossWeighting,
    Optimizer,
    Dataset,
    Augmentation,
    Callback,
    Detector,
)

BASES: dict[str, type[Component]] = {base.kind: base for base in _BASES}
"""Name of a component kind (`kinds.KINDS`) -> its base class."""
