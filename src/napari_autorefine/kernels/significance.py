"""Posterior weights of many particles at once, of each the largest ones that make up most of their sum."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from napari_autorefine.kernels._cuda import launch_significant_weights
from napari_autorefine.xp import array_module


def significant_weights(
    scores: Any, fraction: float, max_count: int = -1, *, is_normalised: bool = False
) -> tuple[Any, Any]:
    """Replace log scores by weights relative to their row's largest; those that do not matter become 0.

    Parameters
    ----------
    scores : (n_row, n) float32, C-contiguous, -inf allowed but not in the whole of a row; replaced by the weights
    fraction : what is not among a row's largest weights with this share of its sum is 0; with 1 nothing is left out.
        Weights below e^-30 of the largest are 0 in any case
    max_count : keep at most this many weights, and those equal to the smallest of them; negative = no limit
    is_normalised : divide the weights by the sum of all

    Returns
    -------
    top : (n_row,) float32, largest score of every row
    total : (n_row,) float64, sum of all its relative weights
    """
    function = _significant_weights if array_module(scores) is np else launch_significant_weights
    top, total = function(scores, fraction, max_count, is_normalised)
    return top, total


@njit(nogil=True, cache=True, error_model="numpy")
def _significant_weights(scores, fraction, max_count, is_normalised):  # type: ignore[no-untyped-def]
    n_row, n = scores.shape
    top, total = np.empty(n_row, dtype=np.float32), np.zeros(n_row)
    for row in range(n_row):
        own = scores[row]
        top[row] = own.max()
        for j in range(n):
            depth = np.float32(own[j] - top[row])
            own[j] = np.exp(depth) if depth > np.float32(-30.0) else np.float32(0.0)
            total[row] += own[j]
        ordered = np.sort(own)[::-1]
        last, reached = n - 1, 0.0
        if fraction < 1.0:
            for j in range(n):
                reached += ordered[j]
                if reached >= fraction * total[row]:
                    last = j
                    break
        if max_count > 0:
            last = min(last, max_count - 1)
        scale = np.float32(total[row]) if is_normalised else np.float32(1.0)
        least = ordered[last]
        for j in range(n):
            own[j] = own[j] / scale if own[j] >= least else np.float32(0.0)
    return top, total
