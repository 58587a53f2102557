"""From particle images to Fourier samples: normalise, move by whole pixels, mask, transform, correct, pick."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft

from napari_autorefine.engine.samples import FourierSamples
from napari_autorefine.xp import array_module, device_of, to_device, to_host


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedImages:
    """A block of images as Fourier samples, under the 1 / N^2 normalisation, centred on the box centre.

    Attributes
    ----------
    masked, unmasked : (n, n_sample) complex64; masked images are compared, unmasked ones reconstructed
    model_ctf : (n, n_sample) float32, what a slice is multiplied by before the group scale: the CTF, or its square for
        premultiplied data
    contrast : (n, n_sample) float32, ``model_ctf`` times group scale
    gain, weight : (n, n_sample) float32, factors of the unmasked image and of its weight in the reconstruction
    outer_power : (n, n_shell) float64, power of the masked image per image shell outside the samples' disc
    """

    masked: Any
    unmasked: Any
    model_ctf: Any
    contrast: Any
    gain: Any
    weight: Any
    outer_power: np.ndarray


def move_and_mask(
    images: Any, shifts_px: np.ndarray, gains: np.ndarray, background: Any, *, fill: Any | None = None
) -> tuple[Any, Any]:
    """Multiply by ``gains``, move by whole pixels (vacated pixels 0), and mask.

    Parameters
    ----------
    images : (n, N, N) float32
    shifts_px : (n, 2) int, order x, y: content moves by +shift
    gains : (n,) norm correction factors
    background : (N, N) float32, weight of the background: 0 inside the particle, 1 outside
    fill : (n, N, N) noise images put behind the mask; None = the image's own background mean

    Returns
    -------
    masked, unmasked : (n, N, N) float32
    """
    xp = array_module(images)
    moved = xp.zeros_like(images)
    size = images.shape[-1]
    for i, (sx, sy) in enumerate(np.asarray(shifts_px, dtype=int)):
        if abs(sx) >= size or abs(sy) >= size:
            continue
        to_y, from_y = slice(max(sy, 0), size + min(sy, 0)), slice(max(-sy, 0), size + min(-sy, 0))
        to_x, from_x = slice(max(sx, 0), size + min(sx, 0)), slice(max(-sx, 0), size + min(-sx, 0))
        moved[i, to_y, to_x] = images[i, from_y, from_x] * np.float32(gains[i])
    if fill is None:
        mean = xp.einsum("nyx,yx->n", moved, background) / background.sum()
        masked = moved + background * (mean[:, None, None].astype(images.dtype) - moved)
    else:
        masked = moved + background * (fill - moved)
    return masked, moved


def half_transforms(images: Any) -> Any:
    """Return (n, N, N // 2 + 1) complex64 transforms of real images, 1 / N^2 normalised, origin at N // 2."""
    xp = array_module(images)
    size = images.shape[-1]
    fft = scipy.fft if xp is np else xp.fft
    transforms = fft.rfft2(images).astype(np.complex64, copy=False)
    transforms *= _centre_signs(size, device_of(images)) / np.float32(size * size)
    return transforms


def samples_of(transforms: Any, samples: FourierSamples) -> Any:
    """Pick the samples of every transform, contiguous; returns (n, n_sample) complex64."""
    xp = array_module(transforms)
    index = _flat_index(samples, transforms.shape[1], device_of(transforms))
    return xp.take(transforms.reshape(len(transforms), -1), index, axis=1)


def outer_power(transforms: Any, samples: FourierSamples) -> np.ndarray:
    """Power per shell of the coefficients beyond the samples' disc, up to shell N / 2; (n, N // 2 + 1) float64."""
    xp = array_module(transforms)
    index, starts = _outer_index(samples.box_size, samples.size)
    n_shell = samples.box_size // 2 + 1
    power = np.zeros((len(transforms), n_shell))
    if len(index) == 0:
        return power
    where = _resident_outer_index(samples.box_size, samples.size, device_of(transforms))
    picked = xp.take(transforms.reshape(len(transforms), -1), where, axis=1)
    picked = picked.real**2 + picked.imag**2
    edges = to_host(xp.cumsum(picked, axis=1, dtype=np.float64))
    upto = np.concatenate([np.zeros((len(edges), 1)), edges], axis=1)[:, starts]
    power[:] = np.diff(upto, axis=1)
    return power


def noise_images(sigma2: np.ndarray, size: int, seeds: np.ndarray) -> np.ndarray:
    """Gaussian noise images (n, N, N) float32 of spectrum ``sigma2`` (per component), one seed per image."""
    shell = np.minimum(_shell_grid(size), len(sigma2) - 1)
    amplitude = np.sqrt(2.0 * np.maximum(sigma2, 0.0))[shell].astype(np.float32) * np.float32(size)
    out = np.empty((len(seeds), size, size), dtype=np.float32)
    for i, seed in enumerate(seeds):
        rng = np.random.default_rng(int(seed))
        white = scipy.fft.rfft2(rng.standard_normal((size, size), dtype=np.float32))
        out[i] = scipy.fft.irfft2(white * amplitude, s=(size, size))
    return out


@lru_cache(maxsize=16)
def _centre_signs(size: int, device: int | None) -> Any:
    """Sign pattern that moves the origin of a transform to the box centre."""
    parity = np.add.outer(np.arange(size), np.arange(size // 2 + 1)) % 2
    phase = 1 - 2 * parity if size % 2 == 0 else np.ones_like(parity)
    if size % 2:
        ky = np.fft.fftfreq(size)[:, None]
        kx = np.fft.rfftfreq(size)[None, :]
        return to_device(np.exp(2j * np.pi * (size // 2) * (kx + ky)).astype(np.complex64), device)
    return to_device(phase.astype(np.float32), device)


@lru_cache(maxsize=64)
def _flat_index(samples: FourierSamples, n_y: int, device: int | None) -> Any:
    return to_device(np.mod(samples.y, n_y) * (n_y // 2 + 1) + samples.x, device)


def _frequency_indices(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ky (size, 1) and kx (1, size // 2 + 1) in FFT order; the last one of an even size counts as positive."""
    ky = (np.arange(size) + (size - 1) // 2) % size - (size - 1) // 2
    return ky[:, None], np.arange(size // 2 + 1)[None, :]


@lru_cache(maxsize=16)
def _shell_grid(size: int) -> np.ndarray:
    ky, kx = _frequency_indices(size)
    return np.floor(np.hypot(kx, ky) + 0.5).astype(np.int64)


@lru_cache(maxsize=64)
def _outer_index(box_size: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices of the independent coefficients with |k| > size / 2, sorted by shell, and where shells start."""
    ky, kx = _frequency_indices(box_size)
    shell = _shell_grid(box_size)
    keep = (np.hypot(kx, ky) > size / 2.0 + 1e-9) & (shell <= box_size // 2) & ~((kx == 0) & (ky < 0))
    index = np.flatnonzero(keep)
    order = np.argsort(shell.ravel()[index], kind="stable")
    index = index[order]
    starts = np.searchsorted(shell.ravel()[index], np.arange(box_size // 2 + 2))
    return index, starts


@lru_cache(maxsize=64)
def _resident_outer_index(box_size: int, size: int, device: int | None) -> Any:
    return to_device(_outer_index(box_size, size)[0], device)


@lru_cache(maxsize=64)
def coefficient_count(box_size: int) -> np.ndarray:
    """Independent coefficients per shell, (box_size // 2 + 1,) int64; the origin counts."""
    ky, kx = _frequency_indices(box_size)
    shell = _shell_grid(box_size)
    keep = (shell <= box_size // 2) & ~((kx == 0) & (ky < 0))
    return np.bincount(shell[keep], minlength=box_size // 2 + 1)
