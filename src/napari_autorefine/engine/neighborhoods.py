"""Local searches: the grid orientations around the previous pose of each particle, with their prior.

A grid orientation G = (direction g, psi) is compared with every symmetry mate A R of the previous pose A. The angle
between g and the viewing direction of the mate (swing) and the in-plane angle left after carrying the mate along the
great circle to g (twist) must both be below 3 sigma; the prior is exp(-(swing^2 + twist^2) / (2 sigma^2)), normalised
to sum 1. Without a direction inside, the single nearest one is used.

This differs from RELION on purpose. RELION compares psi with the psi of the previous pose itself: wrong for directions
reached through a symmetry mate, and too narrow near tilt 0 and 180, where rot and psi trade places. Here the searched
set is a ball of rotations around the previous pose whatever its tilt and wherever the asymmetric unit was cut; away
from poles and borders both rules give the same orientations and priors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import healpix
import numpy as np
import numpy.typing as npt
from numba import njit

from napari_autorefine.model.geometry import euler_to_matrix

if TYPE_CHECKING:
    from napari_autorefine.engine.grids import OrientationGrid

N_SIGMA = 3.0
_CELL_ORDER = 4  # HEALPix order of the cells that are tested before the directions they contain


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOrientations:
    """Orientations to search for n particles, those of particle i from ``offsets[i]`` to ``offsets[i + 1]``.

    Within a particle they are ordered by direction, then psi, without repeats.

    Attributes
    ----------
    offsets : (n + 1,) int64
    dir_idx, psi_idx : (n_total,) int32, indices into the grid
    log_prior : (n_total,) float64, natural logarithm; its exponential sums to 1 over each particle
    """

    offsets: np.ndarray
    dir_idx: np.ndarray
    psi_idx: np.ndarray
    log_prior: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionCells:
    """Coarse HEALPix cells that hold the directions of a grid; cell c has directions first[c] to first[c + 1].

    Attributes
    ----------
    vectors : (n_cell, 3) float64, cell centers
    first : (n_cell + 1,) int64
    radius : no direction is farther from the center of its cell, radians
    """

    vectors: np.ndarray
    first: np.ndarray
    radius: float


def direction_cells(order: int, pixels: np.ndarray, vectors: np.ndarray) -> DirectionCells:
    """Cells of the directions ``vectors`` (n_dir, 3) at ascending NEST ``pixels`` of a HEALPix order."""
    cell_order = min(order, _CELL_ORDER)
    cell = pixels >> 2 * (order - cell_order)
    first = np.flatnonzero(np.diff(cell, prepend=-1))
    centers = np.stack(healpix.pix2vec(2**cell_order, cell[first], nest=True), axis=-1)
    sizes = np.diff(first, append=len(pixels))
    chord = np.linalg.norm(vectors - np.repeat(centers, sizes, axis=0), axis=1).max()
    radius = float(2.0 * np.arcsin(0.5 * chord)) + 1e-9
    return DirectionCells(vectors=centers, first=np.append(first, len(pixels)), radius=radius)


def local_neighborhoods(grid: OrientationGrid, euler_deg: npt.ArrayLike, sigma_deg: float) -> LocalOrientations:
    """Grid orientations within 3 sigma of previous poses; the compiled part releases the interpreter lock.

    Parameters
    ----------
    grid
        coarse orientations; the prior is evaluated without perturbation
    euler_deg : (n, 3)
        previous poses
    sigma_deg
        standard deviation of the prior, the same for view direction and psi
    """
    previous = euler_to_matrix(np.atleast_2d(np.asarray(euler_deg, dtype=np.float64)))
    offsets, dir_idx, psi_idx, log_prior = _search(
        previous,
        np.ascontiguousarray(grid.group.operators),
        grid.vectors,
        np.radians(grid.rot_deg),
        grid.n_psi,
        np.radians(sigma_deg),
        grid.cells.vectors,
        grid.cells.first,
        grid.cells.radius,
    )
    return LocalOrientations(offsets=offsets, dir_idx=dir_idx, psi_idx=psi_idx, log_prior=log_prior)


def tilt_limited(grid: OrientationGrid, tilt_deg: float, sigma_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """Directions of a grid that a prior on the tilt angle allows, and the logarithm of its weights, which sum to 1.

    A direction has the tilt of its symmetry mate nearest to the prior, and must be within 3 sigma of it; if none is,
    the nearest is taken.

    Parameters
    ----------
    grid
        coarse directions, without perturbation
    tilt_deg, sigma_deg
        center and width of the prior
    """
    heights = np.einsum("sj,dj->ds", grid.group.operators[:, :, 2], grid.vectors)
    distance = np.abs(np.degrees(np.arccos(np.clip(heights, -1.0, 1.0))) - tilt_deg).min(axis=1)
    chosen = np.flatnonzero(distance <= N_SIGMA * sigma_deg)
    if len(chosen) == 0:
        chosen = np.array([int(distance.argmin())])
    log_weight = -0.5 * (distance[chosen] ** 2 - distance[chosen].min() ** 2) / sigma_deg**2
    return chosen, log_weight - np.log(np.exp(log_weight).sum())


@njit(nogil=True, cache=True, error_model="numpy")
def _mate(rotation: np.ndarray, operator: np.ndarray, out: np.ndarray) -> None:
    """Write the product rotation @ operator of (3, 3) arrays into ``out``."""
    for i in range(3):
        for j in range(3):
            out[i, j] = (
                rotation[i, 0] * operator[0, j] + rotation[i, 1] * operator[1, j] + rotation[i, 2] * operator[2, j]
            )


@njit(nogil=True, cache=True, error_model="numpy")
def _dot(a: np.ndarray, b: np.ndarray) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(nogil=True, cache=True, error_model="numpy")
def _carried_psi(mate: np.ndarray, g: np.ndarray, rot: float) -> float:
    """Psi that brings A(rot, tilt, psi), viewing along g, nearest to ``mate`` as a rotation."""
    ca, sa = np.cos(rot), np.sin(rot)
    cb, sb = g[2], g[0] * ca + g[1] * sa
    along = (cb * ca, cb * sa, -sb)
    x1 = along[0] * mate[0, 0] + along[1] * mate[0, 1] + along[2] * mate[0, 2]
    x2 = along[0] * mate[1, 0] + along[1] * mate[1, 1] + along[2] * mate[1, 2]
    y1 = -sa * mate[0, 0] + ca * mate[0, 1]
    y2 = -sa * mate[1, 0] + ca * mate[1, 1]
    return np.arctan2(y1 - x2, x1 + y2)


@njit(nogil=True, cache=True, error_model="numpy")
def _pairs_within(  # noqa: PLR0913 - flat arguments of a compiled function
    rotation: np.ndarray,
    operators: np.ndarray,
    vectors: np.ndarray,
    rot: np.ndarray,
    reach: float,
    cell_vectors: np.ndarray,
    cell_first: np.ndarray,
    cell_radius: float,
) -> tuple[list[int], list[float], list[float]]:
    """Direction, swing and carried psi of every (direction, mate) pair closer than ``reach``."""
    directions, swings, psis = [0 for _ in range(0)], [0.0 for _ in range(0)], [0.0 for _ in range(0)]
    cos_cell = np.cos(min(np.pi, reach + cell_radius))
    cos_reach = np.cos(min(np.pi, reach))
    mate = np.empty((3, 3))
    for s in range(len(operators)):
        _mate(rotation, operators[s], mate)
        for c in range(len(cell_vectors)):
            if _dot(cell_vectors[c], mate[2]) < cos_cell:
                continue
            for d in range(cell_first[c], cell_first[c + 1]):
                cosine = _dot(vectors[d], mate[2])
                if cosine > cos_reach:
                    directions.append(d)
                    swings.append(np.arccos(min(1.0, cosine)))
                    psis.append(_carried_psi(mate, vectors[d], rot[d]))
    return directions, swings, psis


@njit(nogil=True, cache=True, error_model="numpy")
def _nearest_pair(
    rotation: np.ndarray, operators: np.ndarray, vectors: np.ndarray, rot: np.ndarray
) -> tuple[list[int], list[float], list[float]]:
    """Nearest (direction, mate) pair, its swing counted as 0."""
    best, best_d, best_psi = -2.0, 0, 0.0
    mate = np.empty((3, 3))
    for s in range(len(operators)):
        _mate(rotation, operators[s], mate)
        for d in range(len(vectors)):
            cosine = _dot(vectors[d], mate[2])
            if cosine > best:
                best, best_d, best_psi = cosine, d, _carried_psi(mate, vectors[d], rot[d])
    return [best_d], [0.0], [best_psi]


@njit(nogil=True, cache=True, error_model="numpy")
def _search(  # noqa: PLR0913 - flat arguments of a compiled function
    previous: np.ndarray,
    operators: np.ndarray,
    vectors: np.ndarray,
    rot: np.ndarray,
    n_psi: int,
    sigma: float,
    cell_vectors: np.ndarray,
    cell_first: np.ndarray,
    cell_radius: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Neighborhoods of all particles in compressed-row form."""
    step, reach, half = 2.0 * np.pi / n_psi, N_SIGMA * sigma, 0.5 / sigma**2
    n_window = min(n_psi, int(2.0 * reach / step) + 2)
    offsets = np.zeros(len(previous) + 1, dtype=np.int64)
    out_dir, out_psi, out_log = np.empty(1024, np.int32), np.empty(1024, np.int32), np.empty(1024)
    best = np.full(n_psi, -np.inf)
    for i in range(len(previous)):
        directions, swings, psis = _pairs_within(
            previous[i], operators, vectors, rot, reach, cell_vectors, cell_first, cell_radius
        )
        if len(directions) == 0:
            directions, swings, psis = _nearest_pair(previous[i], operators, vectors, rot)
        n_pair, begin = len(directions), offsets[i]
        order = np.argsort(np.array(directions), kind="mergesort")
        if begin + n_pair * n_window > len(out_dir):
            size = 2 * (begin + n_pair * n_window)
            out_dir, out_psi = _grown_int(out_dir, size), _grown_int(out_psi, size)
            out_log = _grown(out_log, size)
        end = begin
        k = 0
        while k < n_pair:
            d, low, high = directions[order[k]], n_psi, -1
            while k < n_pair and directions[order[k]] == d:
                swing, psi = swings[order[k]], psis[order[k]]
                first = int(np.floor((psi - min(reach, np.pi)) / step)) + 1
                for j in range(first, first + n_window):
                    twist = j * step - psi
                    if twist >= reach:
                        break
                    q = j % n_psi
                    best[q] = max(best[q], -half * (swing * swing + twist * twist))
                    low, high = min(low, q), max(high, q)
                k += 1
            for q in range(low, high + 1):
                if best[q] > -np.inf:
                    out_dir[end], out_psi[end], out_log[end] = d, q, best[q]
                    best[q] = -np.inf
                    end += 1
        total = 0.0
        for j in range(begin, end):
            total += np.exp(out_log[j])
        for j in range(begin, end):
            out_log[j] -= np.log(total)
        offsets[i + 1] = end
    n_total = offsets[-1]
    return offsets, out_dir[:n_total].copy(), out_psi[:n_total].copy(), out_log[:n_total].copy()


@njit(nogil=True, cache=True)
def _grown_int(array: np.ndarray, size: int) -> np.ndarray:
    out = np.empty(size, np.int32)
    out[: len(array)] = array
    return out


@njit(nogil=True, cache=True)
def _grown(array: np.ndarray, size: int) -> np.ndarray:
    out = np.empty(size)
    out[: len(array)] = array
    return out
