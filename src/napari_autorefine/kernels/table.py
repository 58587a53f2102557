"""Sums per orientation: add weighted images of many particles to one row per grid orientation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from napari_autorefine.kernels._cuda import launch_add_rows
from napari_autorefine.xp import array_module

_FAST = {"nsz", "arcp", "contract", "afn", "reassoc"}


def add_rows(
    table: Any,
    weights: Any,
    touched: Any,
    rows: Any,
    values: Any,
    amounts: Any,
    sample_weight: Any,
    begin: int,
    end: int,
) -> None:
    """Add ``values`` and ``amounts * sample_weight`` to the table rows ``begin <= rows < end``.

    Parameters
    ----------
    table : (n_row, 2 n_sample) float32, interleaved complex sums; on the host float64 as well
    weights : (n_row, n_sample) of the same precision
    touched : (n_row,) bool, set for rows that received something
    rows : (n_o,) int64
    values : (n_o, 2 n_sample) float32
    amounts : (n_o,) float32
    sample_weight : (n_sample,) float32, or (n_group, n_sample) when as many rows one after the other belong to each
    """
    if array_module(table) is not np:
        launch_add_rows(table, weights, touched, rows, values, amounts, sample_weight, begin, end)
        return
    groups = np.atleast_2d(sample_weight)
    size = len(rows) // len(groups)
    for i, own in enumerate(groups):
        part = slice(i * size, (i + 1) * size)
        _add_rows(table, weights, touched, rows[part], values[part], amounts[part], own, begin, end)


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _add_rows(  # type: ignore[no-untyped-def]
    table, weights, touched, rows, values, amounts, sample_weight, begin, end
):
    for o in range(rows.shape[0]):
        row = rows[o]
        if row < begin or row >= end:
            continue
        touched[row] = True
        amount = amounts[o]
        for k in range(values.shape[1]):
            table[row, k] += values[o, k]
        for k in range(sample_weight.shape[0]):
            weights[row, k] += np.float32(amount * sample_weight[k])
