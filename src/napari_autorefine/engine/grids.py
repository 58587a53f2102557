"""Search grids: views on the HEALPix sphere, in-plane angles, their finer children, and offsets.

Coarse orientations are (direction, psi) pairs. Directions are HEALPix pixels in NEST order inside the asymmetric unit
of the point group, psi takes equal steps from 0. One level of oversampling gives 8 children: the 4 child pixels times
psi -+ a quarter of the psi step; child ``4`` of a coarse orientation is pixel 2, psi 0 (``child = 2 * pixel + psi``).
A perturbation p turns every orientation A into A @ A(p d, p d, p d), d being the coarse angular step, and moves every
offset by p times the offset step (RELION 5.0.1, healpix_sampling.cpp).

References
----------
Gorski et al. (2005), Astrophys. J. 622, 759-771, doi:10.1086/427976 (HEALPix).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import ceil

import healpix
import numpy as np
from numba import njit

from napari_autorefine.engine.neighborhoods import (
    DirectionCells,
    LocalOrientations,
    direction_cells,
    local_neighborhoods,
)
from napari_autorefine.engine.randomness import glibc_rand, next_perturbation, random_halves
from napari_autorefine.model.geometry import euler_to_matrix, matrix_to_euler, view_direction
from napari_autorefine.model.symmetry import PointGroup, is_in_asymmetric_unit, point_group

__all__ = [
    "LocalOrientations",
    "OrientationGrid",
    "angular_step_deg",
    "child_translations",
    "glibc_rand",
    "local_neighborhoods",
    "make_orientation_grid",
    "next_perturbation",
    "random_halves",
    "translations",
]

N_CHILD = 8
# Grids with more directions than this keep their symmetry duplicates (only a few on the border of the unit).
_LARGEST_DEDUPLICATED = 4000
# Grids of this order and below are kept for the next iteration: they take megabytes, finer ones much more.
_LARGEST_KEPT_ORDER = 6


def angular_step_deg(order: int) -> float:
    """Nominal angular step of a HEALPix order, 360 / (6 * 2^order): 15 degrees for order 2."""
    return 360.0 / (6.0 * 2.0**order)


def _pixel_angles(order: int, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rot in (-180, 180] and tilt of NEST pixels, degrees."""
    tilt, rot = healpix.pix2ang(2**order, pixels, nest=True)
    rot_deg = np.degrees(rot)
    return np.where(rot_deg > 180.0, rot_deg - 360.0, rot_deg), np.degrees(tilt)


def pixel_radius_deg(order: int) -> float:
    """Largest distance of a point of a HEALPix pixel from its center."""
    n_side = 2.0**order
    corner_cos = 1.0 - (1.0 - 1.0 / n_side) ** 2 / 3.0
    first = np.array([np.sqrt(5.0) / 3.0, np.pi / (4.0 * n_side), 2.0 / 3.0])
    first_vector = np.array([first[0] * np.cos(first[1]), first[0] * np.sin(first[1]), first[2]])
    second_vector = np.array([np.sqrt(1.0 - corner_cos**2), 0.0, corner_cos])
    return float(np.degrees(np.arccos(first_vector @ second_vector)))


def _without_duplicates(vectors: np.ndarray, operators: np.ndarray, radius_deg: float) -> np.ndarray:
    """Drop every view with a mate of an earlier kept one within the radius; indices of the kept ones."""
    limit = np.cos(np.radians(radius_deg))
    is_kept = np.ones(len(vectors), dtype=bool)
    for i in range(len(vectors)):
        if is_kept[i] and len(operators) > 1:
            mates = vectors[i] @ operators[1:].transpose(0, 2, 1)
            is_kept[i + 1 :] &= (vectors[i + 1 :] @ mates.T <= limit).all(axis=1)
    return np.flatnonzero(is_kept)


def _unique_pixels(order: int, group: PointGroup) -> np.ndarray:
    """NEST pixels inside the asymmetric unit, without symmetry duplicates on its border."""
    pixels = np.arange(healpix.nside2npix(2**order))
    rot, tilt = _pixel_angles(order, pixels)
    inside = is_in_asymmetric_unit(group, rot, tilt)
    if not inside.any():
        return pixels[:1]
    pixels, vectors = pixels[inside], view_direction(rot[inside], tilt[inside])
    if len(pixels) >= _LARGEST_DEDUPLICATED:
        return pixels
    return pixels[_without_duplicates(vectors, group.operators, 0.5 * pixel_radius_deg(order))]


