"""Images and weights of volumes that a process has read, kept in its memory for the next iterations."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from napari_autorefine.engine.problem import ReadImages, ReadWeights

_AHEAD = 8


class ImageCache:
    """Reads images through a memory of limited size; safe between threads.

    What was read first stays: every iteration reads all images in nearly the same order, so that making room for the
    newest would throw out each image just before it is needed again.
    """

    def __init__(self, read: ReadImages, limit_bytes: int) -> None:
        self._read = read
        self._limit = limit_bytes
        self._kept: dict[int, np.ndarray] = {}
        self._bytes = 0
        self._is_array = True
        self._is_full = False
        self._lock = threading.Lock()
        self.n_read = 0

    def read(self, indices: np.ndarray) -> np.ndarray | Sequence[np.ndarray]:
        """Return the images of particles of one optics group, as the reader behind would."""
        rows = np.asarray(indices, np.int64).tolist()
        with self._lock:
            found = {row: self._kept[row] for row in rows if row in self._kept}
        missing = [row for row in rows if row not in found]
        if missing:
            images = self._read(np.array(missing, np.int64))
            self._keep(missing, images)
            if not found:
                return images
            found.update(zip(missing, images, strict=True))
        chosen = [found[row] for row in rows]
        return np.stack(chosen) if self._is_array else chosen

    def read_ahead(self, indices: np.ndarray) -> None:
        """Read images that will be asked for soon, a few at a time, as long as there is room to keep them."""
        rows = [int(row) for row in indices if int(row) not in self._kept]
        for start in range(0, len(rows), _AHEAD):
            if self._is_full:
                break
            self.read(np.array(rows[start : start + _AHEAD], np.int64))

    def _keep(self, rows: list[int], images: np.ndarray | Sequence[np.ndarray]) -> None:
        with self._lock:
            self._is_array = isinstance(images, np.ndarray)
            self.n_read += len(rows)
            for row, image in zip(rows, images, strict=True):
                if row in self._kept:
                    continue
                self._is_full = self._bytes + image.nbytes > self._limit
                if self._is_full:
                    break
                self._kept[row] = np.array(image)  # a copy, so that the block it came from can go
                self._bytes += image.nbytes


class WeightCache:
    """Reads CTF and multiplicity volumes through a memory of limited size; safe between threads."""

    def __init__(self, read: ReadWeights, limit_bytes: int) -> None:
        self._read = read
        self.volumes = ImageCache(self._together, limit_bytes)

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the weights of particles, as the reader behind would."""
        found = self.volumes.read(indices)
        assert isinstance(found, np.ndarray)
        return found[:, 0], found[:, 1] if found.shape[1] > 1 else None

    def _together(self, indices: np.ndarray) -> np.ndarray:
        """Return both kinds side by side, (n, 1 or 2, N, N, N // 2 + 1)."""
        squares, multiplicities = self._read(indices)
        return np.stack([squares] if multiplicities is None else [squares, multiplicities], axis=1)
