"""Optics groups: what all particles of one microscope session and pixel size share, and their aberrations.

Frequencies are (x, y) in 1/A. Zernike coefficients follow RELION: polynomials of the frequency itself (radius in 1/A),
odd degrees 1, 3, … or even degrees 0, 2, …, within a degree the orders -n, -n + 2, …, n.

References
----------
Zivanov, Nakane & Scheres (2020), IUCrJ 7, 253-267, doi:10.1107/S2052252520000081 (aberrations, magnification).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class OpticsGroup:
    """One row of the optics table. ``number`` is the 1-based ``rlnOpticsGroup`` after renumbering."""

    number: int
    name: str
    pixel_size_A: float
    box_size: int
    voltage_kV: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    dimensionality: int = 2
    is_premultiplied: bool = False
    beam_tilt_mrad: tuple[float, float] = (0.0, 0.0)
    odd_zernike: tuple[float, ...] = ()
    even_zernike: tuple[float, ...] = ()
    magnification: tuple[float, float, float, float] | None = None
    mtf_path: str | None = None
    original_pixel_size_A: float | None = None

    @property
    def wavelength_A(self) -> float:
        """Relativistic electron wavelength."""
        volts = self.voltage_kV * 1e3
        return float(12.2643247 / np.sqrt(volts * (1.0 + 0.978466e-6 * volts)))


def magnified(optics: OpticsGroup, frequencies: npt.ArrayLike) -> np.ndarray:
    """Frequencies after the anisotropic magnification of the group.

    Parameters
    ----------
    optics
        the group; its ``magnification`` is (m00, m01, m10, m11)
    frequencies : (..., 2)
        x and y in 1/A

    Returns
    -------
    (..., 2) float64
    """
    points = np.asarray(frequencies, dtype=np.float64)
    if optics.magnification is None:
        return points
    scaled: np.ndarray = points @ np.array(optics.magnification, dtype=np.float64).reshape(2, 2).T
    return scaled


def magnification_matrix(optics: OpticsGroup) -> np.ndarray:
    """Inverse magnification as a (3, 3) matrix M: slices are taken with M @ A in place of A.

    As the slice of A samples the reference at inv(A) @ k, image frequencies are magnified before they are rotated.
    """
    matrix = np.eye(3)
    if optics.magnification is not None:
        matrix[:2, :2] = np.linalg.inv(np.array(optics.magnification, dtype=np.float64).reshape(2, 2))
    return matrix


def aberration_phase(optics: OpticsGroup, frequencies: npt.ArrayLike) -> np.ndarray:
    """Odd part of the aberration function: odd Zernike polynomials plus axial coma of the beam tilt.

    Images are multiplied by the conjugate of ``exp(i phase)`` to correct them. The tilt contributes
    ``-20000 pi Cs lambda^2 (tx x + ty y) u^2`` with Cs in mm, lambda in A, tilts in mrad, x, y, u in 1/A.

    Parameters
    ----------
    optics
        the group
    frequencies : (n, 2)
        x and y in 1/A

    Returns
    -------
    (n,) float64, radians
    """
    points = magnified(optics, frequencies)
    phase = _zernike_sum(optics.odd_zernike, points, first_degree=1)
    tilt = points @ np.array(optics.beam_tilt_mrad, dtype=np.float64)
    coma = -20000.0 * np.pi * optics.cs_mm * optics.wavelength_A**2
    return phase + coma * tilt * (points**2).sum(axis=-1)


def even_aberration_phase(optics: OpticsGroup, frequencies: npt.ArrayLike) -> np.ndarray:
    """Even Zernike polynomials of the group: a phase added to that of the CTF.

    Parameters
    ----------
    optics
        the group
    frequencies : (n, 2)
        x and y in 1/A

    Returns
    -------
    (n,) float64, radians
    """
    return _zernike_sum(optics.even_zernike, magnified(optics, frequencies), first_degree=0)


def _zernike_sum(coefficients: tuple[float, ...], points: np.ndarray, first_degree: int) -> np.ndarray:
    """Zernike polynomials of the degrees first, first + 2, …, each with its orders -n, -n + 2, …, n (OSA order)."""
    phase = np.zeros(points.shape[:-1])
    radius, angle = np.hypot(points[..., 0], points[..., 1]), np.arctan2(points[..., 1], points[..., 0])
    degree, order = first_degree, -first_degree
    for coefficient in coefficients:
        if coefficient != 0.0:
            wave = np.cos(order * angle) if order >= 0 else np.sin(-order * angle)
            phase += coefficient * _zernike_radial(degree, abs(order), radius) * wave
        order += 2
        if order > degree:
            degree += 2
            order = -degree
    return phase


def _zernike_radial(degree: int, order: int, radius: np.ndarray) -> np.ndarray:
    """Radial Zernike polynomial, unnormalised, of a radius that is not scaled to a unit disc."""
    total = np.zeros_like(radius)
    for k in range((degree - order) // 2 + 1):
        divisor = factorial(k) * factorial((degree + order) // 2 - k) * factorial((degree - order) // 2 - k)
        total += (-1) ** k * (factorial(degree - k) // divisor) * radius ** (degree - 2 * k)
    return total
