"""Random phases for the noise-substitution test, with the random numbers of ``relion_postprocess``."""

from __future__ import annotations

import numpy as np
from numba import njit

from napari_autorefine.engine.randomness import RAND_MAX, seeded_words

_DEGREE, _SEPARATION, _DISCARDED = 31, 3, 310


class PhaseRandomizer:
    """A stream of random phases; the same seed gives the same phases, transform after transform.

    Its state moves on with every transform, as that of the C library does.
    """

    def __init__(self, seed: int) -> None:
        self._words = np.array(seeded_words(seed), np.uint32)
        self._position = np.array([_SEPARATION, 0], np.int64)
        _skip(self._words, self._position, _DISCARDED)

    def randomized(self, transform: np.ndarray, from_shell: int) -> np.ndarray:
        """Replace the phases of all coefficients with |k| >= ``from_shell``, amplitudes kept.

        Parameters
        ----------
        transform : (N, N, N // 2 + 1) complex128
        from_shell : radius in shells

        Returns
        -------
        (N, N, N // 2 + 1) complex128
        """
        result = transform.copy()
        _randomize(result, from_shell * from_shell, self._words, self._position)
        return result


@njit(nogil=True, cache=True)
def _draw(words: np.ndarray, position: np.ndarray) -> np.uint32:
    front, back = position[0], position[1]
    value = np.uint32(words[front] + words[back])
    words[front] = value
    position[0] = front + 1 if front < _DEGREE - 1 else 0
    position[1] = back + 1 if back < _DEGREE - 1 else 0
    return value >> np.uint32(1)


@njit(nogil=True, cache=True)
def _skip(words: np.ndarray, position: np.ndarray, n: int) -> None:
    for _ in range(n):
        _draw(words, position)


@njit(nogil=True, cache=True)
def _randomize(transform: np.ndarray, radius2: int, words: np.ndarray, position: np.ndarray) -> None:
    """One draw per coefficient that is changed, in the order of storage."""
    n_z, n_y, n_x = transform.shape
    for z in range(n_z):
        kz = z if z < n_x else z - n_z
        for y in range(n_y):
            ky = y if y < n_x else y - n_y
            for x in range(n_x):
                if kz * kz + ky * ky + x * x >= radius2:
                    phase = 2.0 * np.pi * (_draw(words, position) / RAND_MAX)
                    amplitude = abs(transform[z, y, x])
                    transform[z, y, x] = complex(amplitude * np.cos(phase), amplitude * np.sin(phase))
