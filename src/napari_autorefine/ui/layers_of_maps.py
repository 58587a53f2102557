"""Layers of MRC files: maps and masks, tomograms, stacks, micrographs, tilt series."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.io.files import first_bytes
from napari_autorefine.io.mrc import MrcHeader, check_complete, is_stack_name, read_data, read_header
from napari_autorefine.ui.layer_style import (
    Role,
    image_limits,
    map_style,
    name_without_ending,
    role_by_name,
    statistics,
)
from napari_autorefine.ui.lazy import LazyArray, Sections, pyramid
from napari_autorefine.ui.notices import show_info, show_warning
from napari_autorefine.ui.world import series_frame, world_frame

LayerData = tuple[Any, dict[str, Any], str]

_TILT_SERIES = (".st", ".st.gz", ".st.bz2")
_LARGEST_LOADED = 640**3
_LARGEST_CRYSTAL = 256**3
_SAMPLED_IMAGES = 16
_JOB_DEPTH = 2
_WINDOW_PX = 1500


def mrc_layers(path: Path) -> list[LayerData]:
    """Return the layer of an MRC file: what it is follows from its name and its header.

    Raises
    ------
    InputError
        Not an MRC file, or a damaged one.
    """
    header = read_header(path)
    if is_stack_name(path):
        label = "tilt" if path.name.endswith(_TILT_SERIES) else "particle"
        return [stack_layer(path, header, label)]
    if header.shape[0] == 1:
        return [image_layer(path)]
    n_voxel = int(np.prod(header.shape))
    is_tomogram = path.name.endswith(".rec") or (len(set(header.shape)) > 1 and n_voxel > _LARGEST_CRYSTAL)
    if (is_tomogram or n_voxel > _LARGEST_LOADED) and not _is_compressed(path) and header.axes == (1, 2, 3):
        return [tomogram_layer(path, header)]
    return [map_layer(path)]


def map_layer(path: Path, *, role: Role | None = None, name: str = "") -> LayerData:
    """Return the layer of a map or mask, read as a whole.

    Parameters
    ----------
    path : file
    role : what it is; taken from its name, and for masks from its values, when not given
    name : of the layer
    """
    data, header = read_data(path)
    data = _without_bad_values(data, path)
    size_A = voxel_size_A(header)
    measured = statistics(data)
    known = role or role_by_name(path)
    if known == "mask" and not measured.is_mask and role is None:
        low, high = measured.full_range
        show_warning(
            f"{path.name} is called a mask, but its values reach from {low:.3g} to {high:.3g}: shown as a map."
        )
        known = "map"
    elif known == "map" and measured.is_mask:
        known = "mask"
    arguments = {
        "name": name or layer_name(path),
        **world_frame(data.shape, size_A),
        **map_style(known, measured),
        "metadata": {"autorefine": {"path": str(path), "kind": known, "voxel_size_A": size_A[2], "box": data.shape[2]}},
    }
    return data, arguments, "image"


def tomogram_layer(path: Path, header: MrcHeader, *, name: str = "") -> LayerData:
    """Return the layer of a tomogram, whose sections are read as they are shown; molecules may be black in it."""
    check_complete(header)
    sections = Sections()
    n_z, n_y, n_x = header.shape
    data = LazyArray((n_z,), (n_y, n_x), lambda at: sections.read(path, at[0]))
    size_A = voxel_size_A(header)
    middle = data[n_z // 2 : n_z // 2 + 1]
    arguments = {
        "name": name or layer_name(path),
        **world_frame(header.shape, size_A),
        "contrast_limits": image_limits(middle),
        "colormap": "gray",
        "rendering": "mip",
        "metadata": {"autorefine": {"path": str(path), "kind": "tomogram", "voxel_size_A": size_A[2]}},
    }
    return data, arguments, "image"


def image_layer(path: Path) -> LayerData:
    """Return the layer of a single image, such as a micrograph; its first pixel is at world 0."""
    data, header = read_data(path)
    image = data[0]
    size_A = pixel_size_A(header)
    levels = pyramid(LazyArray((), image.shape, lambda _: image))
    arguments = {
        "name": layer_name(path),
        **world_frame(image.shape, size_A),
        "translate": (0.0, 0.0),
        "contrast_limits": image_limits(np.asarray(_from_afar(levels))),
        "colormap": "gray",
        "metadata": {"autorefine": {"path": str(path), "kind": "micrograph", "voxel_size_A": size_A}},
    }
    return (levels if len(levels) > 1 else image), {**arguments, "multiscale": len(levels) > 1}, "image"


def stack_layer(path: Path, header: MrcHeader, label: str = "particle") -> LayerData:
    """Return the layer of a stack with a slider; images are read as they are shown."""
    if not _is_compressed(path):
        header = check_complete(header)
    n, n_y, n_x = header.shape
    kind = "tilts" if label == "tilt" else "stack"
    return series_layer(
        [(path, section) for section in range(n)],
        label,
        (n_y, n_x),
        pixel_size_A=pixel_size_A(header),
        name=layer_name(path),
        metadata={"path": str(path), "kind": kind},
    )


class Places(Protocol):
    """Where images are: file and 0-based section of each."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> tuple[Path, int]: ...


