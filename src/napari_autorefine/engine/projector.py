"""From a map to the padded Fourier volume that slices are taken from.

The transform is pruned: after each axis only the frequencies inside the working radius are kept, so that its cost and
memory follow the resolution rather than the padded box.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
import scipy.fft

from napari_autorefine.engine.shells import round_half_up, run_slabs, slabs
from napari_autorefine.engine.sphere_loops import gather_sphere, multiply_radially, reach_of_rows

SLAB_BYTES = 2 << 20
"""Of transforms at once: what a core keeps close, and small enough that all threads have something to do."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PaddedReference:
    """Fourier transform of a zero-padded map inside a sphere, ready for trilinear slicing.

    Attributes
    ----------
    data : (2 R + 1, 2 R + 1, R + 2) complex64, element [z + R, y + R, x] in padded units (``pad`` x index of the box),
        x >= 0, origin of the map at its centre; zero beyond ``r2_max``. R = ceil(pad * r_max) + 1
    pad : padding factor
    r_max : largest frequency index (of the box) that is kept
    box_size : box of the map
    """

    data: np.ndarray
    pad: int
    r_max: float
    box_size: int

    @property
    def r2_max(self) -> float:
        """Squared radius in padded units beyond which the volume is zero."""
        return float(kept_radius(self.pad, self.r_max) ** 2)


def kept_radius(pad: int, r_max: float) -> int:
    """Radius ROUND(pad * r_max) of the sphere that holds data, in padded units."""
    return round_half_up(pad * r_max)


def array_radius(pad: int, r_max: float) -> int:
    """R of the shared centred layout: one element to spare for interpolation."""
    return ceil(pad * r_max) + 1


def padded_size(box_size: int, pad: int) -> int:
    """Even size of the zero-padded box."""
    return 2 * ceil(box_size * pad / 2)


def gridding_table(box_size: int, pad: int) -> np.ndarray:
    """Transform of the trilinear kernel, sinc^2(r / (N pad)), by squared distance from the centre; float32."""
    radius = np.sqrt(np.arange(3 * (box_size // 2 + 1) ** 2 + 1))
    table: np.ndarray = (np.sinc(radius / (box_size * pad)) ** 2).astype(np.float32)
    return table


def centering_phase(frequencies: np.ndarray, box_size: int, padded: int) -> np.ndarray:
    """Factors that move the origin of a transform of ``padded`` points from index 0 to voxel ``box_size // 2``."""
    turns = np.mod(frequencies * (box_size // 2), padded) / padded
    return np.exp(2j * np.pi * turns).astype(np.complex64)


def make_reference(
    map_: np.ndarray,
    *,
    pad: int,
    r_max: float,
    data_dim: int = 2,
    gridding_correct: bool = True,
    threads: int = 1,
) -> PaddedReference:
    """Transform a map for slicing.

    A slice has the scale of the 1 / N^2 normalised transform of a projection (``data_dim`` 2), or of the 1 / N^3
    normalised transform of the map (3). Follows RELION's projector (projector.cpp, Scheres 2012,
    doi:10.1016/j.jsb.2012.09.006).

    Parameters
    ----------
    map_ : (N, N, N) float32, centre at N // 2
    pad : padding factor
    r_max : largest frequency index to keep, at most N / 2
    data_dim : 2 for images, 3 for subtomograms
    gridding_correct : divide by the transform of the trilinear kernel first
    threads : worker threads
    """
    box_size = map_.shape[0]
    padded, keep = padded_size(box_size, pad), kept_radius(pad, r_max)
    if keep > padded // 2:
        raise ValueError(f"r_max {r_max} lies beyond half of the box of {box_size}")
    phase = centering_phase(np.arange(-keep, keep + 1), box_size, padded)
    scaled = (phase * float(box_size) ** -data_dim).astype(np.complex64)
    planes = _in_plane_transform(
        map_, padded, keep, gridding_table(box_size, pad) if gridding_correct else None, threads
    )
    radius = array_radius(pad, r_max)
    data = np.zeros((2 * radius + 1, 2 * radius + 1, radius + 2), dtype=np.complex64)

    def transform_rows(rows: slice) -> None:
        n_x = reach_of_rows(keep * keep, np.arange(rows.start, rows.stop) - keep)
        block = scipy.fft.fft(planes[:, rows, :n_x], n=padded, axis=0)
        gather_sphere(block, rows.start, keep, scaled, phase, phase[keep:], data)

    run_slabs(transform_rows, slabs(2 * keep + 1, transform_rows_at_once(padded, keep)), threads, is_repeatable=True)
    return PaddedReference(data=data, pad=pad, r_max=r_max, box_size=box_size)


def _in_plane_transform(
    map_: np.ndarray, padded: int, keep: int, correction: np.ndarray | None, threads: int
) -> np.ndarray:
    """Transform x and y of a map; returns (N, 2 keep + 1, keep + 1) complex64, y centred, not yet shifted."""
    box_size = map_.shape[0]
    planes = np.empty((box_size, 2 * keep + 1, keep + 1), dtype=np.complex64)
    inverse = None if correction is None else np.float32(1) / correction

    def transform_planes(z: slice) -> None:
        block = map_[z].astype(np.float32, copy=False)
        if inverse is not None:
            block = multiply_radially(block, z.start, inverse)
        half = scipy.fft.rfft(block, n=padded, axis=2)[:, :, : keep + 1]
        half = scipy.fft.fft(half, n=padded, axis=1)
        planes[z, :keep], planes[z, keep:] = half[:, padded - keep :], half[:, : keep + 1]

    run_slabs(transform_planes, slabs(box_size, transform_rows_at_once(padded, keep)), threads, is_repeatable=True)
    return planes


def transform_rows_at_once(padded: int, keep: int) -> int:
    """Planes of ``padded`` x (keep + 1) coefficients that are transformed at once."""
    return SLAB_BYTES // (16 * padded * (keep + 1))
