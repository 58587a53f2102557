"""What a simulated micrograph shows besides its particles: where they lie, ice, background and electrons."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy import fft

from napari_autorefine.errors import InputError
from napari_autorefine.model.ctf import ctf
from napari_autorefine.model.optics import OpticsGroup

_STRIP_ROWS = 128
_TRIES_PER_PARTICLE = 2000
_FALL_LENGTH_A = 40.0
_RING_A, _RING_WIDTH, _RING_POWER = 3.7, 0.03, 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One micrograph: its shape (rows, columns), optics, defocus (2,) in Å with its angle, and its random seed."""

    shape: tuple[int, int]
    optics: OpticsGroup
    defocus_A: np.ndarray
    angle_deg: float
    seed: tuple[int, ...]

    def random(self, *stage: int) -> np.random.Generator:
        """Return the generator of one stage, whatever was drawn before."""
        return np.random.default_rng([*self.seed, *stage])


def place(field: Field, n_particle: int, *, spacing_px: float, edge_px: float) -> np.ndarray:
    """Draw positions no nearer to each other than ``spacing_px`` and to the edge than ``edge_px``.

    Returns
    -------
    (n_particle, 2) float64, x and y of the centers in pixels; pixel 0 has its center at 0

    Raises
    ------
    InputError
        When they do not fit.
    """
    rng = field.random(0)
    last = np.array(field.shape[::-1]) - 1.0 - edge_px
    if (last < edge_px).any():
        raise InputError(_too_small(field, 0, n_particle))
    found = np.empty((n_particle, 2))
    n_found = 0
    for _ in range(_TRIES_PER_PARTICLE * n_particle):
        if n_found == n_particle:
            break
        candidate = rng.uniform(edge_px, last)
        if (np.sum((found[:n_found] - candidate) ** 2, axis=1) >= spacing_px**2).all():
            found[n_found] = candidate
            n_found += 1
    if n_found < n_particle:
        raise InputError(_too_small(field, n_found, n_particle))
    return found


def _too_small(field: Field, n_found: int, n_particle: int) -> str:
    size = f"{field.shape[1]} x {field.shape[0]} px"
    return (
        f"A micrograph of {size} holds {n_found} of the {n_particle} particles meant for it; give a larger"
        " --micrograph_size, more --micrographs, or a smaller --spacing."
    )


def background(field: Field, change: float) -> np.ndarray:
    """Relative brightness (rows, columns) float32, 1 in the middle: a ramp in a random direction, slightly curved.

    ``change`` is about the difference between the brightest and the darkest place.
    """
    angle = field.random(1).uniform(0, 2 * np.pi)
    y, x = (np.linspace(-0.5, 0.5, n, dtype=np.float32) for n in field.shape)
    ramp = x[None, :] * np.float32(np.cos(angle)) + y[:, None] * np.float32(np.sin(angle))
    bend = x[None, :] ** 2 + y[:, None] ** 2
    return np.asarray(1.0 + np.float32(change) * (0.7 * ramp - 0.6 * bend), dtype=np.float32)


def ice_noise(field: Field, pool: ThreadPoolExecutor) -> np.ndarray:
    """Image of structureless ice: Gaussian noise of variance 1, (rows, columns) float32.

    Its power falls with the frequency u as 1 / (1 + (40 Å u)^2), with the broad ring of amorphous ice at 3.7 Å, and is
    modulated by the CTF of the micrograph, as the Thon rings of real micrographs show.
    """
    noise = np.empty(field.shape, dtype=np.float32)

    def fill(start: int) -> None:
        rows = noise[start : start + _STRIP_ROWS]
        field.random(2, start).standard_normal(out=rows, dtype=np.float32)

    list(pool.map(fill, range(0, field.shape[0], _STRIP_ROWS)))
    transform = fft.rfft2(noise, norm="ortho")
    powers = pool.map(lambda start: _filter_rows(field, transform, start), range(0, field.shape[0], _STRIP_ROWS))
    variance = sum(powers) / (field.shape[0] * field.shape[1])
    return np.asarray(fft.irfft2(transform, s=field.shape, norm="ortho")) / np.float32(np.sqrt(variance))


def _filter_rows(field: Field, transform: np.ndarray, start: int) -> float:
    """Multiply rows of ``transform`` by the ice's amplitude in place; return their share of its total power."""
    n_y, n_x = field.shape
    rows = transform[start : start + _STRIP_ROWS]
    fy = fft.fftfreq(n_y, field.optics.pixel_size_A)[start : start + _STRIP_ROWS]
    fx = fft.rfftfreq(n_x, field.optics.pixel_size_A)
    points = np.stack(np.broadcast_arrays(fx[None, :], fy[:, None]), axis=-1).reshape(-1, 2)
    transfer = ctf(
        field.optics, field.defocus_A[None], np.array([field.angle_deg]), np.zeros(1), np.zeros(1), np.ones(1), points
    )
    frequency = np.hypot(points[:, 0], points[:, 1])
    ring = _RING_POWER * np.exp(-0.5 * ((frequency - 1.0 / _RING_A) / _RING_WIDTH) ** 2)
    amplitude = np.sqrt(1.0 / (1.0 + (_FALL_LENGTH_A * frequency) ** 2) + ring) * transfer.reshape(-1)
    amplitude = amplitude.reshape(rows.shape).astype(np.float32)
    rows *= amplitude
    weight = np.full(len(fx), 2.0)
    weight[0] = 1.0
    if n_x % 2 == 0:
        weight[-1] = 1.0
    return float(np.sum(amplitude.astype(np.float64) ** 2 * weight))


def electrons(field: Field, expected: np.ndarray, pool: ThreadPoolExecutor) -> np.ndarray:
    """Draw the counts of a detector that sees every electron: Poisson numbers of mean ``expected``, float32.

    Parameters
    ----------
    expected : (rows, columns), not negative
    """
    counts = np.empty(field.shape, dtype=np.float32)

    def fill(start: int) -> None:
        counts[start : start + _STRIP_ROWS] = field.random(3, start).poisson(expected[start : start + _STRIP_ROWS])

    list(pool.map(fill, range(0, field.shape[0], _STRIP_ROWS)))
    return counts