@dataclass(frozen=True, slots=True, kw_only=True)
class OrientationGrid:
    """Coarse orientations of one HEALPix order and point group, and their 8 children each.

    Attributes
    ----------
    order : HEALPix order; the angular step in degrees is ``step_deg``
    group : point group whose asymmetric unit the directions fill
    pixels : (n_dir,) int64, NEST pixels, ascending
    rot_deg, tilt_deg : (n_dir,) float64
    vectors : (n_dir, 3) float64, viewing directions in the reference frame
    psi_deg : (n_psi,) float64
    psi_step_deg : spacing of psi
    child_rot_deg, child_tilt_deg : (n_dir, 4) float64
    child_psi_deg : (n_psi, 2) float64
    cells : coarse cells of the directions, for finding neighbors
    """

    order: int
    group: PointGroup
    pixels: np.ndarray
    rot_deg: np.ndarray
    tilt_deg: np.ndarray
    vectors: np.ndarray
    psi_deg: np.ndarray
    psi_step_deg: float
    child_rot_deg: np.ndarray
    child_tilt_deg: np.ndarray
    child_psi_deg: np.ndarray
    cells: DirectionCells

    @property
    def n_dir(self) -> int:
        """Number of directions."""
        return len(self.rot_deg)

    @property
    def n_psi(self) -> int:
        """Number of in-plane angles."""
        return len(self.psi_deg)

    @property
    def n_orientation(self) -> int:
        """Number of coarse orientations; number ``dir * n_psi + psi``."""
        return self.n_dir * self.n_psi

    @property
    def step_deg(self) -> float:
        """Coarse angular step of the order."""
        return angular_step_deg(self.order)

    def coarse_eulers(self, dir_idx: np.ndarray, psi_idx: np.ndarray, perturbation: float = 0.0) -> np.ndarray:
        """Euler angles (n, 3) in degrees of coarse orientations."""
        euler = np.stack([self.rot_deg[dir_idx], self.tilt_deg[dir_idx], self.psi_deg[psi_idx]], axis=-1)
        return _perturbed_eulers(euler, perturbation * self.step_deg)

    def child_eulers(self, dir_idx: np.ndarray, psi_idx: np.ndarray, perturbation: float = 0.0) -> np.ndarray:
        """Euler angles (n, 8, 3) in degrees of the children of coarse orientations."""
        rot = np.repeat(self.child_rot_deg[dir_idx], 2, axis=-1)
        tilt = np.repeat(self.child_tilt_deg[dir_idx], 2, axis=-1)
        psi = np.tile(self.child_psi_deg[psi_idx], 4)
        return _perturbed_eulers(np.stack([rot, tilt, psi], axis=-1), perturbation * self.step_deg)

    def coarse_matrices(self, dir_idx: np.ndarray, psi_idx: np.ndarray, perturbation: float = 0.0) -> np.ndarray:
        """Perturbed rotations (n, 3, 3) float64 of coarse orientations; releases the interpreter lock."""
        out = np.empty((len(dir_idx), 1, 3, 3))
        angles = self.rot_deg[:, None], self.tilt_deg[:, None], self.psi_deg[:, None]
        fill_matrices(dir_idx, psi_idx, *angles, self.turn(perturbation), out)
        return out[:, 0]

    def child_matrices(self, dir_idx: np.ndarray, psi_idx: np.ndarray, perturbation: float = 0.0) -> np.ndarray:
        """Perturbed rotations (n, 8, 3, 3) float64 of the children; releases the interpreter lock."""
        out = np.empty((len(dir_idx), N_CHILD, 3, 3))
        angles = self.child_rot_deg, self.child_tilt_deg, self.child_psi_deg
        fill_matrices(dir_idx, psi_idx, *angles, self.turn(perturbation), out)
        return out

    def turn(self, perturbation: float) -> np.ndarray:
        """Rotation A(p d, p d, p d) that orientations are multiplied by from the right."""
        return _turn_matrix(perturbation * self.step_deg)


@lru_cache(maxsize=16)
def _turn_matrix(turn_deg: float) -> np.ndarray:
    """Rotation A(turn, turn, turn); the same array every time, not to be written to."""
    return euler_to_matrix(np.full(3, turn_deg))


def _perturbed_eulers(euler_deg: np.ndarray, turn_deg: float) -> np.ndarray:
    """Angles of A(euler) @ A(turn, turn, turn)."""
    if turn_deg == 0.0:
        return euler_deg
    return matrix_to_euler(euler_to_matrix(euler_deg) @ euler_to_matrix(np.full(3, turn_deg)))


