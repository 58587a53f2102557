"""Slices of the whole orientation grid, made once per iteration and shared by all particles of a half-set.

On fine global grids the first pass has a step before it: the parents of the grid's orientations, one HEALPix order
coarser, are compared on the lower frequencies that their spacing resolves, and only children of parents that come near
the best are compared in full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import healpix
import numpy as np

from napari_autorefine.engine.context import GroupGeometry, GroupModel, HalfContext, SearchGrid
from napari_autorefine.engine.expectation import make_slices
from napari_autorefine.engine.grids import N_CHILD, OrientationGrid
from napari_autorefine.engine.images import PreparedImages
from napari_autorefine.engine.shifts import ShiftBasis, as_real
from napari_autorefine.model.geometry import euler_to_matrix
from napari_autorefine.xp import array_module

Map = Callable[[Callable[[int], None], range], Any]
_CHUNK = 2048


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SliceTable:
    """Slices of a list of orientations on the first ``n_sample`` samples, kept or made again chunk by chunk.

    Attributes
    ----------
    n_rot : orientations
    rotations : function of a slice of the list -> (n, 3, 3) reference -> view rotations
    rows : row table of the samples
    slices, power : (n_rot, n_sample) complex64 and their squared modulus float32, or None when made again
    """

    half: HalfContext
    geometry: GroupGeometry
    n_rot: int
    rotations: Callable[[slice], np.ndarray]
    rows: np.ndarray
    n_sample: int
    slices: Any | None = None
    power: Any | None = None

    def scores(self, images: PreparedImages, model: GroupModel, shifts: ShiftBasis, *, is_cc: bool) -> Any:
        """Scores of a block, (n_rot, n_img, n_trans) float32: log-likelihoods or correlations."""
        n = self.n_sample
        xp = array_module(images.masked)
        masked, contrast = images.masked[:, :n], images.contrast[:, :n]
        weight = (model.score_weight[:n] > 0).astype(np.float32) if is_cc else model.score_weight[:n]
        folded = masked * (contrast * weight)
        functions = shifts.ramps if shifts.functions is None else shifts.functions
        trials = as_real((folded[:, None, :] * functions[None, :, :]).reshape(-1, n))
        squared = contrast**2 * weight
        out = xp.empty((self.n_rot, len(masked), len(shifts.ramps)), dtype=np.float32)
        norm = xp.sqrt(((masked.real**2 + masked.imag**2) * weight).sum(axis=1))
        for start, slices, power in self._chunks():
            part = out[start : start + len(slices)]
            if shifts.coefficients is None:
                xp.matmul(as_real(slices), trials.T, out=part.reshape(len(slices), -1))
            else:
                products = (as_real(slices) @ trials.T).reshape(-1, len(functions))
                xp.matmul(products, shifts.coefficients.T, out=part.reshape(-1, len(shifts.ramps)))
            energy = power @ squared.T
            if is_cc:
                part /= xp.maximum(xp.sqrt(energy) * norm[None, :], np.float32(1e-30))[:, :, None]
            else:
                part -= 0.5 * energy[:, :, None]
        return out

    def make(self, part: slice) -> Any:
        """Sample the reference for some of the orientations."""
        matrices = self.geometry.sampling_matrices(self.rotations(part))
        return make_slices(self.half.reference, matrices, self.rows, self.n_sample, self.half.r2_max)

    def _chunks(self) -> Iterator[tuple[int, Any, Any]]:
        for start in range(0, self.n_rot, _CHUNK):
            part = slice(start, min(start + _CHUNK, self.n_rot))
            if self.slices is not None and self.power is not None:
                yield start, self.slices[part], self.power[part]
            else:
                slices = self.make(part)
                yield start, slices, slices.real**2 + slices.imag**2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parents:
    """Orientations one order coarser than the grid's, and whose parents they are.

    Attributes
    ----------
    table : their slices on the screening disc
    of_direction : (n_dir,) int64, parent pixel of every direction of the grid
    n_pixel : number of parent pixels; a parent orientation is a pixel and every second in-plane angle
    """

    table: SliceTable
    of_direction: np.ndarray
    n_pixel: int

    def children(self, alive: np.ndarray) -> np.ndarray:
        """Return the orientations of the grid (n,) whose parents are ``alive`` (n_parent,) bool."""
        mask = np.repeat(alive.reshape(self.n_pixel, -1)[self.of_direction], 2, axis=1)
        return np.flatnonzero(mask)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SharedSlices:
    """Coarse slices of every orientation and, where they fit and pay, the slices of all their children.

    Attributes
    ----------
    dir_idx, psi_idx : (n_rot,) int64, coarse orientation = direction and in-plane angle
    table : slices of the coarse orientations on the samples of the first pass
    parents : orientations to be compared before them, or None
    fine : (8 n_rot, n_sample) complex64 or None
    """

    dir_idx: np.ndarray
    psi_idx: np.ndarray
    table: SliceTable
    parents: Parents | None
    fine: Any | None

    @property
    def coarse(self) -> Any | None:
        """Slices of the coarse orientations (n_rot, n_coarse), or None when they are made when needed."""
        return self.table.slices


def share_slices(
    half: HalfContext, geometry: GroupGeometry, grid: SearchGrid, *, memory_bytes: int, run: Map
) -> SharedSlices:
    """Slices of the whole grid within a memory budget; what does not fit is made when it is needed.

    Parameters
    ----------
    memory_bytes : budget for the tables of this half-set and optics group
    run : ``map`` over chunk numbers, in parallel where the caller has threads
    """
    orientations, samples = grid.orientations, geometry.samples
    n_rot = orientations.n_orientation
    dir_idx, psi_idx = np.divmod(np.arange(n_rot), orientations.n_psi)

    def coarse_rotations(part: slice) -> np.ndarray:
        return orientations.coarse_matrices(dir_idx[part], psi_idx[part], grid.perturbation)

    def fine_rotations(part: slice) -> np.ndarray:
        own = slice(part.start // N_CHILD, part.stop // N_CHILD)
        return orientations.child_matrices(dir_idx[own], psi_idx[own], grid.perturbation).reshape(-1, 3, 3)

    def kept(table: SliceTable, budget: int, *, with_power: bool) -> tuple[SliceTable, int]:
        return _filled(table, budget, run, with_power=with_power)

    coarse = SliceTable(
        half=half, geometry=geometry, n_rot=n_rot, rotations=coarse_rotations,
        rows=samples.coarse_rows, n_sample=samples.n_coarse,
    )  # fmt: skip
    fine = SliceTable(
        half=half, geometry=geometry, n_rot=N_CHILD * n_rot, rotations=fine_rotations,
        rows=samples.rows, n_sample=samples.n_sample,
    )  # fmt: skip
    parents = None
    if geometry.ring_shifts is not None:
        parents = _parents(half, geometry, grid)
        table, memory_bytes = kept(parents.table, memory_bytes, with_power=True)
        parents = Parents(table=table, of_direction=parents.of_direction, n_pixel=parents.n_pixel)
    coarse, memory_bytes = kept(coarse, memory_bytes, with_power=True)
    if parents is None and coarse.slices is not None:
        fine, memory_bytes = kept(fine, memory_bytes, with_power=False)
    return SharedSlices(dir_idx=dir_idx, psi_idx=psi_idx, table=coarse, parents=parents, fine=fine.slices)


def _filled(table: SliceTable, memory_bytes: int, run: Map, *, with_power: bool) -> tuple[SliceTable, int]:
    """Make all slices of a table if they fit; returns the table and the memory that is left."""
    needed = (12 if with_power else 8) * table.n_rot * table.n_sample
    if needed > memory_bytes:
        return table, memory_bytes
    xp = array_module(table.half.reference)
    slices = xp.empty((table.n_rot, table.n_sample), dtype=np.complex64)
    power = xp.empty((table.n_rot, table.n_sample), dtype=np.float32) if with_power else None

    def fill(chunk: int) -> None:
        part = slice(chunk * _CHUNK, min((chunk + 1) * _CHUNK, table.n_rot))
        slices[part] = table.make(part)
        if power is not None:
            power[part] = slices[part].real ** 2 + slices[part].imag ** 2

    run(fill, range(-(-table.n_rot // _CHUNK)))
    filled = SliceTable(
        half=table.half, geometry=table.geometry, n_rot=table.n_rot, rotations=table.rotations, rows=table.rows,
        n_sample=table.n_sample, slices=slices, power=power,
    )  # fmt: skip
    return filled, memory_bytes - needed


def _parents(half: HalfContext, geometry: GroupGeometry, grid: SearchGrid) -> Parents:
    """Parents of a grid: the HEALPix pixels its directions lie in, halfway between pairs of in-plane angles."""
    orientations: OrientationGrid = grid.orientations
    pixels, of_direction = np.unique(orientations.pixels // 4, return_inverse=True)
    tilt, rot = healpix.pix2ang(2 ** (orientations.order - 1), pixels, nest=True)
    psi_deg = orientations.psi_deg[::2] + 0.5 * orientations.psi_step_deg
    euler = np.empty((len(pixels), len(psi_deg), 3))
    euler[:, :, 0], euler[:, :, 1] = np.degrees(rot)[:, None], np.degrees(tilt)[:, None]
    euler[:, :, 2] = psi_deg
    turn = euler_to_matrix(np.full(3, grid.perturbation * orientations.step_deg))
    rotations = euler_to_matrix(euler.reshape(-1, 3)) @ turn
    table = SliceTable(
        half=half, geometry=geometry, n_rot=len(rotations), rotations=lambda part: rotations[part],
        rows=geometry.samples.screen_rows, n_sample=geometry.samples.n_screen,
    )  # fmt: skip
    return Parents(table=table, of_direction=of_direction.astype(np.int64), n_pixel=len(pixels))
