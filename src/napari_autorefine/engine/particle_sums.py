"""What is left of a particle's residuals: noise per shell, and sums for scale, intensity and likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_autorefine.engine.search import Measured
from napari_autorefine.kernels.residuals import add_residuals
from napari_autorefine.xp import to_host


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticleSums:
    """Sums over the samples of one particle, in double precision.

    Attributes
    ----------
    noise : (n_shell,), sum w |C P - X_t|^2 per shell of the reference
    power : sum of |X|^2 over the noise variance
    scale : sums w Re(conj(C P) X_t) and w |C P|^2, with the group's scale taken out of C, over the shells it is
        estimated from
    intensity : the same over the noise variance, with the particle's intensity taken out of C
    """

    noise: np.ndarray
    power: float
    scale: tuple[float, float]
    intensity: tuple[float, float]


def particle_sums(
    particle: Measured, cross: Any, power: Any, *, total: float, intensity: float, n_shell: int
) -> ParticleSums:
    """Sum residual statistics over the samples of a particle.

    Intensities are estimated from compared samples between the shells that the halves share and the current resolution:
    these tell particles from empty or foreign images, while at low frequencies everything looks alike
    (``intensity.shrunken_intensities``).

    Parameters
    ----------
    cross, power : (K,) sums w Re(conj(P) X_t) and w |P|^2 over orientations and shifts, without contrast
    total : sum of the weights w
    intensity : the particle's, within its group
    n_shell : shells of the reference
    """
    geometry, half, images = particle.geometry, particle.half, particle.images
    whole = geometry.whole
    of_samples = (
        to_host(particle.of(images.masked, whole)),
        to_host(particle.of(images.contrast, whole)),
        to_host(particle.of(images.model_ctf, whole)),
        to_host(particle.score_weight(whole)),
    )
    noise = np.zeros(n_shell)
    sums = add_residuals(
        noise,
        geometry.model_shell,
        (half.use_for_scale, half.use_for_intensity),
        of_samples,
        (to_host(cross), to_host(power)),
        (float(total), float(intensity)),
    )
    return ParticleSums(noise=noise, power=sums[0], scale=sums[1:3], intensity=sums[3:5])
