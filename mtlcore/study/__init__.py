"""Comparisons of arms over seeds: what is run, what it says, and whether it can be repeated.

An arm is one configuration, trained with several seeds. Arms are compared by the differences of a
metric at equal seeds. `definition` is a study file; `plan` tells the runs that follow from it and
from the finished rows; `workspace` keeps the rows; `training` makes one; `statistics`, `tables` and
`report` say what they mean. `Study` (in `study`) does all of it.
"""

from __future__ import annotations
