"""The expectation step of one iteration over both half-sets: contexts, blocks, sums."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from math import ceil

import numpy as np

from napari_autorefine.engine.accuracy import Accuracy, particle_accuracy
from napari_autorefine.engine.batch_accuracy import image_accuracies
from napari_autorefine.engine.block import BlockResult
from napari_autorefine.engine.context import GroupGeometry, GroupModel, HalfContext
from napari_autorefine.engine.device import in_turn, resident_context, resident_geometry
from napari_autorefine.engine.half_job import EDGE, HalfJob, IterationPlan
from napari_autorefine.engine.half_search import HalfSearch, work_order
from napari_autorefine.engine.projector import make_reference
from napari_autorefine.engine.reconstruction import Accumulators
from napari_autorefine.engine.setup import Setup
from napari_autorefine.engine.source import BlockSource
from napari_autorefine.engine.state import HalfModel
from napari_autorefine.engine.sums import HalfStatistics, PoseTable, new_norms
from napari_autorefine.engine.transfers import block_optics, particle_optics
from napari_autorefine.engine.workers import Workers
from napari_autorefine.events import Message, Progress
from napari_autorefine.xp import is_on_device, is_out_of_memory, on_device, release_device_memory

_N_ACCURACY, _N_ACCURACY_VOLUMES = 100, 10
_ACCURACY_SAMPLES = 1 << 15  # of images that are compared at once
_SCALE_SSNR = 3.0

Each = Callable[[Callable[[int], None], Iterable[int]], None]


def half_context(
    setup: Setup, model: HalfModel, half: int, plan: IterationPlan, geometries: tuple[GroupGeometry, ...], threads: int
) -> HalfContext:
    """Transform a half's reference and turn its model into per-sample weights."""
    options = setup.options
    reference = make_reference(
        model.map, pad=options.pad, r_max=plan.current_size / 2, data_dim=setup.data_dim, threads=threads
    )
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
                there = resident_context(half, device)
                return _accuracy_of(setup, source, there, resident, in_turn)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        release_device_memory(device)
    return _accuracy_of(setup, source, half, geometries, workers.each)


def _accuracy_of(
    setup: Setup, source: BlockSource, half: HalfContext, geometries: tuple[GroupGeometry, ...], each: Each
) -> Accuracy:
    if setup.data_dim == 2 and setup.tilts is None:
        return _accuracy_together(setup, source, half, geometries, each)
    chosen = setup.members(1)[: _N_ACCURACY if setup.data_dim == 2 else _N_ACCURACY_VOLUMES]
    optics_index = setup.problem.particles.optics_index
    results = [(0.0, 0.0, np.zeros(setup.n_shell))] * len(chosen)

    def estimate(i: int) -> None:
        geometry = geometries[optics_index[chosen[i]]]
        seen = particle_optics(source, geometry, int(chosen[i]))
        seed = setup.options.random_seed + int(chosen[i])
        results[i] = particle_accuracy(half, geometry, source.poses.euler_deg[chosen[i]], seen, seed, setup.n_shell)

    each(estimate, range(len(chosen)))
    return _mean_accuracy(results)


def _accuracy_together(
    setup: Setup, source: BlockSource, half: HalfContext, geometries: tuple[GroupGeometry, ...], each: Each
) -> Accuracy:
    """Compare images of an optics group at once: all on a device, on the host as many as its caches hold."""
    chosen = setup.members(1)[:_N_ACCURACY]
    optics_index = setup.problem.particles.optics_index[chosen]
    pieces: list[tuple[GroupGeometry, np.ndarray]] = []
    for geometry in geometries:
        own, size = chosen[optics_index == geometry.index], len(chosen)
        if not is_on_device(half.reference):
            size = max(1, _ACCURACY_SAMPLES // geometry.samples.n_sample)
        pieces += [(geometry, own[start : start + size]) for start in range(0, len(own), size)]
    results: list[list[tuple[float, float, np.ndarray]]] = [[] for _ in pieces]

    def estimate(i: int) -> None:
        geometry, own = pieces[i]
        seen, seeds = block_optics(source, geometry, own), setup.options.random_seed + own
        results[i] = image_accuracies(half, geometry, source.poses.euler_deg[own], seen, seeds, setup.n_shell)

    each(estimate, range(len(pieces)))
    return _mean_accuracy([one for found in results for one in found])


def _mean_accuracy(results: list[tuple[float, float, np.ndarray]]) -> Accuracy:
    rot, trans, shares = zip(*results, strict=True)
    return Accuracy(
        rot_deg=float(np.mean(rot)), trans_A=float(np.mean(trans)), orientability=np.mean(np.array(shares), axis=0)
    )


class HalfTally:
    """Statistics of one half-set and the new poses of its particles; blocks are taken in their fixed order."""

    def __init__(self, setup: Setup, norm_average: float, *, n_dir: int, table: PoseTable) -> None:
        self._norm_average = norm_average
        self._is_corrected = setup.options.norm
        self._table = table
        self.statistics = HalfStatistics.zeros(
            n_optics=len(setup.optics), n_shell=setup.n_shell, n_group=len(setup.group_names), n_dir=n_dir
        )

    def take(self, result: BlockResult) -> None:
        """Add a block."""
        norms = new_norms(result, self._norm_average, is_corrected=self._is_corrected)
        self.statistics.add(result, norms)
        self._table.fill(result, norms)


def run_half(
    job: HalfJob, table: PoseTable, workers: Workers, done: int
) -> Generator[Progress | Message, None, tuple[HalfStatistics, Accumulators]]:
    """Search one half-set; yields progress, returns sums and the Fourier volume, fills the pose table."""
    setup, options = job.setup, job.setup.options
    members = work_order(setup.members(job.context.half), job.source.poses.euler_deg, is_local=job.is_local)
    tally = HalfTally(setup, job.context.norm_average, n_dir=job.grid.orientations.n_dir, table=table)
    total = len(setup.half)
    with HalfSearch(job, workers) as search:
        for result in search.results(search.cut(members)):
            tally.take(result)
            done += len(result.particles)
            yield from search.notes()
            yield Progress(stage="expectation", done=done, total=total, iteration=job.plan.iteration)
        stage, iteration = f"volume of half-set {job.context.half}", job.plan.iteration
        yield Progress(stage=stage, done=0, total=2, iteration=iteration)
        accumulators = search.finish()
    yield Progress(stage=stage, done=1, total=2, iteration=iteration)
    accumulators.round()
    table.level_intensity(members, is_estimated=options.particle_scale and not job.plan.is_cc)
    return tally.statistics, accumulators
