"""One block of particles through an iteration: prepare, search, sum. Pure: the result depends on the block alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_autorefine.engine import expectation, maximization
from napari_autorefine.engine.context import GroupGeometry, GroupModel, HalfContext, SearchGrid
from napari_autorefine.engine.expectation import Posterior, Significant
from napari_autorefine.engine.images import PreparedImages
from napari_autorefine.engine.maximization import Insertion
from napari_autorefine.engine.neighborhoods import LocalOrientations
from napari_autorefine.engine.shifts import ShiftedImage
from napari_autorefine.engine.slices import SharedSlices
from napari_autorefine.model.geometry import matrix_to_euler
from napari_autorefine.xp import to_host

N_CHILD_ROT = 8
_NEGLIGIBLE = 12.0  # a log weight this far below the best is of no consequence


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """Switches of the search that are the same for every particle."""

    is_cc: bool
    fraction: float
    max_significant: int
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
    """

    half: HalfContext
    geometry: GroupGeometry
    particles: np.ndarray
    images: PreparedImages
    old_origin_A: np.ndarray
    origin_prior_A: np.ndarray
    scale_group: np.ndarray
    norm: np.ndarray

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
        """The candidates at some positions."""
        return Candidates(dir_idx=self.dir_idx[kept], psi_idx=self.psi_idx[kept], log_prior=self.log_prior[kept])


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticleResult:
    """Everything one particle leaves behind."""

    euler_deg: np.ndarray
    origin_A: np.ndarray
    p_max: float
    log_likelihood: float
    n_significant: int
    norm_power: float
    noise: np.ndarray
    scale_cross: float
    scale_power: float
    offset_square: float
    weight: float
    directions: np.ndarray
    direction_weights: np.ndarray
    insertion: Insertion


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockResult:
    """Results of a block, particle by particle, in the block's order."""

    half: int
    group: int
    particles: np.ndarray
    scale_group: np.ndarray
    norm: np.ndarray
    results: tuple[ParticleResult, ...]


def run_block(
    block: Block,
    grid: SearchGrid,
    settings: SearchSettings,
    *,
    shared: SharedSlices | None,
    local: LocalOrientations | None,
) -> BlockResult:
    """Search every particle of a block and sum what it contributes.

    Parameters
    ----------
    shared : slices of the whole coarse grid, for global searches
    local : neighborhoods of the block's particles, for local searches; exactly one of both is given
    """
    if shared is not None:
        first_pass: Iterator[tuple[Candidates, Significant]] = _global_first_pass(block, grid, settings, shared)
    else:
        assert local is not None
        first_pass = _local_first_pass(block, grid, settings, local)
    results = tuple(
        _second_pass(block, grid, settings, i, candidates, kept, shared)
        for i, (candidates, kept) in enumerate(first_pass)
    )
    return BlockResult(
        half=block.half.half,
        group=block.geometry.index,
        particles=block.particles,
        scale_group=block.scale_group,
        norm=block.norm,
        results=results,
    )


def _log_shift_prior(block: Block, grid: SearchGrid, i: int) -> np.ndarray:
    """Gaussian prior of the total offset at the coarse shifts, consistently in A; (n_trans,) float32."""
    total = block.old_origin_A[i] + grid.shifts_A - block.origin_prior_A[i]
    return (-0.5 * (total**2).sum(axis=1) / block.half.sigma_offset_A**2).astype(np.float32)


def _select(scores: Any, settings: SearchSettings) -> Significant:
    if settings.is_cc:
        weights, _, _ = expectation.winner(scores)
    else:
        weights, _, _ = expectation.significant_samples(scores, settings.fraction, settings.max_significant)
    return expectation.keep_significant(weights)


def _global_first_pass(
    block: Block, grid: SearchGrid, settings: SearchSettings, shared: SharedSlices
) -> Iterator[tuple[Candidates, Significant]]:
    """First pass of all particles of the block against the whole grid, one product per chunk of orientations."""
    scores = shared.scores(block.images, block.model, block.geometry, is_cc=settings.is_cc)
    orientations = grid.orientations
    log_prior = np.repeat(block.half.log_pdf_direction, orientations.n_psi)
    candidates = Candidates(dir_idx=shared.dir_idx, psi_idx=shared.psi_idx, log_prior=log_prior)
    for i in range(len(block.particles)):
        own = scores[:, i, :]
        if not settings.is_cc:
            own = own + log_prior[:, None] + _log_shift_prior(block, grid, i)[None, :]
        yield candidates, _select(own, settings)


