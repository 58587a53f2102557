"""Sums of values on Fourier samples per shell, of many particles at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from napari_autorefine.kernels._cuda import launch_shell_sums
from napari_autorefine.xp import array_module


def shell_sums(values: Any, shell: Any, n_shell: int) -> Any:
    """Sum ``values`` (n_row, n) float32 over the samples of every shell; (n_row, n_shell) float64.

    Parameters
    ----------
    shell : (n,) int32, shell of every sample, below ``n_shell``
    """
    return (_shell_sums if array_module(values) is np else launch_shell_sums)(values, shell, n_shell)


@njit(nogil=True, cache=True, error_model="numpy")
def _shell_sums(values, shell, n_shell):  # type: ignore[no-untyped-def]
    sums = np.zeros((values.shape[0], n_shell))
    for row in range(values.shape[0]):
        for k in range(values.shape[1]):
            sums[row, shell[k]] += values[row, k]
    return sums
