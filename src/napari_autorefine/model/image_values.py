"""Grey values of many images: statistics for headers, half precision for files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageStatistics:
    """Of each of n images: smallest and largest value, mean and variance, (n,) float64."""

    smallest: np.ndarray
    largest: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


def image_statistics(images: np.ndarray) -> ImageStatistics:
    """Return the statistics of images (n, size, size); NaN where a value is not finite."""
    values = np.empty((4, len(images)))
    _statistics(images, values)
    return ImageStatistics(smallest=values[0], largest=values[1], mean=values[2], variance=values[3])


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _statistics(images: np.ndarray, values: np.ndarray) -> None:
    pixels = images.shape[1] * images.shape[2]
    for n in range(images.shape[0]):
        image = images[n].ravel()
        smallest, largest, total, square = image[0], image[0], 0.0, 0.0
        for i in range(pixels):
            value = image[i]
            smallest = value if value < smallest else smallest
            largest = value if value > largest else largest
        for i in range(pixels):
            exact = np.float64(image[i])
            total += exact
            square += exact * exact
        mean = total / pixels
        values[0, n], values[1, n], values[2, n] = smallest, largest, mean
        values[3, n] = max(square / pixels - mean * mean, 0.0)


def to_half(images: np.ndarray) -> np.ndarray:
    """Round float32 images to half precision as RELION 5 does.

    Ties go away from zero, magnitudes below 2^-14 become 0, and those beyond 65504 become 65504.
    """
    bits = np.empty(images.shape, np.uint16)
    _half_bits(np.ascontiguousarray(images).view(np.uint32).reshape(-1), bits.reshape(-1))
    return bits.view(np.float16)


@njit(nogil=True, cache=True)
def _half_bits(single: np.ndarray, half: np.ndarray) -> None:
    for n in range(single.shape[0]):
        magnitude = np.int64(single[n] & np.uint32(0x7FFFFFFF))
        sign = np.int64((single[n] >> np.uint32(16)) & np.uint32(0x8000))
        value = min(((magnitude + 0x1000) >> 13) - (112 << 10), np.int64(0x7BFF))
        if magnitude < 0x38800000:  # below 2^-14
            value = np.int64(0)
        if magnitude > 0x7F800000:  # not a number
            value = np.int64(0x7E00)
        half[n] = np.uint16(sign | value)
