"""Sum of a centred half array over rotations of the Fourier space (trilinear, Hermitian fold)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from napari_autorefine.kernels._cuda import launch_symmetrize
from napari_autorefine.kernels._simd import trilinear
from napari_autorefine.xp import array_module


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
    flat_data, flat_weight = data.reshape(-1), weight.reshape(-1)
    for iz in range(z_begin, z_end):
        kz = np.float32(iz - radius)
        _copy_sphere(data, weight, iz, r2_max, summed_data, summed_weight)
        for s in range(operators.shape[0]):
            for iy in range(weight.shape[1]):
                ky = np.float32(iy - radius)
                for ix in range(weight.shape[2]):
                    kx = np.float32(ix)
                    if kx * kx + ky * ky + kz * kz > r2_max:
                        break
                    x = operators[s, 0, 0] * kx + operators[s, 0, 1] * ky + operators[s, 0, 2] * kz
                    y = operators[s, 1, 0] * kx + operators[s, 1, 1] * ky + operators[s, 1, 2] * kz
                    z = operators[s, 2, 0] * kx + operators[s, 2, 1] * ky + operators[s, 2, 2] * kz
                    sign = np.float32(1)
                    if x < 0:
                        x, y, z, sign = -x, -y, -z, np.float32(-1)
                    if is_exact[s]:
                        jx, jy, jz = np.int64(x), np.int64(y) + radius, np.int64(z) + radius
                        re, im, mass = data[jz, jy, 2 * jx], data[jz, jy, 2 * jx + 1], weight[jz, jy, jx]
                    else:
                        re, im, mass = _gather(flat_data, flat_weight, radius, x, y, z)
                    summed_data[iz, iy, 2 * ix] += re
                    summed_data[iz, iy, 2 * ix + 1] += sign * im
                    summed_weight[iz, iy, ix] += mass


@njit(nogil=True, cache=True, inline="always")
def _copy_sphere(data, weight, iz, r2_max, summed_data, summed_weight):  # type: ignore[no-untyped-def]
    """Copy one plane, zero outside the sphere."""
    radius = (weight.shape[0] - 1) // 2
    for iy in range(weight.shape[1]):
        for ix in range(weight.shape[2]):
            is_inside = ix * ix + (iy - radius) ** 2 + (iz - radius) ** 2 <= r2_max
            summed_data[iz, iy, 2 * ix] = data[iz, iy, 2 * ix] if is_inside else np.float32(0)
            summed_data[iz, iy, 2 * ix + 1] = data[iz, iy, 2 * ix + 1] if is_inside else np.float32(0)
            summed_weight[iz, iy, ix] = weight[iz, iy, ix] if is_inside else np.float32(0)


@njit(nogil=True, cache=True, inline="always", fastmath={"nsz", "arcp", "contract"})
def _gather(data, weight, radius, x, y, z):  # type: ignore[no-untyped-def]
    """Trilinear sample of data and weight (both flat) at x >= 0."""
    stride_y = np.int64(radius + 2)
    stride_z = (2 * radius + 1) * stride_y
    center = radius * (stride_z + stride_y)
    re, im = trilinear(data, 2 * center, 2 * stride_y, 2 * stride_z, x, y, z)
    x0, y0, z0 = np.floor(x), np.floor(y), np.floor(z)
    fx, fy, fz = x - x0, y - y0, z - z0
    at = np.uint64(
        center + np.int64(np.int32(z0)) * stride_z + np.int64(np.int32(y0)) * stride_y + np.int64(np.int32(x0))
    )
    row, plane = np.uint64(stride_y), np.uint64(stride_z)
    next_ = at + plane
    one = np.uint64(1)
    low = _lerp(_lerp(weight[at], weight[at + one], fx), _lerp(weight[at + row], weight[at + row + one], fx), fy)
    high = _lerp(
        _lerp(weight[next_], weight[next_ + one], fx), _lerp(weight[next_ + row], weight[next_ + row + one], fx), fy
    )
    return re, im, _lerp(low, high, fz)


@njit(nogil=True, cache=True, inline="always", fastmath={"nsz", "arcp", "contract"})
def _lerp(a, b, fraction):  # type: ignore[no-untyped-def]
    return a + (b - a) * fraction
