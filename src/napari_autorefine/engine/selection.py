"""The posterior samples of one particle that matter: the smallest set of largest weights with most of their sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from napari_autorefine.kernels.significance import significant_weights
from napari_autorefine.xp import array_module, beside, to_host

_FAST = {"nnan", "nsz", "arcp", "contract", "reassoc"}
# Rounded as written, whatever a function is compiled for (without this it would inherit the flags of the first function
# that calls it): processes must find the same.
_IN_ORDER = {"nnan", "nsz"}
_DEEPEST = np.float32(-30.0)  # e^-30 of the largest weight is 0: all such do not reach the sum's last digit
GOLDEN_STEP, PARTICLE_STEP = 0.6180339887498949, 0.41421356237309515
_SHIFT = 16  # bits of a float32 that do not tell its bin: 128 bins per power of two
_TOP_BIN = int(np.float32(1.0).view(np.int32)) >> _SHIFT
_N_BIN = _TOP_BIN - (int(np.exp(_DEEPEST).view(np.int32)) >> _SHIFT) + 2
_LOG2_E, _LN2_HIGH, _LN2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
_BIAS, _MANTISSA_BITS = 127, 23


@dataclass(frozen=True, slots=True, kw_only=True)
class Largest:
    """The largest weights of log scores, relative to the very largest.

    Attributes
    ----------
    weights : (n_r, n_t) float32, those of rows and columns that keep any; 0 where not kept
    rows, columns : (n_r,), (n_t,) int64, which these are
    of_rows, of_columns : (n_r,), (n_t,) float64, their sums
    total : sum of all weights above e^-30
    top : largest score
    """

    weights: Any
    rows: np.ndarray
    columns: np.ndarray
    of_rows: np.ndarray
    of_columns: np.ndarray
    total: float
    top: float


def largest_weights(scores: Any, fraction: float, max_count: int = -1) -> Largest:
    """Weights of log scores without those outside the smallest set that makes up a share of their sum.

    Parameters
    ----------
    scores : (n_rot, n_trans) float32 log weights; -inf is allowed, but not everywhere
    fraction : share of the sum to keep; with 1 nothing is left out but weights below e^-30
    max_count : keep at most this many, and those equal to the smallest of them; negative = no limit
    """
    if array_module(scores) is not np:
        return _on_device(scores, fraction, max_count)
    weights, rows, columns, of_rows, of_columns, total, top = find_largest(
        np.ascontiguousarray(scores), fraction, max_count
    )
    return Largest(
        weights=weights, rows=rows, columns=columns, of_rows=of_rows, of_columns=of_columns, total=total, top=top
    )


@njit(nogil=True, cache=True, error_model="numpy")
def drawn(share: np.ndarray, most: int, lots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """About so many entries that stand for all: drawn in proportion to their share, so that sums stay unbiased.

    Entries that are due a place of their own are certain; each other is drawn where its lot is below its chance
    (Poisson sampling; Hajek 1964, Ann. Math. Stat. 35, 1491-1523). With ``share / chance`` in place of ``share`` the
    chosen sum up to the same on average. What is drawn hardly changes when shares do in their last digits.

    Parameters
    ----------
    share : (n,) float64, positive
    most : number of places; all are taken where there are no more
    lots : (n,) float64, from 0 to 1, evenly spread; see ``lots_of``

    Returns
    -------
    chosen : (m,) int64, ascending, one at least
    chance : (m,) float64, probability that the entry is drawn
    """
    n = len(share)
    if n <= most:
        return np.arange(n), np.ones(n)
    ascending, certain = np.sort(share), 0
    rest = np.cumsum(ascending)
    while certain < most - 1 and ascending[n - 1 - certain] * (most - certain) > rest[n - 1 - certain]:
        certain += 1
    place = rest[n - 1 - certain] / (most - certain)  # the share that is due one place
    chance = np.minimum(share / place, 1.0)
    chosen = np.flatnonzero(lots < chance)
    if len(chosen) == 0:
        chosen = np.array([np.argmax(share)])
    return chosen, chance[chosen]


@njit(nogil=True, cache=True, error_model="numpy")
def lots_of(numbers: np.ndarray, particle: int) -> np.ndarray:
    """Lots (n,) of a particle's orientations, by their numbers on the grid: neighbours have lots far apart.

    Steps are of the golden section along the grid, and of the square root of 2 from particle to particle.
    """
    turns = numbers * GOLDEN_STEP + particle * PARTICLE_STEP
    return turns - np.floor(turns)


def _on_device(scores: Any, fraction: float, max_count: int) -> Largest:
    weights = scores.reshape(1, -1).copy()
    top, total = significant_weights(weights, fraction, max_count)
    weights = weights.reshape(scores.shape)
    kept = to_host(weights > 0)
    rows, columns = np.flatnonzero(kept.any(axis=1)), np.flatnonzero(kept.any(axis=0))
    weights = weights[beside(rows, weights)][:, beside(columns, weights)]
    return Largest(
        weights=weights,
        rows=rows,
        columns=columns,
        of_rows=to_host(weights.sum(axis=1, dtype=np.float64)),
        of_columns=to_host(weights.sum(axis=0, dtype=np.float64)),
        total=float(total[0]),
        top=float(top[0]),
    )


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def find_largest(scores, fraction, max_count):  # type: ignore[no-untyped-def]
    """Return the fields of :class:`Largest` in their order; parameters are those of ``largest_weights``."""
    flat = scores.reshape(-1)
    top = flat[0]
    for score in flat:
        top = max(top, score)
    positions, weights = np.empty(len(flat), dtype=np.int32), np.empty(len(flat), dtype=np.float32)
    n = 0
    for j in range(len(flat)):  # without a branch: which scores are near the largest cannot be foreseen
        depth = flat[j] - top
        positions[n], weights[n] = j, depth
        n += depth > _DEEPEST
    positions, weights = positions[:n], weights[:n]
    _exponentials(weights)
    total = _sum_in_order(weights)
    least = _smallest_kept(weights, fraction * total, fraction < 1.0, max_count)
    n = 0
    for j in range(len(weights)):
        positions[n], weights[n] = positions[j], weights[j]
        n += weights[n] >= least
    laid_out = _laid_out(positions[:n], weights[:n], scores.shape[0], scores.shape[1])
    return *laid_out, total, float(top)


@njit(nogil=True, cache=True, fastmath=_IN_ORDER, error_model="numpy")
def _sum_in_order(values):  # type: ignore[no-untyped-def]
    """Sum in double precision, in one order however it is compiled: processes must find the same to the last bit."""
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    whole = len(values) // 4 * 4
    for j in range(0, whole, 4):
        a += np.float64(values[j])
        b += np.float64(values[j + 1])
        c += np.float64(values[j + 2])
        d += np.float64(values[j + 3])
    for j in range(whole, len(values)):
        a += np.float64(values[j])
    return (a + b) + (c + d)


@njit(nogil=True, cache=True, fastmath=_IN_ORDER, error_model="numpy")
def _exponentials(values):  # type: ignore[no-untyped-def]
    """Replace values from -30 to 0 by their exponential, to 2 units of the last digit (as Cephes, Moshier 1989).

    Exponents of two are put together as integers in a loop of their own, so that the compiler can use vectors.
    """
    bits = np.empty(len(values), dtype=np.int32)
    for j in range(len(values)):
        turns = np.floor(values[j] * _LOG2_E + np.float32(0.5))
        x = values[j] - turns * _LN2_HIGH - turns * _LN2_LOW
        p = np.float32(1.9875691500e-4)
        p = p * x + np.float32(1.3981999507e-3)
        p = p * x + np.float32(8.3334519073e-3)
        p = p * x + np.float32(4.1665795894e-2)
        p = p * x + np.float32(1.6666665459e-1)
        p = p * x + np.float32(5.0000001201e-1)
        values[j] = p * x * x + x + np.float32(1.0)
        bits[j] = (np.int32(turns) + np.int32(_BIAS)) << np.int32(_MANTISSA_BITS)
    powers = bits.view(np.float32)
    for j in range(len(values)):
        values[j] *= powers[j]


@njit(nogil=True, cache=True, fastmath=_IN_ORDER, error_model="numpy")
def _smallest_kept(weights, wanted, is_limited, max_count):  # type: ignore[no-untyped-def]
    """Return the smallest of the largest weights that together reach ``wanted``, or of the ``max_count`` largest.

    Weights are counted in bins of their leading bits; only those of the bin in which the end lies are sorted.
    """
    if not is_limited and (max_count <= 0 or max_count >= len(weights)):
        return np.float32(0.0)
    sums, counts = np.zeros(_N_BIN), np.zeros(_N_BIN, dtype=np.int64)
    leading = weights.view(np.int32)
    for j in range(len(weights)):
        own = min(max(_TOP_BIN - (leading[j] >> _SHIFT), 0), _N_BIN - 1)
        sums[own] += weights[j]
        counts[own] += 1
    most = max_count if max_count > 0 else len(weights)
    reached, count = 0.0, 0
    for own in range(_N_BIN):
        if (not is_limited or reached + sums[own] < wanted) and count + counts[own] < most:
            reached += sums[own]
            count += counts[own]
            continue
        inside = np.empty(counts[own], dtype=np.float32)
        n = 0
        for j in range(len(weights)):
            if min(max(_TOP_BIN - (leading[j] >> _SHIFT), 0), _N_BIN - 1) == own:
                inside[n] = weights[j]
                n += 1
        for weight in np.sort(inside)[::-1]:
            reached += weight
            count += 1
            if (is_limited and reached >= wanted) or count >= most:
                return weight
    return np.float32(0.0)


@njit(nogil=True, cache=True, fastmath=_IN_ORDER, error_model="numpy")
def _laid_out(positions, weights, n_rot, n_trans):  # type: ignore[no-untyped-def]
    """Weights at ascending positions as rows and columns that have any, which these are, and their sums."""
    rows, used = np.empty(min(n_rot, len(positions)), dtype=np.int64), np.zeros(n_trans, dtype=np.bool_)
    row_of, column_of = np.empty(len(positions), dtype=np.int32), np.empty(len(positions), dtype=np.int32)
    n, row, begin = 0, 0, -n_trans
    for j in range(len(positions)):
        if positions[j] >= begin + n_trans:
            row = positions[j] // n_trans
            begin = row * n_trans
            rows[n] = row
            n += 1
        row_of[j], column_of[j] = n - 1, positions[j] - begin
        used[column_of[j]] = True
    columns = np.flatnonzero(used)
    place = np.empty(n_trans, dtype=np.int32)
    for i in range(len(columns)):
        place[columns[i]] = i
    dense = np.zeros((n, len(columns)), dtype=np.float32)
    of_rows, of_columns = np.zeros(n), np.zeros(len(columns))
    for j in range(len(positions)):
        row, column = row_of[j], place[column_of[j]]
        dense[row, column] = weights[j]
        of_rows[row] += weights[j]
        of_columns[column] += weights[j]
    return dense, rows[:n], columns, of_rows, of_columns
