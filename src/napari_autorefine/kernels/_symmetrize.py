"""Sum of a centred half array over rotations of the Fourier space (trilinear, Hermitian fold); host only."""

from __future__ import annotations

import numpy as np
from numba import njit


def symmetrize_planes(
    data: np.ndarray,
    weight: np.ndarray,
    operators: np.ndarray,
    r2_max: float,
    planes: slice,
    summed_data: np.ndarray,
    summed_weight: np.ndarray,
) -> None:
    """Write planes ``planes`` of the sums of ``data`` and ``weight`` over ``operators``; zero beyond ``r2_max``.

    Parameters
    ----------
    data, weight : (2 R + 1, 2 R + 1, n_x) complex64 and float32, element [z + R, y + R, x]
    operators : (n, 3, 3) float32, rotations of (x, y, z) other than the identity, whose term is exact
    r2_max : squared radius that still counts; its root is at most R - 1
    summed_data, summed_weight : like ``data`` and ``weight``; the only arguments written to
    """
    _symmetrize(
        data.view(np.float32),
        weight,
        operators,
        np.float32(r2_max),
        planes.start,
        planes.stop,
        summed_data.view(np.float32),
        summed_weight,
    )


@njit(nogil=True, cache=True, fastmath={"nsz", "arcp", "contract"}, error_model="numpy", boundscheck=False)
def _symmetrize(  # type: ignore[no-untyped-def]
    data, weight, operators, r2_max, z_begin, z_end, summed_data, summed_weight
):
    radius = (weight.shape[0] - 1) // 2
    n_x = weight.shape[2]
    one = np.float32(1)
    for iz in range(z_begin, z_end):
        kz = np.float32(iz - radius)
        for iy in range(weight.shape[1]):
            ky = np.float32(iy - radius)
            for ix in range(n_x):
                kx = np.float32(ix)
                if kx * kx + ky * ky + kz * kz > r2_max:
                    summed_data[iz, iy, 2 * ix] = np.float32(0)
                    summed_data[iz, iy, 2 * ix + 1] = np.float32(0)
                    summed_weight[iz, iy, ix] = np.float32(0)
                    continue
                total_re = data[iz, iy, 2 * ix]
                total_im = data[iz, iy, 2 * ix + 1]
                total = weight[iz, iy, ix]
                for s in range(operators.shape[0]):
                    x = operators[s, 0, 0] * kx + operators[s, 0, 1] * ky + operators[s, 0, 2] * kz
                    y = operators[s, 1, 0] * kx + operators[s, 1, 1] * ky + operators[s, 1, 2] * kz
                    z = operators[s, 2, 0] * kx + operators[s, 2, 1] * ky + operators[s, 2, 2] * kz
                    sign = one
                    if x < 0:
                        x, y, z, sign = -x, -y, -z, -one
                    x0, y0, z0 = np.floor(x), np.floor(y), np.floor(z)
                    fx, fy, fz = x - x0, y - y0, z - z0
                    jx, jy, jz = np.int64(x0), np.int64(y0) + radius, np.int64(z0) + radius
                    re, im, mass = np.float32(0), np.float32(0), np.float32(0)
                    for corner in range(4):
                        ay, az = corner & 1, corner >> 1
                        share = (fy if ay else one - fy) * (fz if az else one - fz)
                        low, high = share * (one - fx), share * fx
                        cy, cz = jy + ay, jz + az
                        re += low * data[cz, cy, 2 * jx] + high * data[cz, cy, 2 * jx + 2]
                        im += low * data[cz, cy, 2 * jx + 1] + high * data[cz, cy, 2 * jx + 3]
                        mass += low * weight[cz, cy, jx] + high * weight[cz, cy, jx + 1]
                    total_re += re
                    total_im += sign * im
                    total += mass
                summed_data[iz, iy, 2 * ix] = total_re
                summed_data[iz, iy, 2 * ix + 1] = total_im
                summed_weight[iz, iy, ix] = total
