"""A map or mask on a grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """``data`` is (n_z, n_y, n_x) float32 with its centre at index n // 2 on every axis."""

    data: np.ndarray
    voxel_size_A: float
    origin_A: tuple[float, float, float] = (0.0, 0.0, 0.0)
