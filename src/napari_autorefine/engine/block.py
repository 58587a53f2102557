"""One block of particles through an iteration: search and sum. Pure: the result depends on the block alone."""

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
from napari_autorefine.xp import array_module, beside, to_host

N_CHILD_ROT = 8
_INTENSITY_PRECISION = 1.0 / 0.5**2  # prior spread 0.5: good particles differ by 0.3, poor ones by more
_INTENSITY_RANGE = (0.05, 3.0)
_PARENT_REACH = 20.0  # a parent whose log weight is this far below the best has no child of consequence
_CROWDED = 0.3  # with more than this share of the grid left, one product with all of it is faster
_HELD_SAMPLES = 4 << 20  # Fourier samples of one particle's fine slices that are held at a time
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


@dataclass(slots=True, kw_only=True)
class FineSlices:
    """Slices of fine orientations, taken from the shared table or sampled when asked for; the last are remembered."""

    search: Search
    orientations: np.ndarray
    matrices: np.ndarray
    _rows: np.ndarray | None = None
    _slices: Any = None

    @property
    def n_sample(self) -> int:
        """Samples of a slice."""
        return self.search.block.geometry.samples.n_sample

    def of(self, rows: np.ndarray) -> Any:
        """Return the slices (n, n_sample) of some of the orientations, ``rows`` ascending."""
        if self._rows is not None and rows[0] >= self._rows[0] and rows[-1] <= self._rows[-1]:
            if len(rows) == len(self._rows):
                return self._slices
            return self._slices[beside(rows - self._rows[0], self._slices)]
        self._rows, self._slices = None, None
        slices = self._sampled(rows)
        if rows[-1] - rows[0] + 1 == len(rows):
            self._rows, self._slices = rows, slices
        return slices

    def _sampled(self, rows: np.ndarray) -> Any:
        block, shared = self.search.block, self.search.shared
        if shared is not None and shared.fine is not None:
            return shared.fine[beside(self.orientations[rows], shared.fine)]
        samples = block.geometry.samples
        return expectation.make_slices(
            block.half.reference, self.matrices[rows], samples.rows, samples.n_sample, block.half.r2_max
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FinePass:
    """Fine samples of one particle, before they are weighted.

    Attributes
    ----------
    orientations : (n_o,) int64, numbers on the fine grid
    directions : (n_o,) int, coarse direction each belongs to
    rotations, matrices : (n_o, 3, 3), reference -> view, and for the kernels
    slices : where their slices come from
    shifts : (n_t,) int64, fine shifts
    trials : the masked image at these shifts
    count : coarse samples they come from
    """

    orientations: np.ndarray
    directions: np.ndarray
    rotations: np.ndarray
    matrices: np.ndarray
    slices: FineSlices
    shifts: np.ndarray
    trials: ShiftedImage
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticleResult:
    """Everything one particle leaves behind; ``insertions`` are empty once a device has added them to its own sums."""

    euler_deg: np.ndarray
    origin_A: np.ndarray
    p_max: float
    log_likelihood: float
    n_significant: int
    norm_power: float
    noise: np.ndarray
    scale_cross: float
    scale_power: float
    intensity: float
    offset_square: float
    weight: float
    directions: np.ndarray
    direction_weights: np.ndarray
    insertions: tuple[Insertion, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockResult:
    """Results of a block, particle by particle, in the block's order."""

    half: int
    group: int
    particles: np.ndarray
    scale_group: np.ndarray
    norm: np.ndarray
    results: tuple[ParticleResult, ...]


def run_block(search: Search) -> BlockResult:
    """Search every particle of a block and sum what it contributes."""
    block = search.block
    results = tuple(search_particles(search))
    return BlockResult(
        half=block.half.half,
        group=block.geometry.index,
        particles=block.particles,
        scale_group=block.scale_group,
        norm=block.norm,
        results=results,
    )


def search_particles(search: Search) -> Iterator[ParticleResult]:
    """Search the particles of a block one after the other, in the block's order."""
    first_pass = _global_first_pass(search) if search.shared is not None else _local_first_pass(search)
    for i, (candidates, kept) in enumerate(first_pass):
        yield _second_pass(search, i, candidates, kept)


def _log_shift_prior(search: Search, i: int) -> np.ndarray:
    """Gaussian prior of the total offset at the coarse shifts, consistently in A; (n_trans,) float32."""
    block = search.block
    total = block.old_origin_A[i] + search.grid.shifts_A - block.origin_prior_A[i]
    return (-0.5 * (total**2).sum(axis=1) / block.half.sigma_offset_A**2).astype(np.float32)


def _select(scores: Any, settings: SearchSettings) -> Significant:
    if settings.is_cc:
        weights, _, _ = expectation.winner(scores)
    else:
        weights, _, _ = expectation.significant_samples(scores, settings.fraction, settings.max_significant)
    return expectation.keep_significant(weights)


def _global_first_pass(search: Search) -> Iterator[tuple[Candidates, Significant]]:
    """First pass of all particles of the block against the whole grid, one product per chunk of orientations.

    On fine grids the parents of its orientations are compared first, and what comes nowhere near the best is left out.
    """
    block, shared, settings = search.block, search.shared, search.settings
    assert shared is not None
    log_prior = np.repeat(block.half.log_pdf_direction, search.grid.orientations.n_psi)
    alive = _children_of_near_parents(search, shared)
    if alive is not None:
        for i, ids in enumerate(alive):
            candidates = Candidates(dir_idx=shared.dir_idx[ids], psi_idx=shared.psi_idx[ids], log_prior=log_prior[ids])
            yield candidates, _select(_scores_of(search, i, candidates, ids), settings)
        return
    scores = shared.table.scores(block.images, block.model, block.geometry.coarse_shifts, is_cc=settings.is_cc)
    candidates = Candidates(dir_idx=shared.dir_idx, psi_idx=shared.psi_idx, log_prior=log_prior)
    for i in range(len(block.particles)):
        own = scores[:, i, :]
        if not settings.is_cc:
            own = own + beside(log_prior, own)[:, None]
            own += beside(_log_shift_prior(search, i), own)[None, :]
        yield candidates, _select(own, settings)


def _children_of_near_parents(search: Search, shared: SharedSlices) -> list[np.ndarray] | None:
    """Orientations worth comparing for each particle; None without parents or when there are too many."""
    block, parents = search.block, shared.parents
    if parents is None:
        return None
    scores = parents.table.scores(block.images, block.model, block.geometry.screen_shifts, is_cc=False)
    alive = []
    for i in range(len(block.particles)):
        best = (scores[:, i, :] + beside(_log_shift_prior(search, i), scores)[None, :]).max(axis=1)
        alive.append(parents.children(to_host(best > best.max() - _PARENT_REACH)))
    if sum(len(ids) for ids in alive) > _CROWDED * len(alive) * len(shared.dir_idx):
        return None
    return alive


def _scores_of(search: Search, i: int, candidates: Candidates, ids: np.ndarray) -> Any:
    """Log weights of one particle against some orientations of the grid, (n_rot, n_trans)."""
    block, shared, geometry = search.block, search.shared, search.block.geometry
    assert shared is not None
    n = geometry.samples.n_coarse
    if shared.coarse is not None:
        slices = shared.coarse[beside(ids, shared.coarse)]
    else:
        rotations = search.grid.orientations.coarse_matrices(
            candidates.dir_idx, candidates.psi_idx, search.grid.perturbation
        )
        matrices = geometry.sampling_matrices(rotations)
        slices = expectation.make_slices(
            block.half.reference, matrices, geometry.samples.coarse_rows, n, block.half.r2_max
        )
    trials = geometry.coarse_shifts.of(block.images.masked[i, :n])
    scores = expectation.log_likelihoods(slices, trials, block.images.contrast[i, :n], block.model.score_weight[:n])
    scores += beside(candidates.log_prior, scores)[:, None]
    scores += beside(_log_shift_prior(search, i), scores)[None, :]
    return scores


def _local_first_pass(search: Search) -> Iterator[tuple[Candidates, Significant]]:
    """First pass of each particle against the orientations around its previous pose.

    Orientations are screened on the low frequencies, where most of the information lies; only those that the ring of
    higher frequencies could still lift to a significant weight are compared in full.
    """
    block, grid, local = search.block, search.grid, search.local
    assert local is not None
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
        scores += beside(candidates.log_prior, scores)[:, None]
        scores += beside(_log_shift_prior(search, i), scores)[None, :]
        if block.geometry.ring_shifts is not None:
            alive = np.flatnonzero(to_host(scores.max(axis=1) > scores.max() - _reach_of_ring(block, i)))
            candidates = candidates.only(alive)
            scores = scores[beside(alive, scores)] + _ring_scores(block, i, matrices[alive])
        yield candidates, _select(scores, search.settings)


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
    trials = geometry.ring_shifts.of(block.images.masked[i, ring])
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


def _second_pass(search: Search, i: int, candidates: Candidates, kept: Significant) -> ParticleResult:
    """Posterior on the children of the significant coarse samples, and its sums."""
    settings = search.settings
    fine = _fine_pass(search, i, candidates, kept)
    n_child = search.grid.fine_shifts_A.shape[1]
    parts = _chunks(len(fine.orientations), fine.slices.n_sample)
    scores = [_fine_scores(search, i, fine, part) for part in parts]
    scores = scores[0] if len(scores) == 1 else array_module(scores[0]).concatenate(scores)
    if not settings.is_cc:
        scores += beside(np.repeat(candidates.log_prior[kept.rotations], N_CHILD_ROT), scores)[:, None]
        scores += beside(np.repeat(_log_shift_prior(search, i)[kept.shifts], n_child), scores)[None, :]
    scores[beside(~expectation.expand_pairs(kept.pairs, N_CHILD_ROT, n_child), scores)] = -np.inf
    found = expectation.posterior(scores, winner_takes_all=settings.is_cc, fraction=settings.fraction)
    return _sums(search, i, fine, found)


def _chunks(n: int, n_sample: int) -> list[slice]:
    """Parts of n slices that are held at a time: a flat posterior must not take memory in proportion."""
    size = max(_HELD_SAMPLES // n_sample, 64)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _fine_scores(search: Search, i: int, fine: FinePass, part: slice) -> Any:
    block, settings = search.block, search.settings
    contrast, weight = block.images.contrast[i], block.model.score_weight
    slices = fine.slices.of(np.arange(part.start, part.stop))
    if settings.is_cc:
        return expectation.correlations(slices, fine.trials, block.images.masked[i], contrast, weight > 0)
    return expectation.log_likelihoods(slices, fine.trials, contrast, weight)


def _fine_pass(search: Search, i: int, candidates: Candidates, kept: Significant) -> FinePass:
    block, grid = search.block, search.grid
    geometry = block.geometry
    dir_idx, psi_idx = candidates.dir_idx[kept.rotations], candidates.psi_idx[kept.rotations]
    rotations = grid.orientations.child_matrices(dir_idx, psi_idx, grid.perturbation).reshape(-1, 3, 3)
    coarse = dir_idx.astype(np.int64) * grid.orientations.n_psi + psi_idx
    orientations = (coarse[:, None] * N_CHILD_ROT + np.arange(N_CHILD_ROT)).ravel()
    n_child = grid.fine_shifts_A.shape[1]
    shifts = (kept.shifts[:, None] * n_child + np.arange(n_child)).ravel()
    matrices = geometry.sampling_matrices(rotations)
    return FinePass(
        orientations=orientations,
        directions=np.repeat(dir_idx, N_CHILD_ROT),
        rotations=rotations,
        matrices=matrices,
        slices=FineSlices(search=search, orientations=orientations, matrices=matrices),
        shifts=shifts,
        trials=geometry.fine_shifts.of(block.images.masked[i], shifts),
        count=kept.count,
    )


def _sums(search: Search, i: int, fine: FinePass, found: Posterior) -> ParticleResult:
    """Sum what one particle contributes under its posterior."""
    block, images, geometry = search.block, search.block.images, search.block.geometry
    moments, insertions = _weighted_slices(search, i, fine, found)
    n_shell = search.settings.n_shell
    noise = np.bincount(geometry.model_shell, weights=moments.residual, minlength=n_shell)
    noise += np.bincount(geometry.outer_shell, weights=images.outer_power[i], minlength=n_shell)
    own_ctf = to_host(images.model_ctf[i]) * block.intensity[i]
    use = block.half.use_for_scale[geometry.model_shell] * own_ctf
    weights = to_host(found.weights)
    column_weight = weights.sum(axis=0, dtype=np.float64)
    total_A = block.old_origin_A[i] + search.grid.fine_shifts_A.reshape(-1, search.grid.fine_shifts_A.shape[-1])
    deviation = total_A[fine.shifts[found.columns]] - block.origin_prior_A[i]
    return ParticleResult(
        euler_deg=matrix_to_euler(fine.rotations[found.best[0]]),
        origin_A=total_A[fine.shifts[found.best[1]]],
        p_max=found.p_max,
        log_likelihood=_log_likelihood(search, i, found),
        n_significant=fine.count,
        norm_power=float(noise.sum()),
        noise=noise,
        scale_cross=float((use * moments.cross).sum(dtype=np.float64)),
        scale_power=float((use * own_ctf * moments.power).sum(dtype=np.float64)),
        intensity=_intensity(block, i, moments),
        offset_square=float(column_weight @ (deviation**2).sum(axis=1)),
        weight=float(column_weight.sum()),
        directions=fine.directions[found.rows],
        direction_weights=weights.sum(axis=1, dtype=np.float64),
        insertions=insertions,
    )


def _weighted_slices(
    search: Search, i: int, fine: FinePass, found: Posterior
) -> tuple[maximization.Moments, tuple[Insertion, ...]]:
    """Residual moments and insertions of a particle, a part of its orientations at a time."""
    images, geometry, model = search.block.images, search.block.geometry, search.block.model
    masked_trials = fine.trials.only(found.columns)
    trials = geometry.fine_shifts.of(images.unmasked[i], fine.shifts[found.columns])
    cross = power = None
    insertions = []
    for part in _chunks(len(found.rows), fine.slices.n_sample):
        rows, weights = found.rows[part], found.weights[part]
        slices = fine.slices.of(rows)
        own_cross, own_power = maximization.slice_moments(slices, masked_trials, weights)
        cross = own_cross if cross is None else cross + own_cross
        power = own_power if power is None else power + own_power
        contribution = maximization.Contribution(
            orientations=fine.orientations[rows],
            matrices=fine.matrices[rows],
            gain=images.gain[i] * model.inverse_sigma2,
            weight=images.weight[i] * model.inverse_sigma2,
            rows=geometry.samples.rows,
        )
        insertions.append(maximization.insertion(weights, trials, contribution))
    moments = maximization.moments(cross, power, images.masked[i], images.contrast[i], total=float(found.weights.sum()))
    return moments, tuple(insertions)


def _intensity(block: Block, i: int, moments: maximization.Moments) -> float:
    """Maximum a posteriori intensity of one particle relative to its group, under a Gaussian prior around 1.

    The likelihood is that of the compared samples between the shells that the halves share and the current resolution:
    intensities tell particles from empty or foreign images there, while at low frequencies everything looks alike.
    """
    model, geometry = block.model, block.geometry
    use = block.half.use_for_intensity[geometry.model_shell] * to_host(model.score_weight)
    group_contrast = to_host(block.images.contrast[i]) / block.intensity[i]
    cross = float((use * group_contrast * moments.cross).sum(dtype=np.float64))
    power = float((use * group_contrast**2 * moments.power).sum(dtype=np.float64))
    intensity = (cross + _INTENSITY_PRECISION) / (power + _INTENSITY_PRECISION)
    return float(np.clip(intensity, *_INTENSITY_RANGE))


def _log_likelihood(search: Search, i: int, found: Posterior) -> float:
    """Log-likelihood contribution of a particle; the correlation itself in a correlation iteration."""
    if search.settings.is_cc:
        return found.log_evidence
    masked, model = search.block.images.masked[i], search.block.model
    power = float((model.score_weight * (masked.real**2 + masked.imag**2)).sum(dtype=np.float64))
    return found.log_evidence - 0.5 * power - model.log_noise
