"""The pose of a particle from its posterior: the mean over the samples around the best one.

The best sample of a grid is off by up to half a step even when the posterior says more. The mean over its neighbors is
not bound to the grid; samples farther away, which belong to other maxima, do not take part.
"""

from __future__ import annotations

import numpy as np

from napari_autorefine.kernels.mean_poses import mean_pose_within

REACH, FARTHEST_DEG = 3.0, 60.0  # samples within so many fine steps of the best take part, none farther than this


def mean_pose(
    rotations: np.ndarray,
    shifts_A: np.ndarray,
    weights: np.ndarray,
    operators: np.ndarray,
    steps: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """Mean rotation and shift of a posterior around its largest weight.

    Parameters
    ----------
    rotations : (n_o, 3, 3), reference -> view
    shifts_A : (n_t, dim)
    weights : (n_o, n_t)
    operators : (n, 3, 3) of the point group: orientations are replaced by their mates nearest to the best
    steps : fine steps of angles (degrees) and of shifts (A)

    Returns
    -------
    rotation (3, 3), shift (dim,)
    """
    found: tuple[np.ndarray, np.ndarray] = mean_pose_within(
        np.ascontiguousarray(rotations), np.ascontiguousarray(shifts_A), weights, operators, limits(steps)
    )
    return found


def limits(steps: tuple[float, float]) -> tuple[float, float]:
    """Least cosine of the angle, and largest squared distance in A^2, of samples that take part; see ``mean_pose``."""
    nearest = np.cos(np.radians(min(REACH * steps[0], FARTHEST_DEG))) - 1e-6
    return float(nearest), float((REACH * steps[1]) ** 2 + 1e-9)
