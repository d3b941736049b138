"""The conformance kit: check that a plugin follows the contract of its kind.

It is for plugin authors and for CI, and needs Hypothesis: `pip install "mtlcore[testing]"`.

    test_conformance = mtlcore.testing.pretext_conformance("rotation")    # one pytest test
    for check in mtlcore.testing.pretext_checks("rotation"): check()      # plain functions
    mtl plugins check rotation                                            # a table or JSON

All three accept the component's fields. The functions also accept:

- `xfail={"check": "reason"}` for checks that are known to fail. One that passes is a failure.
- `examples`: the number of drawn shapes and seeds for each check.
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
from .requirements import Skip as Skip

pretext_checks = partial(checks, "pretext")
pretext_conformance = partial(test_of, "pretext")
task_checks = partial(checks, "task")
task_conformance = partial(test_of, "task")
encoder_checks = partial(checks, "encoder")
encoder_conformance = partial(test_of, "encoder")
weighting_checks = partial(checks, "weighting")
weighting_conformance = partial(test_of, "weighting")
optimizer_checks = partial(checks, "optimizer")
optimizer_conformance = partial(test_of, "optimizer")
dataset_checks = partial(checks, "dataset")
dataset_conformance = partial(test_of, "dataset")
augmentation_checks = partial(checks, "augmentation")
augmentation_conformance = partial(test_of, "augmentation")
detector_checks = partial(checks, "detector")
detector_conformance = partial(test_of, "detector")
