"""From particle images to Fourier samples: normalise, move by whole pixels, mask, transform, correct, pick."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft

from napari_autorefine.engine.samples import FourierSamples
from napari_autorefine.kernels.shells import shell_sums
from napari_autorefine.xp import array_module, device_of, is_on_device, to_device, to_host


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedImages:
    """A block of images or volumes as Fourier samples, divided by their number of pixels, centred on the box centre.

    Of a block of tilt stacks there is one such record per particle, whose n images are its visible tilts.

    Attributes
    ----------
    masked, unmasked : (n, n_sample) complex64; masked images are compared, unmasked ones reconstructed
    model_ctf : (n, n_sample) float32, what a slice is multiplied by before the group scale: the CTF, or its square for
        premultiplied data
    contrast : (n, n_sample) float32, ``model_ctf`` times group scale
    gain, weight : (n, n_sample) float32, factors of the unmasked image and of its weight in the reconstruction
    outer_power : (n, n_shell) float64, power of the masked image per image shell outside the samples' disc
    precision : (n, n_sample) float32, by how much less a sample varies than the noise spectrum says: 1 over the
        multiplicity of volumes, 0 in their missing wedge; None = 1
    count : (n, n_shell) float64, what the noise power per image shell is divided by: the multiplicities; None = the
        number of coefficients
    """

    masked: Any
    unmasked: Any
    model_ctf: Any
    contrast: Any
    gain: Any
    weight: Any
    outer_power: np.ndarray
    precision: Any | None = None
    count: np.ndarray | None = None


def move_and_mask(
    images: Any, shifts_px: np.ndarray, gains: np.ndarray, background: Any, *, fill: Any | None = None
) -> tuple[Any, Any]:
    """Multiply by ``gains``, move by whole pixels (vacated pixels 0), and mask.

    Parameters
    ----------
    images : (n, N, N) or (n, N, N, N) float32
    shifts_px : (n, 2) or (n, 3) int, order x, y (, z): content moves by +shift
    gains : (n,) norm correction factors
    background : (N, N) or (N, N, N) float32, weight of the background: 0 inside the particle, 1 outside
    fill : noise images put behind the mask, as many as images; None = the image's own background mean

    Returns
    -------
    masked, unmasked : float32, shaped as ``images``
    """
    xp = array_module(images)
    moved = _moved(images, np.asarray(shifts_px, dtype=int)[:, ::-1], np.asarray(gains, dtype=np.float32))
    if fill is None:
        mean = (moved.reshape(len(moved), -1) @ background.ravel()) / xp.maximum(background.sum(), np.float32(1e-20))
        mean = mean.reshape((-1,) + (1,) * background.ndim).astype(images.dtype)
        masked = moved + background * (mean - moved)
    else:
        masked = moved + background * (fill - moved)
    return masked, moved


def _moved(images: Any, shifts: np.ndarray, gains: np.ndarray) -> Any:
    """Images or volumes times gains, moved by shifts (n, dim) in the order of the axes; on a device all at once."""
    xp, size = array_module(images), images.shape[-1]
    if xp is np:
        moved = np.zeros_like(images)
        for i, shift in enumerate(shifts.tolist()):
            if max(abs(step) for step in shift) >= size:
                continue
            to = tuple(slice(max(step, 0), size + min(step, 0)) for step in shift)
            source = tuple(slice(max(-step, 0), size + min(-step, 0)) for step in shift)
            moved[(i, *to)] = images[(i, *source)] * gains[i]
        return moved
    dim = shifts.shape[1]
    source = np.arange(size) - shifts[:, :, None]  # (n, dim, size)
    inside, places = (source >= 0) & (source < size), np.clip(source, 0, size - 1)
    index, factor = [xp.arange(len(images)).reshape(-1, *[1] * dim)], xp.asarray(gains).reshape(-1, *[1] * dim)
    for axis in range(dim):
        shape = [len(images), *[1] * dim]
        shape[axis + 1] = size
        index.append(xp.asarray(places[:, axis]).reshape(shape))
        factor = factor * xp.asarray(inside[:, axis].astype(np.float32)).reshape(shape)
    return images[tuple(index)] * factor


def half_transforms(images: Any) -> Any:
    """Return the transforms of real images (n, N, N) or volumes (n, N, N, N), origin at N // 2.

    The last axis has N // 2 + 1 entries; complex64, divided by the number of pixels or voxels.
    """
    xp = array_module(images)
    size, dim = images.shape[-1], images.ndim - 1
    fft = scipy.fft if xp is np else xp.fft
    transforms = fft.rfftn(images, axes=tuple(range(1, dim + 1))).astype(np.complex64, copy=False)
    transforms *= _centre_signs(size, dim, device_of(images)) / np.float32(float(size) ** dim)
    return transforms


def samples_of(transforms: Any, samples: FourierSamples) -> Any:
    """Pick the samples of every transform, contiguous; returns (n, n_sample) complex64."""
    xp = array_module(transforms)
    index = _flat_index(samples, device_of(transforms))
    return xp.take(transforms.reshape(len(transforms), -1), index, axis=1)


def outer_power(transforms: Any, samples: FourierSamples) -> np.ndarray:
    """Power per shell of the coefficients beyond the samples' disc, up to shell N / 2; (n, N // 2 + 1) float64."""
    picked = _beyond(transforms, samples)
    return _sums_beyond(picked.real**2 + picked.imag**2, samples)


