"""The Fourier coefficients of an image or volume that take part in a refinement, as rows a kernel can walk along."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class FourierSamples:
    """Independent coefficients of a real image inside a disc, in nested discs: the smallest first.

    Sample 0 is the origin. Of the redundant column x = 0 only y > 0 is kept, so that every coefficient is counted once.
    Of a volume they fill nested balls; of its plane x = 0 the half with y > 0 is kept, of its line y = 0 that with
    z > 0.

    Attributes
    ----------
    box_size : image size in pixels
    sizes : working image sizes of the nested discs (screening, first pass, all); a disc has radius ``size / 2``
    x, y, z : (n_sample,) int32, frequency indices on the image grid; z is 0 for images
    shell : (n_sample,) int32, ROUND(|k|)
    rows : (n_row, 5) int32, ``z, y, x_start, n, offset`` of runs along x
    counts, row_counts : samples and rows of every disc
    """

    box_size: int
    sizes: tuple[int, int, int]
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    shell: np.ndarray
    rows: np.ndarray
    counts: tuple[int, int, int]
    row_counts: tuple[int, int, int]
    dim: int = 2

    @property
    def size(self) -> int:
        """Working size of the largest disc."""
        return self.sizes[2]

    @property
    def n_screen(self) -> int:
        """Samples of the screening disc."""
        return self.counts[0]

    @property
    def n_coarse(self) -> int:
        """Samples of the first pass."""
        return self.counts[1]

    @property
    def n_sample(self) -> int:
        """Number of samples, the origin included."""
        return self.counts[2]

    @property
    def screen_rows(self) -> np.ndarray:
        """Rows of the screening disc."""
        return self.rows[: self.row_counts[0]]

    @property
    def coarse_rows(self) -> np.ndarray:
        """Rows of the first pass."""
        return self.rows[: self.row_counts[1]]

    @property
    def ring_rows(self) -> np.ndarray:
        """Rows of the first pass outside the screening disc, with offsets from 0."""
        ring = self.rows[self.row_counts[0] : self.row_counts[1]].copy()
        ring[:, 4] -= self.n_screen
        return ring

    def frequencies(self, pixel_size_A: float) -> np.ndarray:
        """Spatial frequencies (n_sample, 2) in 1/A, order x, y."""
        return np.stack([self.x, self.y], axis=1) / (self.box_size * pixel_size_A)


def fourier_samples(
    box_size: int, size: int, coarse_size: int, screen_size: int | None = None, *, dim: int = 2
) -> FourierSamples:
    """Return the samples of an image or volume inside nested discs or balls.

    Parameters
    ----------
    box_size : of the image
    size : working size of the second pass
    coarse_size : of the first pass, at most ``size``
    screen_size : of the screening before it, at most ``coarse_size``, which is the default
    dim : 2 for images, 3 for volumes
    """
    coarse_size = min(coarse_size, size)
    sizes = (min(screen_size or coarse_size, coarse_size), coarse_size, size)
    return (_image_samples if dim == 2 else _volume_samples)(box_size, sizes, dim)


def _samples(box_size: int, sizes: tuple[int, int, int], dim: int) -> FourierSamples:
    parts, row_counts, inner = [np.array([[0, 0, 0, 1]])], [], -1.0
    for disc in sizes:
        if disc / 2.0 > inner:
            parts.append(_runs(inner, disc / 2.0, dim))
        row_counts.append(sum(len(part) for part in parts))
        inner = disc / 2.0
    runs = np.concatenate(parts)
    lengths = runs[:, 3]
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    rows = np.column_stack([runs, offsets]).astype(np.int32)
    z, y = np.repeat(rows[:, 0], lengths), np.repeat(rows[:, 1], lengths)
    x = np.repeat(rows[:, 2], lengths) + np.arange(lengths.sum(), dtype=np.int32) - np.repeat(rows[:, 4], lengths)
    counts = [int(lengths[:n].sum()) for n in row_counts]
    return FourierSamples(
        box_size=box_size,
        sizes=sizes,
        x=x.astype(np.int32),
        y=y.astype(np.int32),
        z=z.astype(np.int32),
        shell=np.floor(np.sqrt(x.astype(np.float64) ** 2 + y.astype(np.float64) ** 2 + z**2.0) + 0.5).astype(np.int32),
        rows=rows,
        counts=(counts[0], counts[1], counts[2]),
        row_counts=(row_counts[0], row_counts[1], row_counts[2]),
        dim=dim,
    )


_image_samples = lru_cache(maxsize=32)(_samples)
_volume_samples = lru_cache(maxsize=4)(_samples)  # they take much memory


def _runs(inner: float, outer: float, dim: int) -> np.ndarray:
    """Return runs ``(z, y, x_start, n)`` of half of space with ``inner < |k| <= outer``, the origin left out."""
    axis = np.arange(-int(outer), int(outer) + 1)
    z, y = (grid.ravel() for grid in np.meshgrid(axis if dim == 3 else np.zeros(1, np.int64), axis, indexing="ij"))
    radius2 = z**2 + y**2
    inside = radius2 <= outer**2
    z, y, radius2 = z[inside], y[inside], radius2[inside]
    first = np.where((y > 0) | ((y == 0) & (z > 0)), 0, 1)
    last = np.floor(np.sqrt(outer**2 - radius2) + 1e-9).astype(np.int64)
    if inner > 0:
        hollow = radius2 <= inner**2
        beyond = np.floor(np.sqrt(np.where(hollow, inner**2 - radius2, 0.0)) + 1e-9).astype(np.int64) + 1
        first = np.where(hollow, np.maximum(first, beyond), first)
    n = last - first + 1
    return np.column_stack([z, y, first, n])[n > 0]
