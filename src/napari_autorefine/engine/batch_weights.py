"""Weights and significance of many particles at once, the counterpart of ``expectation`` on devices.

Scores of n particles are one array (n, n_rot, n_trans); where a particle has fewer orientations than others the rest is
-inf. Nothing here waits for the device but :func:`keep`, once per call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_autorefine.engine.selection import GOLDEN_STEP, PARTICLE_STEP
from napari_autorefine.kernels.positions import set_positions
from napari_autorefine.kernels.significance import significant_weights
from napari_autorefine.xp import array_module, to_host

_LEAST_PLACE = 1e-30  # below any weight: where fewer are left than places, each has one of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Coarse samples of n particles that are worth refining; arrays are as wide as the particle with most needs.

    Attributes
    ----------
    positions : (n, n_r) int64, positions among the orientations compared, ascending; behind the particle's own come
        others, of which no pair is kept
    shifts : (n, n_trans) int64, coarse shifts, the particle's own first and ascending; others likewise
    pairs : (n, n_r, n_trans) bool, which pairs are kept, by shift number
    log_factor : (n, n_r) float32, what weights of an orientation are multiplied by for those that were not drawn
    n_rotation, n_shift : (n,) on the host, the particle's own orientations and shifts
    count : (n,) on the host, number of significant pairs, whether drawn or not
    """

    positions: Any
    shifts: Any
    pairs: Any
    log_factor: Any
    n_rotation: np.ndarray
    n_shift: np.ndarray
    count: np.ndarray


def significant(
    scores: Any, fraction: float, max_count: int = -1, *, is_normalised: bool = False
) -> tuple[Any, Any, Any]:
    """Turn log scores (n, n_rot, n_trans), which are used up, into weights, those that do not matter 0.

    Parameters are those of ``kernels.significance.significant_weights``.

    Returns
    -------
    weights : (n, n_rot, n_trans) float32, relative to each particle's largest, or of sum 1
    total : (n,) float64, sums of all relative weights
    top : (n,) float32, largest scores
    """
    flat = scores.reshape(len(scores), -1)
    top, total = significant_weights(flat, fraction, max_count, is_normalised=is_normalised)
    return flat.reshape(scores.shape), total, top


def only_winners(scores: Any) -> tuple[Any, Any]:
    """Winner takes all: weight 1 for each particle's best sample and 0 elsewhere, and the best scores (n,)."""
    xp = array_module(scores)
    flat = scores.reshape(len(scores), -1)
    best = flat.argmax(axis=1)
    weights = xp.zeros_like(flat)
    weights[xp.arange(len(flat)), best] = np.float32(1.0)
    return weights.reshape(scores.shape), flat.max(axis=1)


def keep(weights: Any, most_rotations: int, numbers: Any, particles: Any) -> Kept:
    """Turn first-pass weights into what is to be refined.

    Of a particle that fits more than ``most_rotations`` orientations, about so many are drawn that stand for all; see
    ``selection.drawn``.

    Parameters
    ----------
    weights : (n, n_rot, n_trans)
    most_rotations : of one particle
    numbers : (n, n_rot) or (n_rot,) int64 of the orientations on the grid
    particles : (n,) numbers of the particles
    """
    xp = array_module(weights)
    n_trans = weights.shape[2]
    kept = weights > 0
    n_pair = kept.sum(axis=2)
    taken = n_pair > 0
    found = to_host(taken.sum(axis=1))
    chance = None
    if found.max() > most_rotations:
        lots = numbers * GOLDEN_STEP + particles[:, None] * PARTICLE_STEP
        taken, chance = _drawn(weights.sum(axis=2, dtype=np.float64), most_rotations, lots - xp.floor(lots))
        kept &= taken[:, :, None]
        found = to_host(taken.sum(axis=1))
    chosen = set_positions(taken, int(found.max()))
    log_factor = xp.zeros(chosen.shape, dtype=np.float32)
    if chance is not None:
        own = xp.take_along_axis(chance, chosen, axis=1)
        log_factor = -xp.log(xp.where(own > 0, own, 1.0)).astype(np.float32)
    pairs = xp.take_along_axis(kept, chosen[:, :, None], axis=1)
    of_shift = pairs.any(axis=1)
    counts = to_host(xp.stack([of_shift.sum(axis=1), n_pair.sum(axis=1)]))
    return Kept(
        positions=chosen,
        shifts=set_positions(of_shift, n_trans),
        pairs=pairs,
        log_factor=log_factor,
        n_rotation=found,
        n_shift=counts[0],
        count=counts[1],
    )


