"""Soft solvent masks: a body of voxels, made larger or smaller, with a cosine edge; spheres and shells.

Distances are Euclidean and exact (squared, as whole numbers): a pass along each axis, each the lower envelope of
parabolas (Saito & Toriwaki 1994, doi:10.1016/0031-3203(94)90133-3), cut off at the distance that is asked for.
Results equal those of relion_mask_create.
"""

from __future__ import annotations

from math import ceil

import numpy as np
from numba import njit

from napari_autorefine.engine.shells import run_slabs, slabs

_ROWS_PER_SLAB = 8


@njit(nogil=True, cache=True)
def _along_rows(body: np.ndarray, distance2: np.ndarray, reach: int) -> None:
    """Squared distance along x to the nearest voxel of the body, at most (reach + 1)^2."""
    n_z, n_y, n_x = body.shape
    far = reach + 1
    for z in range(n_z):
        for y in range(n_y):
            steps = far
            for x in range(n_x):
                steps = 0 if body[z, y, x] else min(steps + 1, far)
                distance2[z, y, x] = steps * steps
            steps = far
            for x in range(n_x - 1, -1, -1):
                steps = 0 if body[z, y, x] else min(steps + 1, far)
                distance2[z, y, x] = min(distance2[z, y, x], steps * steps)


@njit(nogil=True, cache=True)
def _along_first(distance2: np.ndarray, reach: int) -> None:
    """Lower envelope of parabolas along the first axis of a plane, in place."""
    n, n_x = distance2.shape
    before = distance2.copy()
    for i in range(n):
        for step in range(1, reach + 1):
            added = np.int32(step * step)
            for other in (i - step, i + step):
                if 0 <= other < n:
                    for x in range(n_x):
                        distance2[i, x] = min(distance2[i, x], before[other, x] + added)


def squared_distance(body: np.ndarray, reach: int, threads: int = 1) -> np.ndarray:
    """Squared distance of every voxel to the nearest voxel of a body inside the box.

    Parameters
    ----------
    body : (n_z, n_y, n_x) bool
    reach : distances beyond it are not told apart, px
    threads : worker threads

    Returns
    -------
    (n_z, n_y, n_x) int32, exact up to reach^2, larger beyond
    """
    distance2 = np.empty(body.shape, np.int32)
    n_z, n_y, _ = body.shape

    def rows(z: slice) -> None:
        _along_rows(body[z], distance2[z], reach)
        for plane in distance2[z]:
            _along_first(plane, reach)

    def sections(y: slice) -> None:
        for row in range(y.start, y.stop):
            plane = np.ascontiguousarray(distance2[:, row])
            _along_first(plane, reach)
            distance2[:, row] = plane

    run_slabs(rows, slabs(n_z, _ROWS_PER_SLAB), threads)
    run_slabs(sections, slabs(n_y, _ROWS_PER_SLAB), threads)
    return distance2


def extended(body: np.ndarray, distance_px: float, threads: int = 1) -> np.ndarray:
    """Grow a body by all voxels nearer than ``distance_px``, or shrink it where negative; bool, same shape.

    What lies outside the box counts neither as body nor as background.
    """
    reach2 = distance_px**2
    if distance_px == 0:
        return body
    window = _around(body, ceil(abs(distance_px)))
    inside = body[window]
    is_growing = distance_px > 0
    distance2 = squared_distance(inside if is_growing else ~inside, ceil(abs(distance_px)), threads)
    result = np.zeros(body.shape, bool)
    result[window] = distance2 < reach2 if is_growing else distance2 >= reach2
    return result


def soft_mask(body: np.ndarray, edge_px: float, threads: int = 1) -> np.ndarray:
    """1 on a body, cosine edge of ``edge_px`` around it; same shape, float32."""
    mask = np.zeros(body.shape, np.float32)
    window = _around(body, ceil(max(edge_px, 0.0)))
    if edge_px <= 0:
        mask[window] = body[window]
        return mask
    reach = ceil(edge_px)
    distance = np.sqrt(np.arange((reach + 1) ** 2 + 1))
    table = np.where(distance < edge_px, 0.5 + 0.5 * np.cos(np.pi * distance / edge_px), 0.0).astype(np.float32)
    distance2 = squared_distance(body[window], reach, threads)
    mask[window] = table[np.minimum(distance2, len(table) - 1)]
    return mask


def spherical_shell(
    box_size: int, inner_px: float, outer_px: float, *, center_px: tuple[float, float, float], edge_px: float
) -> np.ndarray:
    """1 where inner <= r < outer, cosine edges on both sides; (N, N, N) float32.

    Parameters
    ----------
    box_size : N
    inner_px, outer_px : radii; no inner edge where ``inner_px`` is 0
    center_px : (x, y, z) from the centre of the box at N // 2
    edge_px : width of the edges
    """
    axis = np.arange(box_size, dtype=np.float64) - box_size // 2
    x2, y2, z2 = (np.square(axis - center) for center in center_px)
    plane2 = y2[:, None] + x2
    mask = np.empty((box_size,) * 3, np.float32)
    for z in range(box_size):
        radius = np.sqrt(plane2 + z2[z])
        beyond = np.maximum(radius - outer_px, inner_px - radius)
        edge = 0.5 + 0.5 * np.cos(np.pi * np.clip(beyond, 0.0, edge_px) / edge_px) if edge_px > 0 else 0.0
        mask[z] = np.where((radius >= inner_px) & (radius < outer_px), 1.0, np.where(beyond < edge_px, edge, 0.0))
    return mask


def _around(body: np.ndarray, margin: int) -> tuple[slice, ...]:
    """Smallest block that holds the body and ``margin`` voxels around it, inside the box."""
    window = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        filled = np.flatnonzero(body.any(axis=others))
        if len(filled) == 0:
            return (slice(0, 0),) * 3
        window.append(slice(max(int(filled[0]) - margin, 0), int(filled[-1]) + 1 + margin))
    return tuple(window)
