"""Slices of one image or volume and its log-likelihoods in compiled code; arguments as in ``compiled_passes``."""

from __future__ import annotations

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401 - compiled products need it, and threads are limited when it is loaded
from numba import njit

from napari_autorefine.kernels.project import fill_slices

# Compiled code is kept for as long as this file stays the same; this is the mark of what goes into it.
_MARKS = ("40c242860139",)
_FAST = {"nsz", "arcp", "contract", "afn", "reassoc"}
_CHUNK_BYTES, _LEAST_ROWS = 1 << 20, 64  # of slices that are made and compared while they are in the cache


@njit(nogil=True, cache=True, error_model="numpy")
def kernel_matrices(rotations, frequency):  # type: ignore[no-untyped-def]
    """Kernel matrices (n, 3, 3) float32 of reference -> view rotations (n_1, n_2, 3, 3), transposed times frequency."""
    flat = rotations.reshape(-1, 3, 3)
    out = np.empty(flat.shape, dtype=np.float32)
    for n in range(len(flat)):
        for i in range(3):
            for j in range(3):
                out[n, i, j] = (
                    flat[n, 0, i] * frequency[0, j] + flat[n, 1, i] * frequency[1, j] + flat[n, 2, i] * frequency[2, j]
                )
    return out


@njit(nogil=True, cache=True, error_model="numpy")
def trials_of(part, shifts):  # type: ignore[no-untyped-def]
    """Ramps of shifts, or functions and coefficients where these are fewer; see ``ShiftBasis.of``."""
    _, _, ramps, functions, coefficients = part
    if len(functions) == 0 or (len(ramps) > 0 and len(shifts) <= len(functions)):
        return ramps[shifts], np.empty((len(shifts), 0), dtype=np.float32)
    return functions, coefficients[shifts]


@njit(nogil=True, cache=True, error_model="numpy")
def scores_of(  # type: ignore[no-untyped-def]  # noqa: PLR0913 - flat arguments of a compiled function
    matrices, orientations, shifts, reference, part, table, image, held_bytes
):
    """Log-likelihoods (n_rot, n_t) float32 of an image at some shifts with slices on a part of the samples.

    Slices come from the reference or, where there is a table, from its rows ``orientations``. All of them are returned,
    too, where they are made and take no more than ``held_bytes``, otherwise none.
    """
    start = part[1]
    functions, coefficients = trials_of(part, shifts)
    n, n_rot = functions.shape[1] // 2, len(orientations)
    samples, half_power = _weighted(image, start, n)
    trials = times(functions, samples)
    out = np.empty((n_rot, len(shifts)), dtype=np.float32)
    size = max(_CHUNK_BYTES // (8 * n * _LEAST_ROWS), 1) * _LEAST_ROWS
    is_kept = len(table) == 0 and 8 * n * n_rot <= held_bytes
    held = np.empty((n_rot if is_kept else min(size, n_rot), 2 * n), dtype=np.float32)
    for first in range(0, n_rot, size):
        last = min(first + size, n_rot)
        own = held[first:last] if is_kept else held[: last - first]
        if len(table):
            for row in range(first, last):
                own[row - first] = table[orientations[row], 2 * start : 2 * (start + n)]
        else:
            fill_slices(reference[0], matrices[first:last], part[0], reference[1], own)
        _compare(own, trials, coefficients, half_power, out[first:last])
    return out, held if is_kept else held[:0]


@njit(nogil=True, cache=True, error_model="numpy")
def slices_again(  # type: ignore[no-untyped-def]  # noqa: PLR0913 - flat arguments of a compiled function
    rows, orientations, matrices, reference, whole, table, held
):
    """Slices (n, 2 n_sample) of some rows: those that were held, from the table, or made again."""
    if len(held):
        return held[rows]
    out = np.empty((len(rows), whole[2].shape[1]), dtype=np.float32)
    if len(table):
        for j in range(len(rows)):
            out[j] = table[orientations[rows[j]]]
    else:
        fill_slices(reference[0], matrices, whole[0], reference[1], out)
    return out


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def times(trials, samples):  # type: ignore[no-untyped-def]
    """Ramps or functions (n_f, 2 n) times samples (n,) complex64."""
    out = np.empty_like(trials)
    n = trials.shape[1] // 2
    for f in range(trials.shape[0]):
        for k in range(n):
            re, im = samples[k].real, samples[k].imag
            a, b = trials[f, 2 * k], trials[f, 2 * k + 1]
            out[f, 2 * k] = re * a - im * b
            out[f, 2 * k + 1] = re * b + im * a
    return out


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _weighted(image, start, n):  # type: ignore[no-untyped-def]
    """Return the image times what scalar products with slices want, and half the weight of their power; n samples."""
    masked, contrast, weight = image
    samples, half_power = np.empty(n, dtype=np.complex64), np.empty(n, dtype=np.float32)
    for k in range(n):
        gain = contrast[start + k] * weight[start + k]
        samples[k] = masked[start + k] * gain
        half_power[k] = np.float32(0.5) * contrast[start + k] * gain
    return samples, half_power


@njit(nogil=True, cache=True, error_model="numpy")
def _compare(slices, trials, coefficients, half_power, out):  # type: ignore[no-untyped-def]
    """Write log-likelihoods of slices (n, 2 n_sample) into ``out``; see ``ShiftedImage`` and ``log_likelihoods``."""
    products = np.dot(slices, trials.T)
    if coefficients.shape[1]:
        products = np.dot(products, coefficients.T)
    for row in range(len(slices)):
        power = _power(slices[row], half_power)
        for trans in range(products.shape[1]):
            out[row, trans] = products[row, trans] - power


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _power(samples, weights):  # type: ignore[no-untyped-def]
    """Sum of weights (n,) times the squared modulus of samples (2 n,)."""
    total = np.float32(0)
    for k in range(len(weights)):
        re, im = samples[2 * k], samples[2 * k + 1]
        total += weights[k] * (re * re + im * im)
    return total
