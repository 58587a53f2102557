"""Small map files, and what a layer remembers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Layer

from napari_autorefine.io.mrc import write_volume

RNG = np.random.default_rng(7)


def ball(box: int = 24, radius: float = 7.0) -> np.ndarray:
    axis = np.arange(box) - box // 2
    distance = np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2)
    return np.clip(radius + 0.5 - distance, 0, 1).astype(np.float32)


def own_metadata(layer: Any) -> dict[str, Any]:
    """What a layer remembers; sees to it that napari takes the layer, too."""
    created = Layer.create(*layer)
    own: dict[str, Any] = created.metadata["autorefine"]
    assert {"path", "kind", "voxel_size_A"} <= own.keys()
    return own


def write_map(path: Path, scale: float = 3.0, noise: float = 0.02) -> Path:
    data = ball() * scale + RNG.normal(0, noise, (24,) * 3).astype(np.float32)
    write_volume(path, data, 2.5)
    return path
