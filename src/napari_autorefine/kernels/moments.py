"""Sums over orientations that need one pass over the slices: weighted power and posterior moments."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from napari_autorefine.xp import array_module

_FAST = {"nsz", "arcp", "contract", "afn", "reassoc"}


def weighted_power(slices: Any, weights: Any) -> Any:
    """``sum_k weights[k] |slices[o, k]|^2`` for slices (n_rot, K) complex64; (n_rot,) float32."""
    xp = array_module(slices)
    if xp is np:
        out = np.empty(len(slices), dtype=np.float32)
        _weighted_power(slices.view(np.float32), np.ascontiguousarray(weights, dtype=np.float32), out)
        return out
    return (slices.real**2 + slices.imag**2) @ weights


def posterior_moments(slices: Any, averaged: Any, amounts: Any) -> tuple[Any, Any]:
    """Moments of the data against its slices.

    Parameters
    ----------
    slices : (n_rot, K) complex64, P_o
    averaged : (n_rot, K) complex64, Y_o = sum_t w_ot X_t
    amounts : (n_rot,) float32, p_o = sum_t w_ot

    Returns
    -------
    cross : (K,) float32, sum_o Re(conj(P_o) Y_o)
    power : (K,) float32, sum_o p_o |P_o|^2
    """
    xp = array_module(slices)
    if xp is np:
        cross = np.zeros(slices.shape[1], dtype=np.float32)
        power = np.zeros(slices.shape[1], dtype=np.float32)
        _moments(slices.view(np.float32), averaged.view(np.float32), amounts, cross, power)
        return cross, power
    cross = (slices.real * averaged.real + slices.imag * averaged.imag).sum(axis=0)
    return cross, amounts @ (slices.real**2 + slices.imag**2)


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _weighted_power(slices, weights, out):  # type: ignore[no-untyped-def]
    for rot in range(slices.shape[0]):
        total = np.float32(0)
        for k in range(weights.shape[0]):
            re, im = slices[rot, 2 * k], slices[rot, 2 * k + 1]
            total += weights[k] * (re * re + im * im)
        out[rot] = total


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _moments(slices, averaged, amounts, cross, power):  # type: ignore[no-untyped-def]
    for rot in range(slices.shape[0]):
        amount = amounts[rot]
        for k in range(cross.shape[0]):
            re, im = slices[rot, 2 * k], slices[rot, 2 * k + 1]
            cross[k] += re * averaged[rot, 2 * k] + im * averaged[rot, 2 * k + 1]
            power[k] += amount * (re * re + im * im)
