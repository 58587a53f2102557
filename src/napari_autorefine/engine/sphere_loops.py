"""Compiled loops over spheres of frequencies and over maps: what goes between transforms, one pass over the memory.

Arrays of frequencies are centred half arrays, element [z + R, y + R, x]; tables are by squared radius.
"""

from __future__ import annotations

from math import isqrt

import numpy as np
from numba import njit


def reach_of_rows(limit2: int, y: np.ndarray) -> int:
    """Points x = 0, 1, ... of the longest row of some rows y inside a sphere of squared radius ``limit2``."""
    nearest = int(np.abs(y).min())
    return isqrt(max(limit2 - nearest * nearest, 0)) + 1


@njit(nogil=True, cache=True, error_model="numpy")
def gather_sphere(  # noqa: PLR0913 - flat arguments of a compiled function
    block: np.ndarray,
    y_begin: int,
    keep: int,
    phase_z: np.ndarray,
    phase_y: np.ndarray,
    phase_x: np.ndarray,
    data: np.ndarray,
) -> None:
    """Put transforms along z, (n, n_y, n_x) in FFT order, in their place inside a sphere of radius ``keep``.

    ``phase_z``, ``phase_y`` (2 keep + 1,) and ``phase_x`` (keep + 1,) are multiplied in; row 0 of the block is row
    ``y_begin`` of -keep ... keep. Nothing beyond the sphere is written.
    """
    first = (data.shape[0] - 1) // 2 - keep
    row_phase = np.empty(keep + 1, dtype=np.complex64)
    for i in range(block.shape[1]):
        y = y_begin + i - keep
        row_phase[:] = phase_x * phase_y[y_begin + i]
        for iz in range(2 * keep + 1):
            z = iz - keep
            rest = keep * keep - z * z - y * y
            if rest < 0:
                continue
            source, target = block[z if z >= 0 else z + block.shape[0], i], data[iz + first, y_begin + i + first]
            own = phase_z[iz]
            for x in range(min(int(np.sqrt(rest)) + 1, block.shape[2])):
                target[x] = source[x] * (row_phase[x] * own)


@njit(nogil=True, cache=True, error_model="numpy")
def divide_sphere(  # noqa: PLR0913 - flat arguments of a compiled function
    data: np.ndarray,
    weight: np.ndarray,
    density: np.ndarray,
    prior: np.ndarray,
    floor: np.ndarray,
    y_begin: int,
    keep: int,
    phase_z: np.ndarray,
    phase_y: np.ndarray,
    phase_x: np.ndarray,
    full: np.ndarray,
) -> None:
    """Fill ``full`` (n, n_y, n_x), zero before, in FFT order along z with coefficients inside a sphere.

    A coefficient is data over weight, the weight with its prior and at least ``floor``; with a ``density`` (otherwise
    of size 0) data times density. Where the prior is -1 (no signal power), 1000 / weight is added to the weight.
    """
    first, limit = (data.shape[0] - 1) // 2 - keep, len(prior) - 1
    row_phase = np.empty(keep + 1, dtype=np.complex64)
    for i in range(full.shape[1]):
        y = y_begin + i - keep
        row_phase[:] = phase_x * phase_y[y_begin + i]
        for iz in range(2 * keep + 1):
            z = iz - keep
            rest = limit - z * z - y * y
            if rest < 0 or (2 * keep == full.shape[0] and iz == 0):
                continue
            row_data, row_weight = data[iz + first, y_begin + i + first], weight[iz + first, y_begin + i + first]
            target, own = full[z if z >= 0 else z + full.shape[0], i], phase_z[iz]
            for x in range(min(int(np.sqrt(rest)) + 1, full.shape[2])):
                r2 = z * z + y * y + x * x
                if density.size > 0:
                    inverse = density[iz, y_begin + i, x]
                else:
                    total = row_weight[x] + max(prior[r2], np.float32(0))
                    if prior[r2] < 0 and row_weight[x] > 0:
                        total += np.float32(1e3) / row_weight[x]
                    total = max(total, floor[r2])
                    inverse = np.float32(1) / total if total > 0 else np.float32(0)
                target[x] = np.complex64(row_data[x] * inverse) * (row_phase[x] * own)


@njit(nogil=True, cache=True, error_model="numpy")
def sphere_sums(values: np.ndarray, prior: np.ndarray, max_radius2: int, sums: np.ndarray) -> None:
    """Add values to ``sums`` (max_radius2 + 1,) by squared radius; where the prior is negative also 1000 / value."""
    radius = (values.shape[0] - 1) // 2
    for iz in range(values.shape[0]):
        for iy in range(values.shape[1]):
            outer = (iz - radius) ** 2 + (iy - radius) ** 2
            if outer > max_radius2:
                continue
            row = values[iz, iy]
            for x in range(min(int(np.sqrt(max_radius2 - outer)) + 1, values.shape[2])):
                r2 = outer + x * x
                total = row[x]
                if prior[r2] < 0 and total > 0:
                    total += np.float32(1e3) / total
                sums[r2] += total


