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

from napari_autorefine.engine.priors import add_parents_priors, sum_of_priors
from napari_autorefine.engine.selection import drawn, largest_weights, lots_of
from napari_autorefine.engine.shifts import ShiftedImage
from napari_autorefine.kernels import project
from napari_autorefine.kernels.moments import weighted_power
from napari_autorefine.xp import array_module, beside, to_host

_CACHE_BYTES, _LEAST_ROWS = 4 << 20, 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Significant:
    """What the first pass keeps of one particle.

    Attributes
    ----------
    rotations : (n_r,) int64, positions in the particle's candidate list
    shifts : (n_t,) int64, coarse translations
    pairs : (n_r, n_t) bool, which pairs are kept
    count : number of significant pairs, whether drawn or not
    log_factor : (n_r,) float32, what weights of an orientation are multiplied by for those that were not drawn
    """

    rotations: np.ndarray
    shifts: np.ndarray
    pairs: np.ndarray
    count: int
    log_factor: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """Second-pass posterior of one particle on its fine samples.

    Attributes
    ----------
    weights : (n_o, n_t) float32, zero below the significance threshold; rows and columns without weight are left out
    rows, columns : positions of the kept rows and columns in the fine candidates
    of_rows, of_columns : (n_o,), (n_t,) float64, sums of the weights
    p_max : largest weight over the full sum
    log_evidence : log of the full sum plus the score that was subtracted
    """

    weights: Any
    rows: np.ndarray
    columns: np.ndarray
    of_rows: np.ndarray
    of_columns: np.ndarray
    p_max: float
    log_evidence: float


def with_priors(scores: Any, i: int, rotations: np.ndarray, shifts: np.ndarray) -> Any:
    """Scores of image ``i`` of (n_rot, n_img, n_trans) plus log priors of orientations and shifts; (n_rot, n_trans)."""
    if array_module(scores) is np:
        return sum_of_priors(scores, i, rotations, shifts)
    return scores[:, i] + beside(rotations, scores)[:, None] + beside(shifts, scores)[None, :]


def with_parents_priors(scores: Any, log_rotation: np.ndarray, log_shift: np.ndarray, pairs: np.ndarray) -> Any:
    """Scores of children plus the log priors of their parents; -inf for children of pairs that were not kept.

    Parameters
    ----------
    scores : (n_r * n_child_rot, n_t * n_child_trans) float32; changed in place on the host
    log_rotation, log_shift : (n_r,), (n_t,)
    pairs : (n_r, n_t) bool
    """
    if array_module(scores) is np:
        return add_parents_priors(scores, log_rotation, log_shift, pairs)
    n_child = scores.shape[0] // pairs.shape[0], scores.shape[1] // pairs.shape[1]
    allowed = np.where(pairs, log_rotation[:, None] + log_shift, np.float32(-np.inf))
    return scores + beside(np.repeat(np.repeat(allowed, n_child[0], axis=0), n_child[1], axis=1), scores)


def log_likelihoods(slices: Any, trials: ShiftedImage, contrast: Any, score_weight: Any) -> Any:
    """-D(o, t) without its constant for one image at trial shifts; (n_rot, n_trans) float32."""
    weighted = contrast * score_weight
    scores = trials.scores(slices, weighted)
    scores -= weighted_power(slices, 0.5 * contrast * weighted)[:, None]
    return scores


def log_likelihoods_of_rows(
    table: np.ndarray, rows: np.ndarray, trials: ShiftedImage, contrast: np.ndarray, score_weight: np.ndarray
) -> np.ndarray:
    """``log_likelihoods`` of some rows of a table of slices on the host, as many at a time as the cache holds."""
    weighted = contrast * score_weight
    images, half_power = trials.times(weighted), 0.5 * contrast * weighted
    size = max(_CACHE_BYTES // table[0].nbytes, _LEAST_ROWS)
    own = np.empty((min(size, len(rows)), table.shape[1]), dtype=table.dtype)
    scores = np.empty((len(rows), images.n_shift), dtype=np.float32)
    for start in range(0, len(rows), size):
        part = slice(start, min(start + size, len(rows)))
        slices = own[: part.stop - part.start]
        np.take(table, rows[part], axis=0, out=slices, mode="clip")
        np.subtract(images.products(slices), weighted_power(slices, half_power)[:, None], out=scores[part])
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


def significant(
    scores: Any,
    *,
    winner_takes_all: bool,
    fraction: float,
    max_count: int,
    most: int,
    identity: tuple[np.ndarray, int],
) -> Significant:
    """Coarse samples worth refining, from log scores (n_rot, n_trans).

    Parameters
    ----------
    winner_takes_all : the best sample alone
    fraction, max_count : share of the weight, and number of samples, that are kept; see ``largest_weights``
    most : of an image that fits more orientations, about so many are drawn that stand for all; see ``drawn``
    identity : numbers (n_rot,) int64 of the orientations on the grid, and that of the particle; see ``lots_of``
    """
    if winner_takes_all:
        rotation, shift = divmod(int(scores.argmax()), scores.shape[1])
        one = np.ones((1, 1), dtype=bool)
        return Significant(
            rotations=np.array([rotation]),
            shifts=np.array([shift]),
            pairs=one,
            count=1,
            log_factor=np.zeros(1, dtype=np.float32),
        )
    found = largest_weights(scores, fraction, max_count)
    weights, rotations, shifts = found.weights, found.rows, found.columns
    pairs = to_host(weights > 0)
    count, log_factor = int(np.count_nonzero(pairs)), np.zeros(len(rotations), dtype=np.float32)
    if len(rotations) > most:
        chosen, chance = drawn(found.of_rows, most, lots_of(identity[0][rotations], identity[1]))
        rotations, pairs, log_factor = rotations[chosen], pairs[chosen], -np.log(chance).astype(np.float32)
        used = pairs.any(axis=0)
        shifts, pairs = shifts[used], pairs[:, used]
    return Significant(rotations=rotations, shifts=shifts, pairs=pairs, count=count, log_factor=log_factor)


def posterior(scores: Any, *, winner_takes_all: bool, fraction: float) -> Posterior:
    """Second-pass weights from log scores (n_o, n_t), small ones dropped, normalised by the full sum."""
    if winner_takes_all:
        row, column = divmod(int(scores.argmax()), scores.shape[1])
        return Posterior(
            weights=array_module(scores).ones((1, 1), dtype=np.float32),
            rows=np.array([row]),
            columns=np.array([column]),
            of_rows=np.ones(1),
            of_columns=np.ones(1),
            p_max=1.0,
            log_evidence=float(scores[row, column]),
        )
    found = largest_weights(scores, fraction)
    weights = found.weights
    weights *= np.float32(1.0 / found.total)
    return Posterior(
        weights=weights,
        rows=found.rows,
        columns=found.columns,
        of_rows=found.of_rows / found.total,
        of_columns=found.of_columns / found.total,
        p_max=1.0 / found.total,
        log_evidence=found.top + float(np.log(found.total)),
    )


def make_slices(reference: Any, matrices: Any, rows: np.ndarray, n_sample: int, r2_max: float) -> Any:
    """Slices (n_rot, n_sample) of a padded reference."""
    return project(reference, matrices, rows, n_sample, r2_max)
