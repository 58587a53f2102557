"""MRC and CCP4 maps and image stacks: every header quirk is handled here, nowhere else."""

from __future__ import annotations

import bz2
import gzip
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import mrcfile
import numpy as np
import psutil
from mrcfile.dtypes import HEADER_DTYPE

from napari_autorefine.errors import InputError
from napari_autorefine.io.files import first_bytes, read_error, replacing
from napari_autorefine.model.volume import Volume

_HEADER_BYTES = 1024
_DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_PACKED_4_BIT = 101
_COMPRESSED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open}
_LARGEST_AXIS = 1_000_000
_DEFLATE_RATIO = 1040  # no more bytes come out of one compressed byte
_SMALL_BYTES = 1 << 28


@dataclass(frozen=True, slots=True, kw_only=True)
class MrcHeader:
    """What the header of a file says.

    Attributes
    ----------
    shape : (n_z, n_y, n_x) as stored: sections, rows, columns
    mode : MRC mode number
    dtype : NumPy type of the stored values with its byte order; for mode 101 (4 bit) the unpacked type
    offset : bytes before the first value
    voxel_size_A : (x, y, z), 0 where the header gives none
    axes : axis (1 x, 2 y, 3 z) along columns, rows, sections
    start : first column, row, section
    origin_A : origin words of the header (MRC2014)
    is_stack : images rather than a volume, by file name as RELION does
    """

    path: Path
    shape: tuple[int, int, int]
    mode: int
    dtype: np.dtype[np.generic]
    offset: int
    voxel_size_A: tuple[float, float, float]
    axes: tuple[int, int, int]
    start: tuple[int, int, int]
    origin_A: tuple[float, float, float]
    is_stack: bool
    labels: tuple[str, ...]

    @property
    def section_bytes(self) -> int:
        """Bytes of one section."""
        _, n_y, n_x = self.shape
        return (n_x + 1) // 2 * n_y if self.mode == _PACKED_4_BIT else n_y * n_x * self.dtype.itemsize

    @property
    def pixel_size_A(self) -> float | None:
        """Pixel size when the header is sane: x and y alike, and neither 0, 1 nor out of any microscope's range."""
        x, y, _ = self.voxel_size_A
        sane = 0.05 < x < 1000.0 and abs(x - 1.0) > 1e-4 and abs(x - y) <= 1e-3 * x
        return x if sane else None


def is_stack_name(path: str | os.PathLike[str]) -> bool:
    """Tell whether a name means images: RELION goes by ``.mrcs`` or ``:mrcs`` alone."""
    name = str(path).removesuffix(".gz").removesuffix(".bz2")
    return name.endswith((".mrcs", ":mrcs", ".st", ".stk"))


def read_header(path: str | os.PathLike[str]) -> MrcHeader:
    """Read the header of an MRC file, compressed or not.

    Raises
    ------
    InputError
        Not an MRC file, or a header that makes no sense.
    """
    if not os.path.exists(path) and str(path).endswith(":mrcs"):
        path = str(path).removesuffix(":mrcs")
    head = first_bytes(path, _HEADER_BYTES)
    opener = _COMPRESSED.get(head[:2])
    if opener is not None and len(head) > 2:
        try:
            with opener(path, "rb") as file:
                head = file.read(_HEADER_BYTES)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path} is a damaged compressed file: {error}.") from error
    if len(head) < _HEADER_BYTES:
        raise InputError(f"{path} is not an MRC file: it has {len(head)} bytes, less than a header.")
    return _parse_header(Path(path), head)


def _parse_header(path: Path, head: bytes) -> MrcHeader:
    for order in _byte_orders(head):
        raw = np.frombuffer(head, HEADER_DTYPE.newbyteorder(order))[0]
        mode, shape = int(raw["mode"]), tuple(int(raw[name]) for name in ("nz", "ny", "nx"))
        if (mode in _DTYPES or mode == _PACKED_4_BIT) and all(0 < n <= _LARGEST_AXIS for n in shape):
            return _header(path, raw, order)
        if mode in {3, 4} and all(0 < n <= _LARGEST_AXIS for n in shape):
            raise InputError(f"{path} holds complex Fourier coefficients (mode {mode}), not a map or images.")
    raise InputError(f"{path} is not an MRC file: its header gives the impossible size {shape[::-1]} or mode {mode}.")


def _byte_orders(head: bytes) -> tuple[Literal["<", ">"], Literal["<", ">"]]:
    """Most likely first: the machine stamp if it is one, else little endian."""
    return (">", "<") if head[212:214] == b"\x11\x11" else ("<", ">")


