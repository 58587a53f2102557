"""What has to be done with one half-set in an iteration, and how a block of its particles becomes a search."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from napari_autorefine.engine.block import BlockResult
from napari_autorefine.engine.context import GroupGeometry, HalfContext, SearchGrid
from napari_autorefine.engine.grids import N_CHILD
from napari_autorefine.engine.neighborhoods import local_neighborhoods
from napari_autorefine.engine.prepare import prepare_block
from napari_autorefine.engine.search import Search, SearchSettings
from napari_autorefine.engine.second_pass import ParticleResult
from napari_autorefine.engine.setup import Setup
from napari_autorefine.engine.slices import Map, SharedSlices, share_slices
from napari_autorefine.engine.source import BlockSource, RawParticles

EDGE = 1.0 + 1e-5  # samples on the sphere |q| = r_max itself are inside, whatever their rounding
# Of an image that fits more orientations so many are refined, drawn by their weights: an image that tells so little is
# one of very many, and their sum hardly differs (final maps and poses of no benchmark set do).
_MOST_ROTATIONS = 128
# Steps of local grids are fractions of what the images resolve: few of their orientations stand for all.
_MOST_REPRESENTATIVES, _MOST_LOCAL_REPRESENTATIVES = 256, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class IterationPlan:
    """What is decided before the expectation step of an iteration.

    Attributes
    ----------
    current_size : working size on the reference grid
    sizes : per optics group, working image sizes of screening, first and second pass
    """

    iteration: int
    is_cc: bool
    is_final: bool
    current_size: int
    sizes: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfJob:
    """One half-set's work in an iteration."""

    setup: Setup
    source: BlockSource
    plan: IterationPlan
    grid: SearchGrid
    geometries: tuple[GroupGeometry, ...]
    context: HalfContext
    is_local: bool
    sigma_angle_deg: float

    @property
    def shares_slices(self) -> bool:
        """Whether all particles of an optics group are compared with the same slices, those of the whole grid."""
        return not self.is_local and self.setup.tilts is None and self.setup.options.sigma_tilt_deg <= 0

    @property
    def sums_orientations(self) -> bool:
        """Whether images are added up per orientation of the grid before they are inserted."""
        form = self.setup.problem.particles.form
        return form == "image" and not self.is_local and not self.plan.is_cc

    @property
    def n_fine_orientation(self) -> int:
        """Orientations of the fine grid."""
        return N_CHILD * self.grid.orientations.n_orientation

    def n_particle_of(self, geometry: GroupGeometry) -> int:
        """Particles of an optics group in this half-set."""
        group = self.setup.problem.particles.optics_index[self.setup.members(self.context.half)]
        return int(np.count_nonzero(group == geometry.index))

    def geometry_of(self, indices: np.ndarray) -> GroupGeometry:
        """Return the geometry of a block's optics group."""
        return self.geometries[int(self.setup.problem.particles.optics_index[indices[0]])]


def shared_within(job: HalfJob, memory_bytes: int, run: Map) -> dict[int, SharedSlices]:
    """Return the slices of the whole grid per optics group, as many as fit into a budget each; none where none share.

    Parameters
    ----------
    job : of a half-set
    memory_bytes : budget per optics group
    run : ``map`` over chunks, in parallel where the caller has threads
    """
    if not job.shares_slices:
        return {}
    return {
        g.index: share_slices(
            job.context, g, job.grid, n_particle=job.n_particle_of(g), memory_bytes=memory_bytes, run=run
        )
        for g in job.geometries
    }


def block_result(job: HalfJob, indices: np.ndarray, results: Iterable[ParticleResult]) -> BlockResult:
    """Put the results of a block of particles together."""
    return BlockResult(
        half=job.context.half,
        group=job.geometry_of(indices).index,
        particles=indices,
        scale_group=job.source.scale_group[indices],
        norm=job.source.poses.norm_correction[indices],
        results=tuple(results),
    )


def make_search(
    job: HalfJob, indices: np.ndarray, shared: dict[int, SharedSlices], raw: RawParticles | None = None
) -> Search:
    """Prepare a block of particles of one optics group where the job's reference is: on the host or on a device.

    Parameters
    ----------
    shared : slices of the whole grid per optics group, where particles share them
    raw : images of the particles, when they have been read before
    """
    geometry = job.geometry_of(indices)
    local = None
    if job.is_local:
        local = local_neighborhoods(job.grid.orientations, job.source.poses.euler_deg[indices], job.sigma_angle_deg)
    settings = SearchSettings(
        is_cc=job.plan.is_cc,
        fraction=job.setup.options.adaptive_fraction,
        max_significant=job.setup.options.max_significant,
        most_rotations=_MOST_ROTATIONS,
        most_representatives=_MOST_LOCAL_REPRESENTATIVES if job.is_local else _MOST_REPRESENTATIVES,
        n_shell=job.setup.n_shell,
        sigma_tilt_deg=job.setup.options.sigma_tilt_deg,
    )
    return Search(
        block=prepare_block(job.source, job.context, geometry, indices, raw),
        grid=job.grid,
        settings=settings,
        shared=shared[geometry.index] if job.shares_slices else None,
        local=local,
    )


def matrix_source(geometry: GroupGeometry, grid: SearchGrid) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from fine orientation numbers to kernel matrices."""

    def matrices(fine: np.ndarray) -> np.ndarray:
        coarse, own = np.unique(fine // N_CHILD, return_inverse=True)
        dir_idx, psi_idx = np.divmod(coarse, grid.orientations.n_psi)
        rotations = grid.orientations.child_matrices(dir_idx, psi_idx, grid.perturbation)
        return geometry.sampling_matrices(rotations[own, fine % N_CHILD])

    return matrices
