"""What one search is about: a block of prepared particles, the grid, and slices or neighborhoods to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_autorefine.engine.context import GroupGeometry, GroupModel, HalfContext, SamplePart, SearchGrid
from napari_autorefine.engine.expectation import make_slices
from napari_autorefine.engine.images import PreparedImages
from napari_autorefine.engine.neighborhoods import LocalOrientations
from napari_autorefine.engine.shifts import ShiftBasis, TiltedShifts
from napari_autorefine.engine.slices import SharedSlices
from napari_autorefine.xp import array_module


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """Switches of the search that are the same for every particle.

    Attributes
    ----------
    is_cc : correlation instead of likelihood, winner takes all
    fraction, max_significant : share of the weight, and number of coarse samples, that are refined
    most_rotations : coarse orientations of one particle that are refined at most, drawn by weight where more matter
    most_representatives : fine orientations that stand for a particle's posterior in map and residuals at most
    n_shell : shells of the reference grid
    sigma_tilt_deg : width of the prior on tilt angles, where particles have one
    """

    is_cc: bool
    fraction: float
    max_significant: int
    most_rotations: int
    most_representatives: int
    n_shell: int
    sigma_tilt_deg: float = -1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TiltStack:
    """The visible tilts of a particle.

    Attributes
    ----------
    images : one entry per tilt
    views : (n_tilt, 3, 3) float64, frame of the subtomogram -> view of each tilt
    """

    images: PreparedImages
    views: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Particles of one half-set and one optics group that are worked on together.

    Attributes
    ----------
    particles : (n,) int64 indices
    images : their prepared samples; None for tilt stacks
    stacks : the tilts of each particle; empty for images and volumes
    old_origin_A : (n, 2) or (n, 3) whole-pixel shift already applied, in A
    origin_prior_A : centre of the prior on offsets, shaped likewise
    tilt_prior_deg : (n,) centre of the prior on the tilt angle; None without one
    scale_group : (n,) int64
    norm : (n,) norm correction so far
    intensity : (n,) intensity of the particle within its group, as it is searched
    """

    half: HalfContext
    geometry: GroupGeometry
    particles: np.ndarray
    images: PreparedImages | None
    stacks: tuple[TiltStack, ...] = ()
    old_origin_A: np.ndarray
    origin_prior_A: np.ndarray
    tilt_prior_deg: np.ndarray | None = None
    scale_group: np.ndarray
    norm: np.ndarray
    intensity: np.ndarray

    @property
    def model(self) -> GroupModel:
        """Noise model of the block's optics group."""
        return self.half.models[self.geometry.index]

    def particle(self, i: int) -> Measured:
        """Return what was measured of a particle of the block."""
        if self.images is not None:
            return Measured(
                half=self.half, geometry=self.geometry, images=self.images, rows=slice(i, i + 1), views=None
            )
        stack = self.stacks[i]
        return Measured(
            half=self.half, geometry=self.geometry, images=stack.images, rows=slice(None), views=stack.views
        )


class Measured:
    """One particle as the search sees it: its Fourier coefficients in a row, whether of one image or of many tilts.

    Parameters
    ----------
    rows : the particle's entries of ``images``
    views : (n_tilt, 3, 3) views of a tilt stack, or None for an image or a volume
    """

    __slots__ = ("_tilted", "geometry", "half", "images", "rows", "views")

    def __init__(
        self,
        *,
        half: HalfContext,
        geometry: GroupGeometry,
        images: PreparedImages,
        rows: slice,
        views: np.ndarray | None,
    ) -> None:
        self.half = half
        self.geometry = geometry
        self.images = images
        self.rows = rows
        self.views = views
        self._tilted: dict[int, TiltedShifts] = {}

    @property
    def n_image(self) -> int:
        """Images the particle consists of."""
        return 1 if self.views is None else len(self.views)

    def of(self, values: Any, part: SamplePart) -> Any:
        """Pick the particle's part of an array (n_images, n_sample) of the block; flat."""
        return values[self.rows, part.where].reshape(-1)

    def repeated(self, values: Any, part: SamplePart) -> Any:
        """Repeat (n_sample,) values for every image of the particle; flat."""
        own = values[part.where]
        return own if self.views is None else array_module(own).tile(own, self.n_image)

    def score_weight(self, part: SamplePart) -> Any:
        """Inverse noise variances of the samples as they are scored."""
        weight = self.repeated(self.half.models[self.geometry.index].score_weight, part)
        return weight if self.images.precision is None else weight * self.of(self.images.precision, part)

    def correlation_weight(self, part: SamplePart) -> Any:
        """Weights of the samples in correlations: 1 but at the origin, times their precision."""
        inside = (self.repeated(self.half.models[self.geometry.index].score_weight, part) > 0).astype(np.float32)
        return inside if self.images.precision is None else inside * self.of(self.images.precision, part)

    def shifts(self, part: SamplePart) -> ShiftBasis | TiltedShifts:
        """Trial shifts on part of the particle's samples."""
        if self.views is None:
            return part.shifts
        key = id(part.shifts)
        if key not in self._tilted:
            self._tilted[key] = TiltedShifts(part.shifts, self.views[:, :2])
        return self._tilted[key]

    def matrices(self, rotations: np.ndarray) -> np.ndarray:
        """Kernel matrices (n_rot, n_image, 3, 3) float32 of rotations (n_rot, 3, 3) of the reference."""
        if self.views is None:
            return self.geometry.sampling_matrices(rotations)[:, None]
        seen = np.swapaxes(self.views, -1, -2) @ self.geometry.frequency_matrix
        turned = np.swapaxes(rotations, -1, -2)[:, None] @ seen
        return np.ascontiguousarray(turned, dtype=np.float32)

    def slices(self, matrices: np.ndarray, part: SamplePart) -> Any:
        """Sample the reference for kernel matrices (n_rot, n_image, 3, 3); (n_rot, n_image * n_sample)."""
        made = make_slices(self.half.reference, matrices.reshape(-1, 3, 3), part.rows, part.n_sample, self.half.r2_max)
        return made.reshape(len(matrices), -1)


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
    shared : slices of the whole coarse grid, for global searches in which all particles see the same ones
    local : neighborhoods of the block's particles, for local searches. Without both the whole grid is searched, every
        particle with slices of its own
    """

    block: Block
    grid: SearchGrid
    settings: SearchSettings
    shared: SharedSlices | None
    local: LocalOrientations | None


def log_shift_prior(search: Search, i: int) -> np.ndarray:
    """Gaussian prior of the total offset at the coarse shifts, consistently in A; (n_trans,) float32."""
    return log_shift_priors(search, slice(i, i + 1))[0]


def log_shift_priors(search: Search, rows: slice = slice(None)) -> np.ndarray:
    """Priors of some particles of the block; (n, n_trans) float32. See ``log_shift_prior``."""
    block = search.block
    total = block.old_origin_A[rows, None] + search.grid.shifts_A - block.origin_prior_A[rows, None]
    priors: np.ndarray = (-0.5 * (total**2).sum(axis=2) / block.half.sigma_offset_A**2).astype(np.float32)
    return priors
