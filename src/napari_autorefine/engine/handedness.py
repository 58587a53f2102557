"""Is the hand of a low-passed reference defined? Its likeness to its own mirror image says so.

Refinement keeps the hand of its reference only as far as the low-passed reference shows one. Where the best
correlation with the mirror image, over all rotations, is close to 1, either hand fits the particles at the start and
chance decides which one comes out.
"""

from __future__ import annotations

from math import ceil

import numpy as np
from scipy import ndimage, optimize

from napari_autorefine.engine.grids import make_orientation_grid
from napari_autorefine.engine.masking import low_pass_map, spherical_mask
from napari_autorefine.engine.projector import PaddedReference, make_reference
from napari_autorefine.events import Message
from napari_autorefine.kernels import project
from napari_autorefine.model.geometry import euler_to_matrix
from napari_autorefine.model.resize import fourier_resize
from napari_autorefine.model.symmetry import point_group

# Atomic models at 20 to 60 A divide here: apoferritin (O) reaches 0.997 at 30 A and 1.000 at 40 A, a D7 proteasome
# 0.995 at 40 A; molecules of obvious hand (ribosome, beta-galactosidase) stay below 0.93 even at 60 A.
LIKE_MIRROR = 0.99
_SEARCH_SHELLS, _SEARCH_ORDER, _N_REFINED = 7, 2, 8
_MOST_SHELLS = 24
_EDGE_SHELLS = 2
_SMALLEST_BOX = 16


def mirror_similarity(
    map_: np.ndarray, *, resolution_A: float, voxel_size_A: float, particle_diameter_A: float, threads: int = 1
) -> float:
    """Best correlation of a low-passed, masked map with its mirror image over all rotations about its center of mass.

    Parameters
    ----------
    map_ : (N, N, N) float32
    resolution_A : low-pass limit, at most the 24th shell of the box (also when 0 or less): finer detail costs time and
        only tells hands apart that are apart already
    particle_diameter_A : of the soft sphere outside which density is ignored

    Returns
    -------
    Correlation coefficient, 1 for a map that has a mirror plane or an improper axis, or that is empty
    """
    box_size = map_.shape[0]
    resolution_A = max(resolution_A, box_size * voxel_size_A / _MOST_SHELLS)
    limit = min(box_size * voxel_size_A / resolution_A + _EDGE_SHELLS / 2, box_size / 2)
    size = min(max(2 * ceil(1.5 * limit), _SMALLEST_BOX), box_size)
    small_voxel_A = box_size * voxel_size_A / size
    small = fourier_resize(map_, size) if size < box_size else map_
    small = low_pass_map(small, resolution_A, small_voxel_A)
    small = _isolated(small, particle_diameter_A / (2.0 * small_voxel_A), max(5.0 * size / box_size, 1.0))
    reference = make_reference(small, pad=2, r_max=small.shape[0] // 2, data_dim=3, threads=threads)
    rough = _Comparison(reference, min(limit, _SEARCH_SHELLS))
    grid = make_orientation_grid(_SEARCH_ORDER, point_group("C1"))
    dir_idx, psi_idx = np.divmod(np.arange(grid.n_orientation), grid.n_psi)
    found = rough.correlations(grid.coarse_matrices(dir_idx, psi_idx))
    best = np.argsort(-found)[:_N_REFINED]
    fine = _Comparison(reference, limit)
    starts = grid.coarse_eulers(dir_idx[best], psi_idx[best])
    return float(max(_refined(fine, euler, grid.step_deg) for euler in starts))


def hand_warning(similarity: float) -> Message | None:
    """Return a warning when a reference is so like its mirror image that the hand of the result is arbitrary."""
    if similarity < LIKE_MIRROR:
        return None
    return Message(
        level="warning",
        text=f"The low-passed reference is nearly its own mirror image (correlation {similarity:.3f}), so the hand of"
        " the result is arbitrary: check it on the final map, or start from less low-pass filtering.",
    )


def _isolated(map_: np.ndarray, radius_px: float, edge_px: float) -> np.ndarray:
    """Map within a soft sphere, its center of mass (of the density above half its largest) moved to the center."""
    box_size = map_.shape[0]
    masked = map_ * spherical_mask(box_size, min(radius_px, box_size / 2), edge_px)
    heavy = np.maximum(masked - 0.5 * masked.max(), 0.0)
    if not heavy.any():
        return masked
    shift = box_size // 2 - np.array(ndimage.center_of_mass(heavy))
    moved: np.ndarray = np.fft.ifftn(ndimage.fourier_shift(np.fft.fftn(masked), shift)).real
    return moved.astype(np.float32)


class _Comparison:
    """Correlations of rotated copies of a map with its image under inversion, which is its mirror image turned."""

    def __init__(self, reference: PaddedReference, limit: float) -> None:
        self._reference = reference
        self._rows = _half_ball(limit)
        self._n_sample = int(self._rows[:, 3].sum())
        self._mirrored = self._slices(np.eye(3)[None])[0].conj()

    def correlations(self, rotations: np.ndarray) -> np.ndarray:
        """Correlations (n,) for rotations (n, 3, 3)."""
        slices = self._slices(rotations)
        cross = (slices @ self._mirrored.conj()).real
        power = np.linalg.norm(slices, axis=1) * np.linalg.norm(self._mirrored)
        return np.where(power > 0, cross / np.where(power > 0, power, 1.0), 1.0)

    def _slices(self, rotations: np.ndarray) -> np.ndarray:
        matrices = (self._reference.pad * np.swapaxes(rotations, -1, -2)).astype(np.float32)
        return project(
            self._reference.data, np.ascontiguousarray(matrices), self._rows, self._n_sample, self._reference.r2_max
        )


def _half_ball(radius: float) -> np.ndarray:
    """Rows ``z, y, x_start, n, offset`` of half of the frequencies inside a sphere, the origin left out."""
    rows, offset = [], 0
    top = int(radius)
    for z in range(-top, top + 1):
        for y in range(-top, top + 1):
            rest = radius**2 - z * z - y * y
            first = 1 if (z, y) <= (0, 0) else 0
            if rest >= first**2:
                n = int(np.sqrt(rest)) + 1 - first
                rows.append((z, y, first, n, offset))
                offset += n
    return np.array(rows, dtype=np.int32)


def _refined(comparison: _Comparison, euler_deg: np.ndarray, step_deg: float) -> float:
    """Best correlation near an orientation, by the downhill simplex over a rotation vector."""
    start = euler_to_matrix(euler_deg)

    def loss(vector: np.ndarray) -> float:
        turn = _rotation(vector)
        return -float(comparison.correlations((start @ turn)[None])[0])

    simplex = np.vstack([np.zeros(3), np.eye(3) * np.radians(step_deg / 2)])
    found = optimize.minimize(
        loss, np.zeros(3), method="Nelder-Mead", options={"initial_simplex": simplex, "xatol": 2e-3, "fatol": 1e-5}
    )
    return -float(found.fun)


def _rotation(vector: np.ndarray) -> np.ndarray:
    """Rotation matrix of a rotation vector in radians."""
    angle = float(np.linalg.norm(vector))
    axis = vector / angle if angle > 0 else vector
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turned: np.ndarray = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    return turned