def _local_first_pass(
    block: Block, grid: SearchGrid, settings: SearchSettings, local: LocalOrientations
) -> Iterator[tuple[Candidates, Significant]]:
    """First pass of each particle against the orientations around its previous pose.

    Orientations are screened on the low frequencies, where most of the information lies; only those that the ring of
    higher frequencies could still lift to a significant weight are compared in full.
    """
    for i in range(len(block.particles)):
        own = slice(local.offsets[i], local.offsets[i + 1])
        candidates = Candidates(
            dir_idx=local.dir_idx[own],
            psi_idx=local.psi_idx[own],
            log_prior=local.log_prior[own].astype(np.float32),
        )
        rotations = grid.orientations.coarse_matrices(candidates.dir_idx, candidates.psi_idx, grid.perturbation)
        matrices = block.geometry.sampling_matrices(rotations)
        scores = _screening_scores(block, i, matrices)
        scores += candidates.log_prior[:, None]
        scores += _log_shift_prior(block, grid, i)[None, :]
        if block.geometry.ring_shifts is not None:
            alive = np.flatnonzero(to_host(scores.max(axis=1) > scores.max() - _reach_of_ring(block, i)))
            candidates = candidates.only(alive)
            scores = scores[alive] + _ring_scores(block, i, matrices[alive])
        yield candidates, _select(scores, settings)


def _screening_scores(block: Block, i: int, matrices: np.ndarray) -> Any:
    """Log-likelihoods on the screening disc, (n_rot, n_trans)."""
    geometry, samples, n = block.geometry, block.geometry.samples, block.geometry.samples.n_screen
    slices = expectation.make_slices(block.half.reference, matrices, samples.screen_rows, n, block.half.r2_max)
    trials = geometry.screen_shifts.of(block.images.masked[i, :n])
    return expectation.log_likelihoods(slices, trials, block.images.contrast[i, :n], block.model.score_weight[:n])


def _ring_scores(block: Block, i: int, matrices: np.ndarray) -> Any:
    """Log-likelihoods on the ring between the screening disc and the first pass, (n_rot, n_trans)."""
    geometry, samples = block.geometry, block.geometry.samples
    ring = slice(samples.n_screen, samples.n_coarse)
    slices = expectation.make_slices(
        block.half.reference, matrices, samples.ring_rows, samples.n_coarse - samples.n_screen, block.half.r2_max
    )
    assert geometry.ring_shifts is not None
    trials = geometry.ring_shifts.of(np.ascontiguousarray(block.images.masked[i, ring]))
    return expectation.log_likelihoods(slices, trials, block.images.contrast[i, ring], block.model.score_weight[ring])


def _reach_of_ring(block: Block, i: int) -> float:
    """By how much the ring can change the order of two orientations, and a margin of negligible weight.

    With G the expected log-likelihood gain of the right pose over an empty model in the ring, a right pose gains about
    G and a wrong one loses about G there.
    """
    ring = slice(block.geometry.samples.n_screen, block.geometry.samples.n_coarse)
    model = block.model
    gain = 0.5 * block.images.contrast[i, ring] ** 2 * model.score_weight[ring] * model.expected_power[ring]
    return _NEGLIGIBLE + 2.0 * float(gain.sum())


def _second_pass(
    block: Block,
    grid: SearchGrid,
    settings: SearchSettings,
    i: int,
    candidates: Candidates,
    kept: Significant,
    shared: SharedSlices | None,
) -> ParticleResult:
    geometry, images, model = block.geometry, block.images, block.model
    dir_idx, psi_idx = candidates.dir_idx[kept.rotations], candidates.psi_idx[kept.rotations]
    rotations = grid.orientations.child_matrices(dir_idx, psi_idx, grid.perturbation).reshape(-1, 3, 3)
    coarse = dir_idx.astype(np.int64) * grid.orientations.n_psi + psi_idx
    fine = (coarse[:, None] * N_CHILD_ROT + np.arange(N_CHILD_ROT)).ravel()
    matrices = geometry.sampling_matrices(rotations)
    slices = _fine_slices(block, fine, matrices, shared)
    n_child = grid.fine_shifts_A.shape[1]
    fine_shifts = (kept.shifts[:, None] * n_child + np.arange(n_child)).ravel()
    mask = expectation.expand_pairs(kept.pairs, N_CHILD_ROT, n_child)
    trials = geometry.fine_shifts.of(images.masked[i], fine_shifts)
    scores = _fine_scores(block, settings, i, slices, trials)
    if not settings.is_cc:
        scores += np.repeat(candidates.log_prior[kept.rotations], N_CHILD_ROT)[:, None]
        scores += np.repeat(_log_shift_prior(block, grid, i)[kept.shifts], n_child)[None, :]
    scores[~mask] = -np.inf
    found = expectation.posterior(scores, winner_takes_all=settings.is_cc, fraction=settings.fraction)
    shifts = grid.fine_shifts_A[kept.shifts].reshape(-1, grid.fine_shifts_A.shape[-1])
    return _sums(
        block, settings, i, found,
        fine=fine, directions=np.repeat(dir_idx, N_CHILD_ROT), rotations=rotations, matrices=matrices,
        slices=slices, trials=trials, fine_shifts=fine_shifts, shifts_A=shifts, count=kept.count,
    )  # fmt: skip


