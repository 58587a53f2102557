"""Rotations of a grid of orientations by their numbers, and the matrices with which the reference is sampled."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_autorefine.kernels._cuda import launch_grid_rotations, launch_sampling_matrices
from napari_autorefine.xp import array_module


def grid_rotations(orientations: Any, directions: Any, angles: Any, n_angle: int, n_child: tuple[int, int]) -> Any:
    """Rotations (n, 3, 3) float64 of orientations (n,) of a grid or of its children.

    Parameters
    ----------
    orientations : (n,) int64, ``((direction * n_angle + angle) * n_pixel + pixel) * n_half + half``
    directions : (n_direction * n_pixel, 3, 3) float64, rotations without the in-plane angle
    angles : (n_angle * n_half, 2) float64, cosines and sines of in-plane angles
    n_angle : in-plane angles of a direction
    n_child : n_pixel and n_half, children per direction and per in-plane angle
    """
    if array_module(orientations) is not np:
        return launch_grid_rotations(orientations, directions, angles, n_angle, n_child)
    n_pixel, n_half = n_child
    child, half = np.divmod(orientations, n_half)
    coarse, pixel = np.divmod(child, n_pixel)
    direction, angle = np.divmod(coarse, n_angle)
    own, (cos, sin) = directions[direction * n_pixel + pixel], angles[angle * n_half + half].T[:, :, None]
    return np.stack([cos * own[:, 0] + sin * own[:, 1], cos * own[:, 1] - sin * own[:, 0], own[:, 2]], axis=1)


def sampling_matrices(rotations: Any, frequency_matrix: np.ndarray) -> Any:
    """Matrices (n, 3, 3) float32 from image to reference frequencies: transposes of rotations times a matrix.

    Parameters
    ----------
    rotations : (n, 3, 3) float64
    frequency_matrix : (3, 3) on the host
    """
    if array_module(rotations) is not np:
        return launch_sampling_matrices(rotations, frequency_matrix)
    return np.ascontiguousarray(np.swapaxes(rotations, 1, 2) @ frequency_matrix, dtype=np.float32)
