"""Comparisons of arms over seeds: their statistics, tables and plots.

An arm is one configuration, trained with several seeds. Arms are compared by the differences of a
metric at equal seeds.
"""

from __future__ import annotations
