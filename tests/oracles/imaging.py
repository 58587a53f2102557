"""One image, one coefficient at a time in float64: rotations, CTF, masks, transforms."""

from __future__ import annotations

import numpy as np

from napari_autorefine.model.optics import OpticsGroup
from napari_autorefine.model.particles import Particles


def rotation(euler_deg: np.ndarray) -> np.ndarray:
    """Reference to view, (3, 3), written out for angles rot, tilt, psi."""
    (ca, cb, cg), (sa, sb, sg) = np.cos(np.radians(euler_deg)), np.sin(np.radians(euler_deg))
    return np.array(
        [
            [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
            [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
            [sb * ca, sb * sa, cb],
        ]
    )


def magnified(optics: OpticsGroup, frequencies: np.ndarray) -> np.ndarray:
    """Frequencies (n, 2) after the anisotropic magnification."""
    if optics.magnification is None:
        return frequencies
    return frequencies @ np.array(optics.magnification).reshape(2, 2).T


def wavelength_A(optics: OpticsGroup) -> float:
    volts = optics.voltage_kV * 1e3
    return float(12.2643247 / np.sqrt(volts * (1 + 0.978466e-6 * volts)))


def coma(optics: OpticsGroup, frequencies: np.ndarray) -> np.ndarray:
    """Phase of the beam tilt at (n, 2) frequencies in 1/A."""
    along = frequencies @ np.array(optics.beam_tilt_mrad)
    return -20000 * np.pi * optics.cs_mm * wavelength_A(optics) ** 2 * along * (frequencies**2).sum(axis=1)


def transfer(optics: OpticsGroup, particles: Particles, i: int, frequencies: np.ndarray) -> np.ndarray:
    """CTF of particle ``i`` at (n, 2) frequencies in 1/A, squared for premultiplied data."""
    wavelength = wavelength_A(optics)
    angle = np.radians(particles.defocus_angle_deg[i])
    along = frequencies @ [np.cos(angle), np.sin(angle)]
    across = frequencies @ [-np.sin(angle), np.cos(angle)]
    defocus = -(particles.defocus_A[i, 0] * along**2 + particles.defocus_A[i, 1] * across**2)
    u2 = (frequencies**2).sum(axis=1)
    gamma = np.pi * wavelength * defocus + np.pi / 2 * optics.cs_mm * 1e7 * wavelength**3 * u2**2
    gamma -= np.radians(particles.phase_shift_deg[i])
    gamma -= np.arctan(optics.amplitude_contrast / np.sqrt(1 - optics.amplitude_contrast**2))
    values = -np.sin(gamma) * particles.ctf_scale[i] * np.exp(-particles.ctf_bfactor_A2[i] * u2 / 4)
    return values**2 if optics.is_premultiplied else values


def plane(box_size: int) -> tuple[np.ndarray, np.ndarray]:
    """All frequency indices (n, 2) of an image, order x, y, and which of them count once for a real image.

    The last frequency of an even box is the positive one; of the column x = 0 only y >= 0 counts.
    """
    line = np.arange(-((box_size - 1) // 2), box_size // 2 + 1)
    y, x = (a.ravel() for a in np.meshgrid(line, line, indexing="ij"))
    return np.stack([x, y], axis=1), (x > 0) | ((x == 0) & (y >= 0))


def coefficients(image: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Direct transform at frequency indices (n, 2): 1 / N^2 normalised, origin at N // 2."""
    box_size = len(image)
    axis = np.arange(box_size) - box_size // 2
    x, y = (np.exp(-2j * np.pi / box_size * np.outer(column, axis)) for column in index.T)
    return np.einsum("ky,yx,kx->k", y, image.astype(np.float64), x) / box_size**2


def shells(index: np.ndarray) -> np.ndarray:
    return np.floor(np.hypot(*index.T) + 0.5).astype(int)


def with_ctf(image: np.ndarray, particles: Particles, i: int) -> np.ndarray:
    """Return an image multiplied by the CTF of particle ``i`` in Fourier space."""
    optics = particles.optics[particles.optics_index[i]]
    line = np.fft.fftfreq(len(image), optics.pixel_size_A)
    y, x = np.meshgrid(line, line, indexing="ij")
    values = transfer(optics, particles, i, np.stack([x.ravel(), y.ravel()], axis=1)).reshape(image.shape)
    return np.fft.ifft2(np.fft.fft2(image) * values).real


def background(box_size: int, radius: float, edge: float) -> np.ndarray:
    """Weight of the background outside the particle circle, pixels."""
    axis = np.arange(box_size) - box_size // 2
    r = np.hypot(axis[:, None], axis)
    ramp = 0.5 + 0.5 * np.cos(np.pi * (radius + edge - r) / edge)
    return np.where(r < radius, 0.0, np.where(r > radius + edge, 1.0, ramp))


def moved(image: np.ndarray, shift_px: np.ndarray) -> np.ndarray:
    """Content moved by whole pixels (x, y), vacated pixels 0."""
    result = np.zeros(image.shape)
    for y, x in np.ndindex(image.shape):
        source_y, source_x = y - shift_px[1], x - shift_px[0]
        if 0 <= source_y < len(image) and 0 <= source_x < len(image):
            result[y, x] = image[source_y, source_x]
    return result


def masked(image: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Image whose background is replaced by its own mean."""
    return (1 - outside) * image + outside * (outside * image).sum() / outside.sum()
