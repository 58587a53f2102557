"""Soft masks and radial filters of maps."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy.fft

from napari_autorefine.engine.shells import radial_blocks, slabs

_PLANES_PER_SLAB = 16


def background_profile(radius_px: np.ndarray, inner_px: float, edge_px: float) -> np.ndarray:
    """Weight of the background: 0 inside ``inner_px``, cosine edge, 1 outside ``inner_px + edge_px``."""
    if edge_px <= 0:
        return (radius_px >= inner_px).astype(np.float64)
    ramp = 0.5 + 0.5 * np.cos(np.pi * (inner_px + edge_px - radius_px) / edge_px)
    weight: np.ndarray = np.where(radius_px < inner_px, 0.0, np.where(radius_px > inner_px + edge_px, 1.0, ramp))
    return weight


@lru_cache(maxsize=8)
def circular_background(box_size: int, radius_px: float, edge_px: float) -> np.ndarray:
    """Background weight of a particle image; (N, N) float32, centre at N // 2."""
    axis = np.arange(box_size) - box_size // 2
    return background_profile(np.hypot(axis[:, None], axis), radius_px, edge_px).astype(np.float32)


@lru_cache(maxsize=4)
def spherical_background(box_size: int, radius_px: float, edge_px: float) -> np.ndarray:
    """Background weight of a volume; (N, N, N) float32, centre at N // 2."""
    background: np.ndarray = 1.0 - spherical_mask(box_size, radius_px, edge_px)
    return background


def spherical_mask(box_size: int, radius_px: float, edge_px: float) -> np.ndarray:
    """Soft sphere, 1 inside and 0 outside; (N, N, N) float32, centre at N // 2."""
    n_table = 3 * (box_size // 2 + 1) ** 2 + 1
    table = (1.0 - background_profile(np.sqrt(np.arange(n_table)), radius_px, edge_px)).astype(np.float32)
    mask = np.empty((box_size,) * 3, dtype=np.float32)
    for z in slabs(box_size, _PLANES_PER_SLAB):
        mask[z] = table[radial_blocks(box_size, z)]
    return mask


def low_pass_map(map_: np.ndarray, resolution_A: float, voxel_size_A: float, *, edge_shells: float = 2.0) -> np.ndarray:
    """Low-pass filter with a cosine edge of ``edge_shells`` centred on the limit.

    Parameters
    ----------
    map_ : (N, N, N) float32
    resolution_A : limit; the edge is at frequency index N a / d, not rounded
    voxel_size_A : a
    edge_shells : width of the edge

    Returns
    -------
    (N, N, N) float32
    """
    box_size = map_.shape[0]
    table = low_pass_profile(
        np.sqrt(np.arange(3 * (box_size // 2 + 1) ** 2 + 1)), box_size * voxel_size_A / resolution_A, edge_shells
    )
    transform = scipy.fft.rfftn(map_)
    axis2 = np.square(np.rint(np.fft.fftfreq(box_size) * box_size)).astype(np.int64)
    plane = axis2[:, None] + np.arange(box_size // 2 + 1) ** 2
    weights = table.astype(np.float32)
    for z, z2 in enumerate(axis2):
        transform[z] *= weights[plane + z2]
    filtered: np.ndarray = scipy.fft.irfftn(transform, s=map_.shape)
    return filtered.astype(np.float32, copy=False)


def low_pass_profile(radius: np.ndarray, limit: float, edge_shells: float = 2.0) -> np.ndarray:
    """Weight of frequency index ``radius``: 1 below ``limit`` - edge / 2, 0 above + edge / 2, cosine between."""
    return 1.0 - background_profile(radius, limit - edge_shells / 2.0, edge_shells)
