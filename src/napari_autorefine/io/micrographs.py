"""Micrograph images: MRC of every mode, compressed or not, and TIFF; checked first, read once."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.io.files import first_bytes, read_error
from napari_autorefine.io.mrc import check_complete, read_data, read_header

_TIFF_ENDINGS = (".tif", ".tiff")
_MOST_COMPRESSED = 2000
_COMPRESSED_ENDINGS = (".gz", ".bz2")


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrographImage:
    """A micrograph whose header was read and found sane; ``pixel_size_A`` is None unless the header has a sane one."""

    path: Path
    shape: tuple[int, int]
    pixel_size_A: float | None = None

    @property
    def n_byte(self) -> int:
        """Memory that it takes as float32."""
        return 4 * self.shape[0] * self.shape[1]

    def read(self) -> np.ndarray:
        """Return the grey values (n_y, n_x) float32; plain float32 files are memory-mapped.

        Row 0 of the result has y = 0 in particle coordinates. That is the first row of an MRC file and the last one of
        a TIFF file, as RELION and MotionCor read them.

        Raises
        ------
        InputError
            The file cannot be read after all.
        """
        if is_tiff(self.path):
            return np.ascontiguousarray(_read_tiff(self.path)[::-1], dtype=np.float32)
        header = read_header(self.path)
        plain = header.dtype == np.dtype("<f4") and not self.path.name.endswith(_COMPRESSED_ENDINGS)
        if plain:
            return _mapped(self.path, check_complete(header).offset, self.shape)
        return read_data(self.path)[0][0]


def is_tiff(path: str | os.PathLike[str]) -> bool:
    """Tell whether a name is that of a TIFF file."""
    return str(path).lower().endswith(_TIFF_ENDINGS)


def open_micrograph(path: Path) -> MicrographImage:
    """Read and check the header of a micrograph.

    Raises
    ------
    InputError
        Missing, empty, truncated, not an image, or more than one image.
    """
    if is_tiff(path):
        return _open_tiff(path)
    header = read_header(path)
    if header.axes != (1, 2, 3):
        raise InputError(f"{path}: the axis order {header.axes} is not that of a micrograph.")
    n_z, n_y, n_x = header.shape
    if n_z != 1:
        raise InputError(f"{path} holds {n_z} images, not one micrograph; movies must be aligned and summed first.")
    if not path.name.endswith(_COMPRESSED_ENDINGS):
        check_complete(header)
    return MicrographImage(path=path, shape=(n_y, n_x), pixel_size_A=header.pixel_size_A)


def _open_tiff(path: Path) -> MicrographImage:
    import tifffile

    first_bytes(path)
    try:
        with tifffile.TiffFile(path) as file:
            n_page, shape, dtype = len(file.pages), tuple(file.pages[0].shape), file.pages[0].dtype
    except OSError as error:
        raise read_error(path, error) from error
    except Exception as error:  # tifffile's errors for damaged files are many
        raise InputError(f"{path} is not a TIFF file that can be read: {error}.") from error
    if n_page != 1 or len(shape) != 2:
        raise InputError(f"{path} holds {n_page} images of shape {shape}, not one micrograph; sum movies first.")
    if dtype is None or dtype.kind not in "iuf":
        raise InputError(f"{path}: its pixels are no plain numbers ({dtype}).")
    if shape[0] * shape[1] * dtype.itemsize > _MOST_COMPRESSED * path.stat().st_size:
        raise InputError(
            f"{path} is damaged: it promises {shape[1]} x {shape[0]} pixels, but has too few bytes for them."
        )
    return MicrographImage(path=path, shape=(shape[0], shape[1]))


def _read_tiff(path: Path) -> np.ndarray:
    import tifffile

    try:
        image: np.ndarray = tifffile.imread(path)
    except OSError as error:
        raise read_error(path, error) from error
    except Exception as error:  # tifffile's and imagecodecs' errors for damaged files are many
        raise InputError(f"{path} cannot be decoded: {error}.") from error
    return image


def _mapped(path: Path, offset: int, shape: tuple[int, int]) -> np.ndarray:
    """Memory-map float32 values and ask the system to read them ahead in one go."""
    try:
        with open(path, "rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise read_error(path, error) from error
    if hasattr(mmap, "MADV_WILLNEED"):
        memory.madvise(mmap.MADV_WILLNEED)
    return np.frombuffer(memory, np.float32, shape[0] * shape[1], offset).reshape(shape)
