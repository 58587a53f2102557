"""Expectation: posterior weights over orientations and shifts, two passes, everything as matrix products.

With slices P, images X, contrast C (CTF times group scale) and noise variance s2 per component, the squared difference

    D(o, t) = 1/2 sum_k |C P_o - X e^{i phi_t}|^2 / s2
            = const - sum_k Re[conj(P_o) (C X e^{i phi_t} / s2)] + 1/2 sum_k |P_o|^2 C^2 / s2

is one product of real matrices (n_rot, 2K) @ (2K, n_trans) and one of (n_rot, K) @ (K,). Shifts enter through a basis
of fewer functions (``shifts``). The first pass runs on the
coarse grid and the coarse disc of frequencies, the second on the children of what the first found significant
(Scheres 2012, J. Struct. Biol. 180, 519-530).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from napari_autorefine.engine.shifts import ShiftedImage
from napari_autorefine.kernels import project
from napari_autorefine.kernels.moments import weighted_power
from napari_autorefine.xp import array_module, beside, to_host


@dataclass(frozen=True, slots=True, kw_only=True)
class Significant:
    """What the first pass keeps of one particle.

    Attributes
    ----------
    rotations : (n_r,) int64, positions in the particle's candidate list
    shifts : (n_t,) int64, coarse translations
    pairs : (n_r, n_t) bool, which pairs are kept
    count : number of pairs kept
    """

    rotations: np.ndarray
    shifts: np.ndarray
    pairs: np.ndarray
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """Second-pass posterior of one particle on its fine samples.

    Attributes
    ----------
    weights : (n_o, n_t) float32, zero below the significance threshold; rows and columns without weight are left out
    rows, columns : positions of the kept rows and columns in the fine candidates
    best : (row, column) of the largest weight, in the fine candidates
    p_max : largest weight over the full sum
    log_evidence : log of the full sum plus the score that was subtracted
    """

    weights: Any
    rows: np.ndarray
    columns: np.ndarray
    best: tuple[int, int]
    p_max: float
    log_evidence: float


def with_priors(scores: Any, i: int, rotations: np.ndarray, shifts: np.ndarray) -> Any:
    """Scores of image ``i`` of (n_rot, n_img, n_trans) plus log priors of orientations and shifts; (n_rot, n_trans)."""
    if array_module(scores) is np:
        return _with_priors(scores, i, rotations, shifts)
    return scores[:, i] + beside(rotations, scores)[:, None] + beside(shifts, scores)[None, :]


@njit(nogil=True, cache=True, error_model="numpy")
def _with_priors(scores, i, rotations, shifts):  # type: ignore[no-untyped-def]
    n_trans = scores.shape[2]
    out = np.empty((scores.shape[0], n_trans), dtype=np.float32)
    for rot in range(scores.shape[0]):
        of_rotation = np.float32(rotations[rot])
        for trans in range(n_trans):
            out[rot, trans] = scores[rot, i, trans] + of_rotation + shifts[trans]
    return out


def log_likelihoods(slices: Any, trials: ShiftedImage, contrast: Any, score_weight: Any) -> Any:
    """-D(o, t) without its constant for one image at trial shifts; (n_rot, n_trans) float32."""
    weighted = contrast * score_weight
    scores = trials.scores(slices, weighted)
    scores -= weighted_power(slices, 0.5 * contrast * weighted)[:, None]
    return scores


def correlations(slices: Any, trials: ShiftedImage, image: Any, contrast: Any, weight: Any) -> Any:
    """Normalised cross-correlation of one image (K,), at trial shifts, with its CTF-affected slices.

    ``weight`` (K,) is that of every coefficient in the scalar products; 0 leaves one out.
    """
    xp = array_module(slices)
    weighted = contrast * weight
    power = weighted_power(slices, contrast * weighted)
    norm = xp.sqrt(xp.sum(weight * (image.real**2 + image.imag**2)))
    scale = 1.0 / xp.maximum(xp.sqrt(power) * norm, np.float32(1e-30))
    return trials.scores(slices, weighted) * scale[:, None]


def significant_samples(scores: Any, fraction: float, max_count: int = -1) -> tuple[Any, float, float]:
    """Weights of log scores, with everything outside the smallest set of total ``fraction`` set to zero.

    Parameters
    ----------
    scores : (n_rot, n_trans) float32 log weights; -inf is allowed
    fraction : share of the total weight to keep
    max_count : keep at most this many samples; negative = no limit

    Returns
    -------
    weights : (n_rot, n_trans) float32, relative to the largest, zero where not kept
    total : full sum of the relative weights
    top : largest score

    Scores are relative to their maximum before the exponential, so the sum is at least 1: it cannot underflow.
    """
    xp = array_module(scores)
    if xp is np:
        weights, candidates, total, top = _relative_weights(np.ascontiguousarray(scores), 1.0 - fraction)
    else:
        top = float(scores.max())
        weights = xp.exp(scores - np.float32(top))
        total = float(weights.sum(dtype=np.float64))
        candidates = weights[weights > np.float32((1.0 - fraction) * total / weights.size)]
    ordered = xp.sort(candidates)[::-1]
    reached = int(xp.searchsorted(xp.cumsum(ordered, dtype=np.float64), xp.asarray(fraction * total)))
    last = min(reached, len(ordered) - 1)
    if max_count > 0:
        last = min(last, max_count - 1)
    weights *= weights >= ordered[last]
    return weights, total, top


@njit(nogil=True, cache=True, fastmath={"nnan", "nsz", "reassoc"}, error_model="numpy")
def _relative_weights(scores, left_out):  # type: ignore[no-untyped-def]
    """Weights relative to the largest, those above ``left_out`` of their mean, their sum, and the largest score.

    What is e^-30 of the largest is 0: the sum of all such does not reach the last digit of the sum.
    """
    flat = scores.reshape(-1)
    top = flat[0]
    for score in flat:
        top = max(top, score)
    weights = np.zeros(scores.shape, dtype=np.float32)
    out = weights.reshape(-1)
    total = 0.0
    for j in range(len(flat)):
        depth = flat[j] - top
        if depth > np.float32(-30):
            out[j] = np.exp(depth)
            total += out[j]
    floor = np.float32(left_out * total / len(flat))
    candidates = out[out > floor]
    return weights, candidates, total, float(top)


def winner(scores: Any) -> tuple[Any, float, float]:
    """Winner takes all: weight 1 for the best sample, 0 elsewhere."""
    xp = array_module(scores)
    weights = xp.zeros_like(scores)
    best = int(scores.argmax())
    weights.reshape(-1)[best] = 1.0
    return weights, 1.0, float(scores.reshape(-1)[best])


def keep_significant(weights: Any, most_rotations: int) -> Significant:
    """Turn first-pass weights (n_rot, n_trans) into the list of coarse samples to refine.

    Of an image that fits everywhere, only the ``most_rotations`` orientations that fit best are refined.
    """
    kept = to_host(weights > 0)
    rotations = np.flatnonzero(kept.any(axis=1))
    if len(rotations) > most_rotations:
        best = np.argsort(-to_host(weights.max(axis=1))[rotations], kind="stable")[:most_rotations]
        flat = np.zeros(len(kept), dtype=bool)
        flat[rotations[best]] = True
        kept = kept & flat[:, None]
        rotations = np.flatnonzero(flat)
    shifts = np.flatnonzero(kept.any(axis=0))
    return Significant(
        rotations=rotations, shifts=shifts, pairs=kept[np.ix_(rotations, shifts)], count=int(np.count_nonzero(kept))
    )


def expand_pairs(pairs: np.ndarray, n_child_rot: int, n_child_trans: int) -> np.ndarray:
    """Children of kept pairs as a (n_r * n_child_rot, n_t * n_child_trans) bool mask."""
    return np.repeat(np.repeat(pairs, n_child_rot, axis=0), n_child_trans, axis=1)


def posterior(scores: Any, *, winner_takes_all: bool, fraction: float) -> Posterior:
    """Second-pass weights from log scores (n_o, n_t), small ones dropped, normalised by the full sum."""
    best = divmod(int(scores.argmax()), scores.shape[1])
    weights, total, top = winner(scores) if winner_takes_all else significant_samples(scores, fraction)
    weights = weights / np.float32(total)
    kept = to_host(weights > 0)
    rows, columns = np.flatnonzero(kept.any(axis=1)), np.flatnonzero(kept.any(axis=0))
    return Posterior(
        weights=weights[beside(rows, weights)][:, beside(columns, weights)],
        rows=rows,
        columns=columns,
        best=best,
        p_max=1.0 / total,
        log_evidence=top + (0.0 if winner_takes_all else float(np.log(total))),
    )


def make_slices(reference: Any, matrices: Any, rows: np.ndarray, n_sample: int, r2_max: float) -> Any:
    """Slices (n_rot, n_sample) of a padded reference."""
    return project(reference, matrices, rows, n_sample, r2_max)