@njit(nogil=True, cache=True, error_model="numpy")
def sphere_hits(values: np.ndarray, threshold: np.ndarray, max_radius2: int, hits: np.ndarray) -> None:
    """Count in ``hits`` (max_radius2 + 1,) by squared radius the values that reach a threshold by squared radius."""
    radius = (values.shape[0] - 1) // 2
    for iz in range(values.shape[0]):
        for iy in range(values.shape[1]):
            outer = (iz - radius) ** 2 + (iy - radius) ** 2
            if outer > max_radius2:
                continue
            row = values[iz, iy]
            for x in range(min(int(np.sqrt(max_radius2 - outer)) + 1, values.shape[2])):
                hits[outer + x * x] += row[x] >= threshold[outer + x * x]


@njit(nogil=True, cache=True, error_model="numpy")
def shell_products(  # noqa: PLR0913 - flat arguments of a compiled function
    data_1: np.ndarray,
    weight_1: np.ndarray,
    data_2: np.ndarray,
    weight_2: np.ndarray,
    bins: np.ndarray,
    z_begin: int,
    z_end: int,
    shells: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Write sums over shells of F1 F2*, |F1|^2, |F2|^2 of planes z_begin <= iz < z_end to ``sums`` (n_z, 3, n_shell).

    Parameters
    ----------
    bins : (2 reach + 2,) first array index of each unpadded coefficient -reach ... reach, and the end of the last
    shells : (reach^2 + reach + 1,) shell by squared unpadded radius, of shells up to ``reach``
    """
    reach = (len(bins) - 2) // 2
    radius = (weight_1.shape[0] - 1) // 2
    for iz in range(z_begin, z_end):
        for iy in range(2 * reach + 1):
            outer = (iz - reach) ** 2 + (iy - reach) ** 2
            for x in range(reach + 1):
                if outer + x * x >= len(shells):
                    break
                d1 = d2 = np.complex128(0)
                w1 = w2 = 0.0
                for jz in range(bins[iz], bins[iz + 1]):
                    for jy in range(bins[iy], bins[iy + 1]):
                        for jx in range(max(bins[reach + x] - radius, 0), bins[reach + x + 1] - radius):
                            d1 += data_1[jz, jy, jx]
                            w1 += weight_1[jz, jy, jx]
                            d2 += data_2[jz, jy, jx]
                            w2 += weight_2[jz, jy, jx]
                a = d1 / w1 if w1 > 0 else np.complex128(0)
                b = d2 / w2 if w2 > 0 else np.complex128(0)
                shell = shells[outer + x * x]
                sums[iz, 0, shell] += a.real * b.real + a.imag * b.imag
                sums[iz, 1, shell] += a.real * a.real + a.imag * a.imag
                sums[iz, 2, shell] += b.real * b.real + b.imag * b.imag


@njit(nogil=True, cache=True, error_model="numpy")
def multiply_radially(planes: np.ndarray, z_begin: int, table: np.ndarray) -> np.ndarray:
    """Return planes (n, N, N) of a map, the first of which is ``z_begin``, times a table by squared radius."""
    box_size = planes.shape[1]
    center, out = box_size // 2, np.empty(planes.shape, dtype=np.float32)
    for i in range(planes.shape[0]):
        for y in range(box_size):
            outer = (z_begin + i - center) ** 2 + (y - center) ** 2
            for x in range(box_size):
                out[i, y, x] = planes[i, y, x] * table[outer + (x - center) ** 2]
    return out


@njit(nogil=True, cache=True, error_model="numpy")
def scale_radially(planes: np.ndarray, z_begin: int, factor: np.ndarray, offset: np.ndarray) -> None:
    """Multiply planes (n, N, N) of a map by a factor and add an offset, both tables by squared radius, in place."""
    box_size = planes.shape[1]
    center = box_size // 2
    for i in range(planes.shape[0]):
        for y in range(box_size):
            outer = (z_begin + i - center) ** 2 + (y - center) ** 2
            for x in range(box_size):
                r2 = outer + (x - center) ** 2
                planes[i, y, x] = planes[i, y, x] * factor[r2] + offset[r2]


@njit(nogil=True, cache=True, error_model="numpy")
def plane_sums(planes: np.ndarray, z_begin: int, share: np.ndarray, sums: np.ndarray) -> None:
    """Write sums of value times share, and of shares, of planes (n, N, N) to ``sums`` (n, 2); table by radius^2."""
    box_size = planes.shape[1]
    center = box_size // 2
    for i in range(planes.shape[0]):
        total = weight = 0.0
        for y in range(box_size):
            outer = (z_begin + i - center) ** 2 + (y - center) ** 2
            for x in range(box_size):
                own = share[outer + (x - center) ** 2]
                total += own * planes[i, y, x]
                weight += own
        sums[i, 0], sums[i, 1] = total, weight
