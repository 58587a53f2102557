"""Arithmetic without policy: every kernel has a numba twin for the host and a CUDA twin for the device.

The public functions pick the twin from the array they are given.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_autorefine.kernels.backproject import backproject_cpu
from napari_autorefine.kernels.project import project_cpu
from napari_autorefine.xp import array_module


def project(volume: Any, matrices: Any, rows: Any, n_sample: int, r2_max: float) -> Any:
    """Slices (n_rot, n_sample) of a padded Fourier volume; see :func:`project_cpu`."""
    if array_module(volume) is np:
        return project_cpu(volume, matrices, rows, n_sample, r2_max)
    from napari_autorefine.kernels._cuda import launch_project

    return launch_project(volume, matrices, rows, n_sample, r2_max)


def backproject(
    data: Any,
    weight: Any,
    matrices: Any,
    values: Any,
    amounts: Any,
    sample_weight: Any,
    rows: Any,
    r2_max: float,
    z_begin: int,
    z_end: int,
) -> None:
    """Insert slices into ``data`` and ``weight``; see :func:`backproject_cpu`."""
    arguments = (data, weight, matrices, values, amounts, sample_weight, rows, r2_max, z_begin, z_end)
    if array_module(data) is np:
        backproject_cpu(*arguments)
        return
    from napari_autorefine.kernels._cuda import launch_backproject

    launch_backproject(*arguments)


__all__ = ["backproject", "project"]
