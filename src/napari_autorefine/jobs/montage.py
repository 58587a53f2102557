"""A picture of the first particles of a set."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy import fft

from napari_autorefine.io.mrc import as_float32, map_sections, read_header
from napari_autorefine.io.png import write_grey_png

_COLUMNS, _ROWS = 8, 4
_TILE, _GAP = 128, 6
_PAPER = 255
_LOW_PASS_A = 15.0


def write_montage(path: str | Path, stacks: Iterable[Path], pixel_size_A: float) -> str:
    """Write a PNG of the first particles of stacks, up to four rows of eight; return its path.

    Each is low-passed (a Gaussian, half at 15 A) and resampled to 128 px, so that particles stand out from the noise.
    All have the same grey scale, the middle 99 % of their values. The first row of an image is at the bottom, as in a
    map viewer.
    """
    images = _first_images(stacks, _COLUMNS * _ROWS)
    tiles = np.stack([_tile(image, pixel_size_A) for image in images])
    low, high = np.percentile(tiles, [0.5, 99.5])
    greys = np.clip((tiles - low) / max(high - low, 1e-6) * 255.0 + 0.5, 0, 255).astype(np.uint8)
    columns, step = min(_COLUMNS, len(tiles)), _TILE + _GAP
    sheet = np.full((-(-len(tiles) // columns) * step + _GAP, columns * step + _GAP), _PAPER, np.uint8)
    for index, tile in enumerate(greys):
        top, left = index // columns * step + _GAP, index % columns * step + _GAP
        sheet[top : top + _TILE, left : left + _TILE] = tile[::-1]
    text = f"First {len(tiles)} particles, {images[0].shape[-1]} px of {pixel_size_A:.4g} A, low-passed for display"
    write_grey_png(path, sheet, {"Description": text, "Software": "napari-autorefine"})
    return str(path)


def _first_images(stacks: Iterable[Path], count: int) -> list[np.ndarray]:
    images: list[np.ndarray] = []
    for stack in stacks:
        header = read_header(stack)
        images += list(as_float32(map_sections(header)[: count - len(images)], header))
        if len(images) >= count:
            break
    return images


def _tile(image: np.ndarray, pixel_size_A: float) -> np.ndarray:
    """Return an image (n, n) low-passed, as ``_TILE`` pixels."""
    size = image.shape[-1]
    kept = min(size, _TILE)
    half, lines = kept // 2, np.arange(-(kept // 2) + 1, kept // 2)
    spectrum = fft.rfft2(image, norm="forward")[lines % size, :half]
    u2 = (lines[:, None] ** 2 + np.arange(half) ** 2) / (size * pixel_size_A) ** 2
    padded = np.zeros((_TILE, _TILE // 2 + 1), np.complex64)
    padded[lines % _TILE, :half] = spectrum * np.exp(-np.log(2.0) * u2 * _LOW_PASS_A**2)
    tile: np.ndarray = fft.irfft2(padded, (_TILE, _TILE), norm="forward")
    return tile