def outer_sums(values: Any, samples: FourierSamples) -> np.ndarray:
    """Sum of real ``values`` on the grid of half transforms per shell beyond the samples; (n, N // 2 + 1) float64."""
    return _sums_beyond(_beyond(values, samples), samples)


def _beyond(values: Any, samples: FourierSamples) -> Any:
    """Independent coefficients beyond the samples' disc, sorted by shell; (n, n_outer)."""
    make = _image_outer_index if samples.dim == 2 else _volume_outer_index
    where, _, _ = make(samples.box_size, samples.size, samples.dim, device_of(values))
    return array_module(values).take(values.reshape(len(values), -1), where, axis=1)


def _sums_beyond(picked: Any, samples: FourierSamples) -> np.ndarray:
    make = _image_outer_index if samples.dim == 2 else _volume_outer_index
    _, shell, starts = make(samples.box_size, samples.size, samples.dim, device_of(picked))
    n_shell = samples.box_size // 2 + 1
    if picked.shape[1] == 0:
        return np.zeros((len(picked), n_shell))
    if is_on_device(picked):
        return to_host(shell_sums(picked, shell, n_shell))
    edges = np.cumsum(picked, axis=1, dtype=np.float64)
    upto: np.ndarray = np.concatenate([np.zeros((len(edges), 1)), edges], axis=1)[:, starts]
    return np.diff(upto, axis=1)


def noise_images(sigma2: np.ndarray, shape: tuple[int, ...], seeds: np.ndarray) -> np.ndarray:
    """Gaussian noise (n, *shape) float32 of spectrum ``sigma2`` (per component), one seed per image or volume."""
    size, dim = shape[-1], len(shape)
    shell = np.minimum(_shell_grid(size, dim), len(sigma2) - 1)
    amplitude = np.sqrt(2.0 * np.maximum(sigma2, 0.0))[shell].astype(np.float32) * np.float32(size ** (dim / 2))
    out = np.empty((len(seeds), *shape), dtype=np.float32)
    for i, seed in enumerate(seeds):
        rng = np.random.default_rng(int(seed))
        white = scipy.fft.rfftn(rng.standard_normal(shape, dtype=np.float32))
        out[i] = scipy.fft.irfftn(white * amplitude, s=shape)
    return out


