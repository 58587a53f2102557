"""Fourier shell correlation between maps, with and without a mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft

from napari_autorefine.engine.shells import half_shells, shell_sums

RANDOMIZE_BELOW_FSC = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class SolventFsc:
    """Correlation curves (N // 2 + 1,) of two half maps.

    Attributes
    ----------
    corrected : masked curve less what the mask alone produces
    unmasked, masked, randomized : plain, within the mask, within the mask after randomising phases
    randomize_from : first shell with random phases; None when the unmasked curve never falls below 0.8
    """

    corrected: np.ndarray
    unmasked: np.ndarray
    masked: np.ndarray
    randomized: np.ndarray
    randomize_from: int | None


def fsc(first: np.ndarray, second: np.ndarray, mask: np.ndarray | None = None, threads: int = 1) -> np.ndarray:
    """Fourier shell correlation of two (N, N, N) maps, multiplied by ``mask`` first; (N // 2 + 1,) float64.

    Sums run over the stored half transform, as in ``relion_postprocess``.
    """
    return fsc_of_transforms(_transform(first, mask, threads), _transform(second, mask, threads))


def fsc_of_transforms(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Fourier shell correlation of two (N, N, N // 2 + 1) half transforms; (N // 2 + 1,) float64."""
    box_size = first.shape[0]
    shells, n_shell = half_shells(box_size, 3), box_size // 2 + 1
    cross = shell_sums(first.real * second.real + first.imag * second.imag, shells, n_shell)
    power = [shell_sums(f.real**2 + f.imag**2, shells, n_shell) for f in (first, second)]
    norm = np.sqrt(power[0] * power[1])
    curve = np.divide(cross, norm, out=np.zeros(n_shell), where=norm > 0)
    if curve[0] <= 0:
        curve[0] = 1.0
    return curve


def randomize_phases(map_: np.ndarray, from_shell: int, rng: np.random.Generator, threads: int = 1) -> np.ndarray:
    """Replace the phases of all |k| >= ``from_shell`` by random ones, amplitudes kept; (N, N, N) float32."""
    transform = scipy.fft.rfftn(map_, workers=threads)
    axis2 = np.square(np.rint(np.fft.fftfreq(len(map_)) * len(map_)))
    plane = axis2[:, None] + np.arange(len(map_) // 2 + 1) ** 2
    for z, z2 in enumerate(axis2):
        turns = rng.random(plane.shape, dtype=np.float32)
        random = np.abs(transform[z]) * np.exp(2j * np.pi * turns)
        transform[z] = np.where(plane + z2 >= from_shell**2, random, transform[z])
    return scipy.fft.irfftn(transform, s=map_.shape, workers=threads).astype(np.float32, copy=False)


def solvent_corrected_fsc(
    half1: np.ndarray, half2: np.ndarray, mask: np.ndarray, *, seed: int = 0, threads: int = 1
) -> SolventFsc:
    """Masked FSC corrected for the correlation that the mask introduces (Chen et al. 2013).

    ``(F_t - F_n) / (1 - F_n)`` from two shells beyond the first random one, 0 where F_n > F_t; F_t before. When the
    unmasked curve never falls below 0.8 nothing can be randomised and the unmasked curve is returned as corrected.
    doi:10.1016/j.ultramic.2013.06.004.

    Parameters
    ----------
    half1, half2 : (N, N, N) unregularised half maps
    mask : (N, N, N) within [0, 1]
    seed : of the random phases
    threads : worker threads
    """
    unmasked, masked = fsc(half1, half2, None, threads), fsc(half1, half2, mask, threads)
    below = np.flatnonzero(unmasked[1:] < RANDOMIZE_BELOW_FSC)
    if len(below) == 0:
        return SolventFsc(
            corrected=unmasked, unmasked=unmasked, masked=masked, randomized=np.zeros_like(masked), randomize_from=None
        )
    start = int(below[0]) + 1
    rng = np.random.default_rng(seed)
    noise = [randomize_phases(half, start, rng, threads) for half in (half1, half2)]
    randomized = fsc(noise[0], noise[1], mask, threads)
    corrected = masked.copy()
    tail = slice(start + 2, None)
    gain = np.divide(masked - randomized, 1.0 - randomized, out=np.zeros_like(masked), where=randomized < 1.0)
    corrected[tail] = np.where(randomized > masked, 0.0, gain)[tail]
    return SolventFsc(
        corrected=corrected, unmasked=unmasked, masked=masked, randomized=randomized, randomize_from=start
    )


def _transform(map_: np.ndarray, mask: np.ndarray | None, threads: int) -> np.ndarray:
    values = map_ if mask is None else map_ * mask
    transform: np.ndarray = scipy.fft.rfftn(values.astype(np.float32, copy=False), workers=threads)
    return transform
