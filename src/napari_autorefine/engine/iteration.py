"""The expectation step of one iteration over both half-sets: contexts, blocks, sums."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack
from math import ceil

import numpy as np

from napari_autorefine.engine.accuracy import Accuracy, particle_accuracy
from napari_autorefine.engine.block import BlockResult, run_block
from napari_autorefine.engine.context import GroupGeometry, GroupModel, HalfContext
from napari_autorefine.engine.device import DeviceTeam, in_turn, resident_context, resident_geometry
from napari_autorefine.engine.half_job import HalfJob, IterationPlan, make_search, matrix_source
from napari_autorefine.engine.insertion import HalfSum, OrientationTable
from napari_autorefine.engine.prepare import BlockSource, cut_into_blocks, transfer
from napari_autorefine.engine.projector import make_reference
from napari_autorefine.engine.reconstruction import Accumulators
from napari_autorefine.engine.setup import Setup
from napari_autorefine.engine.slices import SharedSlices, share_slices
from napari_autorefine.engine.state import HalfModel
from napari_autorefine.engine.sums import HalfStatistics, PoseTable, new_norms
from napari_autorefine.engine.workers import Workers
from napari_autorefine.events import Message, Progress
from napari_autorefine.xp import is_out_of_memory, on_device, release_device_memory

_BLOCK_GLOBAL, _BLOCK_LOCAL = 16, 16
_N_ACCURACY = 100
_SCALE_SSNR = 3.0
EDGE = 1.0 + 1e-5  # samples on the sphere |q| = r_max itself are inside, whatever their rounding
_WAITING_BYTES = 192 << 20


def half_context(
    setup: Setup, model: HalfModel, half: int, plan: IterationPlan, geometries: tuple[GroupGeometry, ...], threads: int
) -> HalfContext:
    """Transform a half's reference and turn its model into per-sample weights."""
    options = setup.options
    reference = make_reference(model.map, pad=options.pad, r_max=plan.current_size / 2, threads=threads)
    pdf = np.maximum(model.pdf_direction, 1e-12 / max(len(model.pdf_direction), 1))
    return HalfContext(
        half=half,
        reference=reference.data,
        r2_max=reference.r2_max * EDGE,
        models=tuple(
            group_model(model.sigma2_noise[g.index], slice_power(model), g, options.sigma2_fudge) for g in geometries
        ),
        log_pdf_direction=np.log(pdf).astype(np.float32),
        use_for_scale=(model.ssnr > _SCALE_SSNR).astype(np.float32),
        use_for_intensity=intensity_shells(setup, model.ssnr).astype(np.float32),
        sigma2_noise=model.sigma2_noise,
        norm_average=model.norm_average,
        scale=np.maximum(model.scale, 1e-3),
        sigma_offset_A=model.sigma_offset_A,
    )


def intensity_shells(setup: Setup, ssnr: np.ndarray) -> np.ndarray:
    """Shells that tell the intensity of single particles: beyond those the halves share, up to the resolution."""
    join_A = setup.options.low_resol_join_halves_A
    first = ceil(setup.box_size * setup.voxel_size_A / join_A) if join_A > 0 else 1
    above = np.flatnonzero(ssnr > 1.0)
    last = int(above[-1]) if len(above) else 0
    shells = np.arange(len(ssnr))
    return (shells >= first) & (shells <= last)


def slice_power(model: HalfModel) -> np.ndarray:
    """Mean |P|^2 of slices per shell that the spectra of a half promise: signal power times its Wiener filter."""
    return 2.0 * model.tau2 * model.ssnr / (1.0 + model.ssnr)


def group_model(sigma2: np.ndarray, power: np.ndarray, geometry: GroupGeometry, sigma2_fudge: float) -> GroupModel:
    """Noise variances and expected slice power (both per reference shell) of an optics group on its samples."""
    own = sigma2[geometry.model_shell]
    inverse = (1.0 / own).astype(np.float32)
    score = inverse / np.float32(sigma2_fudge)
    score[0] = 0.0
    return GroupModel(
        inverse_sigma2=inverse,
        score_weight=score,
        expected_power=power[geometry.model_shell].astype(np.float32),
        log_noise=float(np.log(2.0 * np.pi * own[1:]).sum()),
    )


def expected_accuracy(
    setup: Setup, source: BlockSource, half: HalfContext, geometries: tuple[GroupGeometry, ...], workers: Workers
) -> Accuracy:
    """Mean expected errors over the first particles of half-set 1, computed on the first device if there is any."""
    if setup.options.devices:
        device = setup.options.devices[0]
        try:
            with on_device(device):
                resident = tuple(resident_geometry(g, device) for g in geometries)
                return _accuracy_of(setup, source, resident_context(half, device), resident, in_turn)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        release_device_memory(device)
    return _accuracy_of(setup, source, half, geometries, workers.each)


