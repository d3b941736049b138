"""Rendered faces with exact labels: `render`, `labels` and `landmarks` for any index."""

from __future__ import annotations

from .face3d import LANDMARKS, rotation
from .render import Labels, labels, landmarks, render

__all__ = ["LANDMARKS", "Labels", "labels", "landmarks", "render", "rotation"]
