"""Fine samples of many particles at once and their posteriors, the counterpart of ``second_pass`` on devices.

What the first pass kept of particles with about as many orientations is worked on as one array; weights of what is
not a particle's own are 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_autorefine.engine.batch_first import Batch, FirstFound
from napari_autorefine.engine.batch_pose import kernel_matrices
from napari_autorefine.engine.batch_shifts import Trials, correlations, log_likelihoods
from napari_autorefine.engine.batch_weights import only_winners, significant
from napari_autorefine.engine.context import SamplePart
from napari_autorefine.engine.expectation import make_slices
from napari_autorefine.engine.grids import N_CHILD
from napari_autorefine.xp import array_module


@dataclass(frozen=True, slots=True, kw_only=True)
class Fine:
    """Fine samples of n particles.

    Attributes
    ----------
    rows : (n,) particles of the batch, on the host; ``at`` the same where the batch is
    coarse : (n, n_r) int64, orientations whose children are compared
    orientations : (n, n_o) int64, the children
    shifts : (n, n_t) int64, fine shifts
    rotations : (n, n_o, 3, 3) float64
    slices : (n, n_o, n_sample) complex64
    trials : masked images at the shifts
    scores : (n, n_o, n_t) float32 with priors, -inf for what was not kept
    """

    rows: np.ndarray
    at: Any
    coarse: Any
    orientations: Any
    shifts: Any
    rotations: Any
    slices: Any
    trials: Trials
    scores: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Posteriors:
    """Normalised weights (n, n_o, n_t) float32, zero where negligible, with p_max and log evidence (n,) float64."""

    weights: Any
    p_max: Any
    log_evidence: Any


def fine_pass(batch: Batch, found: FirstFound, places: np.ndarray) -> Fine:
    """Take apart and compare the children of what was kept of some particles."""
    search, xp = batch.search, batch.xp
    rows, kept = found.rows[places], found.kept
    n_r, n_s = int(kept.n_rotation[places].max()), int(kept.n_shift[places].max())
    own, at = xp.asarray(places), xp.asarray(rows)
    coarse, coarse_shifts = found.orientations[own, :n_r], kept.shifts[own, :n_s]
    orientations = _children(coarse, N_CHILD)
    shifts = _children(coarse_shifts, batch.grid.n_child_shift)
    rotations = batch.grid.child_rotations(orientations)
    whole = search.block.geometry.whole
    slices = _slices(batch, orientations, rotations, whole)
    masked, contrast = batch.images.masked[at], batch.images.contrast[at]
    trials, weight = Trials.at(whole.shifts, masked, shifts), batch.score_weight(at, whole)
    pairs = xp.take_along_axis(kept.pairs[own, :n_r], coarse_shifts[:, None, :], axis=2)
    if search.settings.is_cc:
        scores = correlations(slices, trials, masked, contrast, weight)
    else:
        scores = log_likelihoods(slices, trials, contrast, weight)
        scores += _repeated(found.log_prior[own, :n_r], N_CHILD)[:, :, None]
        prior = batch.priors[at[:, None], coarse_shifts]
        scores += _repeated(prior, batch.grid.n_child_shift)[:, None, :]
    shape = (len(rows), n_r, N_CHILD, n_s, batch.grid.n_child_shift)
    scores = xp.where(pairs[:, :, None, :, None], scores.reshape(shape), np.float32(-np.inf))
    return Fine(
        rows=rows,
        at=at,
        coarse=coarse,
        orientations=orientations,
        shifts=shifts,
        rotations=rotations,
        slices=slices,
        trials=trials,
        scores=scores.reshape(len(rows), n_r * N_CHILD, -1),
    )


def _children(numbers: Any, n_child: int) -> Any:
    """Numbers (n, m * n_child) of the children of (n, m)."""
    each = array_module(numbers).arange(n_child, dtype=np.int64)
    return (numbers[:, :, None] * n_child + each).reshape(len(numbers), -1)


def _repeated(values: Any, n_child: int) -> Any:
    """Values (n, m) for every child; (n, m * n_child)."""
    return values.repeat(n_child, axis=1)


def _slices(batch: Batch, orientations: Any, rotations: Any, whole: SamplePart) -> Any:
    """Slices (n, n_o, n_sample) of children, from the shared table or the reference."""
    search = batch.search
    if search.shared is not None and search.shared.fine is not None:
        return search.shared.fine[orientations]
    half = search.block.half
    matrices = kernel_matrices(rotations, search.block.geometry.frequency_matrix)
    made = make_slices(half.reference, matrices, whole.rows, whole.n_sample, half.r2_max)
    return made.reshape(*orientations.shape, -1)


def posteriors(batch: Batch, fine: Fine) -> Posteriors:
    """Normalised weights of fine samples, whose scores are used up."""
    settings, xp = batch.search.settings, batch.xp
    if settings.is_cc:
        weights, top = only_winners(fine.scores)
        return Posteriors(weights=weights, p_max=xp.ones(len(top)), log_evidence=top.astype(np.float64))
    weights, total, top = significant(fine.scores, settings.fraction, is_normalised=True)
    return Posteriors(weights=weights, p_max=1.0 / total, log_evidence=top.astype(np.float64) + xp.log(total))
