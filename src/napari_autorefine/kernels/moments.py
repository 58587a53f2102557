"""Sums over slices that need one pass over them: weighted power per slice, mean power per sample."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from napari_autorefine.kernels._cuda import launch_mean_power, launch_weighted_power
from napari_autorefine.xp import array_module

_FAST = {"nsz", "arcp", "contract", "afn", "reassoc"}


def weighted_power(slices: Any, weights: Any) -> Any:
    """``sum_k weights[k] |slices[o, k]|^2`` for slices (n_rot, K) complex64; (n_rot,) float32.

    ``weights`` are (K,), or (n_group, K) when as many slices one after the other belong to each group.
    """
    xp = array_module(slices)
    if xp is np:
        out = np.empty(len(slices), dtype=np.float32)
        groups = np.ascontiguousarray(np.atleast_2d(weights), dtype=np.float32)
        size = len(slices) // len(groups)
        for i, own in enumerate(groups):
            part = slice(i * size, (i + 1) * size)
            _weighted_power(slices[part].view(np.float32), own, out[part])
        return out
    return launch_weighted_power(slices, weights)


def mean_power(slices: Any, amounts: Any) -> Any:
    """``sum_o amounts[o] |slices[o, k]|^2`` for slices (n_rot, K) complex64; (K,) float32.

    With ``amounts`` (n_group, n_rot) of slices (n_group * n_rot, K) there is one sum per group, (n_group, K).
    """
    xp = array_module(slices)
    if xp is np:
        groups = np.ascontiguousarray(np.atleast_2d(amounts), dtype=np.float32)
        out = np.zeros((len(groups), slices.shape[1]), dtype=np.float32)
        for i, own in enumerate(groups):
            _mean_power(slices[i * len(own) : (i + 1) * len(own)].view(np.float32), own, out[i])
        return out if np.ndim(amounts) == 2 else out[0]
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
