"""Angular distributions as cylinders that ChimeraX shows around a map (BILD files)."""

from __future__ import annotations

import os

import numpy as np

from napari_autorefine.io.files import replacing


def write_direction_cylinders(
    path: str | os.PathLike[str],
    directions_deg: np.ndarray,
    weight: np.ndarray,
    *,
    box_size: int,
    voxel_size_A: float,
) -> None:
    """Write a cylinder per viewing direction that is used, red where it is used most.

    Parameters
    ----------
    path : str or path
        Name of the file.
    directions_deg : (n_dir, 2)
        Rot and tilt.
    weight : (n_dir,)
        Share of the particles.
    box_size : int
        Box of the map; the cylinders stand on a sphere that touches its faces.
    voxel_size_A : float
        Voxel size of the map.
    """
    rot, tilt = np.deg2rad(directions_deg[:, 0]), np.deg2rad(directions_deg[:, 1])
    vectors = np.stack([np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)], axis=1)
    radius_A, center_A = 0.5 * box_size * voxel_size_A, box_size // 2 * voxel_size_A
    relative = weight / max(float(weight.max(initial=0.0)), 1e-30)
    width_A = 0.5 * radius_A * np.sqrt(4 * np.pi / max(1, len(weight)))
    with replacing(path) as temporary, open(temporary, "w", encoding="ascii") as file:
        for vector, share in zip(vectors[relative > 0], relative[relative > 0].tolist(), strict=True):
            start, end = center_A + radius_A * vector, center_A + radius_A * (1.0 + 0.3 * share) * vector
            points = " ".join(f"{value:.3f}" for value in (*start, *end))
            file.write(f".color {share:.3f} 0 {1.0 - share:.3f}\n.cylinder {points} {width_A * share:.3f}\n")
