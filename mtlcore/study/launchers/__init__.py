"""Other ways to train the runs of a study: on a Ray cluster, or one by one under a scheduler."""

from __future__ import annotations
