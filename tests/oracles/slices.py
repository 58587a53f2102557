"""Slices of a Fourier volume in float64, and the cases they are tried on."""

from __future__ import annotations

import itertools
import math

import numpy as np
from scipy.spatial.transform import Rotation


def half_disc(radius: int, dim: int = 2) -> np.ndarray:
    """Rows ``z, y, x_start, n, offset`` of the half-plane (or half-volume) inside a radius; the origin comes first."""
    rows = [(0, 0, 0, 1)]
    for z in range(-radius, radius + 1) if dim == 3 else (0,):
        for y in range(-radius, radius + 1):
            rest = radius**2 - y * y - z * z
            first = 1 if (z, y) <= (0, 0) else 0
            if rest >= first:
                rows.append((z, y, first, math.isqrt(rest) + 1 - first))
    counts = np.array([row[3] for row in rows])
    return np.column_stack([np.array(rows), np.cumsum(counts) - counts]).astype(np.int32)


def frequencies(rows: np.ndarray) -> np.ndarray:
    """(n_sample, 3) frequencies of a row table, order x, y, z."""
    samples = np.zeros((int(rows[:, 3].sum()), 3))
    for z, y, x_start, n, offset in rows:
        for j in range(n):
            samples[offset + j] = x_start + j, y, z
    return samples


def sampling_matrices(n_rot: int, factor: float, seed: int) -> np.ndarray:
    """Random rotations times ``factor``, after the identity, whose samples lie on voxels and on the fold."""
    rotations = Rotation.random(n_rot - 1, random_state=seed).as_matrix() if n_rot > 1 else np.empty((0, 3, 3))
    return (factor * np.concatenate([np.eye(3)[None], rotations])).astype(np.float32)


def complex_noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Complex numbers of variance 2, complex64."""
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def corners(points: np.ndarray, radius: int) -> tuple[np.ndarray, list[tuple[tuple[np.ndarray, ...], np.ndarray]]]:
    """Which ``points`` (n, 3), x y z, are conjugated to x >= 0; the eight voxels around each, and their shares."""
    is_conjugated = points[:, 0] < 0
    points = np.where(is_conjugated[:, None], -points, points)
    low = np.floor(points).astype(np.int64)
    found = []
    for step in itertools.product((0, 1), repeat=3):
        share = np.prod(1 - np.abs(points - low - step), axis=1)
        x, y, z = (low + step).T
        found.append(((z + radius, y + radius, x), share))
    return is_conjugated, found


def project(volume: np.ndarray, matrices: np.ndarray, samples: np.ndarray, r2_max: float) -> np.ndarray:
    """Slices (n_rot, n_sample) complex128."""
    radius = (volume.shape[0] - 1) // 2
    slices = np.zeros((len(matrices), len(samples)), dtype=np.complex128)
    for o, matrix in enumerate(matrices.astype(np.float64)):
        points = samples @ matrix.T
        inside = (points**2).sum(axis=1) <= r2_max
        is_conjugated, found = corners(points[inside], radius)
        value = sum(share * volume[voxel] for voxel, share in found)
        slices[o, inside] = np.where(is_conjugated, np.conj(value), value)
    return slices


def backproject(
    shape: tuple[int, int, int],
    matrices: np.ndarray,
    values: np.ndarray,
    weights: np.ndarray,
    samples: np.ndarray,
    r2_max: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of ``values`` and ``weights``, both (n_rot, n_sample), over the voxels of ``shape``; sample 0 left out."""
    data, weight = np.zeros(shape, dtype=np.complex128), np.zeros(shape)
    for o, matrix in enumerate(matrices.astype(np.float64)):
        points = samples @ matrix.T
        inside = (points**2).sum(axis=1) <= r2_max
        inside[0] = False
        is_conjugated, found = corners(points[inside], (shape[0] - 1) // 2)
        value = np.where(is_conjugated, np.conj(values[o, inside]), values[o, inside])
        for voxel, share in found:
            np.add.at(data, voxel, share * value)
            np.add.at(weight, voxel, share * weights[o, inside])
    return data, weight
