"""The pose of a particle from its posterior: the mean over the samples around the best one.

The best sample of a grid is off by up to half a step even when the posterior says more. The mean over its neighbors is
not bound to the grid; samples farther away, which belong to other maxima, do not take part.
"""

from __future__ import annotations

import numpy as np

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
    o, t = divmod(int(np.argmax(weights)), weights.shape[1])
    mates = operators @ rotations[o].T
    traces = np.einsum("nij,sji->ns", rotations, mates)
    nearest = traces.argmax(axis=1)
    cosine = 0.5 * (traces[np.arange(len(rotations)), nearest] - 1.0)
    near_o = np.flatnonzero(cosine >= np.cos(np.radians(min(REACH * steps[0], FARTHEST_DEG))) - 1e-6)
    near_t = np.flatnonzero(((shifts_A - shifts_A[t]) ** 2).sum(axis=1) <= (REACH * steps[1]) ** 2 + 1e-9)
    own = weights[np.ix_(near_o, near_t)].astype(np.float64)
    own /= own.sum()
    turns = rotations[near_o] @ mates[nearest[near_o]]
    turn = own.sum(axis=1) @ rotation_vectors(turns)
    return matrix_of(turn) @ rotations[o], own.sum(axis=0) @ shifts_A[near_t]


def rotation_vectors(rotations: np.ndarray) -> np.ndarray:
    """Axis times angle (n, 3) in radians of rotations (n, 3, 3) below 180 degrees."""
    twist = 0.5 * np.stack(
        [
            rotations[:, 2, 1] - rotations[:, 1, 2],
            rotations[:, 0, 2] - rotations[:, 2, 0],
            rotations[:, 1, 0] - rotations[:, 0, 1],
        ],
        axis=1,
    )
    sine = np.linalg.norm(twist, axis=1)
    angle = np.arctan2(sine, 0.5 * (np.trace(rotations, axis1=1, axis2=2) - 1.0))
    vectors: np.ndarray = twist * np.divide(angle, sine, out=np.ones_like(sine), where=sine > 1e-12)[:, None]
    return vectors


def matrix_of(vector: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) by an axis times angle in radians (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    x, y, z = vector
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    first = np.sinc(angle / np.pi)
    second = 0.5 * np.sinc(angle / (2.0 * np.pi)) ** 2
    matrix: np.ndarray = np.eye(3) + first * cross + second * (cross @ cross)
    return matrix
