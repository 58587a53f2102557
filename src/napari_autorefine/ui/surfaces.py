"""Surfaces of maps for napari: triangles at a level, computed in short steps so that a window stays alive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import fft
from skimage import measure

from napari_autorefine.ui.layer_style import COLORS, Role
from napari_autorefine.ui.world import world_frame

LIVE_FACES, BESIDE_FACES, CELL_FACES, FINE_FACES = 10_000, 4_000, 20_000, 50_000
"""Triangles of a surface while it changes, of one that stands beside it, when it stays in a cell, and when it stays in
the whole view: software OpenGL draws 700 per ms of processor time, and a change draws all of them again."""

_marching_cubes: Any = measure.marching_cubes
_DEFAULT_ORIENTATION = ("towards", "down", "right")
_STEP_VOXELS = 200_000
_ROUND_PX = 1e-5
_MOST_TRIES, _SMALLEST_BOX = 4, 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mesh:
    """Triangles of a surface.

    Attributes
    ----------
    vertices : (n, 3) float32, z y x in voxels of the map
    faces : (m, 3) int32, rows of ``vertices``
    level : density of the surface
    """

    vertices: np.ndarray
    faces: np.ndarray
    level: float


def iso_mesh(data: np.ndarray, level: float, *, most_faces: int = LIVE_FACES) -> Mesh:
    """Return the surface of a map at a density, closed at the border of the box.

    scikit-image holds Python's lock from the beginning to the end of a call, so the map is cut into slabs along z.

    Parameters
    ----------
    data : (n_z, n_y, n_x)
    level : density of the surface
    most_faces : a map with more triangles is drawn on fewer voxels

    References
    ----------
    Lewiner et al. (2003), J. Graphics Tools 8, 1-15, as in scikit-image.
    """
    grid = np.asarray(data, np.float32)
    n_faces = _expected_faces(grid, level)
    for _ in range(_MOST_TRIES):
        if n_faces <= most_faces or min(grid.shape) <= _SMALLEST_BOX:
            break
        share = max(0.96 * (most_faces / n_faces) ** 0.5, 0.25)
        grid = coarser(grid, [max(round(n * share / 2) * 2, _SMALLEST_BOX) for n in grid.shape])
        n_faces = _expected_faces(grid, level)
    inner, corner = _cropped(grid, level)
    if inner is None:
        center = np.array([n // 2 for n in data.shape], np.float32)
        return Mesh(vertices=np.tile(center, (3, 1)), faces=np.array([[0, 1, 2]], np.int32), level=level)
    vertices, faces = _in_slabs(inner, level)
    vertices = (vertices + corner) * (np.array(data.shape) / grid.shape)
    return Mesh(vertices=vertices.astype(np.float32), faces=faces.astype(np.int32), level=level)


def coarser(data: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return a map on fewer voxels (even numbers) of the same field of view by cropping its Fourier transform.

    Voxel 0 stays voxel 0. Nothing is held that keeps other threads waiting.
    """
    transform = fft.rfftn(np.asarray(data, np.float32), norm="forward")
    lines = [np.arange(-(n // 2) + 1, n // 2) for n in shape[:2]]
    kept = transform[np.ix_(lines[0] % data.shape[0], lines[1] % data.shape[1], np.arange(shape[2] // 2))]
    result = np.zeros((shape[0], shape[1], shape[2] // 2 + 1), np.complex64)
    result[np.ix_(lines[0] % shape[0], lines[1] % shape[1], np.arange(shape[2] // 2))] = kept
    return np.asarray(fft.irfftn(result, tuple(shape), norm="forward"), np.float32)


def _expected_faces(data: np.ndarray, level: float) -> int:
    """Estimate triangles: two per vertex, one vertex per pair of neighbors on both sides of the level."""
    above = data > level
    pairs = sum(np.count_nonzero(np.diff(above, axis=axis)) for axis in range(3))
    return 2 * int(pairs)


def _cropped(data: np.ndarray, level: float) -> tuple[np.ndarray | None, np.ndarray]:
    """Return the part above the level with a border below it, and the position of its first voxel."""
    above = data > level
    if not above.any():
        return None, np.zeros(3)
    bounds = []
    for axis in range(3):
        used = np.flatnonzero(above.any(axis=tuple(other for other in range(3) if other != axis)))
        bounds.append((max(int(used[0]) - 1, 0), int(used[-1]) + 2))
    part = data[tuple(slice(*bound) for bound in bounds)]
    below = min(float(part.min()), level - 0.5 * (float(part.max()) - level)) if part.max() > level else level - 1
    padded = np.pad(part, 1, constant_values=np.float32(below))
    return padded, np.array([bound[0] - 1 for bound in bounds], np.float64)


def _in_slabs(data: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices (n, 3) and faces (m, 3) of slabs that share their first and last planes."""
    thickness = max(2, _STEP_VOXELS // (data.shape[1] * data.shape[2]))
    starts = list(range(0, len(data) - 1, thickness))
    vertices, faces, n_vertex = [], [], 0
    for start in starts:
        slab = data[start : start + thickness + 1]
        if not slab.min() < level < slab.max():
            continue
        points, triangles, _, _ = _marching_cubes(slab, level)
        vertices.append(points + np.array([start, 0, 0]))
        faces.append(triangles + n_vertex)
        n_vertex += len(points)
    return _joined(np.concatenate(vertices), np.concatenate(faces), np.array(starts[1:]))


def _joined(vertices: np.ndarray, faces: np.ndarray, planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Make one of the two vertices that slabs have at the same place of a shared plane."""
    on_plane = np.flatnonzero(np.isin(vertices[:, 0], planes))
    if not len(on_plane):
        return vertices, faces
    keys = np.round(vertices[on_plane] / _ROUND_PX).astype(np.int64)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    target = np.arange(len(vertices))
    target[on_plane] = on_plane[first[inverse.reshape(-1)]]
    return vertices, target[faces]


def is_mirrored(orientation: tuple[str, ...]) -> bool:
    """Tell whether an orientation of the camera differs from napari's own by a mirror; surfaces are dark in it."""
    flips = sum(one != default for one, default in zip(orientation, _DEFAULT_ORIENTATION, strict=True))
    return flips % 2 == 1


def surface_data(
    mesh: Mesh, *, mirrored: bool, box: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what a Surface layer shows; in a mirrored view z is negated, as in its frame, for light from the front.

    With the ``box`` of the map its first and last voxel become vertices without triangles: the layer keeps its extent
    when its surface changes, and napari need not look at all other layers again.
    """
    vertices = mesh.vertices
    if box is not None:
        corners = np.array([[0, 0, 0], [n - 1 for n in box]], np.float32)
        vertices = np.concatenate([vertices, corners])
    if mirrored:
        vertices = vertices * np.array([-1, 1, 1], np.float32)
    return vertices, mesh.faces, np.ones(len(vertices), np.float32)


def surface_frame(shape: tuple[int, ...], voxel_size_A: float, *, mirrored: bool) -> dict[str, Any]:
    """Return the layer arguments that put a surface where the image of its map is."""
    frame = world_frame(shape, voxel_size_A)
    if mirrored:
        frame["scale"] = (-frame["scale"][0], *frame["scale"][1:])
    return frame


def surface_style(role: Role) -> dict[str, Any]:
    """Return the layer arguments of the surface of a map of a role: one color, lit."""
    from napari.utils import Colormap

    color = COLORS[role]
    return {
        "colormap": Colormap([color, color], name=f"autorefine {role} surface", display_name=f"auto-refine {role}"),
        "contrast_limits": (0.0, 1.0),
        "shading": "smooth",
        "blending": "translucent",
    }
