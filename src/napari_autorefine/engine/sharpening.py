"""Sharpen an average map: detector, signal-to-noise weight, B-factor, low-pass; everything depends on |k| alone.

Hence each step is a table by squared radius, and Guinier plots follow from sums of amplitudes by squared radius.
Rosenthal & Henderson (2003), doi:10.1016/j.jmb.2003.07.013; numerical rules of relion_postprocess.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from napari_autorefine.engine.filters import radii
from napari_autorefine.engine.shells import shell_of_radius2

EMPTY = -99.0
_LOWEST_FSC = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Amplitudes:
    """Sums of |F| and numbers of coefficients by squared radius, of an (N, N, N) map."""

    sums: np.ndarray
    counts: np.ndarray
    box_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFit:
    """Least-squares line, y = slope x + intercept; ``correlation`` is the squared one, as RELION's label has it."""

    slope: float
    intercept: float
    correlation: float


def amplitudes_of_average(first: np.ndarray, second: np.ndarray) -> Amplitudes:
    """Sum the amplitudes of the average of two stored half transforms (N, N, N // 2 + 1) by squared radius."""
    box_size = len(first)
    n = 3 * (box_size // 2) ** 2 + 1
    sums, counts = np.zeros(n), np.zeros(n, np.int64)
    _add_amplitudes(first, second, sums, counts)
    return Amplitudes(sums=sums, counts=counts, box_size=box_size)


@njit(nogil=True, cache=True)
def _add_amplitudes(first: np.ndarray, second: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> None:
    n_z, n_y, n_x = first.shape
    for z in range(n_z):
        kz = z if z < n_x else z - n_z
        for y in range(n_y):
            ky = y if y < n_x else y - n_y
            for x in range(n_x):
                radius2 = kz * kz + ky * ky + x * x
                sums[radius2] += abs(0.5 * (first[z, y, x] + second[z, y, x]))
                counts[radius2] += 1


def log_amplitudes(amplitudes: Amplitudes, table: np.ndarray | None = None) -> np.ndarray:
    """Logarithm of the mean amplitude per shell after multiplying by a table; -99 where nothing is left.

    Returns
    -------
    (N // 2 + 1,)
    """
    n_shell = amplitudes.box_size // 2 + 1
    sums = amplitudes.sums if table is None else amplitudes.sums * np.abs(table)
    shells = shell_of_radius2(len(sums) - 1)
    total = np.bincount(shells, sums)[:n_shell]
    counts = np.bincount(shells, amplitudes.counts)[:n_shell]
    mean = total / np.maximum(counts, 1)
    return np.where(mean > 0, np.log(np.where(mean > 0, mean, 1.0)), EMPTY)


def inverse_mtf_table(
    box_size: int, voxel_size_A: float, mtf: tuple[np.ndarray, np.ndarray], mtf_voxel_size_A: float
) -> np.ndarray:
    """Inverse of the transfer of a detector by squared radius; 1 beyond Nyquist, the first value up to the first step.

    Parameters
    ----------
    box_size, voxel_size_A : of the map
    mtf : frequency in 1 / px of the detector, evenly spaced, and value
    mtf_voxel_size_A : pixel size of the micrographs as they were recorded
    """
    frequency, value = mtf
    step = (frequency[-1] - frequency[0]) / len(frequency)
    wanted = radii(box_size) / (box_size * voxel_size_A)
    position = wanted * mtf_voxel_size_A
    index = np.clip(np.floor(position / step).astype(np.int64), 0, len(value) - 1)
    after = np.minimum(index + 1, len(value) - 1)
    width = frequency[after] - frequency[index]
    share = np.divide(position - frequency[index], width, out=np.zeros_like(position), where=width > 0)
    transfer = np.where(index > 0, value[index] + share * (value[after] - value[index]), value[0])
    is_corrected = (radii(box_size) < box_size / 2) & (transfer != 0)
    return np.divide(1.0, transfer, out=np.ones_like(transfer), where=is_corrected)


def fsc_weight_table(fsc: np.ndarray, box_size: int) -> np.ndarray:
    """Weight ``sqrt(2 F / (1 + F))`` of each shell by squared radius, 0 from the first F below 0.0001 on."""
    bad = np.flatnonzero(fsc < _LOWEST_FSC)
    kept = int(bad[0]) if len(bad) else len(fsc)
    weight = np.zeros(len(radii(box_size)))
    shells = shell_of_radius2(len(weight) - 1)
    inside = shells < kept
    used = fsc[shells[inside]]
    weight[inside] = np.sqrt(2.0 * used / (1.0 + used))
    return weight


def b_factor_table(box_size: int, voxel_size_A: float, b_factor_A2: float) -> np.ndarray:
    """``exp(-B / 4 s^2)`` by squared radius, 0 beyond Nyquist; B below 0 sharpens."""
    frequency = radii(box_size) / (box_size * voxel_size_A)
    table = np.exp(-b_factor_A2 / 4.0 * np.square(frequency))
    return np.where(radii(box_size) <= box_size / 2, table, 0.0)


def fit_guinier(
    squared_frequency: np.ndarray, log_amplitude: np.ndarray, *, lowest_A: float, highest_A: float
) -> LineFit | None:
    """Fit a straight line to the Guinier plot between two resolutions; None with fewer than two points.

    Parameters
    ----------
    squared_frequency : (n_shell,) 1 / A^2
    log_amplitude : (n_shell,), empty shells -99
    lowest_A, highest_A : range of the fit; ``highest_A`` 0 is no limit
    """
    is_used = (squared_frequency >= 1.0 / lowest_A**2) & (log_amplitude > EMPTY)
    if highest_A > 0:
        is_used &= squared_frequency <= 1.0 / highest_A**2
    x, y = squared_frequency[is_used], log_amplitude[is_used]
    if len(x) < 2:
        return None
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    spread = float((dx @ dx) * (dy @ dy))
    return LineFit(
        slope=slope,
        intercept=float(y.mean() - slope * x.mean()),
        correlation=float(dx @ dy) ** 2 / spread if spread > 0 else 0.0,
    )
