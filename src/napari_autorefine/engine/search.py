"""What one search is about: a block of prepared particles, the grid, and slices or neighborhoods to compare with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_autorefine.engine.context import GroupGeometry, GroupModel, HalfContext, SearchGrid
from napari_autorefine.engine.images import PreparedImages
from napari_autorefine.engine.neighborhoods import LocalOrientations
from napari_autorefine.engine.slices import SharedSlices


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """Switches of the search that are the same for every particle.

    Attributes
    ----------
    is_cc : correlation instead of likelihood, winner takes all
    fraction, max_significant : share of the weight, and number of coarse samples, that are refined
    most_rotations : coarse orientations of one particle that are refined at most
    n_shell : shells of the reference grid
    """

    is_cc: bool
    fraction: float
    max_significant: int
    most_rotations: int
    n_shell: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Particles of one half-set and one optics group that are worked on together.

    Attributes
    ----------
    particles : (n,) int64 indices
    images : their prepared samples
    old_origin_A : (n, 2) whole-pixel shift already applied, in A
    origin_prior_A : (n, 2) centre of the prior on offsets
    scale_group : (n,) int64
    norm : (n,) norm correction so far
    intensity : (n,) intensity of the particle within its group, as it is searched
    """

    half: HalfContext
    geometry: GroupGeometry
    particles: np.ndarray
    images: PreparedImages
    old_origin_A: np.ndarray
    origin_prior_A: np.ndarray
    scale_group: np.ndarray
    norm: np.ndarray
    intensity: np.ndarray

    @property
    def model(self) -> GroupModel:
        """Noise model of the block's optics group."""
        return self.half.models[self.geometry.index]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Coarse orientations a particle is compared with.

    Attributes
    ----------
    dir_idx, psi_idx : (n_rot,) int, on the coarse grid
    log_prior : (n_rot,) float32
    """

    dir_idx: np.ndarray
    psi_idx: np.ndarray
    log_prior: np.ndarray

    def only(self, kept: np.ndarray) -> Candidates:
        """Return the candidates at some positions."""
        return Candidates(dir_idx=self.dir_idx[kept], psi_idx=self.psi_idx[kept], log_prior=self.log_prior[kept])


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A block and what it is searched with.

    Attributes
    ----------
    shared : slices of the whole coarse grid, for global searches
    local : neighborhoods of the block's particles, for local searches; exactly one of both is given
    """

    block: Block
    grid: SearchGrid
    settings: SearchSettings
    shared: SharedSlices | None
    local: LocalOrientations | None


def log_shift_prior(search: Search, i: int) -> np.ndarray:
    """Gaussian prior of the total offset at the coarse shifts, consistently in A; (n_trans,) float32."""
    block = search.block
    total = block.old_origin_A[i] + search.grid.shifts_A - block.origin_prior_A[i]
    return (-0.5 * (total**2).sum(axis=1) / block.half.sigma_offset_A**2).astype(np.float32)
