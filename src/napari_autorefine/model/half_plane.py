"""Half transforms of whole images: their frequencies and the CTF on them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from napari_autorefine.kernels.ctf import ctf as ctf_kernel
from napari_autorefine.model.ctf import ctf_parameters
from napari_autorefine.model.optics import OpticsGroup, even_aberration_phase, magnified


def half_frequencies(size: int, pixel_size_A: float) -> np.ndarray:
    """Frequencies (size * (size // 2 + 1), 2), x and y in 1/A, of a half transform; the Nyquist row is positive."""
    y = np.arange(size)
    y = np.where(y > size // 2, y - size, y)
    grid = np.meshgrid(y, np.arange(size // 2 + 1), indexing="ij")
    return np.stack([grid[1].ravel(), grid[0].ravel()], axis=1) / (size * pixel_size_A)


def half_plane_ctf(
    optics: OpticsGroup, parameters: np.ndarray, size: int, *, is_first_peak_intact: bool = False
) -> np.ndarray:
    """Return the CTF on the half transforms of images: (n, size, size // 2 + 1) float32.

    Parameters
    ----------
    optics : OpticsGroup
        With the pixel size of the images.
    parameters : (n, 6) float64
        Defocus U and V (A), its angle, phase shift (degrees), B-factor (A^2), scale.
    size : int
        Width of the images.
    is_first_peak_intact : bool
        1 up to the first peak.

    Notes
    -----
    The Nyquist row is ambiguous. RELION takes it at a positive frequency for defocus and astigmatism and at a negative
    one for even aberrations, and so does this function.
    """
    points, extra = _grid(optics, size)
    u_v, angle, phase, bfactor, scale = np.split(np.asarray(parameters, np.float64), [2, 3, 4, 5], axis=1)
    prepared = ctf_parameters(
        optics, u_v, angle_deg=angle[:, 0], phase_shift_deg=phase[:, 0], bfactor_A2=bfactor[:, 0], scale=scale[:, 0]
    )
    values: np.ndarray = ctf_kernel(prepared, points, extra, is_first_peak_intact)
    return values.reshape(len(prepared), size, -1)


@lru_cache(maxsize=8)
def _grid(optics: OpticsGroup, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the frequencies after the magnification of a group, and its even aberrations there."""
    points = half_frequencies(size, optics.pixel_size_A)
    negative = points.copy().reshape(size, -1, 2)
    negative[size // 2, :, 1] *= -1.0
    return np.ascontiguousarray(magnified(optics, points)), even_aberration_phase(optics, negative.reshape(-1, 2))
