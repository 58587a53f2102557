"""Modulation transfer functions of detectors."""

from __future__ import annotations

import os

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.io.columns import Columns
from napari_autorefine.io.tables import read_star

_LABELS = ("rlnResolutionInversePixel", "rlnMtfValue")


def read_mtf(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read a table of frequency (1 / px) and transfer, (n,) each.

    Raises
    ------
    InputError
        No such columns, fewer than two rows, frequencies that do not rise, or a transfer of 0 or less.
    """
    for name, table in read_star(path).tables.items():
        if isinstance(table, dict) or any(label not in table for label in _LABELS):
            continue
        columns = Columns(table=table, file=str(path), name=name)
        frequency, value = (columns.numbers(label) for label in _LABELS)
        if len(frequency) < 2 or np.any(np.diff(frequency) <= 0):
            raise InputError(f"{path}: the frequencies of an MTF must rise from row to row, in two rows or more.")
        if np.any(value <= 0):
            raise InputError(f"{path}: the MTF is {value.min():g} in one row; it must be above 0 everywhere.")
        return frequency, value
    raise InputError(f"{path} is no MTF file: it has no columns {' and '.join(_LABELS)}.")
