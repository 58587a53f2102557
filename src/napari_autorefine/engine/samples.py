"""The Fourier coefficients of an image that take part in a refinement, as rows a kernel can walk along."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class FourierSamples:
    """Independent coefficients of a real image inside a disc, the coarse disc first.

    Sample 0 is the origin. Of the redundant column x = 0 only y > 0 is kept, so that every coefficient is counted once.

    Attributes
    ----------
    box_size : image size in pixels
    size : working image size; the disc has radius ``size / 2``
    coarse_size : working size of the first pass; its samples are the first ``n_coarse``
    x, y : (n_sample,) int32, frequency indices on the image grid
    shell : (n_sample,) int32, ROUND(|k|)
    rows : (n_row, 5) int32, ``z, y, x_start, n, offset`` of runs along x
    n_coarse, n_coarse_rows : samples and rows of the coarse disc
    """

    box_size: int
    size: int
    coarse_size: int
    x: np.ndarray
    y: np.ndarray
    shell: np.ndarray
    rows: np.ndarray
    n_coarse: int
    n_coarse_rows: int

    @property
    def n_sample(self) -> int:
        """Number of samples, the origin included."""
        return len(self.x)

    @property
    def coarse_rows(self) -> np.ndarray:
        """Rows of the first pass."""
        return self.rows[: self.n_coarse_rows]

    def gather(self, half_transforms: np.ndarray) -> np.ndarray:
        """Pick the samples out of (n, n_y, n_xh) half transforms in FFT order; returns (n, n_sample)."""
        flat = half_transforms.reshape(len(half_transforms), -1)
        n_y, n_xh = half_transforms.shape[1:]
        return flat[:, np.mod(self.y, n_y) * n_xh + self.x]

    def frequencies(self, pixel_size_A: float) -> np.ndarray:
        """Spatial frequencies (n_sample, 2) in 1/A, order x, y."""
        return np.stack([self.x, self.y], axis=1) / (self.box_size * pixel_size_A)


@lru_cache(maxsize=32)
def fourier_samples(box_size: int, size: int, coarse_size: int) -> FourierSamples:
    """Return the samples of a ``box_size`` image at working size ``size`` with the ``coarse_size`` disc as a prefix."""
    coarse_size = min(coarse_size, size)
    radius, coarse_radius = size / 2.0, coarse_size / 2.0
    runs = [(0, 0, 1)]
    runs += _disc_runs(-1.0, coarse_radius)
    n_coarse_rows = len(runs)
    runs += _disc_runs(coarse_radius, radius)
    lengths = np.array([n for _, _, n in runs])
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    rows = np.array([(0, y, x, n, o) for (y, x, n), o in zip(runs, offsets, strict=True)], dtype=np.int32)
    y = np.repeat(rows[:, 1], lengths)
    x = np.repeat(rows[:, 2], lengths) + np.arange(lengths.sum(), dtype=np.int32) - np.repeat(offsets, lengths)
    shell = np.floor(np.hypot(x, y) + 0.5).astype(np.int32)
    n_coarse = int(lengths[:n_coarse_rows].sum())
    return FourierSamples(
        box_size, size, coarse_size, x.astype(np.int32), y.astype(np.int32), shell, rows, n_coarse, n_coarse_rows
    )


def _disc_runs(inner: float, outer: float) -> list[tuple[int, int, int]]:
    """Runs ``(y, x_start, n)`` of the half-plane with ``inner < |k| <= outer``, the origin left out."""
    runs = []
    for y in range(-int(outer), int(outer) + 1):
        first = 1 if y <= 0 else 0
        last = int(np.floor(np.sqrt(outer**2 - y**2) + 1e-9))
        if inner > 0 and abs(y) <= inner:
            first = max(first, int(np.floor(np.sqrt(inner**2 - y**2) + 1e-9)) + 1)
        if last >= first:
            runs.append((y, first, last - first + 1))
    return runs
