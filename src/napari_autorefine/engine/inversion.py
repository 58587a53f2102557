"""The last part of a reconstruction: from transforms of planes to the map, soft sphere and gridding correction."""

from __future__ import annotations

import numpy as np
import scipy.fft

from napari_autorefine.engine.masking import background_profile
from napari_autorefine.engine.projector import centering_phase, gridding_table, padded_size
from napari_autorefine.engine.shells import radial_blocks, run_slabs, slabs

_SLAB_BYTES = 32 << 20
_EDGE_PX = 3.0


def map_of_planes(planes: np.ndarray, *, box_size: int, pad: int, data_dim: int, threads: int) -> np.ndarray:
    """Transform y and x back, crop, and finish the map on the grey scale of the data.

    Parameters
    ----------
    planes : (N, 2 keep + 1, keep + 1) complex64, z in real space, y centred and x >= 0 padded frequencies
    box_size, pad, data_dim : of the sums
    threads : worker threads

    Returns
    -------
    (N, N, N) float32
    """
    padded, keep = padded_size(box_size, pad), planes.shape[2] - 1
    axis = np.arange(-keep, keep + 1)
    stored = axis if 2 * keep < padded else axis[1:]
    phase_y, phase_x = (np.conj(centering_phase(a, box_size, padded)) for a in (axis, axis[keep:]))
    phase = phase_y[:, None] * phase_x / np.float32(pad**3 * (box_size if data_dim == 2 else 1))
    map_ = np.empty((box_size, box_size, box_size), dtype=np.float32)

    def transform(z: slice) -> None:
        full = np.zeros((z.stop - z.start, padded, keep + 1), dtype=np.complex64)
        full[:, stored % padded] = (planes[z] * phase)[:, -len(stored) :]
        half = scipy.fft.ifft(full, axis=1, norm="forward", overwrite_x=True)[:, :box_size]
        map_[z] = scipy.fft.irfft(half, n=padded, axis=2, norm="forward")[:, :, :box_size]

    run_slabs(transform, slabs(box_size, _SLAB_BYTES // (16 * padded * (keep + 1))), threads, is_repeatable=True)
    _finish(map_, pad)
    return map_


def _finish(map_: np.ndarray, pad: int) -> None:
    """Apply a soft sphere of radius N / 2 (corners become their mean) and divide by the trilinear kernel, in place."""
    box_size = len(map_)
    correction = gridding_table(box_size, pad)
    background = background_profile(np.sqrt(np.arange(len(correction))), box_size / 2, _EDGE_PX)
    pieces = slabs(box_size, max(_SLAB_BYTES // (8 * box_size**2), 1))
    total = weight = 0.0
    for z in pieces:
        share = background[radial_blocks(box_size, z)]
        total += float((share * map_[z]).sum())
        weight += float(share.sum())
    keep = ((1.0 - background) / correction).astype(np.float32)
    offset = (background * (total / weight) / correction).astype(np.float32)
    for z in pieces:
        radius2 = radial_blocks(box_size, z)
        map_[z] *= keep[radius2]
        map_[z] += offset[radius2]
