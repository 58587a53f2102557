"""Sums over slices that need one pass over them: weighted power per slice, mean power per sample."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from napari_autorefine.kernels._cuda import launch_mean_power, launch_weighted_power
from napari_autorefine.xp import array_module

_FAST = {"nsz", "arcp", "contract", "afn", "reassoc"}


def weighted_power(slices: Any, weights: Any) -> Any:
    """``sum_k weights[k] |slices[o, k]|^2`` for slices (n_rot, K) complex64; (n_rot,) float32."""
    xp = array_module(slices)
    if xp is np:
        out = np.empty(len(slices), dtype=np.float32)
        _weighted_power(slices.view(np.float32), np.ascontiguousarray(weights, dtype=np.float32), out)
        return out
    return launch_weighted_power(slices, weights)


def mean_power(slices: Any, amounts: Any) -> Any:
    """``sum_o amounts[o] |slices[o, k]|^2`` for slices (n_rot, K) complex64; (K,) float32."""
    xp = array_module(slices)
    if xp is np:
        out = np.zeros(slices.shape[1], dtype=np.float32)
        _mean_power(slices.view(np.float32), np.ascontiguousarray(amounts, dtype=np.float32), out)
        return out
    return launch_mean_power(slices, amounts)


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _weighted_power(slices, weights, out):  # type: ignore[no-untyped-def]
    for rot in range(slices.shape[0]):
        total = np.float32(0)
        for k in range(weights.shape[0]):
            re, im = slices[rot, 2 * k], slices[rot, 2 * k + 1]
            total += weights[k] * (re * re + im * im)
        out[rot] = total


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _mean_power(slices, amounts, out):  # type: ignore[no-untyped-def]
    for rot in range(slices.shape[0]):
        amount = amounts[rot]
        if amount == np.float32(0):
            continue
        for k in range(out.shape[0]):
            re, im = slices[rot, 2 * k], slices[rot, 2 * k + 1]
            out[k] += amount * (re * re + im * im)