def _header(path: Path, raw: np.void, order: Literal["<", ">"]) -> MrcHeader:
    mode = int(raw["mode"])
    axes = (int(raw["mapc"]), int(raw["mapr"]), int(raw["maps"]))
    if axes == (0, 0, 0):
        axes = (1, 2, 3)
    if sorted(axes) != [1, 2, 3]:
        raise InputError(f"{path}: the axis order {axes} in the header is no order of 1, 2, 3; the file is damaged.")
    n_extended = int(raw["nsymbt"])
    if not 0 <= n_extended < 2**31:
        raise InputError(f"{path}: the header gives an extended header of {n_extended} bytes; the file is damaged.")
    sampling = [int(raw[name]) for name in ("mx", "my", "mz")]
    cell = [float(raw["cella"][axis]) for axis in "xyz"]
    size = [abs(length / n) if n > 0 and np.isfinite(length) else 0.0 for length, n in zip(cell, sampling, strict=True)]
    labels = [bytes(label).decode("latin-1").strip("\0 ") for label in raw["label"]]
    return MrcHeader(
        path=path,
        shape=(int(raw["nz"]), int(raw["ny"]), int(raw["nx"])),
        mode=mode,
        dtype=np.dtype(_DTYPES.get(mode, "i1")).newbyteorder(order),
        offset=_HEADER_BYTES + n_extended,
        voxel_size_A=(size[0], size[1], size[2]),
        axes=(axes[0], axes[1], axes[2]),
        start=(int(raw["nxstart"]), int(raw["nystart"]), int(raw["nzstart"])),
        origin_A=(float(raw["origin"]["x"]), float(raw["origin"]["y"]), float(raw["origin"]["z"])),
        is_stack=is_stack_name(path),
        labels=tuple(label for label in labels if label),
    )


def check_complete(header: MrcHeader) -> MrcHeader:
    """Return the header with the true offset of the data of an uncompressed file.

    Raises
    ------
    InputError
        The file is shorter than its header says.
    """
    n_byte = header.path.stat().st_size
    wanted = header.section_bytes * header.shape[0]
    if header.offset + wanted <= n_byte:
        return header
    if wanted + _HEADER_BYTES == n_byte:  # junk where old files have no extended header
        return replace(header, offset=_HEADER_BYTES)
    raise InputError(
        f"{header.path} is truncated: its header promises {header.shape[0]} sections,"
        f" {header.offset + wanted} bytes in all, but the file has {n_byte}."
    )


