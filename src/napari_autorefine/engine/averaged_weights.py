"""Weights of few slices: averaged over the width of an unpadded coefficient before sums are divided by them.

Slices of few tilt stacks leave gaps in a padded volume, and where all their CTFs are near 0 next to nothing is known. A
padded coefficient that is divided by its own small weight is noise, and such coefficients dominate the power of their
shell. But a map inside a box changes little over one unpadded coefficient, and so does what an average of weights over
that width leaves: the neighbors speak for a coefficient that was hardly seen.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.ndimage

from napari_autorefine.engine.reconstruction import Accumulators
from napari_autorefine.engine.shells import run_slabs, slabs

_SLAB_BYTES = 32 << 20
_BYTES_PER_ELEMENT = 24  # of a slab, all its arrays together


def with_averaged_weights(sums: Accumulators, threads: int = 1) -> Accumulators:
    """Return closed sums whose weights are averaged over the width of an unpadded coefficient.

    The average is that of the trilinear kernel without padding, inside the sphere that holds data, of weights times
    radius, which are even where slices fall evenly. Without padding nothing changes. The sum of a shell's weights stays
    nearly what it is. The data are shared, not copied.
    """
    if sums.pad == 1:
        return sums
    n, _, n_x = sums.weight.shape
    averaged = np.empty_like(sums.weight)

    def average(rows: slice) -> None:
        averaged[:, rows] = _averaged_rows(sums, rows)

    size = _SLAB_BYTES // (_BYTES_PER_ELEMENT * n * (n_x + sums.pad))
    run_slabs(average, slabs(n, size), threads, is_repeatable=True)
    return replace(sums, weight=averaged)


def _averaged_rows(sums: Accumulators, rows: slice) -> np.ndarray:
    """Averaged weights of some rows y of all planes, from those and the ``pad`` - 1 rows on either side."""
    margin, radius = sums.pad - 1, sums.radius
    around = slice(max(rows.start - margin, 0), min(rows.stop + margin, len(sums.weight)))
    before = sums.weight[::-1, ::-1][:, around, margin:0:-1]  # x < 0, by Friedel symmetry
    level = np.concatenate([before, sums.weight[:, around]], axis=2)
    z = np.arange(-radius, radius + 1)[:, None, None]
    y, x = z[around, 0], np.arange(-margin, level.shape[2] - margin)
    radius2 = (z * z + (y * y + x * x)).astype(np.float32)
    inside = (radius2 <= sums.r2_max).astype(np.float32)
    length = np.sqrt(np.maximum(radius2, 1, out=radius2), out=radius2)
    level *= length
    level *= inside
    own = (slice(None), slice(rows.start - around.start, rows.stop - around.start), slice(margin, None))
    share = np.maximum(_smoothed(inside, sums.pad)[own], np.float32(1e-3))
    found: np.ndarray = _smoothed(level, sums.pad)[own] * inside[own] / (share * length[own])
    return found


def _smoothed(values: np.ndarray, pad: int) -> np.ndarray:
    """Average by a triangle that is 2 ``pad`` wide, along each axis; nothing lies beyond the ends."""
    kernel = 1.0 - np.abs(np.arange(1 - pad, pad)) / pad
    kernel /= kernel.sum()
    for axis in range(3):
        values = scipy.ndimage.correlate1d(values, kernel, axis=axis, mode="constant")
    return values