def _accuracy_of(
    setup: Setup,
    source: BlockSource,
    half: HalfContext,
    geometries: tuple[GroupGeometry, ...],
    each: Callable[[Callable[[int], None], Iterable[int]], None],
) -> Accuracy:
    chosen = setup.members(1)[:_N_ACCURACY]
    optics_index = setup.problem.particles.optics_index
    results = [(0.0, 0.0, np.zeros(setup.n_shell))] * len(chosen)

    def estimate(i: int) -> None:
        geometry = geometries[optics_index[chosen[i]]]
        model_ctf = transfer(source, geometry, chosen[i : i + 1])[0]
        seed = setup.options.random_seed + int(chosen[i])
        results[i] = particle_accuracy(
            half, geometry, source.poses.euler_deg[chosen[i]], model_ctf, seed, setup.n_shell
        )

    each(estimate, range(len(chosen)))
    rot, trans, shares = zip(*results, strict=True)
    return Accuracy(
        rot_deg=float(np.mean(rot)), trans_A=float(np.mean(trans)), orientability=np.mean(np.array(shares), axis=0)
    )


def run_half(
    job: HalfJob, table: PoseTable, workers: Workers, done: int
) -> Generator[Progress | Message, None, tuple[HalfStatistics, Accumulators]]:
    """Search one half-set; yields progress, returns sums and the Fourier volume, fills the pose table."""
    setup, options = job.setup, job.setup.options
    members = _work_order(job, setup.members(job.context.half))
    half_sum = _half_sum(job, workers)
    statistics = HalfStatistics.zeros(
        n_optics=len(setup.optics),
        n_shell=setup.n_shell,
        n_group=len(setup.group_names),
        n_dir=job.grid.orientations.n_dir,
    )

    total = len(setup.half)
    with ExitStack() as stack:
        team = stack.enter_context(DeviceTeam(job, half_sum.accumulators, half_sum.r2_max)) if options.devices else None
        for result in _results(job, members, workers, team):
            norms = new_norms(result, job.context.norm_average, is_corrected=options.norm)
            statistics.add(result, norms)
            table.fill(result, norms)
            for particle in result.results:
                for entry in particle.insertions:
                    half_sum.add(result.group, entry)
            done += len(result.particles)
            yield from () if team is None else team.notes()
            yield Progress(stage="expectation", done=done, total=total, iteration=job.plan.iteration)
        accumulators = half_sum.finish({g.index: matrix_source(g, job.grid) for g in job.geometries})
        if team is not None:
            team.finish()
    table.level_intensity(members, is_estimated=options.particle_scale and not job.plan.is_cc)
    return statistics, accumulators


def _results(job: HalfJob, members: np.ndarray, workers: Workers, team: DeviceTeam | None) -> Iterator[BlockResult]:
    """Search blocks of particles, on the devices where there are any; results come in the order of the blocks."""
    optics_index = job.setup.problem.particles.optics_index
    if team is not None:
        return team.results(cut_into_blocks(members, optics_index, team.block_size), workers)
    shared = _shared_slices(job, workers)
    blocks = cut_into_blocks(members, optics_index, _BLOCK_LOCAL if job.is_local else _BLOCK_GLOBAL)
    return workers.ordered(lambda indices: run_block(make_search(job, indices, shared)), blocks)


def _work_order(job: HalfJob, members: np.ndarray) -> np.ndarray:
    """Particles that look alike next to each other, so that neighbours read the same part of the reference."""
    if not job.is_local:
        return members
    euler = np.radians(job.source.poses.euler_deg[members])
    band = np.floor(np.degrees(euler[:, 1]) / 5.0)
    return members[np.lexsort((euler[:, 0] * (1 - 2 * (band % 2)), band))]


def _shared_slices(job: HalfJob, workers: Workers) -> dict[int, SharedSlices]:
    if job.is_local:
        return {}
    budget = job.setup.options.memory_bytes // (4 * len(job.geometries))
    return {
        g.index: share_slices(
            job.context, g, job.grid, n_particle=job.n_particle_of(g), memory_bytes=budget, run=workers.each
        )
        for g in job.geometries
    }


def _half_sum(job: HalfJob, workers: Workers) -> HalfSum:
    setup = job.setup
    accumulators = Accumulators.zeros(setup.box_size, pad=setup.options.pad, r_max=job.plan.current_size / 2)
    budget = setup.options.memory_bytes // (4 * len(job.geometries))
    tables = {}
    if not job.is_local and not job.plan.is_cc:
        n_fine = job.n_fine_orientation
        for g in job.geometries:
            if OrientationTable.nbytes(n_fine, g.samples.n_sample) <= budget:
                tables[g.index] = OrientationTable.zeros(n_fine, g.samples.n_sample, g.samples.rows)
    return HalfSum(
        accumulators=accumulators,
        r2_max=accumulators.r2_max * EDGE,
        run=workers.each,
        n_slabs=workers.threads,
        limit_bytes=_WAITING_BYTES,
        tables=tables,
    )
