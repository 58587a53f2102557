"""Whether the numbers and tables of a run's files can belong together, before anything is made from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_autorefine.errors import InputError
from napari_autorefine.io.columns import Columns

BOXES, ORDERS = (2, 16_384), (0, 9)
"""Smallest and largest box in pixels, and orders of orientation grids, that are taken from files."""
_SPECTRA = ("tau2", "ssnr", "sigma2_map", "completeness", "orientability")


def whole(value: float, limits: tuple[int, int], place: str) -> int:
    """Return a number as an integer; ``place`` names it in the InputError for one beyond its limits."""
    if not limits[0] <= value <= limits[1]:
        raise InputError(f"{place} is {value:g}, not between {limits[0]} and {limits[1]}.")
    return int(value)


def check_half(half: Mapping[str, Any], path: Path, box_size: int) -> None:
    """Raise when map or spectra of a half are not of the box that its model file gives."""
    n_shell = box_size // 2 + 1
    if half["map"].shape != (box_size,) * 3:
        raise InputError(f"{path}: its map has {half['map'].shape[2]} px, but rlnOriginalImageSize is {box_size}.")
    for name in _SPECTRA:
        if len(half[name]) != n_shell:
            raise InputError(f"{path}: table 'data_model_class_1' has {len(half[name])} shells instead of {n_shell}.")


def check_shells(columns: Columns, n_shell: int) -> None:
    """Raise when a table numbers shells beyond those of the box."""
    index = columns.integers("rlnSpectralIndex")
    if len(index) and not 0 <= index.min() <= index.max() < n_shell:
        raise columns.error(f"rlnSpectralIndex goes from {index.min()} to {index.max()}, beyond 0 to {n_shell - 1}")
