"""Orientations and mean poses of many particles at once, the counterpart of ``grids`` and ``mean_pose`` on devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_autorefine.engine.context import SearchGrid
from napari_autorefine.engine.grids import N_CHILD
from napari_autorefine.engine.mean_pose import FARTHEST_DEG, REACH
from napari_autorefine.model.geometry import euler_to_matrix
from napari_autorefine.xp import array_module, to_device


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidentGrid:
    """Angles of a search grid where the search is, in radians and double precision.

    Attributes
    ----------
    coarse : rot and tilt (n_dir, 1), psi (n_psi, 1)
    child : rot and tilt (n_dir, 4), psi (n_psi, 2)
    turn : (3, 3), what orientations are multiplied by from the right
    operators : (n, 3, 3) of the point group
    shifts_A, fine_shifts_A : (n_trans, dim) without perturbation; (n_trans * n_child, dim)
    """

    n_psi: int
    n_child_shift: int
    coarse: tuple[Any, Any, Any]
    child: tuple[Any, Any, Any]
    turn: np.ndarray
    operators: Any
    shifts_A: Any
    fine_shifts_A: Any

    @classmethod
    def of(cls, grid: SearchGrid, device: int | None) -> ResidentGrid:
        """Take a grid to a device; ``None`` is the host."""
        orientations = grid.orientations

        def angles(*degrees: np.ndarray) -> tuple[Any, Any, Any]:
            rot, tilt, psi = (to_device(np.radians(one).reshape(len(one), -1), device) for one in degrees)
            return rot, tilt, psi

        return cls(
            n_psi=orientations.n_psi,
            n_child_shift=grid.fine_shifts_A.shape[1],
            coarse=angles(orientations.rot_deg, orientations.tilt_deg, orientations.psi_deg),
            child=angles(orientations.child_rot_deg, orientations.child_tilt_deg, orientations.child_psi_deg),
            turn=euler_to_matrix(np.full(3, grid.perturbation * orientations.step_deg)),
            operators=to_device(np.ascontiguousarray(orientations.group.operators, dtype=np.float64), device),
            shifts_A=to_device(grid.shifts_A, device),
            fine_shifts_A=to_device(grid.fine_shifts_A.reshape(-1, grid.shifts_A.shape[1]), device),
        )

    def coarse_rotations(self, orientations: Any) -> Any:
        """Perturbed rotations (..., 3, 3) float64 of orientations ``dir * n_psi + psi``."""
        rot, tilt, psi = self.coarse
        direction, in_plane = orientations // self.n_psi, orientations % self.n_psi
        return _rotations((rot[direction, 0], tilt[direction, 0], psi[in_plane, 0]), self.turn)

    def child_rotations(self, orientations: Any) -> Any:
        """Perturbed rotations (..., 3, 3) float64 of children, numbered ``8 * orientation + child``."""
        rot, tilt, psi = self.child
        coarse, child = orientations // N_CHILD, orientations % N_CHILD
        direction, in_plane = coarse // self.n_psi, coarse % self.n_psi
        pixel, half = child // 2, child % 2
        return _rotations((rot[direction, pixel], tilt[direction, pixel], psi[in_plane, half]), self.turn)


def _rotations(angles: tuple[Any, Any, Any], turn: np.ndarray) -> Any:
    """A(rot, tilt, psi) @ turn for angles of any shape in radians."""
    xp = array_module(angles[0])
    (ca, cb, c), (sa, sb, s) = ([f(angle) for angle in angles] for f in (xp.cos, xp.sin))
    out = xp.empty((*ca.shape, 3, 3), dtype=np.float64)
    for x in range(3):
        t0, t1, t2 = (float(turn[row, x]) for row in range(3))
        first = cb * (ca * t0 + sa * t1) - sb * t2
        second = ca * t1 - sa * t0
        out[..., 0, x] = c * first + s * second
        out[..., 1, x] = c * second - s * first
        out[..., 2, x] = sb * (ca * t0 + sa * t1) + cb * t2
    return out


def kernel_matrices(rotations: Any, frequency_matrix: np.ndarray) -> Any:
    """Kernel matrices (n, 3, 3) float32 of rotations (..., 3, 3): their transposes times the frequency matrix."""
    xp = array_module(rotations)
    own = rotations.reshape(-1, 3, 3)
    out = xp.empty(own.shape, dtype=np.float32)
    for column in range(3):
        f0, f1, f2 = (float(frequency_matrix[row, column]) for row in range(3))
        out[:, :, column] = own[:, 0, :] * f0 + own[:, 1, :] * f1 + own[:, 2, :] * f2
    return out


def mean_poses(
    rotations: Any, shifts_A: Any, weights: Any, operators: Any, steps: tuple[float, float]
) -> tuple[Any, Any]:
    """Mean rotation and shift of each of n posteriors around its largest weight; see ``mean_pose.mean_pose``.

    Parameters
    ----------
    rotations : (n, n_o, 3, 3) float64, reference -> view
    shifts_A : (n, n_t, dim) float64
    weights : (n, n_o, n_t) float32, 0 where a particle has fewer orientations or shifts than others
    operators : (n_s, 3, 3) of the point group
    steps : fine steps of angles (degrees) and of shifts (A)

    Returns
    -------
    rotations (n, 3, 3), shifts (n, dim)
    """
    xp = array_module(weights)
    n, n_o, n_t = weights.shape
    best, each = weights.reshape(n, -1).argmax(axis=1), xp.arange(n)
    own, own_shift = rotations[each, best // n_t], shifts_A[each, best % n_t]
    # mates[s] = operator_s @ own^T; the trace of R @ mate is the sum of products of R with the transpose of the mate.
    mates = (operators[None, :, :, None, :] * own[:, None, None, :, :]).sum(axis=-1)
    traces = xp.matmul(rotations.reshape(n, n_o, 9), _columns(mates))
    nearest = traces.argmax(axis=2)
    cosine = 0.5 * (xp.take_along_axis(traces, nearest[:, :, None], axis=2)[:, :, 0] - 1.0)
    near_o = cosine >= float(np.cos(np.radians(min(REACH * steps[0], FARTHEST_DEG)))) - 1e-6
    near_t = ((shifts_A - own_shift[:, None]) ** 2).sum(axis=2) <= (REACH * steps[1]) ** 2 + 1e-9
    near = weights * near_o[:, :, None] * near_t[:, None, :]
    of_rotation, of_shift = near.sum(axis=2, dtype=np.float64), near.sum(axis=1, dtype=np.float64)
    total = of_rotation.sum(axis=1)[:, None]
    mean = (_turn_vectors(rotations, mates[each[:, None], nearest]) * of_rotation[:, :, None]).sum(axis=1) / total
    shift = (of_shift[:, :, None] * shifts_A).sum(axis=1) / total
    return (_matrices_of(mean)[:, :, :, None] * own[:, None, :, :]).sum(axis=2), shift


def _columns(mates: Any) -> Any:
    """Return the transposes of matrices (n, n_s, 3, 3) as columns (n, 9, n_s)."""
    n, n_s = mates.shape[:2]
    return array_module(mates).ascontiguousarray(mates.transpose(0, 3, 2, 1).reshape(n, 9, n_s))


def _turn_vectors(rotations: Any, mates: Any) -> Any:
    """Axis times angle (n, n_o, 3) of ``rotations @ mates``."""
    xp = array_module(rotations)

    def entry(i: int, j: int) -> Any:
        return sum(rotations[..., i, k] * mates[..., k, j] for k in range(3))

    twist = 0.5 * xp.stack([entry(2, 1) - entry(1, 2), entry(0, 2) - entry(2, 0), entry(1, 0) - entry(0, 1)], axis=-1)
    sine = xp.sqrt((twist**2).sum(axis=-1))
    angle = xp.arctan2(sine, 0.5 * (entry(0, 0) + entry(1, 1) + entry(2, 2) - 1.0))
    ratio = xp.where(sine > 1e-12, angle / xp.maximum(sine, 1e-12), 1.0)
    return twist * ratio[..., None]


def _matrices_of(vectors: Any) -> Any:
    """Rotations (n, 3, 3) by axes times angles (n, 3) in radians (Rodrigues)."""
    xp = array_module(vectors)
    angle = xp.sqrt((vectors**2).sum(axis=1))
    x, y, z = vectors[:, 0], vectors[:, 1], vectors[:, 2]
    zero = xp.zeros_like(x)
    cross = xp.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(-1, 3, 3)
    squared = (cross[:, :, :, None] * cross[:, None, :, :]).sum(axis=2)
    first, second = xp.sinc(angle / np.pi), 0.5 * xp.sinc(angle / (2.0 * np.pi)) ** 2
    return xp.asarray(np.eye(3)) + first[:, None, None] * cross + second[:, None, None] * squared
