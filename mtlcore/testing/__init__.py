"""The conformance kit: proves that a plugin keeps its contract. For authors of plugins, and for CI.

    test_conformance = mtlcore.testing.pretext_conformance("rotation")      # the one line in a plugin's tests
    for check in mtlcore.testing.pretext_checks("rotation"): check()        # plain callables: name, capability, doc
    mtl plugins check rotation                                              # a table or JSON, without pytest

All three take the fields of the component as keywords, `xfail={"check": "reason"}` for checks that are known to fail (strict: one
that passes after all is a failure), and `examples`, how many shapes and seeds are drawn for a check.
"""

from __future__ import annotations

from functools import partial

from .api import checks as checks
from .api import conformance as conformance
from .api import kinds as kinds
from .api import test_of
from .kit import BoundCheck as BoundCheck
from .kit import Check as Check
from .kit import Conformance as Conformance
from .kit import Outcome as Outcome
from .kit import Report as Report
from .kit import Skip as Skip

pretext_checks, pretext_conformance = partial(checks, "pretext"), partial(test_of, "pretext")
task_checks, task_conformance = partial(checks, "task"), partial(test_of, "task")
encoder_checks, encoder_conformance = partial(checks, "encoder"), partial(test_of, "encoder")
weighting_checks, weighting_conformance = (
    partial(checks, "weighting"),
    partial(test_of, "weighting"),
)
dataset_checks, dataset_conformance = partial(checks, "dataset"), partial(test_of, "dataset")
augmentation_checks, augmentation_conformance = (
    partial(checks, "augmentation"),
    partial(test_of, "augmentation"),
)
