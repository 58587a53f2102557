"""A picture of the first particles of a set."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from napari_autorefine.io.mrc import as_float32, map_sections, read_header
from napari_autorefine.io.png import write_grey_png
from napari_autorefine.model.extraction import rescale

_COLUMNS, _ROWS = 8, 4
_TILE, _GAP = 128, 6
_PAPER = 255


def write_montage(path: str | Path, stacks: Iterable[Path], pixel_size_A: float) -> str:
    """Write a PNG of the first particles of stacks, up to four rows of eight; return its path.

    All have the same grey scale, the middle 99 % of their values. Large images are resampled to tiles of 128 px, small
    ones enlarged by a whole factor. The first row of an image is at the bottom, as in a map viewer.
    """
    images = _first_images(stacks, _COLUMNS * _ROWS)
    tiles = np.stack([_tile(image) for image in images])
    low, high = np.percentile(tiles, [0.5, 99.5])
    greys = np.clip((tiles - low) / max(high - low, 1e-6) * 255.0 + 0.5, 0, 255).astype(np.uint8)
    columns = min(_COLUMNS, len(tiles))
    step = tiles.shape[-1] + _GAP
    sheet = np.full((-(-len(tiles) // columns) * step + _GAP, columns * step + _GAP), _PAPER, np.uint8)
    for index, tile in enumerate(greys):
        top, left = index // columns * step + _GAP, index % columns * step + _GAP
        sheet[top : top + step - _GAP, left : left + step - _GAP] = tile[::-1]
    size = images[0].shape[-1]
    text = f"First {len(tiles)} particles, {size} px of {pixel_size_A:.4g} A"
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


def _tile(image: np.ndarray) -> np.ndarray:
    """Return an image resampled to ``_TILE`` pixels, or enlarged to about as many."""
    size = image.shape[-1]
    if size > _TILE:
        return rescale(image[None].astype(np.float32), _TILE)[0]
    factor = max(1, _TILE // size)
    return np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)
