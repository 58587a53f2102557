"""Maps and masks that a job reads: where they are, what grid they have, and whether they fit each other."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import read_header, read_volume
from napari_autorefine.jobs.record import Kind, output_of

SAME_PIXEL_A = 1e-3
_ROUNDING = 1e-5
_FEWEST_ONES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class InputMap:
    """A map or mask of a file; ``data`` is (n_z, n_y, n_x) float32, ``voxel_size_A`` None when the header has none."""

    path: str
    data: np.ndarray
    voxel_size_A: float | None

    @property
    def size(self) -> str:
        """Box as x x y x z px, or one number when it is a cube."""
        shape = self.data.shape
        return f"{shape[0]} px" if self.is_cubic else " x ".join(str(n) for n in reversed(shape)) + " px"

    @property
    def is_cubic(self) -> bool:
        """Tell whether all axes have the same length."""
        return len(set(self.data.shape)) == 1


def read_map(path: str, kind: Kind = "map") -> InputMap:
    """Read a map, a mask, or the one that a job left in a folder.

    RELION's ending ``:mrc`` is taken off.

    Raises
    ------
    InputError
        A file that is no map, a single image included.
    """
    if path.lower().endswith(".star"):
        raise InputError(f"{path} is a STAR file; give the map itself, an MRC file.")
    found = output_of(path, kind)
    if not Path(found).exists():
        found = found.removesuffix(":mrc")
    volume = read_volume(found)
    size = volume.voxel_size_A if max(read_header(found).voxel_size_A) > 0 else None
    if volume.data.shape[0] == 1:
        shape = " x ".join(str(n) for n in reversed(volume.data.shape[1:]))
        raise InputError(f"{found} is an image of {shape} px, not a map; give a map.")
    return InputMap(path=found, data=volume.data, voxel_size_A=size)


def read_map_or_mask(path: str) -> InputMap:
    """Read a file, or of a folder the map, and where there is none the mask."""
    found = path
    with suppress(InputError):
        found = output_of(path, "mask")
    with suppress(InputError):
        found = output_of(path, "map")
    return read_map(found)


def voxel_size_of(map_: InputMap, given_A: float | None) -> float:
    """Return the pixel size that was given, else the header's.

    Raises
    ------
    InputError
        When there is neither.
    """
    size = map_.voxel_size_A if given_A is None else given_A
    if size is None:
        raise InputError(f"{map_.path} has no pixel size in its header; give it with --angpix.")
    return size


def rebox_line(path: str, *, box_size: int, voxel_size_A: float | None = None) -> str:
    """Return the command that puts a map on another grid."""
    rescale = "" if voxel_size_A is None else f" --rescale_angpix {voxel_size_A:.6g} --force_pixel_size"
    return f"autorefine rebox --i {path} --o NEW.mrc{rescale} --new_box {box_size}"


def check_cubic(map_: InputMap, what_for: str) -> None:
    """Raise unless a map is cubic."""
    if not map_.is_cubic:
        line = rebox_line(map_.path, box_size=max(map_.data.shape) + max(map_.data.shape) % 2)
        raise InputError(f"{map_.path} is {map_.size}; {what_for} needs a cubic map: run {line}.")


def check_even(map_: InputMap, what_for: str) -> None:
    """Raise unless the box of a cubic map is even."""
    n = map_.data.shape[0]
    if n % 2:
        line = rebox_line(map_.path, box_size=n + 1)
        raise InputError(f"{map_.path} has an odd box of {n} px; {what_for} needs an even one: run {line}.")


def check_same_grid(map_: InputMap, other: InputMap) -> None:
    """Raise unless ``map_`` has the box, and where both headers give one the pixel size, of ``other``."""
    wanted, size = other.voxel_size_A, map_.voxel_size_A
    is_same_pixel = wanted is None or size is None or abs(size - wanted) <= SAME_PIXEL_A
    if map_.data.shape == other.data.shape and is_same_pixel:
        return
    at = "" if is_same_pixel else f" at {size:.6g} A"
    than = "" if is_same_pixel else f" at {wanted:.6g} A"
    hint = "give maps of the same box"
    if other.is_cubic:
        line = rebox_line(map_.path, box_size=other.data.shape[0], voxel_size_A=None if is_same_pixel else wanted)
        hint = f"run {line}"
    raise InputError(f"{map_.path} has {map_.size}{at} but {other.path} {other.size}{than}: {hint}.")


def check_mask(mask: InputMap) -> None:
    """Raise unless a mask lies within 0 and 1 and is not empty."""
    low, high = float(mask.data.min()), float(mask.data.max())
    if low < -_ROUNDING or high > 1.0 + _ROUNDING:
        raise InputError(f"{mask.path} has values from {low:g} to {high:g}; a mask must lie between 0 and 1.")
    if high <= 0.0:
        raise InputError(f"{mask.path} is zero everywhere; make a mask with a lower threshold.")


def looks_like_mask(data: np.ndarray) -> bool:
    """Tell whether values are those of a mask: within 0 and 1, and 1 in more than a few voxels."""
    if data.size == 0 or float(data.min()) < -_ROUNDING or float(data.max()) > 1.0 + _ROUNDING:
        return False
    return int(np.count_nonzero(data >= 1.0 - _ROUNDING)) >= _FEWEST_ONES
