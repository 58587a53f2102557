"""Pixel size and box of a map: Fourier cropping or padding, and windows in real space."""

from __future__ import annotations

import numpy as np
from scipy import fft

from napari_autorefine.model.geometry import round_half_away


def even_size(n_voxel: int, voxel_size_A: float, new_voxel_size_A: float) -> int:
    """Return the even number of voxels nearest to the field of view at a new voxel size (odd ones less 1)."""
    size = int(round_half_away(n_voxel * voxel_size_A / new_voxel_size_A))
    return size - size % 2


def fourier_resize(density: np.ndarray, size: int) -> np.ndarray:
    """Resample a cubic map to another number of voxels in the same field of view; grey values are preserved.

    Parameters
    ----------
    density : (n, n, n); voxel 0 stays voxel 0, so that the centre of an odd box does not stay a centre
    size : new number of voxels per axis, even

    Notes
    -----
    Behaves as ``relion_image_handler --rescale_angpix``: coefficients at the new Nyquist frequency are kept as the
    positive frequency of the half-complex transform; when enlarging only ``|k| <= n / 2`` is kept.
    """
    n = density.shape[0]
    transform = fft.rfftn(density.astype(np.float64), norm="forward")
    kept = min(n, size) // 2
    result = np.zeros((size, size, size // 2 + 1), np.complex128)
    lines = np.arange(-((min(n, size) - 1) // 2), kept + 1)
    source, target = np.ix_(lines % n, lines % n), np.ix_(lines % size, lines % size)
    block = transform[:, :, : kept + 1][source]
    if size > n:
        square = lines.astype(np.float64) ** 2
        radius2 = square[:, None, None] + square[:, None] + np.arange(kept + 1.0) ** 2
        block = np.where(radius2 <= (n // 2) ** 2, block, 0.0)
    result[:, :, : kept + 1][target] = block
    return fft.irfftn(result, (size, size, size), norm="forward").astype(np.float32)


def window(density: np.ndarray, size: int) -> np.ndarray:
    """Cut or zero-pad each axis to ``size``; the voxel at ``n // 2`` goes to ``size // 2``.

    Parameters
    ----------
    density : (n_z, n_y, n_x)
    size : new number of voxels per axis
    """
    result = np.zeros((size,) * density.ndim, density.dtype)
    inside, outside = [], []
    for n in density.shape:
        begin = size // 2 - n // 2
        first, last = max(begin, 0), min(begin + n, size)
        outside.append(slice(first, last))
        inside.append(slice(first - begin, last - begin))
    result[tuple(outside)] = density[tuple(inside)]
    return result
