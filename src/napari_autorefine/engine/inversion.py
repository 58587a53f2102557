"""The last part of a reconstruction: from transforms of planes to the map, soft sphere and gridding correction."""

from __future__ import annotations

import numpy as np
import scipy.fft

from napari_autorefine.engine.masking import background_profile
from napari_autorefine.engine.projector import SLAB_BYTES, gridding_table, padded_size, transform_rows_at_once
from napari_autorefine.engine.shells import run_slabs, slabs
from napari_autorefine.engine.sphere_loops import plane_sums, scale_radially

_EDGE_PX = 3.0


def map_of_planes(planes: np.ndarray, *, box_size: int, pad: int, threads: int) -> np.ndarray:
    """Transform y and x back, crop, and finish the map on the grey scale of the data.

    Parameters
    ----------
    planes : (N, 2 keep + 1, keep + 1) complex64, z in real space, y centred and x >= 0 padded frequencies, with their
        scale and with the phases that put the origin on voxel 0
    box_size, pad : of the sums
    threads : worker threads

    Returns
    -------
    (N, N, N) float32
    """
    padded, keep = padded_size(box_size, pad), planes.shape[2] - 1
    spare = int(2 * keep == padded)  # then -keep and keep are the same frequency, of which the latter counts
    map_ = np.empty((box_size, box_size, box_size), dtype=np.float32)

    def transform(z: slice) -> None:
        full = np.zeros((z.stop - z.start, padded, keep + 1), dtype=np.complex64)
        full[:, : keep + 1], full[:, padded - keep + spare :] = planes[z, keep:], planes[z, spare:keep]
        half = scipy.fft.ifft(full, axis=1, norm="forward", overwrite_x=True)[:, :box_size]
        map_[z] = scipy.fft.irfft(half, n=padded, axis=2, norm="forward")[:, :, :box_size]

    run_slabs(transform, slabs(box_size, transform_rows_at_once(padded, keep)), threads, is_repeatable=True)
    _finish(map_, pad, threads)
    return map_


def _finish(map_: np.ndarray, pad: int, threads: int) -> None:
    """Apply a soft sphere of radius N / 2 (corners become their mean) and divide by the trilinear kernel, in place."""
    box_size = len(map_)
    correction = gridding_table(box_size, pad)
    background = background_profile(np.sqrt(np.arange(len(correction))), box_size / 2, _EDGE_PX)
    pieces = slabs(box_size, max(SLAB_BYTES // (8 * box_size**2), 1))
    sums = np.empty((box_size, 2))
    run_slabs(lambda z: plane_sums(map_[z], z.start, background, sums[z]), pieces, threads)
    total, weight = sums.sum(axis=0)
    keep = ((1.0 - background) / correction).astype(np.float32)
    offset = (background * (total / weight) / correction).astype(np.float32)
    run_slabs(lambda z: scale_radially(map_[z], z.start, keep, offset), pieces, threads)
