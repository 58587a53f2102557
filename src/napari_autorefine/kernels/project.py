"""Slice extraction: sample a padded Fourier volume along rotated rows (trilinear, Hermitian fold)."""

from __future__ import annotations

import numpy as np
from numba import njit

from napari_autorefine.kernels._simd import trilinear

_FAST = {"nsz", "arcp", "contract", "afn", "reassoc"}


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
    slices = np.empty((len(matrices), n_sample), dtype=np.complex64)
    _project(volume.view(np.float32), matrices, rows, np.float32(r2_max), slices.view(np.float32))
    return slices


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy", boundscheck=False)
def _project(volume, matrices, rows, r2_max, slices):  # type: ignore[no-untyped-def]
    radius = np.int64((volume.shape[0] - 1) // 2)
    stride_y = np.int64(volume.shape[2])
    stride_z = np.int64(volume.shape[1]) * stride_y
    flat = volume.reshape(-1)
    centre = radius * (stride_z + stride_y)
    for rot in range(matrices.shape[0]):
        mx, my, mz = matrices[rot, 0, 0], matrices[rot, 1, 0], matrices[rot, 2, 0]
        for row in range(rows.shape[0]):
            kz, ky = np.float32(rows[row, 0]), np.float32(rows[row, 1])
            x_start, n, offset = np.float32(rows[row, 2]), rows[row, 3], np.int64(rows[row, 4])
            bx = matrices[rot, 0, 1] * ky + matrices[rot, 0, 2] * kz
            by = matrices[rot, 1, 1] * ky + matrices[rot, 1, 2] * kz
            bz = matrices[rot, 2, 1] * ky + matrices[rot, 2, 2] * kz
            for j in range(n):
                kx = x_start + np.float32(j)
                x, y, z = bx + mx * kx, by + my * kx, bz + mz * kx
                out = 2 * (offset + j)
                if x * x + y * y + z * z > r2_max:
                    slices[rot, out] = np.float32(0)
                    slices[rot, out + 1] = np.float32(0)
                    continue
                sign = np.float32(1)
                if x < 0:
                    x, y, z, sign = -x, -y, -z, np.float32(-1)
                re, im = trilinear(flat, centre, stride_y, stride_z, x, y, z)
                slices[rot, out] = re
                slices[rot, out + 1] = sign * im