def series_layer(
    places: Places,
    label: str,
    shape: tuple[int, int],
    *,
    pixel_size_A: float,
    name: str,
    metadata: dict[str, Any],
) -> LayerData:
    """Return the layer of images at places (file, section) behind a slider, (n, 1, n_y, n_x).

    Micrographs are means of pixels from afar, with the contrast that shows particles in these.

    Parameters
    ----------
    places : where each image is
    label : what the slider counts
    shape : (n_y, n_x); images of another shape are cut or padded
    pixel_size_A : edge of a pixel
    name : of the layer
    metadata : what the layer remembers, besides the pixel size
    """
    sections = Sections()
    data = LazyArray((len(places),), (1, *shape), lambda at: sections.read_or_blank(*places[at[0]], shape)[None])
    kind = metadata["kind"]
    levels = [data] if kind in {"stack", "particles"} else pyramid(data)
    arguments = {
        "name": name,
        **series_frame((label,), shape, pixel_size_A, centered=kind in {"stack", "particles"}),
        "contrast_limits": series_limits(_from_afar(levels)),
        "interpolation2d": "linear" if kind in {"stack", "particles"} else "nearest",
        "colormap": "gray",
        "rendering": "mip",
        "metadata": {"autorefine": {"voxel_size_A": pixel_size_A, "box": shape[1], **metadata}},
    }
    return (levels if len(levels) > 1 else data), {**arguments, "multiscale": len(levels) > 1}, "image"


def _from_afar(levels: list[LazyArray]) -> LazyArray:
    """Return the level that is seen when the whole image fills a window."""
    return next((level for level in levels if max(level.item_shape) <= _WINDOW_PX), levels[-1])


def series_limits(data: LazyArray) -> tuple[float, float]:
    """Return the contrast of a series from a few of its images, fewer where they are large."""
    n, area = data.leading[0], int(np.prod(data.item_shape[-2:]))
    n_sampled = int(np.clip(_SAMPLED_IMAGES * 256**2 // max(1, area), 1, _SAMPLED_IMAGES))
    chosen = np.unique(np.linspace(0, n - 1, min(n, n_sampled)).astype(int))
    return image_limits(np.stack([np.asarray(data[int(row)]) for row in chosen]))


def voxel_size_A(header: MrcHeader) -> tuple[float, float, float]:
    """Return the edges (z, y, x) of a voxel, 1 A where the header gives none; says so, and when they differ."""
    x, y, z = header.voxel_size_A
    given = [size for size in (x, y, z) if size > 0]
    if not given:
        show_info(f"{header.path.name}: the header gives no pixel size; 1 Å is used.")
        return 1.0, 1.0, 1.0
    if max(given) - min(given) <= 0.01 * max(given):
        return (given[0],) * 3
    sizes = tuple(size if size > 0 else given[0] for size in (z, y, x))
    text = " x ".join(f"{size:g}" for size in sizes[::-1])
    show_warning(f"{header.path.name}: the voxels are not cubes but {text} Å; resample it before a refinement.")
    return sizes[0], sizes[1], sizes[2]


def pixel_size_A(header: MrcHeader) -> float:
    """Return the pixel size of images, 1 A where the header gives none; says so."""
    x, y, _ = header.voxel_size_A
    if max(x, y) > 0:
        return x or y
    show_info(f"{header.path.name}: the header gives no pixel size; 1 Å is used.")
    return 1.0


def layer_name(path: Path) -> str:
    """Return a file's name without ending, with its job folder where there is one: ``job012/run_class001``."""
    folders = [folder.name for folder in path.absolute().parents[:_JOB_DEPTH]]
    job = next((name for name in folders if name.startswith("job") and name[3:].isdigit()), "")
    return f"{job}/{name_without_ending(path)}" if job else name_without_ending(path)


def star_name(path: Path) -> str:
    """Return the name that the layers of a STAR file start with."""
    return layer_name(path).removesuffix(".star")


def _is_compressed(path: Path) -> bool:
    return first_bytes(path, 3)[:2] in {b"\x1f\x8b", b"BZ"}


def _without_bad_values(data: np.ndarray, path: Path) -> np.ndarray:
    """Return data with zeros for NaN and Inf; says so. Without a finite value there is nothing to show."""
    finite = np.isfinite(data)
    n_bad = data.size - int(np.count_nonzero(finite))
    if n_bad == data.size:
        raise InputError(f"{path} holds no finite number; make the map again.")
    if n_bad:
        show_warning(
            f"{path.name} holds {n_bad} voxels that are NaN or Inf, shown as 0; repair it before a refinement."
        )
        return np.where(finite, data, np.float32(0))
    return data
