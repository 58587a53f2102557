"""Fourier shells: index grids, tables by squared radius, and sums over shells.

A shell is ROUND(|k|), half away from zero. Squared radii of grid points are whole numbers, so that anything radial is
a table looked up by squared radius.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from math import isqrt

import numpy as np


def round_half_up(value: float) -> int:
    """Round a number that is not negative to the nearest integer, halves up."""
    return int(np.floor(value + 0.5))


def shell_of_radius2(max_radius2: int, pad: int = 1) -> np.ndarray:
    """Shell ROUND(r / pad) of every squared radius 0 ... ``max_radius2``; (max_radius2 + 1,) int64."""
    return np.floor(np.sqrt(np.arange(max_radius2 + 1)) / pad + 0.5).astype(np.int64)


@lru_cache(maxsize=8)
def half_shells(box_size: int, n_dim: int) -> np.ndarray:
    """Shell of every coefficient of a real-to-complex transform; beyond the last shell box_size // 2 + 1.

    Returns
    -------
    (box_size, ..., box_size // 2 + 1) int16, FFT order
    """
    last = box_size // 2
    axis2 = np.square(np.rint(np.fft.fftfreq(box_size) * box_size)).astype(np.int64)
    radius2 = np.arange(last + 1) ** 2
    for _ in range(n_dim - 1):
        radius2 = axis2.reshape(-1, *([1] * radius2.ndim)) + radius2
    table = np.minimum(shell_of_radius2(n_dim * (last + 1) ** 2), last + 1).astype(np.int16)
    shells: np.ndarray = table[radius2]
    return shells


def shell_sums(values: np.ndarray, shells: np.ndarray, n_shell: int) -> np.ndarray:
    """Sum ``values`` over shells 0 ... n_shell - 1, in double precision; other shells are left out."""
    return np.bincount(shells.ravel(), weights=values.ravel(), minlength=n_shell)[:n_shell]


@lru_cache(maxsize=8)
def half_shell_counts(box_size: int, n_dim: int) -> np.ndarray:
    """Count stored coefficients per shell of a real-to-complex transform; (box_size // 2 + 1,) int64."""
    n_shell = box_size // 2 + 1
    return np.bincount(half_shells(box_size, n_dim).ravel(), minlength=n_shell)[:n_shell]


@lru_cache(maxsize=4)
def plane_radius2(half_width: int, n_x: int) -> np.ndarray:
    """Squared radius y^2 + x^2 of a centred half plane; (2 half_width + 1, n_x) int64."""
    y = np.arange(-half_width, half_width + 1, dtype=np.int64)
    plane: np.ndarray = y[:, None] ** 2 + np.arange(n_x, dtype=np.int64) ** 2
    return plane


@lru_cache(maxsize=8)
def counts_by_radius2(max_radius2: int) -> np.ndarray:
    """Points (x >= 0) per squared radius of a centred half array that holds the whole sphere; float64."""
    reach = isqrt(max_radius2)
    plane = np.bincount(plane_radius2(reach, reach + 1).ravel())[: max_radius2 + 1]
    counts = np.zeros(max_radius2 + 1)
    for z in range(-reach, reach + 1):
        n = min(len(plane), max_radius2 + 1 - z * z)
        counts[z * z : z * z + n] += plane[:n]
    return counts


@lru_cache(maxsize=8)
def voxel_radius2(box_size: int) -> np.ndarray:
    """Squared distance of a voxel from the axis through the centre, y^2 + x^2; (N, N) int64."""
    axis = np.arange(box_size, dtype=np.int64) - box_size // 2
    plane: np.ndarray = axis[:, None] ** 2 + axis**2
    return plane


def radial_blocks(box_size: int, z: slice) -> np.ndarray:
    """Squared distance from the centre voxel of planes ``z`` of a map; (n_z, N, N) int64."""
    axis = np.arange(box_size, dtype=np.int64)[z] - box_size // 2
    blocks: np.ndarray = axis[:, None, None] ** 2 + voxel_radius2(box_size)
    return blocks


def slabs(n: int, size: int) -> list[slice]:
    """Cut ``range(n)`` into consecutive slices of at most ``size``."""
    size = max(size, 1)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def run_slabs(work: Callable[[slice], None], pieces: list[slice], threads: int, *, is_repeatable: bool = False) -> None:
    """Run ``work`` on every slab; slabs own what they write, so that the number of threads changes nothing.

    Parameters
    ----------
    work : does one slab
    pieces : all slabs
    threads : worker threads
    is_repeatable : a slab may be done twice; those for which memory does not suffice are then done again one after the
        other, in halves of halves
    """
    left: list[slice] = []

    def attempt(piece: slice) -> None:
        try:
            work(piece)
        except MemoryError:
            if not is_repeatable or piece.stop - piece.start < 2:
                raise
            left.append(piece)

    if threads <= 1 or len(pieces) <= 1:
        for piece in pieces:
            attempt(piece)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(attempt, pieces))
    while left:
        piece = left.pop()
        middle = (piece.start + piece.stop) // 2
        attempt(slice(piece.start, middle))
        attempt(slice(middle, piece.stop))
