"""Image stacks that are written piece by piece, by several threads, under a temporary name."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

from napari_autorefine.io.files import write_error

_HEADER_BYTES = 1024
_LITTLE_ENDIAN = b"\x44\x44\x00\x00"


class StackWriter:
    """Writes one stack of square images; the memory it needs does not depend on their number.

    Parameters
    ----------
    path : final name
    n_image, size : number of images and their width in pixels
    pixel_size_A : for the header
    is_half : values are float16 (mode 12), else float32
    """

    def __init__(self, path: Path, n_image: int, size: int, *, pixel_size_A: float, is_half: bool) -> None:
        self.path = path
        self._shape = (n_image, size, size)
        self._pixel_size_A = pixel_size_A
        self._type = np.dtype("<f2" if is_half else "<f4")
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._statistics = np.zeros((n_image, 4))
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._temporary, "wb", buffering=0)  # noqa: SIM115 - closed by finish or abandon
        except OSError as error:
            raise write_error(path, error) from error

    def write(self, first: int, images: np.ndarray, statistics: np.ndarray) -> None:
        """Write some images of the stack.

        Parameters
        ----------
        first : int
            Number of the first of them, from 0.
        images : (m, size, size)
            Their values.
        statistics : (m, 4)
            Smallest value, largest value, mean and variance of each.
        """
        values = np.ascontiguousarray(images, self._type)
        with self._lock:
            self._statistics[first : first + len(values)] = statistics
            self._put(values, _HEADER_BYTES + first * values[0].nbytes)

    def finish(self) -> None:
        """Write the header and give the file its name."""
        self._put(self._header(), 0)
        try:
            self._file.close()
            os.replace(self._temporary, self.path)
        except OSError as error:
            raise write_error(self.path, error) from error

    def abandon(self) -> None:
        """Remove the unfinished file."""
        with suppress(OSError):
            self._file.close()
            self._temporary.unlink(missing_ok=True)

    def _put(self, values: np.ndarray, offset: int) -> None:
        data = memoryview(values.tobytes() if values.dtype.fields else values.data).cast("B")
        try:
            self._file.seek(offset)
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise write_error(self.path, error) from error

    def _header(self) -> np.ndarray:
        n, n_y, n_x = self._shape
        header = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
        header["nx"], header["ny"], header["nz"] = n_x, n_y, n
        header["mx"], header["my"], header["mz"] = n_x, n_y, n
        header["mode"] = 12 if self._type.itemsize == 2 else 2
        header["cella"] = tuple(self._pixel_size_A * count for count in (n_x, n_y, n))
        header["cellb"] = (90.0, 90.0, 90.0)
        header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
        smallest, largest, mean, variance = self._statistics.T
        header["dmin"], header["dmax"] = smallest.min(), largest.max()
        header["dmean"], header["rms"] = mean.mean(), np.sqrt(variance.mean())
        header["nversion"], header["map"] = 20140, b"MAP "
        header["machst"] = np.frombuffer(_LITTLE_ENDIAN, np.uint8)
        header["nlabl"] = 1
        header["label"][0] = b"napari-autorefine"
        return header.reshape(1)