def _fine_slices(block: Block, fine: np.ndarray, matrices: np.ndarray, shared: SharedSlices | None) -> Any:
    samples = block.geometry.samples
    if shared is not None and shared.fine is not None:
        return shared.fine[fine]
    return expectation.make_slices(block.half.reference, matrices, samples.rows, samples.n_sample, block.half.r2_max)


def _fine_scores(block: Block, settings: SearchSettings, i: int, slices: Any, trials: ShiftedImage) -> Any:
    contrast, weight = block.images.contrast[i], block.model.score_weight
    if settings.is_cc:
        return expectation.correlations(slices, trials, block.images.masked[i], contrast, weight > 0)
    return expectation.log_likelihoods(slices, trials, contrast, weight)


def _sums(
    block: Block,
    settings: SearchSettings,
    i: int,
    found: Posterior,
    *,
    fine: np.ndarray,
    directions: np.ndarray,
    rotations: np.ndarray,
    matrices: np.ndarray,
    slices: Any,
    trials: ShiftedImage,
    fine_shifts: np.ndarray,
    shifts_A: np.ndarray,
    count: int,
) -> ParticleResult:
    geometry, images, model = block.geometry, block.images, block.model
    if len(found.rows) < len(slices):
        slices = slices[found.rows]
    moments = maximization.residual_moments(
        found, slices, images.masked[i], trials.only(found.columns), images.contrast[i]
    )
    entry = maximization.insertion(
        found,
        geometry.fine_shifts.of(images.unmasked[i], fine_shifts[found.columns]),
        images.gain[i] * model.inverse_sigma2,
        images.weight[i] * model.inverse_sigma2,
        orientations=fine[found.rows],
        matrices=matrices[found.rows],
        rows=geometry.samples.rows,
    )
    outer = np.bincount(geometry.outer_shell, weights=images.outer_power[i], minlength=settings.n_shell)
    noise = np.bincount(geometry.model_shell, weights=moments.residual, minlength=settings.n_shell) + outer
    scale_use = block.half.use_for_scale[geometry.model_shell]
    model_ctf = to_host(images.model_ctf[i])
    weights = to_host(found.weights)
    column_weight, row_weight = weights.sum(axis=0, dtype=np.float64), weights.sum(axis=1, dtype=np.float64)
    total_A = block.old_origin_A[i] + shifts_A
    deviation = total_A[found.columns] - block.origin_prior_A[i]
    masked = images.masked[i]
    power = float((model.score_weight * (masked.real**2 + masked.imag**2)).sum(dtype=np.float64))
    evidence = found.log_evidence if settings.is_cc else found.log_evidence - 0.5 * power - model.log_noise
    return ParticleResult(
        euler_deg=matrix_to_euler(rotations[found.best[0]]),
        origin_A=total_A[found.best[1]],
        p_max=found.p_max,
        log_likelihood=evidence,
        n_significant=count,
        norm_power=float(noise.sum()),
        noise=noise,
        scale_cross=float((scale_use * model_ctf * moments.cross).sum(dtype=np.float64)),
        scale_power=float((scale_use * model_ctf**2 * moments.power).sum(dtype=np.float64)),
        offset_square=float(column_weight @ (deviation**2).sum(axis=1)),
        weight=float(column_weight.sum()),
        directions=directions[found.rows],
        direction_weights=row_weight,
        insertion=entry,
    )
