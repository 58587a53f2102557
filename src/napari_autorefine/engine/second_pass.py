"""Second pass: the posterior of a particle on the fine grid, and what it contributes to map and model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_autorefine.engine import expectation, maximization
from napari_autorefine.engine.expectation import Posterior, Significant
from napari_autorefine.engine.grids import N_CHILD
from napari_autorefine.engine.maximization import Insertion
from napari_autorefine.engine.mean_pose import mean_pose
from napari_autorefine.engine.particle_sums import ParticleSums, particle_sums
from napari_autorefine.engine.search import Candidates, Measured, Search, log_shift_prior
from napari_autorefine.engine.shifts import ShiftedImage
from napari_autorefine.model.geometry import matrix_to_euler
from napari_autorefine.xp import array_module, beside, to_host

_HELD_SAMPLES, _LEAST_HELD = 4 << 20, 8  # samples of one particle's fine slices held at a time; slices at least


@dataclass(slots=True, kw_only=True)
class FineSlices:
    """Slices of fine orientations, taken from the shared table or sampled when asked for; the last are remembered."""

    search: Search
    particle: Measured
    orientations: np.ndarray
    matrices: np.ndarray
    _rows: np.ndarray | None = None
    _slices: Any = None

    @property
    def n_sample(self) -> int:
        """Samples of a slice, of all tilts of a stack."""
        return self.particle.n_image * self.search.block.geometry.samples.n_sample

    @property
    def table(self) -> np.ndarray | None:
        """The shared table, where there is one on the host."""
        shared = self.search.shared
        return None if shared is None or not isinstance(shared.fine, np.ndarray) else shared.fine

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
        shared = self.search.shared
        if shared is not None and shared.fine is not None:
            return shared.fine[beside(self.orientations[rows], shared.fine)]
        return self.particle.slices(self.matrices[rows], self.search.block.geometry.whole)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinePass:
    """Fine samples of one particle, before they are weighted.

    Attributes
    ----------
    particle : what was measured
    orientations : (n_o,) int64, numbers on the fine grid
    directions : (n_o,) int, coarse direction each belongs to
    rotations : (n_o, 3, 3), reference -> view, or reference -> frame of the subtomogram
    matrices : (n_o, n_image, 3, 3) float32, for the kernels
    slices : where their slices come from
    shifts : (n_t,) int64, fine shifts
    trials : the masked image at these shifts
    count : coarse samples they come from
    """

    particle: Measured
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
    """Everything one particle leaves behind; ``insertions`` are taken out once they have been added to the sums.

    ``noise`` and ``count``, both (n_shell,) of the reference, are the weighted residual power and its divisor.
    """

    euler_deg: np.ndarray
    origin_A: np.ndarray
    p_max: float
    log_likelihood: float
    n_significant: int
    norm_power: float
    noise: np.ndarray
    count: np.ndarray
    scale_cross: float
    scale_power: float
    intensity_sums: tuple[float, float]
    offset_square: float
    weight: float
    directions: np.ndarray
    direction_weights: np.ndarray
    insertions: list[Insertion]


def second_pass(search: Search, i: int, candidates: Candidates, kept: Significant) -> ParticleResult:
    """Posterior on the children of the significant coarse samples, and its sums."""
    settings = search.settings
    fine = _fine_pass(search, i, candidates, kept)
    parts = _chunks(len(fine.orientations), fine.slices.n_sample)
    scores = [_fine_scores(search, i, fine, part) for part in parts]
    scores = scores[0] if len(scores) == 1 else array_module(scores[0]).concatenate(scores)
    of_rotations = candidates.log_prior[kept.rotations] + kept.log_factor
    of_shifts = log_shift_prior(search, i)[kept.shifts]
    if settings.is_cc:
        of_rotations, of_shifts = np.zeros_like(of_rotations), np.zeros_like(of_shifts)
    scores = expectation.with_parents_priors(scores, of_rotations, of_shifts, kept.pairs)
    found = expectation.posterior(scores, winner_takes_all=settings.is_cc, fraction=settings.fraction)
    return _sums(search, i, fine, found)


def _chunks(n: int, n_sample: int) -> list[slice]:
    """Parts of n slices that are held at a time: a flat posterior must not take memory in proportion."""
    size = max(_HELD_SAMPLES // n_sample, _LEAST_HELD)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _fine_scores(search: Search, i: int, fine: FinePass, part: slice) -> Any:
    particle, whole = fine.particle, search.block.geometry.whole
    contrast = particle.of(particle.images.contrast, whole)
    if not search.settings.is_cc and fine.slices.table is not None:
        rows, weight = fine.orientations[part], particle.score_weight(whole)
        return expectation.log_likelihoods_of_rows(fine.slices.table, rows, fine.trials, contrast, weight)
    slices = fine.slices.of(np.arange(part.start, part.stop))
    if search.settings.is_cc:
        masked = particle.of(particle.images.masked, whole)
        return expectation.correlations(slices, fine.trials, masked, contrast, particle.correlation_weight(whole))
    return expectation.log_likelihoods(slices, fine.trials, contrast, particle.score_weight(whole))


def _fine_pass(search: Search, i: int, candidates: Candidates, kept: Significant) -> FinePass:
    block, grid = search.block, search.grid
    particle, whole = block.particle(i), block.geometry.whole
    dir_idx, psi_idx = candidates.dir_idx[kept.rotations], candidates.psi_idx[kept.rotations]
    rotations = grid.orientations.child_matrices(dir_idx, psi_idx, grid.perturbation).reshape(-1, 3, 3)
    coarse = dir_idx.astype(np.int64) * grid.orientations.n_psi + psi_idx
    orientations = (coarse[:, None] * N_CHILD + np.arange(N_CHILD)).ravel()
    n_child = grid.fine_shifts_A.shape[1]
    shifts = (kept.shifts[:, None] * n_child + np.arange(n_child)).ravel()
    matrices = particle.matrices(rotations)
    return FinePass(
        particle=particle,
        orientations=orientations,
        directions=np.repeat(dir_idx, N_CHILD),
        rotations=rotations,
        matrices=matrices,
        slices=FineSlices(search=search, particle=particle, orientations=orientations, matrices=matrices),
        shifts=shifts,
        trials=particle.shifts(whole).of(particle.of(particle.images.masked, whole), shifts),
        count=kept.count,
    )


def _sums(search: Search, i: int, fine: FinePass, found: Posterior) -> ParticleResult:
    """Sum what one particle contributes under its posterior."""
    block, geometry, particle = search.block, search.block.geometry, fine.particle
    sums, insertions = _weighted_slices(search, i, fine, found)
    outer_power = particle.images.outer_power[particle.rows].sum(axis=0)
    noise = sums.noise + _per_shell(search, geometry.outer_shell, outer_power)
    total_A = block.old_origin_A[i] + search.grid.fine_shifts_A.reshape(-1, search.grid.fine_shifts_A.shape[-1])
    deviation = total_A[fine.shifts[found.columns]] - block.origin_prior_A[i]
    rotation, origin_A = mean_pose(
        fine.rotations[found.rows],
        total_A[fine.shifts[found.columns]],
        to_host(found.weights),
        search.grid.orientations.group.operators,
        (0.5 * search.grid.orientations.step_deg, search.grid.fine_step_A),
    )
    return ParticleResult(
        euler_deg=matrix_to_euler(rotation),
        origin_A=origin_A,
        p_max=found.p_max,
        log_likelihood=_log_likelihood(search, fine, found, sums.power),
        n_significant=fine.count,
        norm_power=float(noise.sum()),
        noise=noise,
        count=_noise_count(search, particle),
        scale_cross=sums.scale[0],
        scale_power=sums.scale[1],
        intensity_sums=sums.intensity,
        offset_square=float(found.of_columns @ (deviation**2).sum(axis=1)),
        weight=float(found.of_columns.sum()),
        directions=fine.directions[found.rows],
        direction_weights=found.of_rows,
        insertions=insertions,
    )


def _per_shell(search: Search, shell: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.bincount(shell, weights=values, minlength=search.settings.n_shell)


def _noise_count(search: Search, particle: Measured) -> np.ndarray:
    """Return what the residual power per shell is divided by: coefficients, or the multiplicities of a volume."""
    geometry = search.block.geometry
    if particle.images.count is None:
        return geometry.count * particle.n_image
    return _per_shell(search, geometry.outer_shell, particle.images.count[particle.rows].sum(axis=0))


def _weighted_slices(search: Search, i: int, fine: FinePass, found: Posterior) -> tuple[ParticleSums, list[Insertion]]:
    """Residual statistics and insertions of a particle."""
    particle, whole = fine.particle, search.block.geometry.whole
    images, inverse_sigma2 = particle.images, particle.repeated(search.block.model.inverse_sigma2, whole)
    chosen, weights = _representatives(found.weights, found.of_rows, search.settings.most_representatives)
    rows = found.rows[chosen]
    cross, power = maximization.slice_moments(fine.slices.of(rows), fine.trials.only(found.columns), weights)
    total, intensity = float(weights.sum()), float(search.block.intensity[i])
    sums = particle_sums(particle, cross, power, total=total, intensity=intensity, n_shell=search.settings.n_shell)
    contribution = maximization.Contribution(
        orientations=fine.orientations[rows],
        matrices=fine.matrices[rows],
        gain=particle.of(images.gain, whole) * inverse_sigma2,
        weight=particle.of(images.weight, whole) * inverse_sigma2,
        rows=whole.rows,
    )
    trials = particle.shifts(whole).of(particle.of(images.unmasked, whole), fine.shifts[found.columns])
    return sums, maximization.insertions(weights, trials, contribution)


def _representatives(weights: Any, share: np.ndarray, most: int) -> tuple[np.ndarray, Any]:
    """At most so many rows of a posterior (n_o, n_t) that stand for all, ascending, and their weights.

    ``share`` (n_o,) are sums over the rows.

    Where there are more, a systematic sample of the orientations is taken, in proportion to their weight: sums over it
    are unbiased, and the sample of one particle differs from its posterior by far less than particles do from another.
    """
    n = len(weights)
    if n <= most:
        return np.arange(n), weights
    reached = np.cumsum(share)
    marks = (np.arange(most) + 0.5) * (reached[-1] / most)
    chosen, count = np.unique(np.minimum(np.searchsorted(reached, marks), n - 1), return_counts=True)
    factor = count * (reached[-1] / most) / share[chosen]
    own = weights[beside(chosen, weights)]
    return chosen, own * beside(factor.astype(np.float32), own)[:, None]


def _log_likelihood(search: Search, fine: FinePass, found: Posterior, power: float) -> float:
    """Log-likelihood contribution of a particle; the correlation itself in a correlation iteration."""
    if search.settings.is_cc:
        return found.log_evidence
    return found.log_evidence - 0.5 * power - fine.particle.n_image * search.block.model.log_noise
