"""Differences between the detectors of optics groups."""

from __future__ import annotations

import numpy as np

from napari_autorefine.model.optics import OpticsGroup

Mtf = tuple[np.ndarray, np.ndarray]
"""Frequency in 1 / px of the detector and transfer, (n,) each."""


def mtf_deviation(
    optics: tuple[OpticsGroup, ...], tables: tuple[Mtf | None, ...] | None, index: int, frequencies: np.ndarray
) -> np.ndarray | None:
    """MTF of group ``index`` over the mean of all groups at (n, 2) frequencies; None when there is nothing to correct.

    Only the deviation from the mean matters here; the common fall-off is left for post-processing.
    """
    if tables is None or len({group.mtf_path for group in optics}) < 2:
        return None
    radius = np.hypot(*frequencies.T)
    curves = []
    for group, table in zip(optics, tables, strict=True):
        if table is None or group.original_pixel_size_A is None:
            return None
        curves.append(np.interp(radius * group.original_pixel_size_A, *table))
    mean = np.mean(curves, axis=0)
    return curves[index] / np.where(mean > 0, mean, 1.0)
