"""Iterative density compensation of inserted slices.

Weights are found so that the sampling density they make, convolved with a Kaiser-Bessel blob, is flat (Pipe & Menon
1999, Magn. Reson. Med. 41, 179-186; blob: Lewitt 1990, J. Opt. Soc. Am. A 7, 1834-1846), as ``relion_reconstruct
--dont_skip_gridding`` does. The blob, 3.8 padded voxels wide whatever the padding, was read off that program's maps:
after one iteration theirs and ours correlate to 0.9997 and better, after ten to 0.989 on very sparse data.
"""

from __future__ import annotations

from math import isqrt

import numpy as np
import scipy.fft

from napari_autorefine.engine.projector import padded_size
from napari_autorefine.engine.shells import plane_radius2

N_ITERATIONS = 10
_BLOB_RADIUS, _BLOB_ALPHA, _SMALLEST = 3.8, 15.0, 1e-6


def density_compensation(
    weight: np.ndarray, prior: np.ndarray, floor: np.ndarray, pad: int, box_size: int, threads: int
) -> np.ndarray:
    """Return what data has to be multiplied by, ``w_(i+1) = w_i / |(w_i W) * blob|``.

    Parameters
    ----------
    weight : (2 R + 1, 2 R + 1, R + 2) float32, centred sums of weights
    prior, floor : (limit + 1,) added to the weights and smallest weight, by squared padded radius
    pad, box_size : padding factor and box of the map
    threads : worker threads

    Returns
    -------
    (2 keep + 1, 2 keep + 1, keep + 1) float32, zero outside the sphere
    """
    limit = len(prior) - 1
    keep = isqrt(limit + 1)
    first = (weight.shape[0] - 1) // 2 - keep
    rows = slice(first, first + 2 * keep + 1)
    axis = np.arange(-keep, keep + 1)
    radius2 = axis[:, None, None] ** 2 + plane_radius2(keep, keep + 1)
    inside = radius2 <= limit
    np.minimum(radius2, limit, out=radius2)
    target = weight[rows, rows, : keep + 1] + np.maximum(prior, 0)[radius2]
    target = np.maximum(target, floor[radius2]) * inside
    del radius2
    blob = blob_transform(padded_size(box_size, pad))
    density = inside.astype(np.float32)
    for _ in range(N_ITERATIONS):
        smooth = _smoothed(density * target, blob, axis, threads)
        np.maximum(smooth, _SMALLEST, out=smooth)
        density /= smooth
    return density * inside


def _smoothed(values: np.ndarray, blob: np.ndarray, axis: np.ndarray, threads: int) -> np.ndarray:
    """Convolve a centred real half array with the blob; returns absolute values of the same shape."""
    padded, keep = 2 * (blob.shape[0] // 2), values.shape[2] - 1
    full = np.zeros((padded, padded, padded // 2 + 1), dtype=np.complex64)
    stored = axis if 2 * keep < padded else axis[1:]
    index = np.ix_(stored % padded, stored % padded, np.arange(keep + 1))
    full[index] = values[-len(stored) :, -len(stored) :]
    space = scipy.fft.irfftn(full, s=(padded,) * 3, workers=threads, overwrite_x=True)
    space *= blob
    full = scipy.fft.rfftn(space, workers=threads, overwrite_x=True)
    picked: np.ndarray = np.abs(full[np.ix_(axis % padded, axis % padded, np.arange(keep + 1))])
    return picked


def blob_transform(padded: int) -> np.ndarray:
    """Transform of the order-0 blob over the padded box, 1 at its corner [0, 0, 0]; float32."""
    axis = np.minimum(np.arange(padded), padded - np.arange(padded)).astype(np.int64) ** 2
    radius = np.sqrt(np.arange(3 * (padded // 2) ** 2 + 1)) / padded
    table = _blob_profile(radius * _BLOB_RADIUS)
    space = np.empty((padded,) * 3, dtype=np.float32)
    plane = axis[:, None] + axis
    for z, z2 in enumerate(axis):
        space[z] = table[plane + z2]
    return space


def _blob_profile(turns: np.ndarray) -> np.ndarray:
    """Transform of the order-0 Kaiser-Bessel blob in 3D at ``turns`` = radius x frequency, relative to the origin."""
    argument = _BLOB_ALPHA**2 - (2 * np.pi * turns) ** 2
    root = np.sqrt(np.abs(argument))
    safe = np.maximum(root, 1e-6)
    rising = (np.cosh(np.minimum(root, _BLOB_ALPHA)) - np.sinh(np.minimum(root, _BLOB_ALPHA)) / safe) / safe**2
    falling = (np.sin(safe) / safe - np.cos(safe)) / safe**2
    values = np.where(argument >= 0, rising, falling)
    profile: np.ndarray = (values / values.flat[0]).astype(np.float32)
    return profile
