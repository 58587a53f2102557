"""Intensity of single particles: how strongly each shows the signal, as far as the data can tell."""

from __future__ import annotations

import numpy as np

_RANGE = (0.05, 3.0)
_SMALLEST_POWER = 1e-6


def shrunken_intensities(cross: np.ndarray, power: np.ndarray) -> np.ndarray:
    """Intensities of the particles of a half-set, with mean 1.

    The likelihood of an intensity s is Gaussian, exp(cross s - power s^2 / 2): mean cross / power, variance 1 / power.
    True intensities are taken to spread around their mean with a variance that is estimated from all particles by the
    method of moments; each particle's estimate is drawn towards the mean accordingly. Where intensities differ by no
    more than their errors, all become 1.

    Parameters
    ----------
    cross, power : (n,) sums over compared coefficients of C Re(conj(P) X) / s2 and C^2 |P|^2 / s2

    References
    ----------
    DerSimonian & Laird (1986), Control. Clin. Trials 7, 177-188, doi:10.1016/0197-2456(86)90046-2 (random effects).
    """
    intensities = np.ones(len(cross))
    told = power > _SMALLEST_POWER
    if np.count_nonzero(told) < 2:
        return intensities
    raw, weight = cross[told] / power[told], power[told]
    mean = float(np.average(raw, weights=weight))
    scatter = float((weight * (raw - mean) ** 2).sum())
    spread = (scatter - (len(raw) - 1)) / (weight.sum() - (weight**2).sum() / weight.sum())
    if mean <= 0 or spread <= 0:
        return intensities
    precision = 1.0 / spread
    intensities[told] = np.clip((cross[told] + precision * mean) / (weight + precision) / mean, *_RANGE)
    shrunken: np.ndarray = intensities / intensities.mean()
    return shrunken
