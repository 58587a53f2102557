"""Slices of the whole orientation grid, made once per iteration and shared by all particles of a half-set.

On fine global grids the first pass has a step before it: the parents of the grid's orientations, one HEALPix order
coarser, are compared on the lower frequencies that their spacing resolves, and only children of parents that come near
the best are compared in full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import healpix
import numpy as np

from napari_autorefine.engine.context import GroupGeometry, GroupModel, HalfContext, SearchGrid
from napari_autorefine.engine.expectation import make_slices
from napari_autorefine.engine.grids import N_CHILD, OrientationGrid
from napari_autorefine.engine.images import PreparedImages
from napari_autorefine.engine.shifts import ShiftBasis
from napari_autorefine.model.geometry import euler_to_matrix
from napari_autorefine.xp import array_module, is_on_device, product

Map = Callable[[Callable[[slice], None], Sequence[slice]], Any]
_CHUNK, _DEVICE_CHUNK = 1024, 16384  # slices of a product
# A table of all fine slices pays when it has fewer than particles, all with so many fine orientations, would ask for.
_FINE_PER_PARTICLE = 100


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HalfTurn:
    """Slices of the in-plane angles below 180 degrees of all directions; the others are their complex conjugates.

    Attributes
    ----------
    real, imag, power : (n_dir * n_psi / 2, n_sample) float32, parts of the slices and their squared modulus
    """

    real: Any
    imag: Any
    power: Any

    @classmethod
    def of(cls, slices: Any) -> HalfTurn:
        """Take slices (n, n_sample) complex64 apart."""
        xp = array_module(slices)
        real, imag = xp.ascontiguousarray(slices.real), xp.ascontiguousarray(slices.imag)
        return cls(real=real, imag=imag, power=real**2 + imag**2)

    def rows(self, part: slice) -> HalfTurn:
        """Return some of them."""
        return HalfTurn(real=self.real[part], imag=self.imag[part], power=self.power[part])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SliceTable:
    """Slices of a grid of directions and in-plane angles on the first ``n_sample`` samples, kept or made when needed.

    A slice turned by 180 degrees in its plane is its complex conjugate. So products are made with the slices of half a
    turn, real and imaginary parts apart; their sums are the scores of those slices, their differences of the others.

    Attributes
    ----------
    n_dir, n_psi : directions, in-plane angles of each, which take equal steps; orientation ``dir * n_psi + psi``
    rotations : function of orientation numbers (n,) -> (n, 3, 3) reference -> view rotations
    rows : row table of the samples
    has_mates : slices of images have such mates; turned volumes have none
    half_turn : slices of half a turn, or None when made again chunk by chunk
    slices : (n_rot, n_sample) complex64, all of them, or None
    """

    half: HalfContext
    geometry: GroupGeometry
    n_dir: int
    n_psi: int
    rotations: Callable[[np.ndarray], np.ndarray]
    rows: np.ndarray
    n_sample: int
    has_mates: bool = True
    half_turn: HalfTurn | None = None
    slices: Any | None = None

    @property
    def n_rot(self) -> int:
        """Number of orientations."""
        return self.n_dir * self.n_psi

    @property
    def n_mate(self) -> int:
        """Orientations that one slice serves: 2, or 1 when the in-plane angles do not come in opposite pairs."""
        return 2 - self.n_psi % 2 if self.has_mates else 1

    def scores(
        self, images: PreparedImages, model: GroupModel, shifts: ShiftBasis, *, is_cc: bool, fast: bool = False
    ) -> Any:
        """Scores of a block, (n_rot, n_img, n_trans) float32: log-likelihoods or correlations.

        ``fast`` products on a GPU are made in TF32.
        """
        n, n_img = self.n_sample, len(images.masked)
        xp = array_module(images.masked)
        masked, contrast = images.masked[:, :n], images.contrast[:, :n]
        weight = model.score_weight[None, :n]
        if is_cc:
            weight = (weight > 0).astype(np.float32)
        if images.precision is not None:
            weight = weight * images.precision[:, :n]
        functions = shifts.basis(masked)
        trials = ((masked * (contrast * weight))[:, None, :] * functions[None, :, :]).reshape(-1, n)
        real, imag = xp.ascontiguousarray(trials.real).T, xp.ascontiguousarray(trials.imag).T
        squared = (contrast**2 * weight).T
        norm = xp.sqrt(((masked.real**2 + masked.imag**2) * weight).sum(axis=1))
        out = xp.empty((self.n_dir, self.n_mate, self.n_psi // self.n_mate, n_img, shifts.n_shift), dtype=np.float32)
        for directions, slices in self._chunks():
            part = out[directions]
            energy = product(slices.power, squared).reshape(part.shape[0], part.shape[2], n_img, 1)
            if is_cc:
                factor = 1.0 / xp.maximum(xp.sqrt(energy) * norm[:, None], np.float32(1e-30))
            even, odd = product(slices.real, real, fast=fast), product(slices.imag, imag, fast=fast)
            for mate in range(self.n_mate):
                products = even - odd if mate else even + odd
                if shifts.functions is not None and shifts.coefficients is not None:
                    products = product(products.reshape(-1, len(functions)), shifts.coefficients.T)
                products = products.reshape(part[:, mate].shape)
                if is_cc:
                    xp.multiply(products, factor, out=part[:, mate])
                else:
                    xp.subtract(products, 0.5 * energy, out=part[:, mate])
        return out.reshape(self.n_rot, n_img, -1)

    def make(self, orientations: np.ndarray) -> Any:
        """Sample the reference for some of the orientations."""
        matrices = self.geometry.sampling_matrices(self.rotations(orientations))
        return make_slices(self.half.reference, matrices, self.rows, self.n_sample, self.half.r2_max)

    def half_turn_of(self, directions: slice) -> np.ndarray:
        """Return the orientations of some directions that need slices of their own."""
        psi = np.arange(self.n_psi // self.n_mate)
        return (np.arange(directions.start, directions.stop)[:, None] * self.n_psi + psi).ravel()

    def chunks(self) -> list[slice]:
        """Cut the directions into parts that are worked on together."""
        per_direction = self.n_psi // self.n_mate
        size = max((_DEVICE_CHUNK if is_on_device(self.half.reference) else _CHUNK) // per_direction, 1)
        return [slice(start, min(start + size, self.n_dir)) for start in range(0, self.n_dir, size)]

    def _chunks(self) -> Iterator[tuple[slice, HalfTurn]]:
        per_direction = self.n_psi // self.n_mate
        for part in self.chunks():
            if self.half_turn is not None:
                yield part, self.half_turn.rows(slice(part.start * per_direction, part.stop * per_direction))
            elif self.slices is not None:
                kept = self.slices.reshape(self.n_dir, self.n_psi, -1)[part, :per_direction]
                yield part, HalfTurn.of(kept.reshape(-1, self.n_sample))
            else:
                yield part, HalfTurn.of(self.make(self.half_turn_of(part)))


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

    @property
    def is_kept(self) -> bool:
        """Whether any table takes memory."""
        tables = [self.table] if self.parents is None else [self.table, self.parents.table]
        return any(table.half_turn is not None or table.slices is not None for table in tables)


def share_slices(
    half: HalfContext, geometry: GroupGeometry, grid: SearchGrid, *, n_particle: int, memory_bytes: int, run: Map
) -> SharedSlices:
    """Slices of the whole grid within a memory budget; what does not fit is made when it is needed.

    Parameters
    ----------
    n_particle : particles that share them
    memory_bytes : budget for the tables of this half-set and optics group
    run : ``map`` over chunks, in parallel where the caller has threads
    """
    orientations, samples = grid.orientations, geometry.samples
    dir_idx, psi_idx = np.divmod(np.arange(orientations.n_orientation), orientations.n_psi)

    def coarse_rotations(chosen: np.ndarray) -> np.ndarray:
        return orientations.coarse_matrices(dir_idx[chosen], psi_idx[chosen], grid.perturbation)

    def fine_rotations(chosen: np.ndarray) -> np.ndarray:
        own = chosen[::N_CHILD] // N_CHILD
        return orientations.child_matrices(dir_idx[own], psi_idx[own], grid.perturbation).reshape(-1, 3, 3)

    coarse = SliceTable(
        half=half, geometry=geometry, n_dir=orientations.n_dir, n_psi=orientations.n_psi, rotations=coarse_rotations,
        rows=samples.coarse_rows, n_sample=samples.n_coarse, has_mates=samples.dim == 2,
    )  # fmt: skip
    if geometry.ring_shifts is not None:
        parents = _parents(half, geometry, grid)
        table, memory_bytes = _with_half_turn(parents.table, memory_bytes, run)
        coarse, _ = _with_slices(coarse, memory_bytes, run)
        return SharedSlices(
            dir_idx=dir_idx, psi_idx=psi_idx, table=coarse, parents=replace(parents, table=table), fine=None
        )
    coarse, memory_bytes = _with_half_turn(coarse, memory_bytes, run)
    fine = SliceTable(
        half=half, geometry=geometry, n_dir=orientations.n_dir, n_psi=N_CHILD * orientations.n_psi,
        rotations=fine_rotations, rows=samples.rows, n_sample=samples.n_sample, has_mates=samples.dim == 2,
    )  # fmt: skip
    if coarse.half_turn is not None and fine.n_rot < _FINE_PER_PARTICLE * n_particle:
        fine, _ = _with_slices(fine, memory_bytes, run)
    return SharedSlices(dir_idx=dir_idx, psi_idx=psi_idx, table=coarse, parents=None, fine=fine.slices)


def _with_half_turn(table: SliceTable, memory_bytes: int, run: Map) -> tuple[SliceTable, int]:
    """Make the slices of half a turn if they fit; returns the table and the memory that is left."""
    per_direction = table.n_psi // table.n_mate
    shape = (table.n_dir * per_direction, table.n_sample)
    needed = 12 * shape[0] * shape[1]
    if needed > memory_bytes:
        return table, memory_bytes
    xp = array_module(table.half.reference)
    kept = HalfTurn(**{name: xp.empty(shape, dtype=np.float32) for name in ("real", "imag", "power")})

    def fill(part: slice) -> None:
        rows = slice(part.start * per_direction, part.stop * per_direction)
        made, own = table.make(table.half_turn_of(part)), kept.rows(rows)
        own.real[:], own.imag[:] = made.real, made.imag
        xp.add(own.real**2, own.imag**2, out=own.power)

    run(fill, table.chunks())
    return replace(table, half_turn=kept), memory_bytes - needed


def _with_slices(table: SliceTable, memory_bytes: int, run: Map) -> tuple[SliceTable, int]:
    """Make all slices of a table if they fit; returns the table and the memory that is left."""
    needed = 8 * table.n_rot * table.n_sample
    if needed > memory_bytes:
        return table, memory_bytes
    xp = array_module(table.half.reference)
    slices = xp.empty((table.n_rot, table.n_sample), dtype=np.complex64)

    def fill(part: slice) -> None:
        own = slice(part.start * table.n_psi, part.stop * table.n_psi)
        slices[own] = table.make(np.arange(own.start, own.stop))

    run(fill, table.chunks())
    return replace(table, slices=slices), memory_bytes - needed


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
        half=half, geometry=geometry, n_dir=len(pixels), n_psi=len(psi_deg), rotations=lambda chosen: rotations[chosen],
        rows=geometry.samples.screen_rows, n_sample=geometry.samples.n_screen, has_mates=geometry.samples.dim == 2,
    )  # fmt: skip
    return Parents(table=table, of_direction=of_direction.astype(np.int64), n_pixel=len(pixels))
