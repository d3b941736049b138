"""Tasks with a label for each pixel, or for some points of the image."""

from __future__ import annotations

from .dense_regression import DenseRegression as DenseRegression
from .landmarks import Landmarks as Landmarks
from .segmentation import Segmentation as Segmentation
from .surface_normals import SurfaceNormals as SurfaceNormals
