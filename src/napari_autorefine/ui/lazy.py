"""Arrays whose images are read when they are looked at: stacks of any size behind one slider."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import MrcHeader, as_float32, map_sections, read_data, read_header
from napari_autorefine.ui.notices import show_warning

_CACHE_BYTES, _LEVEL_BYTES = 256_000_000, 64_000_000
_MOST_BYTES = 32_000_000_000
_OPEN_FILES = 64
_BINNINGS = (2, 4, 8)
_LEAST_BINNED_PX = 256


class LazyArray:
    """A float32 array that asks for one item per position of its leading axes.

    napari takes it as layer data: it knows its shape, and slices are read as they are shown. The items used last are
    kept, up to 256 MB, so that a slice that is drawn twice is read once.

    Parameters
    ----------
    leading : lengths of the leading axes
    item_shape : shape of one item, the trailing axes
    fetch : returns the item, float32 of ``item_shape``, at a position of the leading axes; called from any thread
    cache_bytes : how much is kept
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self,
        leading: Sequence[int],
        item_shape: Sequence[int],
        fetch: Callable[[tuple[int, ...]], np.ndarray],
        *,
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        self.leading, self.item_shape = tuple(leading), tuple(item_shape)
        self._fetch = fetch
        self._kept: OrderedDict[tuple[int, ...], np.ndarray] = OrderedDict()
        self._most_kept = max(1, cache_bytes // max(1, 4 * int(np.prod(self.item_shape))))
        self._lock = threading.Lock()

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of all axes."""
        return (*self.leading, *self.item_shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        keys = self._full_key(key)
        n = len(self.leading)
        is_single = [isinstance(one, (int, np.integer)) for one in keys[:n]]
        rows = [
            [range(length)[one]] if single else np.arange(length)[one].tolist()
            for one, length, single in zip(keys[:n], self.leading, is_single, strict=True)
        ]
        lengths = tuple(len(row) for row in rows)
        n_byte = 4 * int(np.prod([*lengths, *self.item_shape], dtype=np.int64))
        if n_byte > _MOST_BYTES:
            raise InputError(f"{n_byte / 1e9:.0f} GB of images were asked for at once; look at fewer of them.")
        items = np.empty((*lengths, *self.item_shape), np.float32)
        for place, position in zip(np.ndindex(*lengths), product(*rows), strict=True):
            items[place] = self.item(position)
        firsts = tuple(0 if single else slice(None) for single in is_single)
        found: np.ndarray = items[(*firsts, *keys[n:])]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype)

    def _full_key(self, key: Any) -> tuple[Any, ...]:
        keys = list(key) if isinstance(key, tuple) else [key]
        missing = self.ndim - sum(one is not Ellipsis for one in keys)
        if missing < 0:
            raise IndexError(f"{len(keys)} indices for {self.ndim} axes")
        at = next((at for at, one in enumerate(keys) if one is Ellipsis), len(keys))
        return (*keys[:at], *[slice(None)] * missing, *keys[at + 1 :])

    def item(self, position: tuple[int, ...]) -> np.ndarray:
        """Return the item at a position of the leading axes."""
        with self._lock:
            if position in self._kept:
                self._kept.move_to_end(position)
                return self._kept[position]
        item = self._fetch(position)
        with self._lock:
            self._kept[position] = item
            while len(self._kept) > self._most_kept:
                self._kept.popitem(last=False)
        return item


def pyramid(data: LazyArray) -> list[LazyArray]:
    """Return images (..., n_y, n_x) and what is shown of large ones from afar: means of 2, 4 and 8 pixels each way."""
    n_y, n_x = data.item_shape[-2:]
    factors = [factor for factor in _BINNINGS if min(n_y, n_x) >= _LEAST_BINNED_PX * factor]
    return [data, *(_binned_level(data, factor) for factor in factors)]


def _binned_level(data: LazyArray, factor: int) -> LazyArray:
    *others, n_y, n_x = data.item_shape
    shape = (*others, n_y // factor, n_x // factor)
    return LazyArray(data.leading, shape, lambda at: binned(data.item(at), factor), cache_bytes=_LEVEL_BYTES)


def binned(images: np.ndarray, factor: int) -> np.ndarray:
    """Return means of ``factor`` x ``factor`` pixels around every ``factor``-th pixel of images (..., n_y, n_x).

    napari puts pixel j of a coarser level where pixel ``factor`` j of the image is; the mean is taken around that one,
    so that coordinates stay on their particles when the view is zoomed.
    """
    n_y, n_x = (n // factor for n in images.shape[-2:])
    before = [(0, 0)] * (images.ndim - 2) + [(factor // 2, 0)] * 2
    padded = np.pad(images, before, mode="edge")[..., : n_y * factor, : n_x * factor]
    rows = padded.reshape(*images.shape[:-2], n_y, factor, n_x * factor).sum(axis=-2, dtype=np.float32)
    total = rows[..., ::factor].copy()
    for column in range(1, factor):
        total += rows[..., column::factor]
    return np.asarray(total / np.float32(factor**2), np.float32)


class Sections:
    """Sections of MRC files, memory-mapped; the files used last stay open. Safe to share between threads."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, tuple[np.ndarray, MrcHeader]] = OrderedDict()
        self._told: set[Path] = set()
        self._lock = threading.Lock()

    def read(self, path: Path, section: int, shape: tuple[int, int] | None = None) -> np.ndarray:
        """Return one section (n_y, n_x) float32, as ``fitted`` to ``shape``."""
        sections, header = self._sections(path)
        if not 0 <= section < len(sections):
            raise InputError(f"{path} holds {len(sections)} images, number {section + 1} is asked for.")
        image = as_float32(sections[section], header)
        return image if shape is None else fitted(image, shape)

    def read_or_blank(self, path: Path, section: int, shape: tuple[int, int]) -> np.ndarray:
        """Return one section; a blank one, and a warning the first time, where a file cannot be read."""
        try:
            return self.read(path, section, shape)
        except InputError as error:
            if path not in self._told:
                self._told.add(path)
                show_warning(f"{error} It is shown blank.")
            return np.zeros(shape, np.float32)

    def volume(self, path: Path, shape: tuple[int, int, int]) -> np.ndarray:
        """Return all sections (n_z, n_y, n_x) float32 of a file of this shape."""
        sections, header = self._sections(path)
        if sections.shape != shape:
            raise InputError(f"{path} is of {sections.shape[::-1]} voxels, not of {shape[::-1]} as the first one.")
        return as_float32(sections, header)

    def _sections(self, path: Path) -> tuple[np.ndarray, MrcHeader]:
        with self._lock:
            if path in self._open:
                self._open.move_to_end(path)
                return self._open[path]
            opened = self._open[path] = open_sections(path)
            while len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)
            return opened


def open_sections(path: Path) -> tuple[np.ndarray, MrcHeader]:
    """Return the sections of a file and its header: a memory map, or the data where they are compressed or turned."""
    header = read_header(path)
    if path.suffix in {".gz", ".bz2"} or header.axes != (1, 2, 3):
        data, header = read_data(path)
        return data, replace(header, mode=2, dtype=data.dtype)
    return map_sections(header), header


def fitted(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return an image with the first pixels kept in place: cut, or padded with its mean, to ``shape``."""
    if image.shape == shape:
        return image
    fitting = np.full(shape, image.mean(dtype=np.float64), np.float32)
    n_y, n_x = (min(a, b) for a, b in zip(image.shape, shape, strict=True))
    fitting[:n_y, :n_x] = image[:n_y, :n_x]
    return fitting
