"""RELION's random choices: the C library's ``rand``, half-sets and the perturbation of the sampling grid.

``rand`` of the GNU C library is an additive feedback generator of degree 31 (TYPE_3 of random(3)); the same seed gives
the same half-sets and perturbations as a RELION run on Linux.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

RAND_MAX = 2**31 - 1
_DEGREE, _SEPARATION, _DISCARDED = 31, 3, 310


def seeded_words(seed: int) -> list[int]:
    """Return the 31 words of the generator right after ``srand(seed)``, before the first numbers are thrown away.

    They are filled by r[i] = 16807 r[i-1] mod (2^31 - 1).
    """
    word = seed & 0xFFFFFFFF or 1
    word = word - 2**32 if word >= 2**31 else word
    words = [word & 0xFFFFFFFF]
    for _ in range(1, _DEGREE):
        # C's truncating division of a possibly negative word
        quotient = int(word / 127773)
        word = 16807 * (word - quotient * 127773) - 2836 * quotient
        word = word + RAND_MAX if word < 0 else word
        words.append(word)
    return words


def glibc_rand(seed: int = 1) -> Iterator[int]:
    """Values of ``rand()`` after ``srand(seed)``; seed 1 is also the state of a generator never seeded.

    The state follows r[i] = r[i-3] + r[i-31] mod 2^32; ten rounds are thrown away and the lowest bit of each number is
    dropped.
    """
    state = seeded_words(seed)
    front, back, n_drawn = _SEPARATION, 0, 0
    while True:
        value = (state[front] + state[back]) & 0xFFFFFFFF
        state[front] = value
        front = front + 1 if front < _DEGREE - 1 else 0
        back = back + 1 if back < _DEGREE - 1 else 0
        n_drawn += 1
        if n_drawn > _DISCARDED:
            yield value >> 1


def random_halves(n: int, seed: int) -> np.ndarray:
    """Half-set, 1 or 2, of each of n particles in the order of drawing, as ``srand(seed); rand() % 2 + 1``.

    Returns
    -------
    (n,) int8
    """
    return np.fromiter((value % 2 + 1 for value, _ in zip(glibc_rand(seed), range(n), strict=False)), np.int8, n)


def next_perturbation(previous: float, factor: float, seed: int, iteration: int) -> float:
    """Perturbation of the grid in ``iteration``, as a fraction of its step in [-factor, factor].

    A uniform draw from [factor / 2, factor] is added to the previous value and wrapped. ``iteration`` 0 is the step
    made before the first iteration, from the generator that was never seeded.
    """
    if factor <= 0.0:
        return 0.0
    draw = next(glibc_rand(seed + iteration if iteration > 0 else 1)) / RAND_MAX
    value = previous + 0.5 * factor * (1.0 + draw)
    return value - 2.0 * factor if value > factor else value
