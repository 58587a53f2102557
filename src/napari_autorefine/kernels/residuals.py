"""What is left of particles when the map has been taken away: noise per shell, sums for scale and intensity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from napari_autorefine.kernels._cuda import launch_residual_sums
from napari_autorefine.xp import array_module


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Images as they were compared with the map, and which shells count; all arrays in one place.

    Attributes
    ----------
    masked : (n_image, n_sample) complex64
    contrast, ctf : (n_image, n_sample) float32, factors of slices; ``ctf`` without scale and intensity
    score_weight : (n_sample,) float32, inverse noise variances
    precision : (n_image, n_sample) float32, factors of these, or None
    shell : (n_sample,) int32
    use_for_scale, use_for_intensity : (n_shell,) float32
    """

    masked: Any
    contrast: Any
    ctf: Any
    score_weight: Any
    precision: Any | None
    shell: Any
    use_for_scale: Any
    use_for_intensity: Any


def residual_sums(compared: Compared, at: Any, moments: tuple[Any, Any], total: Any, intensity: Any) -> tuple[Any, Any]:
    """Sum residual statistics of some images over their samples; see ``engine.particle_sums``.

    Parameters
    ----------
    at : (n,) int64, which images
    moments : (n, n_sample) float32 each, sums w Re(conj(P) X_t) and w |P|^2, without contrast
    total : (n,) float32, sums of the weights w
    intensity : (n,) float64, of the particles within their groups

    Returns
    -------
    noise : (n, n_shell) float64, sums w |C P - X_t|^2
    sums : (n, 5) float64, power over the noise variance, cross and power for the scale, the same for the intensity
    """
    if array_module(total) is not np:
        noise, sums = launch_residual_sums(compared, at, moments, total, intensity)
        return noise, sums
    noise, sums = np.zeros((len(at), len(compared.use_for_scale))), np.empty((len(at), 5))
    for i, row in enumerate(at):
        weight = compared.score_weight
        if compared.precision is not None:
            weight = weight * compared.precision[row]
        sums[i] = add_residuals(
            noise[i],
            compared.shell,
            (compared.use_for_scale, compared.use_for_intensity),
            (compared.masked[row], compared.contrast[row], compared.ctf[row], weight),
            (moments[0][i], moments[1][i]),
            (float(total[i]), float(intensity[i])),
        )
    return noise, sums


@njit(nogil=True, cache=True, error_model="numpy")
def add_residuals(noise, shells, uses, of_samples, moments, factors):  # type: ignore[no-untyped-def]
    """Add one particle's residual power to ``noise`` (n_shell,); returns its five sums."""
    masked, contrast, ctf, score_weight = of_samples
    cross, power = moments
    total, intensity = factors
    of_likelihood, scale_cross, scale_power, intensity_cross, intensity_power = 0.0, 0.0, 0.0, 0.0, 0.0
    n_sample = len(shells)
    for first in range(0, len(masked), n_sample):
        for j in range(n_sample):
            k, shell = first + j, shells[j]
            own = masked[k].real * masked[k].real + masked[k].imag * masked[k].imag
            c = np.float64(contrast[k])
            noise[shell] += total * own - 2.0 * c * cross[k] + c * c * power[k]
            of_likelihood += score_weight[k] * own
            group_ctf = ctf[k] * intensity
            scale_cross += uses[0][shell] * group_ctf * cross[k]
            scale_power += uses[0][shell] * group_ctf * group_ctf * power[k]
            group_contrast, use = c / intensity, uses[1][shell] * score_weight[k]
            intensity_cross += use * group_contrast * cross[k]
            intensity_power += use * group_contrast * group_contrast * power[k]
    return of_likelihood, scale_cross, scale_power, intensity_cross, intensity_power
