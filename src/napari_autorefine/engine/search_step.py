"""What an iteration's search starts from, in values that can be sent elsewhere, and who may carry it out."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

from napari_autorefine.engine.context import GroupGeometry, SearchGrid
from napari_autorefine.engine.grids import OrientationGrid, make_orientation_grid
from napari_autorefine.engine.half_job import HalfJob, IterationPlan
from napari_autorefine.engine.iteration import half_context
from napari_autorefine.engine.reconstruction import Accumulators
from napari_autorefine.engine.setup import Setup, group_geometry
from napari_autorefine.engine.source import BlockSource
from napari_autorefine.engine.state import HalfModel, Poses, Sampling
from napari_autorefine.engine.sums import HalfStatistics, PoseTable
from napari_autorefine.events import Message, Progress

HalfSums = tuple[HalfStatistics, Accumulators]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchStep:
    """With the setup, all that the search of an iteration depends on.

    Attributes
    ----------
    models : of half-set 1 and 2
    """

    plan: IterationPlan
    sampling: Sampling
    poses: Poses
    models: tuple[HalfModel, HalfModel]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepGeometry:
    """What both half-sets of a step share, worked out from it."""

    grid: SearchGrid
    groups: tuple[GroupGeometry, ...]

    @classmethod
    def of(
        cls, setup: Setup, sampling: Sampling, plan: IterationPlan, orientations: OrientationGrid | None = None
    ) -> StepGeometry:
        """Work out grid, samples, masks and shifts; ``orientations`` are those of the sampling, when they are there."""
        if orientations is None:
            orientations = make_orientation_grid(sampling.healpix_order, setup.group)
        grid = SearchGrid.from_sampling(sampling, orientations)
        groups = tuple(group_geometry(setup, i, grid, plan.sizes[i]) for i in range(len(setup.optics)))
        return cls(grid=grid, groups=groups)


def block_source(setup: Setup, poses: Poses) -> BlockSource:
    """Return what blocks are made from while poses are the given ones."""
    return BlockSource.of(setup, poses)


def half_job(
    setup: Setup, step: SearchStep, half: int, *, geometry: StepGeometry, source: BlockSource, threads: int
) -> HalfJob:
    """Return the work on one half-set; its reference is transformed here."""
    model = step.models[half - 1]
    return HalfJob(
        setup=setup,
        source=source,
        plan=step.plan,
        grid=geometry.grid,
        geometries=geometry.groups,
        context=half_context(setup, model, half, step.plan, geometry.groups, threads),
        is_local=step.sampling.is_local,
        sigma_angle_deg=step.sampling.sigma_angle_deg,
    )


class Crew(Protocol):
    """Processes that search particles instead of this one."""

    def search(
        self, setup: Setup, step: SearchStep, n_dir: int, table: PoseTable
    ) -> Generator[Progress | Message, None, tuple[HalfSums, HalfSums]]:
        """Search both half-sets; yields progress, returns sums and Fourier volumes, fills the pose table."""
        ...
