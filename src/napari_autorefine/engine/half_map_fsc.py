"""Fourier shell correlation of half maps with a solvent mask, as ``relion_postprocess`` defines it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from napari_autorefine.engine.filters import half_transform, map_of
from napari_autorefine.engine.phases import PhaseRandomizer
from napari_autorefine.engine.shells import shell_of_radius2

RESOLUTION_FSC = 0.143
# Share of the box that protein fills at 0.81 Da per cubic angstrom, where the crowding of RELION's formula is included.
_PROTEIN_SHARE = 0.476


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfMapCurves:
    """Correlation curves (N // 2 + 1,) of two half maps.

    Attributes
    ----------
    unmasked : without mask
    masked, randomized : within the mask, as they are and after phases were randomised; None without mask
    corrected : masked curve less what the mask alone produces; the unmasked one where there is no mask or the masked
        one was not used
    randomize_from : first shell with random phases; None when nothing was randomised
    is_mask_used : the corrected curve is that of the masked maps
    """

    unmasked: np.ndarray
    masked: np.ndarray | None
    randomized: np.ndarray | None
    corrected: np.ndarray
    randomize_from: int | None
    is_mask_used: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Randomization:
    """From where phases are randomised: a shell, or the first one whose unmasked curve is below ``below_fsc``."""

    shell: int | None = None
    below_fsc: float = 0.8
    seed: int = 0


def correlation_of(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Fourier shell correlation of two stored half transforms (N, N, N // 2 + 1); (N // 2 + 1,).

    The plane x = 0 counts twice, as it is stored; a value of the first shell of 0 or less becomes 1.
    """
    n_shell = first.shape[2]
    sums = np.zeros((3, n_shell))
    _add_products(first, second, shell_of_radius2(3 * (n_shell - 1) ** 2), sums)
    norm = np.sqrt(sums[1] * sums[2])
    curve = np.divide(sums[0], norm, out=np.zeros(n_shell), where=norm > 0)
    if curve[0] <= 0:
        curve[0] = 1.0
    return curve


@njit(nogil=True, cache=True)
def _add_products(first: np.ndarray, second: np.ndarray, shells: np.ndarray, sums: np.ndarray) -> None:
    """Add up over shells the real part of F1 F2*, of |F1|^2 and of |F2|^2."""
    n_z, n_y, n_x = first.shape
    for z in range(n_z):
        kz = z if z < n_x else z - n_z
        for y in range(n_y):
            ky = y if y < n_x else y - n_y
            for x in range(n_x):
                shell = shells[kz * kz + ky * ky + x * x]
                if shell < n_x:
                    a, b = first[z, y, x], second[z, y, x]
                    sums[0, shell] += a.real * b.real + a.imag * b.imag
                    sums[1, shell] += a.real * a.real + a.imag * a.imag
                    sums[2, shell] += b.real * b.real + b.imag * b.imag


def unmasked_curves(transforms: tuple[np.ndarray, np.ndarray]) -> HalfMapCurves:
    """Curves without a mask, from two half transforms."""
    unmasked = correlation_of(*transforms)
    return HalfMapCurves(
        unmasked=unmasked, masked=None, randomized=None, corrected=unmasked, randomize_from=None, is_mask_used=False
    )


def first_shell_below(curve: np.ndarray, level: float) -> int | None:
    """First shell beyond the origin where a curve is below a level."""
    below = np.flatnonzero(curve[1:] < level)
    return int(below[0]) + 1 if len(below) else None


def solvent_corrected_curves(
    halves: tuple[np.ndarray, np.ndarray],
    transforms: tuple[np.ndarray, np.ndarray],
    mask: np.ndarray,
    *,
    randomization: Randomization,
    threads: int = 1,
) -> HalfMapCurves:
    """Masked correlation, corrected for what the mask alone produces (Chen et al. 2013).

    ``(F_t - F_n) / (1 - F_n)`` from two shells beyond the first random one; F_t before. Nothing is clamped. When there
    is no shell to randomise from, the corrected curve is the unmasked one.
    doi:10.1016/j.ultramic.2013.06.004.

    Parameters
    ----------
    halves : two (N, N, N) maps
    transforms : their half transforms (N, N, N // 2 + 1)
    mask : (N, N, N) within [0, 1]
    randomization : where it begins, and the seed
    threads : worker threads
    """
    unmasked = correlation_of(*transforms)
    masked = correlation_of(*(half_transform(np.multiply(half, mask, dtype=np.float64), threads) for half in halves))
    first = randomization.shell or first_shell_below(unmasked, randomization.below_fsc)
    if first is None:
        return HalfMapCurves(
            unmasked=unmasked,
            masked=masked,
            randomized=None,
            corrected=unmasked,
            randomize_from=None,
            is_mask_used=False,
        )
    stream = PhaseRandomizer(randomization.seed)
    noise = [_masked_noise(stream.randomized(transform, first), mask, threads) for transform in transforms]
    randomized = correlation_of(*noise)
    tail, room = slice(first + 2, None), 1.0 - randomized
    gain = np.divide(masked - randomized, room, out=np.zeros_like(masked), where=room != 0)
    corrected = masked.copy()
    corrected[tail] = gain[tail]
    return HalfMapCurves(
        unmasked=unmasked,
        masked=masked,
        randomized=randomized,
        corrected=corrected,
        randomize_from=first,
        is_mask_used=True,
    )


def _masked_noise(transform: np.ndarray, mask: np.ndarray, threads: int) -> np.ndarray:
    """Transform of the masked map of a transform that is not needed any more."""
    map_ = map_of(transform, threads, is_temporary=True)
    map_ *= mask
    return half_transform(map_, threads)


def resolution_shell(curve: np.ndarray, *, is_interpolated: bool = False) -> float:
    """Last shell before a curve falls below 0.143; the last one when it never does.

    Parameters
    ----------
    curve : (n_shell,)
    is_interpolated : where the line between the two shells crosses 0.143
    """
    below = first_shell_below(curve, RESOLUTION_FSC)
    if below is None:
        return len(curve) - 1.0
    if not is_interpolated:
        return below - 1.0
    before, after = float(curve[below - 1]), float(curve[below])
    return below - 1.0 + (before - RESOLUTION_FSC) / (before - after)


def particle_curve(unmasked: np.ndarray, fraction: float) -> np.ndarray:
    """Correlation of the particle alone, ``f F / (1 + (f - 1) F)``, for maps whose box is f times the particle."""
    return fraction * unmasked / (1.0 + (fraction - 1.0) * unmasked)


def fraction_of_mask(mask: np.ndarray) -> float:
    """Ratio f of the box to the particle from the voxels of a mask above 0.5."""
    return _PROTEIN_SHARE * mask.size / max(int(np.count_nonzero(mask > 0.5)), 1)


def fraction_of_mass(box_size: int, voxel_size_A: float, mass_kDa: float) -> float:
    """Ratio f of the box to the particle from its molecular mass."""
    return _PROTEIN_SHARE * (box_size * voxel_size_A) ** 3 * 0.81 / (1000.0 * mass_kDa)
