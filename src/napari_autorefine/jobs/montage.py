"""A picture of the first particles of a set."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from napari_autorefine.io.mrc import as_float32, map_sections, read_header
from napari_autorefine.jobs.plots import new_figure, save_figure
from napari_autorefine.model.extraction import rescale

_COLUMNS, _ROWS = 8, 4
_TILE, _GAP = 128, 4
_INCHES_PER_TILE = 1.1


def write_montage(path: str | Path, stacks: Iterable[Path], pixel_size_A: float) -> str:
    """Write a PNG of the first particles of stacks, up to four rows of eight; return its path.

    Each is shown with the same grey scale, the middle 99 % of all values; large ones are resampled.
    """
    images = _first_images(stacks, _COLUMNS * _ROWS)
    size = images[0].shape[-1]
    tiles = np.stack([_tile(image) for image in images])
    columns = min(_COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    low, high = np.percentile(tiles, [0.5, 99.5])
    width = tiles.shape[-1] + _GAP
    sheet = np.full((rows * width - _GAP, columns * width - _GAP), np.nan, np.float32)
    for index, tile in enumerate(tiles):
        top, left = index // columns * width, index % columns * width
        sheet[top : top + width - _GAP, left : left + width - _GAP] = tile[::-1]
    figure, (axes,) = new_figure(max(columns, 3) * _INCHES_PER_TILE, rows * _INCHES_PER_TILE + 0.4)
    axes.imshow(sheet, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(
        f"First {len(tiles)} particles   {size} px, {pixel_size_A:.4g} Å/px, {size * pixel_size_A:.0f} Å wide",
        fontsize=9,
        loc="left",
        color="#1f2933",
    )
    return save_figure(figure, path)


def _first_images(stacks: Iterable[Path], count: int) -> list[np.ndarray]:
    images: list[np.ndarray] = []
    for stack in stacks:
        header = read_header(stack)
        images += list(as_float32(map_sections(header)[: count - len(images)], header))
        if len(images) >= count:
            break
    return images


def _tile(image: np.ndarray) -> np.ndarray:
    """Return an image of at most ``_TILE`` pixels."""
    if image.shape[-1] <= _TILE:
        return image
    return rescale(image[None].astype(np.float32), _TILE)[0]
