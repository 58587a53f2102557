"""Particle images from a micrograph: cut, multiply by the CTF, resample, normalise, invert.

The order of the steps and their conventions are those of RELION's ``relion_preprocess`` (3.1.3; half precision as in
5.0.1). A micrograph is (n_y, n_x) float32; particle centers are (x, y) in its pixels, counted from 0, cut towards zero
to whole pixels; a box of B pixels holds the pixels center - B/2 to center + B/2 - 1.

Arithmetic is float32 on values less about the mean of their window, so that nothing is lost where
the grey values lie far from zero; sums are float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy import fft

_SMALLEST_DEVIATION = 1e-10
_FAST = {"reassoc", "contract", "nsz", "arcp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelSteps:
    """What is done to the pixels of a particle.

    Attributes
    ----------
    box_size : pixels of the micrograph
    ctf_box_size : pixels of the window that is multiplied by the CTF
    scale_size : pixels after resampling
    window_size : pixels after the last crop: the size of the images
    background_radius_px : normalise by what lies beyond this radius, in pixels after resampling; None: do not
    is_ramp_removed : subtract a plane, not only the mean
    white_dust, black_dust : pixels this many standard deviations off the background are replaced; None: none is
    is_inverted : multiply by -1
    """

    box_size: int
    ctf_box_size: int
    scale_size: int
    window_size: int
    background_radius_px: float | None = None
    is_ramp_removed: bool = True
    white_dust: float | None = None
    black_dust: float | None = None
    is_inverted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """Pixels outside a circle about the box center, and what fits a plane to them.

    Attributes
    ----------
    first, last : (n,) columns of each row that lie inside the circle, ``first`` included, ``last`` not
    inverse : (3, 3) float64, inverse of the normal matrix of the plane a x + b y + c, x and y from the box center
    count : number of background pixels
    """

    first: np.ndarray
    last: np.ndarray
    inverse: np.ndarray
    count: int

    @property
    def mask(self) -> np.ndarray:
        """(n, n) bool, True in the background."""
        columns = np.arange(len(self.first))
        return (columns < self.first[:, None]) | (columns >= self.last[:, None])


@dataclass(frozen=True, slots=True, kw_only=True)
class CtfFilter:
    """Transfer functions for :func:`cut_particles`.

    Attributes
    ----------
    values : (m, p, p // 2 + 1) float32, on the half transform of the CTF box
    index : (n,) which of the m functions belongs to each particle
    mean : grey value taken for what lies outside the micrograph: its mean
    """

    values: np.ndarray
    index: np.ndarray
    mean: float


def make_background(size: int, radius_px: float) -> Background:
    """Return the pixels of a box with x^2 + y^2 > radius^2 about its center, pixel ``size // 2``."""
    axis = np.arange(size) - size // 2
    outside = axis[:, None] ** 2 + axis**2 > radius_px**2
    first = np.where(outside.all(axis=1), size, np.argmin(outside, axis=1))
    last = np.where(outside.all(axis=1), size, size - np.argmin(outside[:, ::-1], axis=1))
    y, x = (values.astype(np.float64) for values in np.nonzero(outside))
    design = np.stack([x - size // 2, y - size // 2, np.ones(len(x))])
    return Background(first=first, last=last, inverse=np.linalg.pinv(design @ design.T), count=len(x))


def cut_particles(
    micrograph: np.ndarray,
    centers: np.ndarray,
    steps: PixelSteps,
    *,
    background: Background | None = None,
    transfer: CtfFilter | None = None,
    seeds: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """Cut particles and take them through all steps.

    Parameters
    ----------
    micrograph : (n_y, n_x) float32
        Grey values.
    centers : (n, 2) int64
        x and y; every box overlaps the micrograph.
    steps : PixelSteps
        What is done.
    background : Background
        Of the final box and the radius of ``steps``, when images are normalised.
    transfer : CtfFilter
        Multiply by these before anything else.
    seeds : (n,) int64
        Of the random grey values that replace dust.

    Returns
    -------
    images : (n, size, size) float32
    n_flat : number of images with a background without any variation, which are left unscaled
    """
    if transfer is None:
        is_changed = background is not None or steps.scale_size != steps.box_size
        images, offsets = cut_windows(micrograph, centers, steps.box_size, is_centered=is_changed)
    else:
        images, offsets = _filtered_windows(micrograph, centers, steps, transfer)
    images = crop(rescale(images, steps.scale_size), steps.window_size)
    sign = -1.0 if steps.is_inverted else 1.0
    if background is None:
        _shift_and_sign(images, offsets, sign)
        return images, 0
    if steps.white_dust is not None or steps.black_dust is not None:
        replace_dust(images, background, steps, np.zeros(len(images), np.int64) if seeds is None else seeds)
    return images, normalise(images, background, is_ramp_removed=steps.is_ramp_removed, sign=sign)


def cut_windows(
    micrograph: np.ndarray, centers: np.ndarray, size: int, *, is_centered: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Cut boxes, repeating the outermost pixels of the micrograph beyond its edges.

    Returns
    -------
    images : (n, size, size) float32, less about the mean of each window when ``is_centered``
    offsets : (n,) float64, what was subtracted
    """
    images = np.empty((len(centers), size, size), np.float32)
    offsets = np.empty(len(centers))
    _cut(micrograph, np.ascontiguousarray(centers, np.int64), images, offsets, is_centered)
    return images, offsets


def _filtered_windows(
    micrograph: np.ndarray, centers: np.ndarray, steps: PixelSteps, transfer: CtfFilter
) -> tuple[np.ndarray, np.ndarray]:
    """Cut larger boxes, the mean beyond the edges, multiply by the CTF, crop, repeat the outermost pixels."""
    size = steps.ctf_box_size
    images = np.empty((len(centers), size, size), np.float32)
    places = np.ascontiguousarray(centers, np.int64)
    _cut_padded(micrograph, places, np.float32(transfer.mean), images)
    spectra = fft.rfft2(images)
    for spectrum, number in zip(spectra, transfer.index.tolist(), strict=True):
        spectrum *= transfer.values[number]
    images = crop(fft.irfft2(spectra, (size, size)), steps.box_size)
    _repeat_edges(images, places, micrograph.shape[0], micrograph.shape[1])
    return images, transfer.mean * transfer.values[transfer.index, 0, 0].astype(np.float64)


@njit(nogil=True, cache=True, fastmath=_FAST)
def _cut(
    micrograph: np.ndarray, centers: np.ndarray, images: np.ndarray, offsets: np.ndarray, is_centered: bool
) -> None:
    n_y, n_x = micrograph.shape
    size = images.shape[1]
    for n in range(images.shape[0]):
        x0, y0 = centers[n, 0] - size // 2, centers[n, 1] - size // 2
        left, right = min(max(-x0, 0), size), min(max(n_x - x0, 0), size)
        columns = micrograph[:, x0 + left : x0 + right]
        offset = np.float32(0.0)
        if is_centered:
            total, count = 0.0, 0
            for y in range(max(y0, 0), min(y0 + size, n_y), 8):  # a sample of the rows is good enough
                for value in columns[y]:
                    total += value
                count += right - left
            offset = np.float32(total / count)
        offsets[n] = offset
        for j in range(size):
            y = min(max(y0 + j, 0), n_y - 1)
            target, source = images[n, j], columns[y]
            middle = target[left:right]
            for i in range(middle.size):
                middle[i] = source[i] - offset
            target[:left] = micrograph[y, 0] - offset
            target[right:] = micrograph[y, n_x - 1] - offset


@njit(nogil=True, cache=True)
def _cut_padded(micrograph: np.ndarray, centers: np.ndarray, mean: np.float32, images: np.ndarray) -> None:
    n_y, n_x = micrograph.shape
    size = images.shape[1]
    for n in range(images.shape[0]):
        x0, y0 = centers[n, 0] - size // 2, centers[n, 1] - size // 2
        left, right = min(max(-x0, 0), size), min(max(n_x - x0, 0), size)
        columns = micrograph[:, x0 + left : x0 + right]
        for j in range(size):
            target = images[n, j]
            if 0 <= y0 + j < n_y:
                middle, source = target[left:right], columns[y0 + j]
                for i in range(middle.size):
                    middle[i] = source[i] - mean
                target[:left] = 0.0
                target[right:] = 0.0
            else:
                target[:] = 0.0


@njit(nogil=True, cache=True, fastmath=_FAST)
def grey_mean(micrograph: np.ndarray) -> float:
    """Return the mean of all pixels (n_y, n_x), in float64."""
    total = 0.0
    for y in range(micrograph.shape[0]):
        part = 0.0
        for x in range(micrograph.shape[1]):
            part += micrograph[y, x]
        total += part
    return total / micrograph.size


@njit(nogil=True, cache=True)
def _repeat_edges(images: np.ndarray, centers: np.ndarray, n_y: int, n_x: int) -> None:
    """Overwrite pixels outside the micrograph by the nearest ones inside: columns first, then rows."""
    size = images.shape[1]
    for n in range(images.shape[0]):
        x0, y0 = centers[n, 0] - size // 2, centers[n, 1] - size // 2
        left, right = min(max(-x0, 0), size - 1), min(max(n_x - 1 - x0, 0), size - 1)
        top, bottom = min(max(-y0, 0), size - 1), min(max(n_y - 1 - y0, 0), size - 1)
        for j in range(size):
            images[n, j, :left] = images[n, j, left]
            images[n, j, right + 1 :] = images[n, j, right]
        for j in range(top):
            images[n, j] = images[n, top]
        for j in range(bottom + 1, size):
            images[n, j] = images[n, bottom]


def crop(images: np.ndarray, size: int) -> np.ndarray:
    """Cut the middle out of images (n, b, b): pixel b // 2 goes to size // 2."""
    first = images.shape[-1] // 2 - size // 2
    if images.shape[-1] == size:
        return images
    return np.ascontiguousarray(images[:, first : first + size, first : first + size])


def rescale(images: np.ndarray, size: int) -> np.ndarray:
    """Resample images (n, b, b) to ``size`` pixels by cropping their transforms; grey values are preserved.

    Coefficients at the new Nyquist frequency are kept as the positive frequency, as RELION does.
    """
    box = images.shape[-1]
    if box == size:
        return images
    half = size // 2 + 1
    spectra = fft.fft(fft.rfft(images, axis=2, norm="forward")[:, :, :half], axis=1, norm="forward")
    spectra = np.concatenate([spectra[:, :half], spectra[:, box - (size - half) :]], axis=1)
    spectra = fft.ifft(spectra, axis=1, norm="forward", overwrite_x=True)
    resampled: np.ndarray = fft.irfft(spectra, size, axis=2, norm="forward")
    return resampled


def replace_dust(images: np.ndarray, background: Background, steps: PixelSteps, seeds: np.ndarray) -> int:
    """Replace outlying pixels, in place, by Gaussian noise like the background; return their number."""
    count, outside = 0, background.mask
    for image, seed in zip(images, seeds.tolist(), strict=True):
        values = image[outside].astype(np.float64)
        mean, deviation = values.mean(), values.std()
        dust = np.zeros(image.shape, bool)
        if steps.white_dust is not None:
            dust |= image > mean + steps.white_dust * deviation
        if steps.black_dust is not None:
            dust |= image < mean - steps.black_dust * deviation
        n_dust = int(dust.sum())
        if n_dust:
            image[dust] = np.random.default_rng(seed).normal(mean, deviation, n_dust)
        count += n_dust
    return count


def normalise(images: np.ndarray, background: Background, *, is_ramp_removed: bool = True, sign: float = 1.0) -> int:
    """Give the background of each image mean 0 and population deviation 1, in place; return how many are flat."""
    return int(
        _normalise(
            images, background.first, background.last, background.inverse, background.count, is_ramp_removed, sign
        )
    )


@njit(nogil=True, cache=True, fastmath=_FAST)
def _normalise(  # noqa: PLR0913 - numba takes no objects
    images: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    inverse: np.ndarray,
    count: int,
    has_ramp: bool,
    sign: float,
) -> int:
    n_flat = 0
    for n in range(images.shape[0]):
        image = images[n]
        a, b, c = _plane(image, first, last)
        if has_ramp:
            a, b, c = (
                inverse[0, 0] * a + inverse[0, 1] * b + inverse[0, 2] * c,
                inverse[1, 0] * a + inverse[1, 1] * b + inverse[1, 2] * c,
                inverse[2, 0] * a + inverse[2, 1] * b + inverse[2, 2] * c,
            )
        else:
            a, b, c = 0.0, 0.0, c / count
        total, square = _flatten(image, first, last, a, b, c)
        mean = total / count
        deviation = np.sqrt(max(square / count - mean * mean, 0.0))
        if deviation < _SMALLEST_DEVIATION:
            n_flat += 1
            deviation = 1.0
        factor, shift = np.float32(sign / deviation), np.float32(-mean * sign / deviation)
        for j in range(image.shape[0]):
            for i in range(image.shape[1]):
                image[j, i] = image[j, i] * factor + shift
    return n_flat


@njit(nogil=True, cache=True, fastmath=_FAST)
def _plane(image: np.ndarray, first: np.ndarray, last: np.ndarray) -> tuple[float, float, float]:
    """Return the sums of x v, y v and v over the background."""
    size = image.shape[0]
    sum_x, sum_y, total = 0.0, 0.0, 0.0
    for j in range(size):
        part, part_x = 0.0, 0.0
        for i in range(first[j]):
            part += image[j, i]
            part_x += image[j, i] * (i - size // 2)
        for i in range(last[j], size):
            part += image[j, i]
            part_x += image[j, i] * (i - size // 2)
        total += part
        sum_x += part_x
        sum_y += part * (j - size // 2)
    return sum_x, sum_y, total


@njit(nogil=True, cache=True, fastmath=_FAST)
def _flatten(
    image: np.ndarray, first: np.ndarray, last: np.ndarray, a: float, b: float, c: float
) -> tuple[float, float]:
    """Subtract the plane a x + b y + c; return the sums of values and of their squares over the background."""
    size = image.shape[0]
    total, square = 0.0, 0.0
    for j in range(size):
        base = b * (j - size // 2) + c
        for i in range(size):
            image[j, i] = np.float32(image[j, i] - (base + a * (i - size // 2)))
        part, part_square = 0.0, 0.0
        for i in range(first[j]):
            value = np.float64(image[j, i])
            part += value
            part_square += value * value
        for i in range(last[j], size):
            value = np.float64(image[j, i])
            part += value
            part_square += value * value
        total += part
        square += part_square
    return total, square


@njit(nogil=True, cache=True)
def _shift_and_sign(images: np.ndarray, offsets: np.ndarray, sign: float) -> None:
    for n in range(images.shape[0]):
        for j in range(images.shape[1]):
            for i in range(images.shape[2]):
                images[n, j, i] = np.float32(sign * (images[n, j, i] + offsets[n]))
