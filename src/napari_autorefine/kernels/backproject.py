"""Slice insertion: the exact adjoint of slice extraction, with weights."""

from __future__ import annotations

import numpy as np
from numba import njit

from napari_autorefine.kernels._simd import BLOCK, MOST_VOXELS, block_points, scatter_block

# Compiled code is kept for as long as this file stays the same; of _simd.py, which goes into it, this is the mark.
_SIMD = "f3fb75e3faeb"
_FAST = {"nsz", "arcp", "contract", "afn", "reassoc"}
# Slices that are added together, so many samples of each at a time: neighbouring orientations meet the same voxels.
_SLICES, _SAMPLES = 64, 4 * BLOCK


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

    Only planes ``z_begin <= z < z_end`` are touched, always in the same order, so that threads may own slabs and
    the sum of every voxel does not depend on their number. Sample 0 (the origin) is left to the caller, who keeps it
    in double precision.

    Parameters
    ----------
    data, weight : (n_z, n_y, n_x) complex64 and float32, centred like the reference of ``project``; or complex128 and
        float64, in which the order of additions leaves no trace once they are rounded
    matrices : (n_rot, 3, 3) float32, image frequency index -> padded index
    values : (n_rot, n_sample) complex64, or complex128
    amounts : (n_rot,) float32; slice o adds ``amounts[o] * sample_weight[k]`` to the weights
    sample_weight : (n_sample,), (n_rot, n_sample) when every slice brings its own, or (n_group, n_sample) when
        as many slices one after the other belong to each
    rows : (n_row, 5) int32, ``z, y, x_start, n, offset``
    r2_max : squared radius in padded units beyond which nothing is inserted
    """
    if weight.size >= MOST_VOXELS:
        raise ValueError(f"a volume of {weight.size} voxels is larger than slices can be added to")
    if sample_weight.ndim == 2 and 1 < len(sample_weight) < len(matrices):
        size = len(matrices) // len(sample_weight)
        for i, own in enumerate(sample_weight):
            part = slice(i * size, (i + 1) * size)
            backproject_cpu(
                data, weight, matrices[part], values[part], amounts[part], own, rows, r2_max, z_begin, z_end
            )
        return
    _backproject(
        data.view(weight.dtype),
        weight,
        np.ascontiguousarray(matrices),
        np.ascontiguousarray(values).view(values.real.dtype),
        amounts,
        np.ascontiguousarray(np.atleast_2d(sample_weight), dtype=values.real.dtype),
        rows,
        np.float32(r2_max),
        z_begin,
        z_end,
    )


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy", boundscheck=False)
def _backproject(  # type: ignore[no-untyped-def]
    data, weight, matrices, values, amounts, sample_weight, rows, r2_max, z_begin, z_end
):
    radius = np.int64((weight.shape[0] - 1) // 2)
    stride_y = np.int64(weight.shape[2])
    stride_z = np.int64(weight.shape[1]) * stride_y
    layout, slab = (radius * (stride_z + stride_y), stride_y, stride_z), (radius, np.int64(z_begin), np.int64(z_end))
    flat_data, flat_weight = data.reshape(-1), weight.reshape(-1)
    n_sample, n_rot = values.shape[1] // 2, matrices.shape[0]
    points = block_points(rows, n_sample, np.nan)
    points[0, 0] = np.nan
    n_point, points = points.shape[1], points.reshape(-1)
    turns, flat_values, masses = matrices.reshape(-1), values.reshape(-1), sample_weight.reshape(-1)
    per_slice = n_sample if sample_weight.shape[0] > 1 else 0
    whole = n_sample // BLOCK * BLOCK
    for group in range(0, n_rot, _SLICES):
        for start in range(0, whole, _SAMPLES):
            for rot in range(group, min(group + _SLICES, n_rot)):
                for k in range(start, min(start + _SAMPLES, whole), BLOCK):
                    scatter_block(
                        flat_data, flat_weight, layout, slab, points, n_point, k, turns, 9 * rot, r2_max,
                        flat_values, 2 * (rot * n_sample + k), masses, rot * per_slice + k, amounts[rot],
                    )  # fmt: skip
    if whole < n_sample:
        last_values, last_masses = np.zeros(2 * BLOCK, dtype=masses.dtype), np.zeros(BLOCK, dtype=masses.dtype)
        for rot in range(n_rot):
            for j in range(n_sample - whole):
                last_masses[j] = masses[rot * per_slice + whole + j]
            for j in range(2 * (n_sample - whole)):
                last_values[j] = flat_values[2 * (rot * n_sample + whole) + j]
            scatter_block(
                flat_data, flat_weight, layout, slab, points, n_point, whole, turns, 9 * rot, r2_max,
                last_values, np.int64(0), last_masses, np.int64(0), amounts[rot],
            )  # fmt: skip
