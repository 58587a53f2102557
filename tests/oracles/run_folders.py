"""Folders of refinements with small maps, as a window finds them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from oracles import report_folders as folders

from napari_autorefine.io.mrc import write_volume

VOXEL_A = folders.VOXEL_A


def blob(scale: float = 1.0, *, radius: float = 3.0, seed: int = 0) -> np.ndarray:
    """A density (16, 16, 16) that is not the same from any two sides."""
    data = folders.ball(radius, seed=seed)
    data[8, 8, 9:13] += 0.5
    return (scale * data).astype(np.float32)


def add_maps(folder: Path, iteration: int, *, scale: float = 1.0) -> None:
    """Write the half-maps of an iteration."""
    for half in (1, 2):
        path = folder / f"run_it{iteration:03d}_half{half}_class001.mrc"
        write_volume(path, blob(scale, seed=half), VOXEL_A)


def refinement(folder: Path, *, n: int = 3, is_final: bool = True) -> Path:
    """Write a Refine3D folder in RELION's layout: iteration 0 to n with maps that grow, and the final files."""
    folders.relion_refinement(folder, n=n, is_final=is_final)
    for iteration in range(n + 1):
        add_maps(folder, iteration, scale=1.0 + iteration)
    date(folder.iterdir(), minutes_ago=10)
    return folder


def date(paths: Iterable[Path], *, minutes_ago: float) -> None:
    """Let files look as if they had been written at another time."""
    moment = time.time() - 60 * minutes_ago
    for path in paths:
        os.utime(path, (moment, moment))
