"""Slice extraction: sample a padded Fourier volume along rotated rows (trilinear, Hermitian fold)."""

from __future__ import annotations

import numpy as np
from numba import njit

from napari_autorefine.kernels._simd import BLOCK, MOST_VOXELS, block_points, interpolate_block

# Compiled code is kept for as long as this file stays the same; of _simd.py, which goes into it, this is the mark.
_SIMD = "f3fb75e3faeb"
_FAST = {"nsz", "arcp", "contract", "afn", "reassoc"}
# Slices that are filled together, so many samples of each at a time: neighbouring orientations meet the same voxels.
_SLICES, _SAMPLES = 64, 2 * BLOCK


def project_cpu(volume: np.ndarray, matrices: np.ndarray, rows: np.ndarray, n_sample: int, r2_max: float) -> np.ndarray:
    """Sample ``volume`` at ``matrices @ (x, y, z)`` of every sample of ``rows``.

    Parameters
    ----------
    volume : (n_z, n_y, n_x) complex64, centred: element [z + R, y + R, x], x >= 0, R = (n_z - 1) // 2
    matrices : (n_rot, 3, 3) float32, image frequency index -> padded reference index
    rows : (n_row, 5) int32, ``z, y, x_start, n, offset``
    n_sample : samples per slice
    r2_max : squared radius in padded units beyond which the volume is zero

    Returns
    -------
    (n_rot, n_sample) complex64
    """
    if volume.size >= MOST_VOXELS:
        raise ValueError(f"a volume of {volume.size} voxels is larger than slices can be taken from")
    slices = np.empty((len(matrices), n_sample), dtype=np.complex64)
    fill_slices(
        np.ascontiguousarray(volume).view(np.float32),
        np.ascontiguousarray(matrices),
        rows,
        np.float32(r2_max),
        slices.view(np.float32),
    )
    return slices


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy", boundscheck=False)
def fill_slices(volume, matrices, rows, r2_max, slices):  # type: ignore[no-untyped-def]
    """Write slices (n_rot, 2 n_sample) of a volume (n_z, n_y, 2 n_x), float32 both; see ``project_cpu``."""
    radius = np.int64((volume.shape[0] - 1) // 2)
    stride_y = np.int64(volume.shape[2] // 2)
    stride_z = np.int64(volume.shape[1]) * stride_y
    layout = (radius * (stride_z + stride_y), stride_y, stride_z)
    flat, out = volume.reshape(-1), slices.reshape(-1)
    n_sample, n_rot = slices.shape[1] // 2, matrices.shape[0]
    points = block_points(rows, n_sample, np.float32(0))
    n_point, points = points.shape[1], points.reshape(-1)
    turns = matrices.reshape(-1)
    whole = n_sample // BLOCK * BLOCK
    for first in range(0, n_rot, _SLICES):
        for start in range(0, whole, _SAMPLES):
            for rot in range(first, min(first + _SLICES, n_rot)):
                for k in range(start, min(start + _SAMPLES, whole), BLOCK):
                    at = 2 * (rot * n_sample + k)
                    interpolate_block(flat, layout, points, n_point, k, turns, 9 * rot, r2_max, out, at)
    if whole < n_sample:
        rest = np.empty(2 * BLOCK, dtype=np.float32)
        for rot in range(n_rot):
            interpolate_block(flat, layout, points, n_point, whole, turns, 9 * rot, r2_max, rest, np.int64(0))
            for j in range(2 * (n_sample - whole)):
                out[2 * (rot * n_sample + whole) + j] = rest[j]
