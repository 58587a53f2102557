"""Radial filters on stored half transforms, in double precision, as RELION's stand-alone programs apply them."""

from __future__ import annotations

import numpy as np
import scipy.fft

from napari_autorefine.engine.masking import background_profile
from napari_autorefine.engine.shells import round_half_up, run_slabs, slabs

_PLANES_PER_SLAB = 4


def half_transform(map_: np.ndarray, threads: int = 1) -> np.ndarray:
    """Forward transform divided by the number of voxels; (N, N, N // 2 + 1) complex128."""
    values = np.asarray(map_, np.float64)
    transform: np.ndarray = scipy.fft.rfftn(values, norm="forward", workers=threads)
    return transform


def map_of(transform: np.ndarray, threads: int = 1, *, is_temporary: bool = False) -> np.ndarray:
    """Inverse of `half_transform` for an (N, N, N) map; float64.

    The transform is left unchanged unless it ``is_temporary``, which saves the memory of a copy.
    """
    box_size = transform.shape[0]
    map_: np.ndarray = scipy.fft.irfftn(
        transform, (box_size,) * 3, norm="forward", workers=threads, overwrite_x=is_temporary
    )
    return map_


def radius2_planes(box_size: int, z: slice) -> np.ndarray:
    """Squared radius of the coefficients of planes ``z`` of a stored half transform; (n_z, N, N // 2 + 1) int64."""
    axis2 = np.square(np.rint(np.fft.fftfreq(box_size) * box_size)).astype(np.int64)
    planes: np.ndarray = axis2[z, None, None] + axis2[:, None] + np.arange(box_size // 2 + 1) ** 2
    return planes


def radii(box_size: int) -> np.ndarray:
    """Radius of every squared radius that occurs in a transform of a box; index is the squared radius."""
    return np.sqrt(np.arange(3 * (box_size // 2) ** 2 + 1))


def scale(transform: np.ndarray, table: np.ndarray, threads: int = 1) -> None:
    """Multiply every coefficient by the table entry of its squared radius, in place.

    Parameters
    ----------
    transform : (N, N, N // 2 + 1), changed
    table : (n,) factor by squared radius, as long as `radii`
    threads : worker threads
    """

    def work(z: slice) -> None:
        transform[z] *= table[radius2_planes(len(transform), z)]

    run_slabs(work, slabs(len(transform), _PLANES_PER_SLAB), threads)


def low_pass_table(box_size: int, voxel_size_A: float, resolution_A: float, *, edge_shells: int = 2) -> np.ndarray:
    """Low-pass filter by squared radius: cosine edge of ``edge_shells`` (even) about shell ROUND(N a / d).

    The edge ends at the origin; the mean of the map always stays.
    """
    shell = round_half_up(box_size * voxel_size_A / resolution_A)
    low, high = max(shell - edge_shells // 2, 0), shell + edge_shells // 2
    table = 1.0 - background_profile(radii(box_size), low, high - low)
    table[0] = 1.0
    return table


def low_passed(map_: np.ndarray, voxel_size_A: float, resolution_A: float, *, threads: int = 1) -> np.ndarray:
    """Low-pass filter a cubic map; (N, N, N) float64."""
    table = low_pass_table(map_.shape[0], voxel_size_A, resolution_A)
    transform = half_transform(map_, threads)
    scale(transform, table, threads)
    return map_of(transform, threads, is_temporary=True)
