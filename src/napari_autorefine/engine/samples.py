"""The Fourier coefficients of an image that take part in a refinement, as rows a kernel can walk along."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class FourierSamples:
    """Independent coefficients of a real image inside a disc, in nested discs: the smallest first.

    Sample 0 is the origin. Of the redundant column x = 0 only y > 0 is kept, so that every coefficient is counted once.

    Attributes
    ----------
    box_size : image size in pixels
    sizes : working image sizes of the nested discs (screening, first pass, all); a disc has radius ``size / 2``
    x, y : (n_sample,) int32, frequency indices on the image grid
    shell : (n_sample,) int32, ROUND(|k|)
    rows : (n_row, 5) int32, ``z, y, x_start, n, offset`` of runs along x
    counts, row_counts : samples and rows of every disc
    """

    box_size: int
    sizes: tuple[int, int, int]
    x: np.ndarray
    y: np.ndarray
    shell: np.ndarray
    rows: np.ndarray
    counts: tuple[int, int, int]
    row_counts: tuple[int, int, int]

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


@lru_cache(maxsize=32)
def fourier_samples(box_size: int, size: int, coarse_size: int, screen_size: int | None = None) -> FourierSamples:
    """Return the samples of a ``box_size`` image inside nested discs.

    Parameters
    ----------
    size : working size of the second pass
    coarse_size : of the first pass, at most ``size``
    screen_size : of the screening before it, at most ``coarse_size``, which is the default
    """
    coarse_size = min(coarse_size, size)
    sizes = (min(screen_size or coarse_size, coarse_size), coarse_size, size)
    runs, row_counts, inner = [(0, 0, 1)], [], -1.0
    for disc in sizes:
        runs += _disc_runs(inner, disc / 2.0) if disc / 2.0 > inner else []
        row_counts.append(len(runs))
        inner = disc / 2.0
    lengths = np.array([n for _, _, n in runs])
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    rows = np.array([(0, y, x, n, o) for (y, x, n), o in zip(runs, offsets, strict=True)], dtype=np.int32)
    y = np.repeat(rows[:, 1], lengths)
    x = np.repeat(rows[:, 2], lengths) + np.arange(lengths.sum(), dtype=np.int32) - np.repeat(offsets, lengths)
    counts = [int(lengths[:n].sum()) for n in row_counts]
    return FourierSamples(
        box_size=box_size,
        sizes=sizes,
        x=x.astype(np.int32),
        y=y.astype(np.int32),
        shell=np.floor(np.hypot(x, y) + 0.5).astype(np.int32),
        rows=rows,
        counts=(counts[0], counts[1], counts[2]),
        row_counts=(row_counts[0], row_counts[1], row_counts[2]),
    )


def _disc_runs(inner: float, outer: float) -> list[tuple[int, int, int]]:
    """Return runs ``(y, x_start, n)`` of the half-plane with ``inner < |k| <= outer``, the origin left out."""
    runs = []
    for y in range(-int(outer), int(outer) + 1):
        first = 1 if y <= 0 else 0
        last = int(np.floor(np.sqrt(outer**2 - y**2) + 1e-9))
        if inner > 0 and abs(y) <= inner:
            first = max(first, int(np.floor(np.sqrt(inner**2 - y**2) + 1e-9)) + 1)
        if last >= first:
            runs.append((y, first, last - first + 1))
    return runs
