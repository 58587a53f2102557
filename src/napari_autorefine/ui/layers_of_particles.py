"""Layers of particle STAR files: images in the order of the file, and coordinates on their micrographs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import MrcHeader, read_header
from napari_autorefine.ui.found_files import ImagePlaces, image_places
from napari_autorefine.ui.layer_style import image_limits
from napari_autorefine.ui.layers_of_maps import LayerData, pixel_size_A, series_layer, star_name
from napari_autorefine.ui.layers_of_micrographs import coordinate_layers
from napari_autorefine.ui.layers_of_tomograms import tomo_coordinate_layers
from napari_autorefine.ui.lazy import LazyArray, Sections
from napari_autorefine.ui.notices import show_info, show_warning
from napari_autorefine.ui.star_tables import StarRows
from napari_autorefine.ui.world import NO_UNIT, UNIT, series_frame

_MOST_TILTS_ASKED = 64


def particle_layers(rows: StarRows, tomograms: StarRows | None = None) -> list[LayerData]:
    """Return the layers of a particle table: what of images, micrographs and tomograms is there.

    Where the micrographs are found, they are shown with the coordinates, and the images start hidden.

    Parameters
    ----------
    rows : particles
    tomograms : table of the tomograms they are in, when it is known

    Raises
    ------
    InputError
        Neither images nor coordinates can be shown.
    """
    on_tomograms = "rlnTomoName" in rows
    places = tomo_coordinate_layers(rows, tomograms) if on_tomograms else coordinate_layers(rows)
    try:
        images = image_layer_of(rows)
    except InputError as error:
        if not places:
            raise
        show_warning(f"{error} Only the coordinates are shown.")
        return places
    if not places:
        return [images]
    show_info(f"The images of {rows.path.name} are in the hidden layer '{images[1]['name']}': click its eye.")
    return [*places, _beside(images, places[0])]


def image_layer_of(rows: StarRows) -> LayerData:
    """Return the layer of a particle table's images: 2D particles, tilt stacks or subtomograms, read as shown."""
    places = image_places(rows.texts("rlnImageName"), rows.path)
    missing = set(places.missing)
    if missing:
        text = f"{len(missing)} of {len(places.files)} image files are missing, the first is {sorted(missing)[0]}"
        show_warning(f"{rows.path.name}: {text}; their images are shown blank.")
    header = read_header(next(path for path in places.files if path not in missing))
    size_A = rows.optics_number("rlnImagePixelSize") or pixel_size_A(header)
    known = {"path": str(rows.path), "kind": "particles", "table": rows.table, "optics": rows.optics}
    metadata = {**known, "voxel_size_A": size_A, "box": header.shape[2]}
    if (places.section >= 0).all() or header.shape[0] == 1:
        places = ImagePlaces(files=places.files, file=places.file, section=np.maximum(places.section, 0))
        name = f"{star_name(rows.path)} images"
        return series_layer(places, "particle", header.shape[1:], pixel_size_A=size_A, name=name, metadata=metadata)
    is_volume = len(set(header.shape)) == 1
    return (_subtomogram_layer if is_volume else _tilt_stack_layer)(rows, places, header, metadata)


def _subtomogram_layer(rows: StarRows, places: ImagePlaces, header: MrcHeader, metadata: dict[str, Any]) -> LayerData:
    """Return the layer of particles that are volumes, (n, z, y, x)."""
    sections, size_A = Sections(), float(metadata["voxel_size_A"])
    n_z, n_y, n_x = header.shape
    data = LazyArray(
        (len(places), n_z), (n_y, n_x), lambda at: sections.read_or_blank(places[at[0]][0], at[1], (n_y, n_x))
    )
    frame = {
        "scale": (1.0, size_A, size_A, size_A),
        "translate": (0.0, *(-(n // 2) * size_A for n in header.shape)),
        "units": (NO_UNIT, UNIT, UNIT, UNIT),
        "axis_labels": ("particle", "z", "y", "x"),
    }
    return data, {"name": f"{star_name(rows.path)} subtomograms", **frame, **_style(data, metadata)}, "image"


def _tilt_stack_layer(rows: StarRows, places: ImagePlaces, header: MrcHeader, metadata: dict[str, Any]) -> LayerData:
    """Return the layer of particles that are tilt stacks, (n, tilt, 1, y, x)."""
    _, n_y, n_x = header.shape
    counts = _tilt_counts(places)
    data = LazyArray((len(places), int(counts.max())), (1, n_y, n_x), _tilt_reader(places, counts, (n_y, n_x)))
    frame = series_frame(("particle", "tilt"), (n_y, n_x), float(metadata["voxel_size_A"]), centered=True)
    return data, {"name": f"{star_name(rows.path)} tilt stacks", **frame, **_style(data, metadata)}, "image"


def _style(data: LazyArray, metadata: dict[str, Any]) -> dict[str, Any]:
    return {
        "contrast_limits": image_limits(np.asarray(data[0])),
        "colormap": "gray",
        "rendering": "mip",
        "metadata": {"autorefine": metadata},
    }


def _tilt_counts(places: ImagePlaces) -> np.ndarray:
    """Return the number of tilts of every particle, (n,); of many files only some headers are read."""
    files = places.files
    step = max(1, len(files) // _MOST_TILTS_ASKED)
    asked = {at: read_header(files[at]).shape[0] for at in range(0, len(files), step) if files[at].is_file()}
    most = max(asked.values())
    per_file = np.array([asked.get(at, most) for at in range(len(files))])
    return per_file[places.file]


def _tilt_reader(
    places: ImagePlaces, counts: np.ndarray, shape: tuple[int, int]
) -> Callable[[tuple[int, ...]], np.ndarray]:
    """Return what reads one tilt; a blank image where a particle has fewer tilts than others."""
    sections = Sections()

    def fetch(at: tuple[int, ...]) -> np.ndarray:
        row, tilt = at
        if tilt >= counts[row]:
            return np.zeros((1, *shape), np.float32)
        return sections.read_or_blank(places[row][0], tilt, shape)[None]

    return fetch


def _beside(images: LayerData, place: LayerData) -> LayerData:
    """Return the layer of the images, hidden, with a slider of its own beside that of the micrographs.

    Its axes get the leading axis of the other layer, one wide step that covers all micrographs.
    """
    data, arguments, kind = images
    labels, other = arguments["axis_labels"], place[1]["axis_labels"]
    extra = len(other) - 3
    if extra <= 0:
        return data, {**arguments, "visible": False}, kind
    at = len(labels) - 3
    n_place = max(1, len(place[1]["metadata"]["autorefine"].get("names", ())))

    def inserted(values: tuple[Any, ...], new: Any) -> tuple[Any, ...]:
        return (*values[:at], *(new,) * extra, *values[at:])

    changed = {
        "scale": inserted(arguments["scale"], float(n_place)),
        "translate": inserted(arguments["translate"], 0.5 * (n_place - 1)),
        "units": inserted(arguments["units"], NO_UNIT),
        "axis_labels": (*labels[:at], *other[:extra], *labels[at:]),
        "visible": False,
    }
    return _with_axes(data, at, extra), {**arguments, **changed}, kind


def _with_axes(data: LazyArray, at: int, n_axis: int) -> LazyArray:
    """Return the same images with ``n_axis`` axes of length 1 before axis ``at``."""
    leading, item = data.leading, data.item_shape
    new = (*leading[:at], *(1,) * n_axis, *leading[at:])
    return LazyArray(new, item, lambda place: data.item((*place[:at], *place[at + n_axis :])))
