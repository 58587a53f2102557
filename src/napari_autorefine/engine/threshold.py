"""Find the density level that separates a molecule from the solvent around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

PROTEIN_DENSITY_DA_PER_A3 = 0.81
# Where the level lies between solvent and molecule; a smoothed edge crosses one half, so that this lies outside of it.
_FRACTION = 0.3
_NOISE_DEVIATIONS = 5.0
# Volume inside the contour of a low-passed map that takes in nearly all atoms, relative to that of the molecule.
_SMOOTHED_VOLUME = 1.25
_BINS, _MOST_SAMPLED = 1024, 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A threshold, the levels of solvent and molecule, the solvent's deviation, and what decided."""

    threshold: float
    solvent: float
    molecule: float
    noise: float
    is_noise_limited: bool


def found_level(map_: np.ndarray) -> Level:
    """Find the threshold of a low-passed map from its histogram.

    ``solvent + max(0.3 (molecule - solvent), 5 noise)``: solvent is the median of the map, the noise its robust
    deviation below the median (no molecule there), and molecule the median of the voxels in the upper class of Otsu's
    method (1979, doi:10.1109/TSMC.1979.4310076).

    Parameters
    ----------
    map_ : (n_z, n_y, n_x), not constant
    """
    step = max(1, round((map_.size / _MOST_SAMPLED) ** (1 / 3)))
    values = map_[::step, ::step, ::step].ravel().astype(np.float64)
    solvent, top = float(np.median(values)), float(map_.max())
    below = values[values < solvent]
    noise = 1.4826 * float(np.median(solvent - below)) if len(below) else 0.0
    upper = values[values > _otsu(values, solvent, top)]
    molecule = float(np.median(upper)) if len(upper) else top
    from_levels, from_noise = _FRACTION * (molecule - solvent), _NOISE_DEVIATIONS * noise
    return Level(
        threshold=solvent + max(from_levels, from_noise),
        solvent=solvent,
        molecule=molecule,
        noise=noise,
        is_noise_limited=from_noise > from_levels,
    )


def _otsu(values: np.ndarray, low: float, high: float) -> float:
    """Level between ``low`` and ``high`` that best separates the values above ``low`` into two classes."""
    if not low < high:
        return high
    counts, edges = np.histogram(values, _BINS, (low, high))
    middle, weight = 0.5 * (edges[1:] + edges[:-1]), np.cumsum(counts)
    moment = np.cumsum(counts * middle)
    rest = weight[-1] - weight
    between = np.square(moment * weight[-1] - moment[-1] * weight)
    variance = np.divide(between, weight * rest, out=np.zeros(_BINS), where=(weight > 0) & (rest > 0))
    return float(middle[int(variance.argmax())])


def level_of_mass(map_: np.ndarray, voxel_size_A: float, mass_kDa: float) -> float:
    """Threshold whose contour holds 1.25 times the volume of a protein of this mass, at 0.81 Da per cubic angstrom.

    Parameters
    ----------
    map_ : (n_z, n_y, n_x), low-passed
    voxel_size_A : edge of a voxel
    mass_kDa : molecular mass; more than the box can hold gives the lowest value of the map
    """
    volume_A3 = _SMOOTHED_VOLUME * 1000.0 * mass_kDa / PROTEIN_DENSITY_DA_PER_A3
    n_voxel = min(max(round(volume_A3 / voxel_size_A**3), 1), map_.size)
    return float(np.partition(map_.ravel(), map_.size - n_voxel)[map_.size - n_voxel])


@dataclass(frozen=True, slots=True, kw_only=True)
class Bodies:
    """Connected parts of a body: their number, the share of the largest, and that one alone (bool, same shape)."""

    n: int
    largest_share: float
    largest: np.ndarray


def connected_bodies(body: np.ndarray) -> Bodies:
    """Split a body into parts that share faces of voxels.

    Parameters
    ----------
    body : (n_z, n_y, n_x) bool, not empty
    """
    labels, n = ndimage.label(body)
    sizes = np.bincount(labels.ravel())[1:]
    chosen = int(sizes.argmax()) + 1
    return Bodies(n=int(n), largest_share=float(sizes.max() / sizes.sum()), largest=labels == chosen)


def without_cavities(body: np.ndarray) -> np.ndarray:
    """Fill background that has no connection to the faces of the box; bool, same shape."""
    labels, _ = ndimage.label(~body)
    open_ = np.zeros(int(labels.max()) + 1, bool)
    for axis in range(3):
        for side in (0, -1):
            open_[np.unique(labels.take(side, axis))] = True
    open_[0] = False
    return ~open_[labels]