@njit(nogil=True, cache=True, error_model="numpy")
def fill_matrices(  # noqa: PLR0913 - flat arguments of a compiled function
    dir_idx: np.ndarray,
    psi_idx: np.ndarray,
    rot_deg: np.ndarray,
    tilt_deg: np.ndarray,
    psi_deg: np.ndarray,
    turn: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write A(rot, tilt, psi) @ turn for every pixel and psi variant of every orientation into out (n, m, 3, 3)."""
    radian = np.pi / 180.0
    frame = np.empty((3, 3))
    n_pixel, n_psi = rot_deg.shape[1], psi_deg.shape[1]
    for i in range(len(dir_idx)):
        d, p = dir_idx[i], psi_idx[i]
        for m in range(n_pixel):
            ca, sa = np.cos(radian * rot_deg[d, m]), np.sin(radian * rot_deg[d, m])
            cb, sb = np.cos(radian * tilt_deg[d, m]), np.sin(radian * tilt_deg[d, m])
            for x in range(3):
                frame[0, x] = cb * ca * turn[0, x] + cb * sa * turn[1, x] - sb * turn[2, x]
                frame[1, x] = -sa * turn[0, x] + ca * turn[1, x]
                frame[2, x] = sb * ca * turn[0, x] + sb * sa * turn[1, x] + cb * turn[2, x]
            for q in range(n_psi):
                c, s = np.cos(radian * psi_deg[p, q]), np.sin(radian * psi_deg[p, q])
                for x in range(3):
                    out[i, m * n_psi + q, 0, x] = c * frame[0, x] + s * frame[1, x]
                    out[i, m * n_psi + q, 1, x] = c * frame[1, x] - s * frame[0, x]
                    out[i, m * n_psi + q, 2, x] = frame[2, x]


def make_orientation_grid(order: int, group: PointGroup, *, psi_step_deg: float | None = None) -> OrientationGrid:
    """Coarse orientations of a HEALPix order inside the asymmetric unit of a point group.

    Parameters
    ----------
    order
        HEALPix order, 0 to 9
    group
        point group of the reference
    psi_step_deg
        wanted step of psi, rounded down to divide 360; the step of the order if None

    Returns
    -------
    Grid whose arrays are not to be written to: the same may be returned again
    """
    if psi_step_deg is None and order <= _LARGEST_KEPT_ORDER and group is point_group(group.name):
        return _kept_grid(order, group.name)
    return _new_grid(order, group, psi_step_deg)


@lru_cache(maxsize=2)
def _kept_grid(order: int, group_name: str) -> OrientationGrid:
    """Grid of a search, and the rough one with which accuracies are estimated."""
    return _new_grid(order, point_group(group_name), None)


def _new_grid(order: int, group: PointGroup, psi_step_deg: float | None) -> OrientationGrid:
    pixels = _unique_pixels(order, group)
    rot, tilt = _pixel_angles(order, pixels)
    child_rot, child_tilt = _pixel_angles(order + 1, (4 * pixels[:, None] + np.arange(4)).ravel())
    n_psi = ceil(360.0 / (psi_step_deg or angular_step_deg(order)) - 1e-6)
    psi_step = 360.0 / n_psi
    psi = np.arange(n_psi) * psi_step
    vectors = view_direction(rot, tilt)
    return OrientationGrid(
        order=order,
        group=group,
        pixels=pixels,
        rot_deg=rot,
        tilt_deg=tilt,
        vectors=vectors,
        psi_deg=psi,
        psi_step_deg=psi_step,
        child_rot_deg=child_rot.reshape(-1, 4),
        child_tilt_deg=child_tilt.reshape(-1, 4),
        child_psi_deg=psi[:, None] + np.array([-0.25, 0.25]) * psi_step,
        cells=direction_cells(order, pixels, vectors),
    )


def translations(range_A: float, step_A: float, dim: int = 2) -> np.ndarray:
    """Multiples of a step within a disc or sphere, x fastest, before perturbation.

    Parameters
    ----------
    range_A
        radius, inclusive
    step_A
        spacing along every axis
    dim
        2 for images, 3 for volumes and tilt stacks

    Returns
    -------
    (n_trans, dim) float64, Angstrom; columns x, y (, z)
    """
    n = int(np.floor(range_A / step_A + 1e-6))
    axis = np.arange(-n, n + 1) * step_A
    points = np.array([p[::-1] for p in product(axis, repeat=dim)])
    return np.asarray(points[(points**2).sum(axis=1) <= range_A**2 + 1e-3])


def child_translations(coarse_A: np.ndarray, step_A: float) -> np.ndarray:
    """Offsets a quarter of a step to either side of coarse ones on every axis.

    Parameters
    ----------
    coarse_A : (n_trans, dim)
        x, y (, z) in Angstrom
    step_A
        coarse step

    Returns
    -------
    (n_trans, 2 ** dim, dim) float64
    """
    corners = np.array([p[::-1] for p in product((-0.25, 0.25), repeat=coarse_A.shape[-1])])
    return np.asarray(coarse_A[:, None, :] + corners * step_A)