@lru_cache(maxsize=16)
def _centre_signs(size: int, dim: int, device: int | None) -> Any:
    """Factors that move the origin of a half transform to the box centre: signs when the size is even."""
    axes = [*[np.fft.fftfreq(size)] * (dim - 1), np.fft.rfftfreq(size)]
    along = [np.exp(2j * np.pi * (size // 2) * axis) for axis in axes]
    factors = along[0]
    for factor in along[1:]:
        factors = np.multiply.outer(factors, factor)
    if size % 2 == 0:
        return to_device(np.rint(factors.real).astype(np.float32), device)
    return to_device(factors.astype(np.complex64), device)


def _flat_index(samples: FourierSamples, device: int | None) -> Any:
    """Where samples are in flat half transforms; of volumes, which have many, only the last ones are remembered."""
    return (_image_index if samples.dim == 2 else _volume_index)(samples, device)


def _make_flat_index(samples: FourierSamples, device: int | None) -> Any:
    n = samples.box_size
    row = np.mod(samples.y, n).astype(np.int64)
    if samples.dim == 3:
        row += np.mod(samples.z, n).astype(np.int64) * n
    return to_device(row * (n // 2 + 1) + samples.x, device)


_image_index = lru_cache(maxsize=64)(_make_flat_index)
_volume_index = lru_cache(maxsize=4)(_make_flat_index)


def _frequency_indices(size: int, dim: int = 2) -> tuple[np.ndarray, ...]:
    """Return kz (size, 1, 1), ky (size, 1) and kx (1, size // 2 + 1) in FFT order; without kz for images.

    The last one of an even size counts as positive.
    """
    centred = (np.arange(size) + (size - 1) // 2) % size - (size - 1) // 2
    plane = centred[:, None], np.arange(size // 2 + 1)[None, :]
    return plane if dim == 2 else (centred[:, None, None], *plane)


@lru_cache(maxsize=16)
def _shell_grid(size: int, dim: int = 2) -> np.ndarray:
    return np.floor(_radius_grid(size, dim) + 0.5).astype(np.int64)


def _radius_grid(size: int, dim: int) -> np.ndarray:
    radius2: np.ndarray = sum((k.astype(np.float64) ** 2 for k in _frequency_indices(size, dim)), np.zeros(1))
    return np.sqrt(radius2)


def _is_independent(size: int, dim: int) -> np.ndarray:
    """Which coefficients of a half transform are not repeated in it; see ``FourierSamples``."""
    *_, ky, kx = _frequency_indices(size, dim)
    mate = (kx == 0) & (ky < 0)
    if dim == 3:
        mate = mate | ((kx == 0) & (ky == 0) & (_frequency_indices(size, 3)[0] < 0))
    return ~mate


def _outer_index(box_size: int, size: int, dim: int, device: int | None) -> tuple[Any, Any, np.ndarray]:
    """Flat indices of the independent coefficients with |k| > size / 2, sorted by shell; shells; where they start."""
    shell = _shell_grid(box_size, dim)
    keep = (_radius_grid(box_size, dim) > size / 2.0 + 1e-9) & (shell <= box_size // 2) & _is_independent(box_size, dim)
    index = np.flatnonzero(keep)
    order = np.argsort(shell.ravel()[index], kind="stable")
    index = index[order]
    own = shell.ravel()[index].astype(np.int32)
    starts = np.searchsorted(own, np.arange(box_size // 2 + 2))
    return to_device(index, device), to_device(own, device), starts


_image_outer_index = lru_cache(maxsize=64)(_outer_index)
_volume_outer_index = lru_cache(maxsize=4)(_outer_index)


def shell_means(values: np.ndarray) -> np.ndarray:
    """Mean of real values on the grid of one half transform, over all its coefficients per shell; (N // 2 + 1,)."""
    size, dim = values.shape[0], values.ndim
    n_shell = size // 2 + 1
    shell = np.minimum(_shell_grid(size, dim), n_shell).ravel()
    sums = np.bincount(shell, weights=values.ravel(), minlength=n_shell + 1)[:n_shell]
    means: np.ndarray = sums / np.bincount(shell, minlength=n_shell + 1)[:n_shell]
    return means


@lru_cache(maxsize=64)
def coefficient_count(box_size: int, dim: int = 2) -> np.ndarray:
    """Independent coefficients per shell of an image or volume, (box_size // 2 + 1,) int64; the origin counts."""
    shell = _shell_grid(box_size, dim)
    keep = (shell <= box_size // 2) & _is_independent(box_size, dim)
    return np.bincount(shell[keep], minlength=box_size // 2 + 1)
