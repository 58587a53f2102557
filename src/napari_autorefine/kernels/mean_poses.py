"""Mean poses of many posteriors, each around its largest weight; see ``engine.mean_pose``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from napari_autorefine.kernels._cuda import launch_mean_poses
from napari_autorefine.xp import array_module


def mean_poses(
    rotations: Any, shifts_A: Any, weights: Any, operators: Any, limits: tuple[float, float]
) -> tuple[Any, Any]:
    """Mean rotation (n, 3, 3) and shift (n, dim) of every posterior.

    Parameters
    ----------
    rotations : (n, n_o, 3, 3) float64, reference -> view
    shifts_A : (n, n_t, dim) float64
    weights : (n, n_o, n_t) float32, 0 where a posterior has fewer orientations or shifts than others
    operators : (n_s, 3, 3) float64, of the point group: orientations are replaced by their mates nearest to the best
    limits : least cosine of the angle to the best, and largest squared distance, of samples that take part
    """
    if array_module(weights) is not np:
        turns, means = launch_mean_poses(rotations, shifts_A, weights, operators, limits)
        return turns, means
    found = [mean_pose_within(*own, operators, limits) for own in zip(rotations, shifts_A, weights, strict=True)]
    return np.array([turn for turn, _ in found]), np.array([mean for _, mean in found])


@njit(nogil=True, cache=True, error_model="numpy")
def mean_pose_within(rotations, shifts_A, weights, operators, limits):  # type: ignore[no-untyped-def]
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
    total, turn, of_shift = 0.0, np.zeros(3), np.zeros(weights.shape[1])
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
                of_shift[t] += weights[o, t]
        total += amount
        turn += amount * _rotation_vector(_product(rotations[o], mates[mate]))
    origin = np.zeros(len(shift))
    for t in range(weights.shape[1]):
        for axis in range(len(shift)):
            origin[axis] += of_shift[t] * shifts_A[t, axis]
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
