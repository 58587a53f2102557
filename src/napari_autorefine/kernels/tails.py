"""Sums of what is large in every row, from which thresholds are found by bisection."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from napari_autorefine.kernels._cuda import launch_tail_sums
from napari_autorefine.xp import array_module


def tail_sums(weights: Any, least: Any) -> Any:
    """``sum_j weights[i, j]`` over ``weights[i, j] >= least[i]``; (n_row,) float64.

    Parameters
    ----------
    weights : (n_row, n) float32
    least : (n_row,) float32
    """
    return (_tail_sums if array_module(weights) is np else launch_tail_sums)(weights, least)


@njit(nogil=True, cache=True, error_model="numpy")
def _tail_sums(weights, least):  # type: ignore[no-untyped-def]
    total = np.zeros(weights.shape[0])
    for row in range(weights.shape[0]):
        for j in range(weights.shape[1]):
            if weights[row, j] >= least[row]:
                total[row] += weights[row, j]
    return total
