"""Grey values of many images: statistics for headers, half precision for files."""

from __future__ import annotations

import numpy as np
from numba import njit


def image_statistics(images: np.ndarray) -> np.ndarray:
    """Return smallest value, largest value, mean and variance of images: (n, 4) float64, mean NaN where a value is."""
    values = np.empty((len(images), 4))
    _statistics(np.ascontiguousarray(images), values)
    return values


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
        values[n, 0], values[n, 1], values[n, 2] = smallest, largest, mean
        values[n, 3] = max(square / pixels - mean * mean, 0.0)


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