def map_sections(header: MrcHeader) -> np.ndarray:
    """Memory-map an uncompressed file: (n_z, n_y, n_x) as stored, or packed bytes of the rows in mode 101."""
    header = check_complete(header)
    n_z, n_y, n_x = header.shape
    if header.mode == _PACKED_4_BIT:
        return np.memmap(header.path, np.uint8, "r", header.offset, (n_z, n_y, (n_x + 1) // 2))
    return np.memmap(header.path, header.dtype, "r", header.offset, (n_z, n_y, n_x))


def as_float32(sections: np.ndarray, header: MrcHeader) -> np.ndarray:
    """Return stored sections (..., n_y, n_x) as float32 in native byte order."""
    if header.mode != _PACKED_4_BIT:
        return sections.astype(np.float32)
    nibbles = np.stack([sections & 15, sections >> 4], axis=-1)
    return nibbles.reshape(*sections.shape[:-1], -1)[..., : header.shape[2]].astype(np.float32)


def read_data(path: str | os.PathLike[str]) -> tuple[np.ndarray, MrcHeader]:
    """Read all values of a file, compressed or not.

    Returns
    -------
    data : (n_z, n_y, n_x) float32, axes permuted to z, y, x whatever their order in the file
    header : as read
    """
    header = read_header(path)
    opener = _COMPRESSED.get(first_bytes(header.path, 2))
    header = check_complete(header) if opener is None else header
    _check_promise(header, opener)
    try:
        data = as_float32(map_sections(header), header) if opener is None else _read_compressed(header, opener)
    except OSError as error:
        raise read_error(path, error) from error
    order = [header.axes[::-1].index(axis) for axis in (3, 2, 1)]
    return np.ascontiguousarray(data.transpose(order)), header


def _check_promise(header: MrcHeader, opener: Callable[..., Any] | None) -> None:
    """Raise, before any memory is taken, when the values cannot be in the compressed file or do not fit."""
    n_z, n_y, n_x = header.shape
    promised = header.section_bytes * n_z
    if opener is gzip.open and promised > _DEFLATE_RATIO * header.path.stat().st_size:
        raise InputError(f"{header.path} is truncated: its header promises {promised} bytes of data.")
    needed = promised + 4 * n_z * n_y * n_x
    free = psutil.virtual_memory().available if needed > _SMALL_BYTES else needed
    if needed > free:
        raise InputError(
            f"{header.path}: its {n_x} x {n_y} x {n_z} values need {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB"
            " are free; cut it into smaller files."
        )


def _read_compressed(header: MrcHeader, opener: Callable[..., Any]) -> np.ndarray:
    promised = header.section_bytes * header.shape[0]
    try:
        with opener(header.path, "rb") as file:
            file.seek(header.offset)
            raw = file.read(promised)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{header.path} is a damaged compressed file: {error}.") from error
    if len(raw) < promised:
        raise InputError(f"{header.path} is truncated: {len(raw)} bytes of data instead of what its header promises.")
    n_z, n_y, _ = header.shape
    packed = header.mode == _PACKED_4_BIT
    return as_float32(np.frombuffer(raw, np.uint8 if packed else header.dtype).reshape(n_z, n_y, -1), header)


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Read a map or mask.

    A header without a voxel size gives 1 A, as in RELION.

    Raises
    ------
    InputError
        Not a volume, voxels that are not cubes, or values that are not finite.
    """
    if is_stack_name(path):
        raise InputError(f"{path} is a stack of images by its name, not a map; rename it to .mrc if it is a map.")
    data, header = read_data(path)
    sizes = header.voxel_size_A
    given = [size for size in sizes if size > 0] or [1.0]
    if max(given) - min(given) > 0.01 * max(given):
        size = " x ".join(f"{size:g}" for size in sizes)
        raise InputError(f"{path}: the voxels are not cubes but {size} A; resample it.")
    n_bad = data.size - int(np.count_nonzero(np.isfinite(data)))
    if n_bad:
        raise InputError(f"{path} holds {n_bad} voxels that are not finite numbers (NaN or Inf); repair the map.")
    voxel = given[0]
    origin = header.origin_A
    if not any(origin):
        start = dict(zip(header.axes, header.start, strict=True))
        origin = (start[1] * voxel, start[2] * voxel, start[3] * voxel)
    return Volume(data=data, voxel_size_A=voxel, origin_A=origin)


def write_volume(
    path: str | os.PathLike[str],
    data: np.ndarray,
    voxel_size_A: float,
    *,
    origin_A: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> None:
    """Write a float32 map (mode 2) under a temporary name, then rename.

    Parameters
    ----------
    path : str or path
        Name of the file.
    data : (n_z, n_y, n_x)
        Map with its centre at index n // 2.
    voxel_size_A : float
        Edge of a voxel.
    origin_A : (x, y, z)
        Origin words of the header.
    """
    _write(path, data, (voxel_size_A,) * 3, origin_A=origin_A, is_stack=False)


def write_stack(
    path: str | os.PathLike[str], images: np.ndarray, pixel_size_A: float, *, half_precision: bool = False
) -> None:
    """Write images (n, n_y, n_x) as an MRC stack, float32 or float16 (mode 12, clamped to its range)."""
    if half_precision:
        images = np.clip(images, -65504.0, 65504.0).astype(np.float16)
    _write(path, images, (pixel_size_A,) * 3, origin_A=(0.0, 0.0, 0.0), is_stack=True)


def write_image(path: str | os.PathLike[str], image: np.ndarray, pixel_size_A: float) -> None:
    """Write one image (n_y, n_x) of float32, float16, int16, uint16 or int8 values, such as a micrograph."""
    with replacing(path) as temporary, mrcfile.new(temporary, overwrite=True) as file:
        file.set_data(np.ascontiguousarray(image))
        file.voxel_size = pixel_size_A
        file.add_label("napari-autorefine")


def _write(
    path: str | os.PathLike[str],
    data: np.ndarray,
    voxel_size_A: tuple[float, float, float],
    *,
    origin_A: tuple[float, float, float],
    is_stack: bool,
) -> None:
    values = np.ascontiguousarray(data, dtype=np.float16 if data.dtype == np.float16 else np.float32)
    with replacing(path) as temporary, mrcfile.new(temporary, overwrite=True) as file:
        file.set_data(values)
        if is_stack:
            file.set_image_stack()
        else:
            file.set_volume()
        file.header.mz = values.shape[0]  # RELION's headers: sampling equals size, for stacks too
        file.voxel_size = voxel_size_A
        file.header.origin = origin_A
        file.add_label("napari-autorefine")