def _drawn(share: Any, most: int, lots: Any) -> tuple[Any, Any]:
    """Draw from each row of shares, of which some has more than ``most`` entries above 0; see ``selection.drawn``.

    Returns
    -------
    taken : (n, n_rot) bool, about so many of each row at most
    chance : (n, n_rot) float64, probability of that
    """
    xp = array_module(share)
    ascending = xp.sort(share, axis=1)
    rest = xp.cumsum(ascending[:, -most:], axis=1) + ascending[:, :-most].sum(axis=1, keepdims=True)
    # Without the k largest, rest / (most - k) falls with k for as long as the next is due a place of its own.
    place = xp.maximum((rest / xp.arange(1, most + 1)).min(axis=1, keepdims=True), _LEAST_PLACE)
    chance = xp.minimum(share / place, 1.0)
    taken = lots < chance
    is_none = ~taken.any(axis=1)
    taken |= is_none[:, None] & (xp.arange(share.shape[1])[None, :] == share.argmax(axis=1)[:, None])
    return taken, chance


def representatives(weights: Any, most: int) -> tuple[Any, Any]:
    """At most so many rows of each posterior (n, n_o, n_t) that stand for all, and their weights; see ``second_pass``.

    Returns
    -------
    chosen : (n, m) int64, ascending; rows beyond a particle's own have no weight
    weights : (n, m, n_t) float32
    """
    xp = array_module(weights)
    n_o = weights.shape[1]
    share = weights.sum(axis=2, dtype=np.float64)
    reached = xp.cumsum(share, axis=1)
    step = reached[:, -1:] / most
    # How many of the marks (j + 1/2) step lie at or below what has been reached.
    upto = xp.minimum(xp.floor(reached / step + 0.5), most)
    marks = upto.copy()
    marks[:, 1:] -= upto[:, :-1]
    is_small = (share > 0).sum(axis=1)[:, None] <= most
    taken = xp.where(is_small, share > 0, marks > 0)
    chosen = set_positions(taken, min(most, n_o))
    factor = taken * xp.where(is_small, 1.0, marks * step / xp.where(share > 0, share, 1.0))
    own = xp.take_along_axis(factor, chosen, axis=1)
    return chosen, xp.take_along_axis(weights, chosen[:, :, None], axis=1) * own.astype(np.float32)[:, :, None]


def ranking(exact: Any, fast: Any, fraction: float) -> tuple[float, float]:
    """How well scores of low precision rank the samples of n particles.

    Parameters
    ----------
    exact, fast : (n, n_rot, n_trans) log scores
    fraction : share of the weight that is refined

    Returns
    -------
    smallest share over particles of the exact weight on the samples that the fast scores would keep, and the share of
    particles whose best sample is the same
    """
    xp = array_module(exact)
    exact, fast = xp.ascontiguousarray(exact), xp.ascontiguousarray(fast)
    n = len(exact)
    is_same = exact.reshape(n, -1).argmax(axis=1) == fast.reshape(n, -1).argmax(axis=1)
    kept = significant(fast.copy(), fraction)[0] > 0
    weights, total, _ = significant(exact.copy(), 1.0)
    share = (weights * kept).reshape(n, -1).sum(axis=1, dtype=np.float64) / total
    return float(share.min()), float(is_same.mean())
