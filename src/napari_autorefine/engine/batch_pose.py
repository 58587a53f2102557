"""Orientations of many particles at once, the counterpart of ``grids`` on devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_autorefine.engine.context import SearchGrid
from napari_autorefine.engine.grids import N_CHILD
from napari_autorefine.kernels.rotations import grid_rotations, sampling_matrices
from napari_autorefine.model.geometry import euler_to_matrix
from napari_autorefine.xp import array_module, to_device


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidentGrid:
    """A search grid where the search is, in double precision.

    Attributes
    ----------
    coarse : rotations (n_dir, 3, 3) of the directions, perturbed; cosines and sines (n_psi, 2) of in-plane angles
    child : the same of children, (4 n_dir, 3, 3) and (2 n_psi, 2)
    operators : (n, 3, 3) of the point group
    shifts_A, fine_shifts_A : (n_trans, dim) without perturbation; (n_trans * n_child, dim)
    """

    n_psi: int
    n_child_shift: int
    coarse: tuple[Any, Any]
    child: tuple[Any, Any]
    operators: Any
    shifts_A: Any
    fine_shifts_A: Any

    @classmethod
    def of(cls, grid: SearchGrid, device: int | None) -> ResidentGrid:
        """Take a grid to a device; ``None`` is the host."""
        orientations = grid.orientations
        turn = euler_to_matrix(np.full(3, grid.perturbation * orientations.step_deg))

        def angles(*degrees: np.ndarray) -> tuple[Any, Any]:
            rot, tilt = (to_device(np.radians(one).ravel(), device) for one in degrees[:2])
            psi = np.radians(degrees[2]).ravel()
            return _directions(rot, tilt, turn), to_device(np.stack([np.cos(psi), np.sin(psi)], axis=1), device)

        return cls(
            n_psi=orientations.n_psi,
            n_child_shift=grid.fine_shifts_A.shape[1],
            coarse=angles(orientations.rot_deg, orientations.tilt_deg, orientations.psi_deg),
            child=angles(orientations.child_rot_deg, orientations.child_tilt_deg, orientations.child_psi_deg),
            operators=to_device(np.ascontiguousarray(orientations.group.operators, dtype=np.float64), device),
            shifts_A=to_device(grid.shifts_A, device),
            fine_shifts_A=to_device(grid.fine_shifts_A.reshape(-1, grid.shifts_A.shape[1]), device),
        )

    def coarse_rotations(self, orientations: Any) -> Any:
        """Perturbed rotations (..., 3, 3) float64 of orientations ``dir * n_psi + psi``."""
        return self._rotations(orientations, self.coarse, (1, 1))

    def child_rotations(self, orientations: Any) -> Any:
        """Perturbed rotations (..., 3, 3) float64 of children, numbered ``8 * orientation + child``."""
        return self._rotations(orientations, self.child, (N_CHILD // 2, 2))

    def _rotations(self, orientations: Any, angles: tuple[Any, Any], n_child: tuple[int, int]) -> Any:
        made = grid_rotations(orientations.reshape(-1), *angles, self.n_psi, n_child)
        return made.reshape(*orientations.shape, 3, 3)


def _directions(rot: Any, tilt: Any, turn: np.ndarray) -> Any:
    """A(rot, tilt, 0) @ turn (n, 3, 3) for angles (n,) in radians."""
    xp = array_module(rot)
    (ca, cb), (sa, sb) = ([f(angle) for angle in (rot, tilt)] for f in (xp.cos, xp.sin))
    out = xp.empty((len(rot), 3, 3), dtype=np.float64)
    for x in range(3):
        t0, t1, t2 = (float(turn[row, x]) for row in range(3))
        first = ca * t0 + sa * t1
        out[:, 0, x] = cb * first - sb * t2
        out[:, 1, x] = ca * t1 - sa * t0
        out[:, 2, x] = sb * first + cb * t2
    return out


def kernel_matrices(rotations: Any, frequency_matrix: np.ndarray) -> Any:
    """Kernel matrices (n, 3, 3) float32 of rotations (..., 3, 3): their transposes times the frequency matrix."""
    return sampling_matrices(rotations.reshape(-1, 3, 3), frequency_matrix)
