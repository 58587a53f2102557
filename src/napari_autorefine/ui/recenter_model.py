"""Where the center of particles goes, without Qt: offsets and their signs, steps back and forth, picked points.

A center is a point (x, y, z) of the map in voxels from the middle of its box, voxel ``n // 2``, as ``recenter`` takes
it. When it becomes the middle, the content of the map moves by minus the center. On the screen a map is therefore moved
by ``-center * voxel size``, and a map that was moved by t onto its mask has the center ``-t / voxel size``. World
positions and shifts are (z, y, x) in angstrom, as those of layers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

DECIMALS = 3
STEPS_PX = (1.0, 0.5, 0.25, 0.1, 0.05)
"""Steps of the keys in voxels, coarse to fine."""

_RAY_STEP_PX = 0.25


def shift_of_center(center_px: npt.ArrayLike, voxel_size_A: float) -> np.ndarray:
    """Return how far (z, y, x) in angstrom a map has to be moved so that a center comes to lie in the middle."""
    return 0.0 - np.asarray(center_px, np.float64)[::-1] * voxel_size_A


def center_of_shift(shift_A: npt.ArrayLike, voxel_size_A: float) -> np.ndarray:
    """Return the center (x, y, z) in voxels that a map moved by (z, y, x) angstrom stands for."""
    return 0.0 - np.asarray(shift_A, np.float64)[::-1] / voxel_size_A


def center_of_points(of_map_A: npt.ArrayLike, of_mask_A: npt.ArrayLike, voxel_size_A: float) -> np.ndarray:
    """Return the center that brings a point of the map onto a point of the mask.

    Parameters
    ----------
    of_map_A, of_mask_A : (z, y, x) from the middle of the box in angstrom, the map where its file has it
    voxel_size_A : of the map
    """
    return center_of_shift(np.asarray(of_mask_A, np.float64) - np.asarray(of_map_A, np.float64), voxel_size_A)


def in_plane(shift: npt.ArrayLike, direction: npt.ArrayLike) -> np.ndarray:
    """Return the part of a shift (3,) that is perpendicular to a direction (3,) of view."""
    along = np.asarray(direction, np.float64) / np.linalg.norm(direction)
    moved = np.asarray(shift, np.float64)
    return np.asarray(moved - along * (moved @ along))


def first_hit(data: np.ndarray, start: npt.ArrayLike, end: npt.ArrayLike, level: float) -> np.ndarray | None:
    """Find where a ray through a volume first meets the surface of a density.

    Parameters
    ----------
    data : (n_z, n_y, n_x)
    start, end : (3,) voxel positions z, y, x where the ray enters and leaves
    level : density of the surface

    Returns
    -------
    point : (3,) voxel position between the samples on both sides of the surface; ``None`` when the ray misses it
    """
    first, last = np.asarray(start, np.float64), np.asarray(end, np.float64)
    n_sample = max(int(np.ceil(np.linalg.norm(last - first) / _RAY_STEP_PX)) + 1, 2)
    points = first + np.linspace(0.0, 1.0, n_sample)[:, None] * (last - first)
    values = map_coordinates(data, points.T, order=1, mode="nearest")
    above = np.flatnonzero(values > level)
    if not len(above):
        return None
    at = int(above[0])
    if at == 0:
        return np.asarray(points[0])
    weight = (level - values[at - 1]) / (values[at] - values[at - 1])
    return np.asarray(points[at - 1] + weight * (points[at] - points[at - 1]))


class RecenterModel:
    """A center that is changed in steps which can be undone.

    ``allowed`` is the projection (3, 3) onto the directions that the symmetry of the map leaves free.
    """

    def __init__(self) -> None:
        self.allowed = np.eye(3)
        self._steps: list[tuple[float, ...]] = [(0.0, 0.0, 0.0)]
        self._at = 0
        self._on_the_way: tuple[float, ...] | None = None

    @property
    def center_px(self) -> np.ndarray:
        """Center (x, y, z) in voxels, to a thousandth."""
        return np.array(self._on_the_way or self._steps[self._at])

    @property
    def settled_px(self) -> np.ndarray:
        """Center of the last step, without a movement under way."""
        return np.array(self._steps[self._at])

    @property
    def is_zero(self) -> bool:
        """Whether nothing is moved."""
        return not self.center_px.any()

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to go back to."""
        return self._at > 0

    @property
    def can_redo(self) -> bool:
        """Whether a step was undone."""
        return self._at < len(self._steps) - 1

    def move_to(self, center_px: npt.ArrayLike) -> None:
        """Make another point the center; one step to undo, none when it is the same point."""
        self._on_the_way = None
        new = self._kept(center_px)
        if new != self._steps[self._at]:
            self._steps[self._at + 1 :] = [new]
            self._at += 1

    def move_by(self, step_px: npt.ArrayLike) -> None:
        """Move the center by (x, y, z) voxels."""
        self.move_to(self.center_px + np.asarray(step_px, np.float64))

    def pass_through(self, center_px: npt.ArrayLike) -> None:
        """Show a center on the way to another one; ``settle`` makes it a step."""
        self._on_the_way = self._kept(center_px)

    def settle(self) -> None:
        """Keep where a movement has arrived as one step."""
        self.move_to(self.center_px)

    def undo(self) -> None:
        """Go back by one step."""
        self._on_the_way = None
        self._at = max(self._at - 1, 0)

    def redo(self) -> None:
        """Take a step again that was undone."""
        self._on_the_way = None
        self._at = min(self._at + 1, len(self._steps) - 1)

    def _kept(self, center_px: npt.ArrayLike) -> tuple[float, ...]:
        center = self.allowed @ np.asarray(center_px, np.float64)
        return tuple((np.round(center, DECIMALS) + 0.0).tolist())
