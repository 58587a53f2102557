"""Sum of a centred half array over rotations of the Fourier space (trilinear, Hermitian fold)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from napari_autorefine.kernels._cuda import launch_symmetrize
from napari_autorefine.kernels._simd import BLOCK, interpolate_block, interpolate_real_block
from napari_autorefine.xp import array_module

# Compiled code is kept for as long as this file stays the same; of _simd.py, which goes into it, this is the mark.
_SIMD = "f3fb75e3faeb"


def symmetrize_planes(
    data: Any,
    weight: Any,
    operators: Any,
    r2_max: float,
    planes: slice,
    summed_data: Any,
    summed_weight: Any,
) -> None:
    """Write planes ``planes`` of the sums of ``data`` and ``weight`` over ``operators``; zero beyond ``r2_max``.

    Parameters
    ----------
    data, weight : (2 R + 1, 2 R + 1, n_x) complex64 and float32, element [z + R, y + R, x]
    operators : (n, 3, 3) float32, rotations of (x, y, z) other than the identity, whose term is exact
    r2_max : squared radius that still counts; its root is at most R - 1
    summed_data, summed_weight : like ``data`` and ``weight``; the only arguments written to
    """
    if array_module(data) is not np:
        launch_symmetrize(data, weight, operators, r2_max, planes, summed_data, summed_weight)
        return
    whole = np.rint(operators)
    is_exact = np.abs(whole - operators).max(axis=(1, 2)) < 1e-6
    rotations = np.where(is_exact[:, None, None], whole, operators).astype(np.float32)
    _symmetrize(
        data.view(np.float32),
        weight,
        rotations,
        is_exact,
        np.float32(r2_max),
        planes.start,
        planes.stop,
        summed_data.view(np.float32),
        summed_weight,
    )


@njit(nogil=True, cache=True, fastmath={"nsz", "arcp", "contract"}, error_model="numpy", boundscheck=False)
def _symmetrize(  # type: ignore[no-untyped-def]
    data, weight, operators, is_exact, r2_max, z_begin, z_end, summed_data, summed_weight
):
    radius = np.int64((weight.shape[0] - 1) // 2)
    n_point = (weight.shape[2] + BLOCK - 1) // BLOCK * BLOCK
    points = np.zeros(3 * n_point, dtype=np.float32)
    points[:n_point] = np.arange(n_point)
    row_data, row_weight = np.empty(2 * n_point, dtype=np.float32), np.empty(n_point, dtype=np.float32)
    for iz in range(z_begin, z_end):
        _copy_sphere(data, weight, iz, r2_max, summed_data, summed_weight)
        for iy in range(weight.shape[1]):
            ky, kz = np.float32(iy - radius), np.float32(iz - radius)
            rest = r2_max - ky * ky - kz * kz
            if rest < 0:
                continue
            count = min(int(np.sqrt(rest)) + 1, weight.shape[2])
            points[n_point : 2 * n_point], points[2 * n_point :] = ky, kz
            for s in range(operators.shape[0]):
                if is_exact[s]:
                    _add_exact_row(data, weight, operators[s], iz, iy, count, summed_data, summed_weight)
                    continue
                _interpolate_row(data, weight, points, operators, s, count, r2_max, row_data, row_weight)
                for ix in range(count):
                    summed_data[iz, iy, 2 * ix] += row_data[2 * ix]
                    summed_data[iz, iy, 2 * ix + 1] += row_data[2 * ix + 1]
                    summed_weight[iz, iy, ix] += row_weight[ix]


@njit(nogil=True, cache=True, inline="always")
def _add_exact_row(data, weight, operator, iz, iy, count, summed_data, summed_weight):  # type: ignore[no-untyped-def]
    """Add the voxels that ``operator``, a signed permutation, takes the first ``count`` voxels of a row to.

    They lie on a line along an axis. All but the first are on the same side of the plane x = 0.
    """
    radius = np.int64((weight.shape[0] - 1) // 2)
    stride_y = np.int64(weight.shape[2])
    stride_z = np.int64(weight.shape[1]) * stride_y
    flat_data, flat_weight = data.reshape(-1), weight.reshape(-1)
    ky, kz = np.float32(iy - radius), np.float32(iz - radius)
    begin, side = np.int64(0), np.float32(0)
    for ix in range(min(count, 2)):
        kx = np.float32(ix)
        x = operator[0, 0] * kx + operator[0, 1] * ky + operator[0, 2] * kz
        y = operator[1, 0] * kx + operator[1, 1] * ky + operator[1, 2] * kz
        z = operator[2, 0] * kx + operator[2, 1] * ky + operator[2, 2] * kz
        side = np.float32(1)
        if x < 0:
            x, y, z, side = -x, -y, -z, np.float32(-1)
        begin = np.int64(x) + (np.int64(y) + radius) * stride_y + (np.int64(z) + radius) * stride_z
        summed_data[iz, iy, 2 * ix] += flat_data[2 * begin]
        summed_data[iz, iy, 2 * ix + 1] += side * flat_data[2 * begin + 1]
        summed_weight[iz, iy, ix] += flat_weight[begin]
    step = np.int64(side * (operator[0, 0] + operator[1, 0] * stride_y + operator[2, 0] * stride_z))
    begin -= step
    row_data, row_weight = summed_data[iz, iy], summed_weight[iz, iy]
    for ix in range(2, count):
        at = begin + ix * step
        row_data[2 * ix] += flat_data[2 * at]
        row_data[2 * ix + 1] += side * flat_data[2 * at + 1]
        row_weight[ix] += flat_weight[at]


@njit(nogil=True, cache=True, inline="always")
def _interpolate_row(  # type: ignore[no-untyped-def]
    data, weight, points, operators, s, count, r2_max, row_data, row_weight
):
    """Trilinear samples of data and weight where operator ``s`` takes the first ``count`` points of a row."""
    radius = np.int64((weight.shape[0] - 1) // 2)
    stride_y = np.int64(weight.shape[2])
    stride_z = np.int64(weight.shape[1]) * stride_y
    layout = (radius * (stride_z + stride_y), stride_y, stride_z)
    flat_data, flat_weight, turns = data.reshape(-1), weight.reshape(-1), operators.reshape(-1)
    n_point, first = row_weight.shape[0], 9 * s
    reach = r2_max * np.float32(1.001)  # what is inside stays inside, whatever its rounding
    for k in range(0, count, BLOCK):
        interpolate_block(flat_data, layout, points, n_point, k, turns, first, reach, row_data, 2 * k)
        interpolate_real_block(flat_weight, layout, points, n_point, k, turns, first, reach, row_weight, k)


@njit(nogil=True, cache=True, inline="always")
def _copy_sphere(data, weight, iz, r2_max, summed_data, summed_weight):  # type: ignore[no-untyped-def]
    """Copy one plane, zero outside the sphere."""
    radius, n_x = (weight.shape[0] - 1) // 2, weight.shape[2]
    for iy in range(weight.shape[1]):
        rest = r2_max - np.float32((iy - radius) ** 2 + (iz - radius) ** 2)
        count = min(int(np.sqrt(rest)) + 1, n_x) if rest >= 0 else 0
        summed_data[iz, iy, : 2 * count] = data[iz, iy, : 2 * count]
        summed_data[iz, iy, 2 * count :] = 0
        summed_weight[iz, iy, :count] = weight[iz, iy, :count]
        summed_weight[iz, iy, count:] = 0
