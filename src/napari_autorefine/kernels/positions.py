"""Where flags are set in every row of a table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from napari_autorefine.kernels._cuda import launch_set_positions
from napari_autorefine.xp import array_module


def set_positions(flags: Any, width: int) -> Any:
    """Positions of the flags that are set in every row, ascending; then, again and again, of the first that is not.

    Parameters
    ----------
    flags : (n_row, n) bool
    width : how many positions are wanted of every row, at most n

    Returns
    -------
    (n_row, width) int64
    """
    return (_set_positions if array_module(flags) is np else launch_set_positions)(flags, width)


@njit(nogil=True, cache=True, error_model="numpy")
def _set_positions(flags, width):  # type: ignore[no-untyped-def]
    positions = np.zeros((flags.shape[0], width), dtype=np.int64)
    for row in range(flags.shape[0]):
        place, unset = 0, -1
        for j in range(flags.shape[1]):
            if not flags[row, j]:
                unset = j if unset < 0 else unset
            elif place < width:
                positions[row, place] = j
                place += 1
        if place < width:
            positions[row, place:] = unset
    return positions
