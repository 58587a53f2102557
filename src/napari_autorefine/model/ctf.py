"""Contrast transfer function of particles: from defocus and optics to numbers on Fourier samples.

With D(k) the astigmatic defocus (underfocus positive in the file, hence negative here), u = |k| in 1/A and Cs in A::

    phase(k) = pi lambda D(k) + (pi / 2) Cs lambda^3 u^4 - phase_shift - atan(Q0 / sqrt(1 - Q0^2)) + even Zernike phase
    CTF(k)   = -sin(phase) * scale * exp(-B u^2 / 4)

so that CTF(0) = +Q0: images in which particles are white have a positive first lobe.

References
----------
Rohou & Grigorieff (2015), J. Struct. Biol. 192, 216-221, doi:10.1016/j.jsb.2015.08.008 (equation).
RELION 5.0.1 program ``relion_refine`` (signs, ``--ctf_intact_first_peak``, smallest absolute value 1e-8).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_autorefine.kernels import ctf as kernel
from napari_autorefine.model.optics import OpticsGroup, even_aberration_phase, magnified
from napari_autorefine.xp import beside


def ctf_parameters(
    optics: OpticsGroup,
    defocus_A: npt.ArrayLike,
    *,
    angle_deg: npt.ArrayLike = 0.0,
    phase_shift_deg: npt.ArrayLike = 0.0,
    bfactor_A2: npt.ArrayLike = 0.0,
    scale: npt.ArrayLike = 1.0,
) -> np.ndarray:
    """Per-particle parameters of the kernel.

    Parameters
    ----------
    optics
        optics group of the particles
    defocus_A : (n, 2)
        U and V, positive = underfocus; U lies along ``angle_deg`` from +x towards +y
    angle_deg, phase_shift_deg, bfactor_A2, scale : (n,) or a number
        astigmatism angle, phase plate, B-factor and amplitude of each particle, or of all

    Returns
    -------
    (n, 7) float64, see ``kernels.ctf.ctf``
    """
    defocus = np.atleast_2d(np.asarray(defocus_A, dtype=np.float64))
    wavelength, amplitude = optics.wavelength_A, optics.amplitude_contrast
    angle = np.radians(np.broadcast_to(np.asarray(angle_deg, dtype=np.float64), len(defocus)))
    cosine, sine = np.cos(angle), np.sin(angle)
    u, v = -np.pi * wavelength * defocus.T
    out = np.empty((len(defocus), kernel.N_PARAMETER))
    out[:, 0] = u * cosine**2 + v * sine**2
    out[:, 1] = 2.0 * (u - v) * cosine * sine
    out[:, 2] = u * sine**2 + v * cosine**2
    out[:, 3] = 0.5 * np.pi * optics.cs_mm * 1e7 * wavelength**3
    out[:, 4] = -np.radians(phase_shift_deg) - np.arctan2(amplitude, np.sqrt(1.0 - amplitude**2))
    out[:, 5] = 0.25 * np.asarray(bfactor_A2, dtype=np.float64)
    out[:, 6] = scale
    return out


def ctf(  # noqa: PLR0913 - the columns of a particle table
    optics: OpticsGroup,
    defocus_A: npt.ArrayLike,
    angle_deg: npt.ArrayLike,
    phase_shift_deg: npt.ArrayLike,
    bfactor: npt.ArrayLike,
    scale: npt.ArrayLike,
    frequencies: npt.ArrayLike,
    *,
    intact_first_peak: bool = False,
    like: Any = None,
) -> Any:
    """Contrast transfer function of n particles of one optics group.

    Parameters
    ----------
    optics
        optics group of the particles
    defocus_A : (n, 2)
        U and V, positive = underfocus
    angle_deg, phase_shift_deg, bfactor, scale : (n,) or a number
        bfactor in A^2
    frequencies : (n_frequency, 2)
        x and y in 1/A
    intact_first_peak
        1 up to the first peak, before scale and B-factor
    like : array
        the function is computed where this array lives; by default on the host

    Returns
    -------
    (n, n_frequency) float32, never smaller than 1e-8 in absolute value
    """
    points = np.ascontiguousarray(np.asarray(frequencies, dtype=np.float64))
    parameters = ctf_parameters(
        optics, defocus_A, angle_deg=angle_deg, phase_shift_deg=phase_shift_deg, bfactor_A2=bfactor, scale=scale
    )
    extra = even_aberration_phase(optics, points)
    return kernel.ctf(
        beside(parameters, like), np.ascontiguousarray(magnified(optics, points)), extra, bool(intact_first_peak)
    )
