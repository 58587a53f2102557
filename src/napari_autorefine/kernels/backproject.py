"""Slice insertion: the exact adjoint of slice extraction, with weights."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from napari_autorefine.kernels._simd import scatter_plane

_FAST = {"nsz", "arcp", "contract", "afn", "reassoc"}


def backproject_cpu(
    data: np.ndarray,
    weight: np.ndarray,
    matrices: np.ndarray,
    values: np.ndarray,
    amounts: np.ndarray,
    sample_weight: np.ndarray,
    rows: np.ndarray,
    r2_max: float,
    z_begin: int,
    z_end: int,
) -> None:
    """Add slices to ``data`` and their weights to ``weight``; the only arguments written to.

    Only planes ``z_begin <= z < z_end`` are touched, in the order of the slices, so that threads may own slabs
    and the sum of every voxel does not depend on their number. Sample 0 (the origin) is left to the caller, who
    keeps it in double precision.

    Parameters
    ----------
    data, weight : (n_z, n_y, n_x) complex64 and float32, centred like the reference of ``project``
    matrices : (n_rot, 3, 3) float32, image frequency index -> padded index
    values : (n_rot, n_sample) complex64
    amounts : (n_rot,) float32; slice o adds ``amounts[o] * sample_weight[k]`` to the weights
    sample_weight : (n_sample,) float32, or (n_rot, n_sample) when every slice brings its own
    rows : (n_row, 5) int32, ``z, y, x_start, n, offset``
    r2_max : squared radius in padded units beyond which nothing is inserted
    """
    _backproject(
        data.view(np.float32),
        weight,
        matrices,
        values.view(np.float32),
        amounts,
        np.atleast_2d(sample_weight),
        rows,
        np.float32(r2_max),
        z_begin,
        z_end,
    )


@njit(nogil=True, cache=True, inline="always")
def _owned(first, count, base, step, low, high):  # type: ignore[no-untyped-def]
    """Sub-range of ``first + j`` whose ``base + step * (first + j)`` can lie in (low, high), one to spare."""
    start, stop = first, first + count
    if abs(step) > np.float32(1e-6):
        a, b = (low - base) / step, (high - base) / step
        start = max(start, np.int64(math.floor(min(a, b))) - 1)
        stop = min(stop, np.int64(math.ceil(max(a, b))) + 2)
    elif base < low - np.float32(1) or base > high + np.float32(1):
        stop = start
    return start, stop


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy", boundscheck=False)
def _backproject(  # type: ignore[no-untyped-def]
    data, weight, matrices, values, amounts, sample_weight, rows, r2_max, z_begin, z_end
):
    radius = np.int64((weight.shape[0] - 1) // 2)
    stride_y = np.int64(weight.shape[2])
    stride_z = np.int64(weight.shape[1]) * stride_y
    flat_data, flat_weight = data.reshape(-1), weight.reshape(-1)
    centre = radius * (stride_z + stride_y)
    low, high = np.float32(z_begin - radius - 1), np.float32(z_end - radius)
    for rot in range(matrices.shape[0]):
        mx, my, mz = matrices[rot, 0, 0], matrices[rot, 1, 0], matrices[rot, 2, 0]
        amount = amounts[rot]
        weight_row = min(rot, sample_weight.shape[0] - 1)
        for row in range(1, rows.shape[0]):
            kz, ky = np.float32(rows[row, 0]), np.float32(rows[row, 1])
            first, n = np.int64(rows[row, 2]), np.int64(rows[row, 3])
            shift = np.int64(rows[row, 4]) - first
            bx = matrices[rot, 0, 1] * ky + matrices[rot, 0, 2] * kz
            by = matrices[rot, 1, 1] * ky + matrices[rot, 1, 2] * kz
            bz = matrices[rot, 2, 1] * ky + matrices[rot, 2, 2] * kz
            for fold in range(2):
                sign = np.float32(1 - 2 * fold)
                start, stop = _owned(first, n, sign * bz, sign * mz, low, high)
                for j in range(start, stop):
                    kx = np.float32(j)
                    x = bx + mx * kx
                    if (x < 0) != (fold == 1):
                        continue
                    x, y, z = sign * x, sign * (by + my * kx), sign * (bz + mz * kx)
                    if x * x + y * y + z * z > r2_max:
                        continue
                    x0, y0, z0 = np.floor(x), np.floor(y), np.floor(z)
                    iz = np.int64(np.int32(z0)) + radius
                    if iz + 1 < z_begin or iz >= z_end:
                        continue
                    fx, fy, fz = x - x0, y - y0, z - z0
                    k = shift + j
                    mass = amount * sample_weight[weight_row, k]
                    re, im = values[rot, 2 * k], sign * values[rot, 2 * k + 1]
                    index = centre + np.int64(np.int32(z0)) * stride_z + np.int64(np.int32(y0)) * stride_y
                    index += np.int64(np.int32(x0))
                    if iz >= z_begin:
                        gz = np.float32(1) - fz
                        scatter_plane(flat_data, flat_weight, index, stride_y, fx, fy, gz * re, gz * im, gz * mass)
                    if iz + 1 < z_end:
                        scatter_plane(
                            flat_data, flat_weight, index + stride_z, stride_y, fx, fy, fz * re, fz * im, fz * mass
                        )
