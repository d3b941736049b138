"""mtlcore: hybrid multi-task learning in PyTorch.

One shared encoder learns supervised tasks and self-supervised pretext tasks together. A run is:

    dataset -> batch -> augment -> views -> encoder -> heads -> losses -> weighting -> optimizer

Each noun in this line is a kind of plugin. Python code builds and reads experiments with:

    experiments                 Experiment, its settings Input, Views, ParameterGroups (with
                                GroupOverride), Schedule, Train, its entries TaskEntry,
                                PretextEntry, DataEntry, load_experiment
    training                    train, load_run, Run, Evaluation, FeatureTable
    comparisons                 Study
    custom training loops       Trainer, and its batches, StepBatch
    components                  component (by kind and name), register (a class in your script)

A plugin author imports:

    base classes of the kinds   Encoder, SupervisedTask, PretextTask, LossWeighting, Optimizer,
                                Dataset, Augmentation, Callback
    what flows through a step   Sample, Batch, AugmentedBatch, View, Features, Target, StepLosses
    building blocks             Head, SharedHead, FrozenModule, EMA, Geometry, Bend, Rng, gather
    registration                hookimpl
    exceptions that end a run   Diverged, Interrupted

Everything loads on first use, so that `import mtlcore` and `mtl --help` do not import torch.
The command line is `mtl`, or `python -m mtlcore`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .api import load_run as load_run
    from .api import train as train
    from .authoring.predict_transform import predict_transform as predict_transform
    from .config.component import component as component
    from .config.experiment import DataEntry as DataEntry
    from .config.experiment import Experiment as Experiment
    from .config.experiment import GroupOverride as GroupOverride
    from .config.experiment import Input as Input
    from .config.experiment import ParameterGroups as ParameterGroups
    from .config.experiment import PretextEntry as PretextEntry
    from .config.experiment import Schedule as Schedule
    from .config.experiment import TaskEntry as TaskEntry
    from .config.experiment import Train as Train
    from .config.experiment import Views as Views
    from .config.load import load_experiment as load_experiment
    from .contracts import AlignedTask as AlignedTask
    from .contracts import Annotation as Annotation
    from .contracts import Answer as Answer
    from .contracts import AnswerFormat as AnswerFormat
    from .contracts import Augmentation as Augmentation
    from .contracts import AugmentedBatch as AugmentedBatch
    from .contracts import Batch as Batch
    from .contracts import BuildContext as BuildContext
    from .contracts import Callback as Callback
    from .contracts import CallbackContext as CallbackContext
    from .contracts import Categories as Categories
    from .contracts import Column as Column
    from .contracts import Dataset as Dataset
    from .contracts import Detections as Detections
    from .contracts import Detector as Detector
    from .contracts import Encoder as Encoder
    from .contracts import EncoderInfo as EncoderInfo
    from .contracts import Features as Features
    from .contracts import Head as Head
    from .contracts import Index as Index
    from .contracts import Layer as Layer
    from .contracts import LossWeighting as LossWeighting
    from .contracts import MapColumn as MapColumn
    from .contracts import Mix as Mix
    from .contracts import Optimizer as Optimizer
    from .contracts import ParameterGroup as ParameterGroup
    from .contracts import PointColumn as PointColumn
    from .contracts import PretextTask as PretextTask
    from .contracts import Sample as Sample
    from .contracts import Skipped as Skipped
    from .contracts import StepCounts as StepCounts
    from .contracts import StepLosses as StepLosses
    from .contracts import SupervisedTask as SupervisedTask
    from .contracts import Target as Target
    from .contracts import View as View
    from .contracts import Visible as Visible
    from .data.images import read_image as read_image
    from .data.split_names import split_name as split_name
    from .deployment.benchmark import Benchmark as Benchmark
    from .deployment.benchmark import FormatResult as FormatResult
    from .deployment.export import Agreement as Agreement
    from .deployment.export import Exported as Exported
    from .deployment.package import load_package as load_package
    from .errors import MtlError as MtlError
    from .errors import nearest as nearest
    from .evaluation.evaluate import Evaluation as Evaluation
    from .evaluation.samples import FeatureTable as FeatureTable
    from .files import open_file as open_file
    from .files import read_file as read_file
    from .files import text_encoding as text_encoding
    from .geometry import Bend as Bend
    from .geometry import Geometry as Geometry
    from .geometry import orthogonal as orthogonal
    from .networks import EMA as EMA
    from .networks import FrozenModule as FrozenModule
    from .networks import SharedHead as SharedHead
    from .networks import gather as gather
    from .prediction.predictor import Predictor as Predictor
    from .prediction.results import Prediction as Prediction
    from .registry.catalog import register as register
    from .registry.hooks import hookimpl as hookimpl
    from .rng import Rng as Rng
    from .run import Run as Run
    from .study.study import Study as Study
    from .tasks.classification import Classification as Classification
    from .tasks.dense import DenseRegression as DenseRegression
    from .tasks.dense import Landmarks as Landmarks
    from .tasks.dense import Segmentation as Segmentation
    from .tasks.dense import SurfaceNormals as SurfaceNormals
    from .tasks.multilabel import Multilabel as Multilabel
    from .tasks.regression import Regression as Regression
    from .training.by_hand import StepBatch as StepBatch
    from .training.record import Diverged as Diverged
    from .training.stop import Interrupted as Interrupted
    from .training.trainer import Trainer as Trainer

__version__ = "0.1.0"

# The module of each public name. It repeats the imports above, which run in type checkers alone.
_HOME = {
    "api": ("load_run", "train"),
    "authoring.predict_transform": ("predict_transform",),
    "config.component": ("component",),
    "config.experiment": (
        "DataEntry",
        "Experiment",
        "GroupOverride",
        "Input",
        "ParameterGroups",
        "PretextEntry",
        "Schedule",
        "TaskEntry",
        "Train",
        "Views",
    ),
    "config.load": ("load_experiment",),
    "contracts": (
        "AlignedTask",
        "Annotation",
        "Answer",
        "AnswerFormat",
        "Augmentation",
        "AugmentedBatch",
        "Batch",
        "BuildContext",
        "Callback",
        "CallbackContext",
        "Categories",
        "Column",
        "Dataset",
        "Detections",
        "Detector",
        "Encoder",
        "EncoderInfo",
        "Features",
        "Head",
        "Index",
        "Layer",
        "LossWeighting",
        "MapColumn",
        "Mix",
        "Optimizer",
        "ParameterGroup",
        "PointColumn",
        "PretextTask",
        "Sample",
        "Skipped",
        "StepCounts",
        "StepLosses",
        "SupervisedTask",
        "Target",
        "View",
        "Visible",
    ),
    "data.images": ("read_image",),
    "data.split_names": ("split_name",),
    "deployment.benchmark": ("Benchmark", "FormatResult"),
    "deployment.export": ("Agreement", "Exported"),
    "deployment.package": ("load_package",),
    "errors": ("MtlError", "nearest"),
    "evaluation.evaluate": ("Evaluation",),
    "evaluation.samples": ("FeatureTable",),
    "files": ("open_file", "read_file", "text_encoding"),
    "geometry": ("Bend", "Geometry", "orthogonal"),
    "networks": ("EMA", "FrozenModule", "SharedHead", "gather"),
    "prediction.predictor": ("Predictor",),
    "prediction.results": ("Prediction",),
    "registry.catalog": ("register",),
    "registry.hooks": ("hookimpl",),
    "rng": ("Rng",),
    "run": ("Run",),
    "study.study": ("Study",),
    "tasks.classification": ("Classification",),
    "tasks.dense": ("DenseRegression", "Landmarks", "Segmentation", "SurfaceNormals"),
    "tasks.multilabel": ("Multilabel",),
    "tasks.regression": ("Regression",),
    "training.by_hand": ("StepBatch",),
    "training.record": ("Diverged",),
    "training.stop": ("Interrupted",),
    "training.trainer": ("Trainer",),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULE)


def __getattr__(name: str) -> object:
    if name not in _MODULE:
        raise AttributeError(f"module 'mtlcore' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mtlcore.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
