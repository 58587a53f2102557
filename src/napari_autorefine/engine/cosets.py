"""Sums over a point group as a product of short sums: over a subgroup, and over representatives of its cosets.

If G = T H, then sum_g F(g q) = sum_h [sum_t F(t .)](h q), |T| + |H| terms in place of |G|. A chain of subgroups makes
the sums as short as possible. Rotations that carry the grid onto itself (signed permutations of the axes) need no
interpolation; all others are put into one factor, so that every term is interpolated once, as in the plain sum.
"""

from __future__ import annotations

import numpy as np

_SAME = 1e-6


def coset_factors(operators: np.ndarray) -> list[np.ndarray]:
    """Factors of a group of rotations, in the order in which they are to be applied.

    Parameters
    ----------
    operators : (n, 3, 3), a group with its identity

    Returns
    -------
    list of (n_i, 3, 3), each without the identity: ``F <- F + sum_i F(factor_i q)`` for one after the other is the sum
    over the group
    """
    table = _multiplication_table(operators)
    identity = int(np.flatnonzero(np.abs(operators - np.eye(3)).max(axis=(1, 2)) < _SAME)[0])
    exact = {int(i) for i in np.flatnonzero(np.abs(operators - np.rint(operators)).max(axis=(1, 2)) < _SAME)}
    everything = set(range(len(operators)))
    reached, factors = {identity}, []
    for target in (exact, everything):
        while reached != target:
            larger = everything
            if target is exact:
                larger = min((_generated(table, reached | {g}) for g in sorted(target - reached)), key=len)
            factors.append(operators[_representatives(table, reached, larger)])
            reached = larger
    return factors[::-1]


def _multiplication_table(operators: np.ndarray) -> np.ndarray:
    """(n, n) numbers of the products ``operators[i] @ operators[j]``."""
    products = np.einsum("iab,jbc->ijac", operators, operators)
    distance = np.abs(products[:, :, None] - operators).max(axis=(3, 4))
    return np.asarray(distance.argmin(axis=2))


def _generated(table: np.ndarray, members: set[int]) -> set[int]:
    """Smallest subgroup that holds the members."""
    while True:
        own = sorted(members)
        larger = members | {int(i) for i in table[np.ix_(own, own)].ravel()}
        if larger == members:
            return members
        members = larger


def _representatives(table: np.ndarray, subgroup: set[int], group: set[int]) -> list[int]:
    """One member of every coset t H of the subgroup but the subgroup itself."""
    left, chosen = group - subgroup, []
    while left:
        chosen.append(min(left))
        left -= {int(i) for i in table[chosen[-1], sorted(subgroup)]}
    return chosen
