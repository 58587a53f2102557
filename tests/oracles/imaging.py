"""One image or volume, one coefficient at a time in float64: rotations, CTF, masks, transforms."""

from __future__ import annotations

import numpy as np

from napari_autorefine.model.optics import OpticsGroup
from napari_autorefine.model.particles import Particles
from napari_autorefine.model.tomography import Tomogram


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


def phase_shift(optics: OpticsGroup, defocus_A: np.ndarray, angle_deg: float, frequencies: np.ndarray) -> np.ndarray:
    """Phase of defocus, spherical aberration and amplitude contrast at (n, 2) frequencies in 1/A."""
    wavelength = wavelength_A(optics)
    angle = np.radians(angle_deg)
    along = frequencies @ [np.cos(angle), np.sin(angle)]
    across = frequencies @ [-np.sin(angle), np.cos(angle)]
    defocus = -(defocus_A[0] * along**2 + defocus_A[1] * across**2)
    u2 = (frequencies**2).sum(axis=1)
    gamma = np.pi * wavelength * defocus + np.pi / 2 * optics.cs_mm * 1e7 * wavelength**3 * u2**2
    return gamma - np.arctan(optics.amplitude_contrast / np.sqrt(1 - optics.amplitude_contrast**2))


def transfer(optics: OpticsGroup, particles: Particles, i: int, frequencies: np.ndarray) -> np.ndarray:
    """CTF of particle ``i`` at (n, 2) frequencies in 1/A, squared for premultiplied data."""
    gamma = phase_shift(optics, particles.defocus_A[i], particles.defocus_angle_deg[i], frequencies)
    gamma -= np.radians(particles.phase_shift_deg[i])
    u2 = (frequencies**2).sum(axis=1)
    values = -np.sin(gamma) * particles.ctf_scale[i] * np.exp(-particles.ctf_bfactor_A2[i] * u2 / 4)
    return values**2 if optics.is_premultiplied else values


def tilt_transfer(
    optics: OpticsGroup, tomogram: Tomogram, tilt: int, height_px: np.ndarray, frequencies: np.ndarray
) -> np.ndarray:
    """CTF times damage of a tilt for a particle ``height_px`` (3,) from the center; squared for premultiplied data."""
    depth_A = tomogram.pixel_size_A * (tomogram.projection[tilt, 2, :3] @ height_px)
    defocus_A = tomogram.defocus_A[tilt] + tomogram.hand * tomogram.defocus_slope * depth_A
    gamma = phase_shift(optics, defocus_A, tomogram.defocus_angle_deg[tilt], frequencies)
    gamma -= np.radians(tomogram.phase_shift_deg[tilt])
    u = np.hypot(*frequencies.T)
    with np.errstate(divide="ignore"):
        damage = np.exp(-tomogram.dose_e_A2[tilt] / (2 * (0.245 * u**-1.665 + 2.81)))
    values = -np.sin(gamma) * tomogram.ctf_scale[tilt] * np.exp(-tomogram.ctf_bfactor_A2[tilt] * u**2 / 4) * damage
    return values**2 if optics.is_premultiplied else values


def plane(box_size: int, dim: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """All frequency indices (n, dim) of an image or volume, order x y (z), and which count once for a real one.

    The last frequency of an even box is the positive one; of the column x = 0 only y >= 0 counts, of the line
    x = y = 0 of a volume only z >= 0.
    """
    line = np.arange(-((box_size - 1) // 2), box_size // 2 + 1)
    axes = [a.ravel() for a in np.meshgrid(*[line] * dim, indexing="ij")][::-1]
    counts = np.ones(len(axes[0]), dtype=bool)
    for axis in axes[::-1]:
        counts = (axis > 0) | ((axis == 0) & counts)
    return np.stack(axes, axis=1), counts


def coefficients(image: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Direct transform at frequency indices (n, 2) or (n, 3): divided by the number of pixels, origin at N // 2."""
    box_size = len(image)
    axis = np.arange(box_size) - box_size // 2
    waves = [np.exp(-2j * np.pi / box_size * np.outer(column, axis)) for column in index.T]
    result = np.tensordot(waves[0], image.astype(np.float64), axes=(1, image.ndim - 1))
    for wave in waves[1:]:
        result = np.einsum("k...x,kx->k...", result, wave)
    return result / box_size**image.ndim


def shells(index: np.ndarray) -> np.ndarray:
    return np.floor(np.linalg.norm(index, axis=1) + 0.5).astype(int)


def with_ctf(image: np.ndarray, particles: Particles, i: int) -> np.ndarray:
    """Return an image multiplied by the CTF of particle ``i`` in Fourier space."""
    optics = particles.optics[particles.optics_index[i]]
    line = np.fft.fftfreq(len(image), optics.pixel_size_A)
    y, x = np.meshgrid(line, line, indexing="ij")
    values = transfer(optics, particles, i, np.stack([x.ravel(), y.ravel()], axis=1)).reshape(image.shape)
    return np.fft.ifft2(np.fft.fft2(image) * values).real


def background(box_size: int, radius: float, edge: float, dim: int = 2) -> np.ndarray:
    """Weight of the background outside the particle's circle or sphere, pixels."""
    axis = np.arange(box_size) - box_size // 2
    r = np.sqrt(sum(a**2 for a in np.meshgrid(*[axis] * dim, indexing="ij")))
    ramp = 0.5 + 0.5 * np.cos(np.pi * (radius + edge - r) / edge)
    return np.where(r < radius, 0.0, np.where(r > radius + edge, 1.0, ramp))


def moved(image: np.ndarray, shift_px: np.ndarray) -> np.ndarray:
    """Content moved by whole pixels (x, y) or (x, y, z), vacated pixels 0."""
    result = np.zeros(image.shape)
    for to in np.ndindex(image.shape):
        source = tuple(np.array(to) - shift_px[::-1])
        if min(source) >= 0 and max(source) < len(image):
            result[to] = image[source]
    return result


def masked(image: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Image whose background is replaced by its own mean."""
    return (1 - outside) * image + outside * (outside * image).sum() / outside.sum()
