"""Log priors added to log scores in compiled code."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True, error_model="numpy")
def sum_of_priors(scores, i, rotations, shifts):  # type: ignore[no-untyped-def]
    """Return scores of image ``i`` of (n_rot, n_img, n_trans) plus log priors (n_rot,) and (n_trans,)."""
    n_trans = scores.shape[2]
    out = np.empty((scores.shape[0], n_trans), dtype=np.float32)
    for rot in range(scores.shape[0]):
        of_rotation = np.float32(rotations[rot])
        for trans in range(n_trans):
            out[rot, trans] = scores[rot, i, trans] + of_rotation + shifts[trans]
    return out


@njit(nogil=True, cache=True, error_model="numpy")
def add_parents_priors(scores, log_rotation, log_shift, pairs):  # type: ignore[no-untyped-def]
    """Add parents' log priors to children's scores, in place; -inf where a pair (n_r, n_t) was not kept."""
    n_rot, n_trans = scores.shape[0] // pairs.shape[0], scores.shape[1] // pairs.shape[1]
    for r in range(pairs.shape[0]):
        for o in range(r * n_rot, (r + 1) * n_rot):
            for t in range(pairs.shape[1]):
                prior = np.float32(log_rotation[r] + log_shift[t]) if pairs[r, t] else np.float32(-np.inf)
                for k in range(t * n_trans, (t + 1) * n_trans):
                    scores[o, k] += prior
    return scores
