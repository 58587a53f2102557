"""Weights and significance of many particles at once, the counterpart of ``expectation`` on devices.

Scores of n particles are one array (n, n_rot, n_trans); where a particle has fewer orientations than others the rest is
-inf. Nothing here waits for the device but :func:`keep`, once per call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_autorefine.kernels.tails import tail_sums
from napari_autorefine.xp import array_module, to_host

_BITS_OF_ONE, _N_STEP = 0x3F800000, 30  # float32 weights in (0, 1] are ordered as their bits are
_NEGLIGIBLE = np.float32(-30.0)  # as in ``expectation``: what is e^-30 of the largest counts as 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Coarse samples of n particles that are worth refining; arrays are as wide as the particle with most needs.

    Attributes
    ----------
    positions : (n, n_r) int64, positions among the orientations compared, ascending; those that are not the particle's
        own come last
    shifts : (n, n_trans) int64, coarse shifts, the particle's own first and ascending
    pairs : (n, n_r, n_trans) bool, which pairs are kept, by shift number
    n_rotation, n_shift, count : (n,) on the host, the particle's own orientations, shifts and pairs
    """

    positions: Any
    shifts: Any
    pairs: Any
    n_rotation: np.ndarray
    n_shift: np.ndarray
    count: np.ndarray


def relative_weights(scores: Any) -> tuple[Any, Any, Any]:
    """Turn log scores (n, n_rot, n_trans), which are used up, into weights relative to each particle's largest.

    Returns
    -------
    weights : (n, n_rot, n_trans) float32
    total : (n,) float64, sums of the weights
    top : (n,) float32, largest scores
    """
    xp = array_module(scores)
    flat = scores.reshape(len(scores), -1)
    top = flat.max(axis=1)
    flat -= top[:, None]
    counts = flat > _NEGLIGIBLE
    xp.exp(flat, out=flat)
    flat *= counts
    return flat.reshape(scores.shape), flat.sum(axis=1, dtype=np.float64), top


def least_kept(weights: Any, total: Any, fraction: float, max_count: int = -1) -> Any:
    """Smallest weight (n,) of the smallest set of a particle's largest weights with a share of their total.

    Parameters
    ----------
    weights : (n, n_rot, n_trans) float32 within [0, 1]
    total : (n,) float64
    fraction : share of the total to keep
    max_count : keep at most this many weights; negative = no limit

    Found by bisection of the bits of the weight, which is exact and needs no sorting.
    """
    xp = array_module(weights)
    flat = weights.reshape(len(weights), -1)
    target = fraction * total
    least = _largest_with(lambda floor: tail_sums(flat, floor) >= target, target)
    if max_count > 0:
        by_count = _largest_with(lambda floor: (flat >= floor[:, None]).sum(axis=1) >= max_count, target)
        least = xp.maximum(least, by_count)
    return least


def _largest_with(is_enough: Callable[[Any], Any], like: Any) -> Any:
    """Return the largest floor (n,) float32 in [0, 1] for which something that shrinks with it is enough, or 0."""
    xp = array_module(like)
    low, high = xp.zeros(len(like), dtype=np.int32), xp.full(len(like), _BITS_OF_ONE + 1, dtype=np.int32)
    for _ in range(_N_STEP):
        middle = (low + high) >> 1
        enough = is_enough(middle.view(np.float32))
        low, high = xp.where(enough, middle, low), xp.where(enough, high, middle)
    return low.view(np.float32)


def significant(weights: Any, least: Any) -> Any:
    """Weights with those below a particle's least set to zero; the weights given are used up."""
    flat = weights.reshape(len(weights), -1)
    flat *= flat >= least[:, None]
    return flat.reshape(weights.shape)


def only_winners(scores: Any) -> tuple[Any, Any]:
    """Winner takes all: weight 1 for each particle's best sample and 0 elsewhere, and the best scores (n,)."""
    xp = array_module(scores)
    flat = scores.reshape(len(scores), -1)
    best = flat.argmax(axis=1)
    weights = xp.zeros_like(flat)
    weights[xp.arange(len(flat)), best] = np.float32(1.0)
    return weights.reshape(scores.shape), flat.max(axis=1)


def keep(weights: Any, most_rotations: int) -> Kept:
    """Turn first-pass weights into what is to be refined, of each particle its best orientations at the most."""
    xp = array_module(weights)
    n, n_rot, n_trans = weights.shape
    kept = weights > 0
    has = kept.any(axis=2)
    found = to_host(has.sum(axis=1))
    most, position = min(int(found.max()), most_rotations), xp.arange(n_rot, dtype=np.int64)
    if most < found.max():
        bits = xp.ascontiguousarray(weights.max(axis=2)).view(np.int32).astype(np.int64)
        by_weight = xp.sort(((_BITS_OF_ONE - bits) << 32) | position[None, :], axis=1)
        chosen = by_weight[:, :most] & 0xFFFFFFFF
        has = xp.take_along_axis(has, chosen, axis=1)
        chosen = xp.sort(xp.where(has, chosen, chosen + n_rot), axis=1) % n_rot
    else:
        chosen = xp.sort(xp.where(has, position[None, :], position[None, :] + n_rot), axis=1)[:, :most] % n_rot
    pairs = xp.take_along_axis(kept, chosen[:, :, None], axis=1)
    of_shift, shift = pairs.any(axis=1), xp.arange(n_trans, dtype=np.int64)
    counts = to_host(xp.stack([of_shift.sum(axis=1), pairs.reshape(n, -1).sum(axis=1)]))
    return Kept(
        positions=chosen,
        shifts=xp.sort(xp.where(of_shift, shift, shift + n_trans), axis=1) % n_trans,
        pairs=pairs,
        n_rotation=np.minimum(found, most),
        n_shift=counts[0],
        count=counts[1],
    )


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
    taken, position = xp.where(is_small, share > 0, marks > 0), xp.arange(n_o, dtype=np.int64)[None, :]
    chosen = xp.sort(xp.where(taken, position, position + n_o), axis=1)[:, : min(most, n_o)]
    is_own, chosen = chosen < n_o, chosen % n_o
    factor = xp.where(is_small, 1.0, marks * step / xp.where(share > 0, share, 1.0))
    own = xp.take_along_axis(factor, chosen, axis=1) * is_own
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
    weights, total, _ = relative_weights(fast.copy())
    kept = significant(weights, least_kept(weights, total, fraction)) > 0
    weights, total, _ = relative_weights(exact.copy())
    share = (weights * kept).reshape(n, -1).sum(axis=1, dtype=np.float64) / total
    return float(share.min()), float(is_same.mean())
