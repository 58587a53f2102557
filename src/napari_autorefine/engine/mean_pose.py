"""The pose of a particle from its posterior: the mean over the samples around the best one.

The best sample of a grid is off by up to half a step even when the posterior says more. The mean over its neighbors is
not bound to the grid; samples farther away, which belong to other maxima, do not take part.
"""

from __future__ import annotations

import numpy as np
from numba import njit

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
    nearest = np.cos(np.radians(min(REACH * steps[0], FARTHEST_DEG))) - 1e-6
    return _mean_pose(
        np.ascontiguousarray(rotations),
        np.ascontiguousarray(shifts_A),
        weights,
        operators,
        (float(nearest), float((REACH * steps[1]) ** 2 + 1e-9)),
    )


@njit(nogil=True, cache=True, error_model="numpy")
def _mean_pose(rotations, shifts_A, weights, operators, limits):  # type: ignore[no-untyped-def]
    """Mean over samples with a cosine of at least ``limits[0]`` and a squared distance of at most ``limits[1]``."""
    best, top = 0, np.float32(-1.0)
    for o in range(weights.shape[0]):
        for t in range(weights.shape[1]):
            if weights[o, t] > top:
                best, top = o * weights.shape[1] + t, weights[o, t]
    own, shift = rotations[best // weights.shape[1]].copy(), shifts_A[best % weights.shape[1]].copy()
    is_near = np.empty(weights.shape[1], dtype=np.bool_)
    for t in range(weights.shape[1]):
        is_near[t] = ((shifts_A[t] - shift) ** 2).sum() <= limits[1]
    mates = np.empty_like(operators)
    for s in range(operators.shape[0]):
        for i in range(3):
            for j in range(3):
                mates[s, i, j] = (operators[s, i] * own[j]).sum()
    total, turn, origin = 0.0, np.zeros(3), np.zeros(len(shift))
    for o in range(rotations.shape[0]):
        mate, cosine = 0, -2.0
        for s in range(operators.shape[0]):
            trace = 0.0
            for i in range(3):
                for j in range(3):
                    trace += rotations[o, i, j] * mates[s, j, i]
            if 0.5 * (trace - 1.0) > cosine:
                mate, cosine = s, 0.5 * (trace - 1.0)
        if cosine < limits[0]:
            continue
        amount = 0.0
        for t in range(weights.shape[1]):
            if is_near[t]:
                amount += weights[o, t]
                origin += weights[o, t] * shifts_A[t]
        total += amount
        turn += amount * _rotation_vector(_product(rotations[o], mates[mate]))
    return _product(_matrix_of(turn / total), own), origin / total


@njit(nogil=True, cache=True, error_model="numpy")
def _product(first, second):  # type: ignore[no-untyped-def]
    out = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            for k in range(3):
                out[i, j] += first[i, k] * second[k, j]
    return out


@njit(nogil=True, cache=True, error_model="numpy")
def _rotation_vector(rotation):  # type: ignore[no-untyped-def]
    """Axis times angle (3,) in radians of a rotation (3, 3) below 180 degrees."""
    twist = np.array(
        [
            0.5 * (rotation[2, 1] - rotation[1, 2]),
            0.5 * (rotation[0, 2] - rotation[2, 0]),
            0.5 * (rotation[1, 0] - rotation[0, 1]),
        ]
    )
    sine = np.sqrt((twist**2).sum())
    if sine < 1e-12:
        return twist
    angle = np.arctan2(sine, 0.5 * (rotation[0, 0] + rotation[1, 1] + rotation[2, 2] - 1.0))
    return twist * (angle / sine)


@njit(nogil=True, cache=True, error_model="numpy")
def _matrix_of(vector):  # type: ignore[no-untyped-def]
    """Rotation (3, 3) by an axis times angle in radians (Rodrigues)."""
    angle = np.sqrt((vector**2).sum())
    first, second = 1.0, 0.5
    if angle > 1e-6:
        first, second = np.sin(angle) / angle, 2.0 * (np.sin(0.5 * angle) / angle) ** 2
    x, y, z = vector
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + first * cross + second * _product(cross, cross)
