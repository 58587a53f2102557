"""Layers of micrographs and of the coordinates on them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import read_header
from napari_autorefine.io.tables import read_star
from napari_autorefine.ui.found_files import ImagePlaces, coded, project_folder
from napari_autorefine.ui.layers_of_maps import LayerData, image_layer, pixel_size_A, series_layer, star_name
from napari_autorefine.ui.notices import show_warning
from napari_autorefine.ui.star_tables import StarRows, rows_with
from napari_autorefine.ui.world import series_frame, world_frame

POINT_COLOR = "#f0e442"
_COORDINATES = ("rlnCoordinateX", "rlnCoordinateY")
_SIZE_LABELS = ("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize")
_UNKNOWN_DIAMETER_A = 150.0
_PICK_SUFFIX = re.compile(r"_[A-Za-z]+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrographSet:
    """Distinct micrographs in order: names as in the STAR file, where they are, pixel size and shape (n_y, n_x)."""

    names: list[str]
    places: ImagePlaces | None
    pixel_size_A: float
    shape: tuple[int, int]


def micrograph_layers(rows: StarRows) -> list[LayerData]:
    """Return the layers of a micrographs STAR: a lazy series, and the coordinates where it names their files.

    Raises
    ------
    InputError
        No micrograph is found.
    """
    found = _micrographs(rows.texts("rlnMicrographName"), rows)
    if found.places is None:
        raise InputError(
            f"{rows.path.name}: none of its {len(found.names)} micrographs is there, the first is {found.names[0]};"
            f" the folders from {rows.path.absolute().parent} upwards and the working directory were searched."
        )
    layers = [_series(found, rows)]
    if "rlnMicrographCoordinates" in rows:
        layers += _listed_coordinates(rows, found)
    return layers


def coordinate_layers(rows: StarRows) -> list[LayerData]:
    """Return the coordinates of a particle table on their micrographs; nothing without coordinates.

    Without micrographs the coordinates are shown alone when the table has no images either.
    """
    if not rows.has(*_COORDINATES):
        return []
    if "rlnMicrographName" not in rows:
        return _single(rows)
    names = rows.texts("rlnMicrographName")
    found = _micrographs(names, rows)
    if found.places is None and "rlnImageName" in rows:
        return []
    codes = coded(names)[1]
    points = _points(rows, codes, found)
    return [points] if found.places is None else [_series(found, rows), points]


def _single(rows: StarRows) -> list[LayerData]:
    """Return the picks of one micrograph, with the micrograph when a file of its name is near."""
    image = _micrograph_of_picks(rows.path)
    layers = [] if image is None else [image_layer(image)]
    size_A = layers[0][1]["scale"][0] if layers else 1.0
    if image is None:
        show_warning(f"The micrograph of {rows.path.name} is not found; its coordinates are shown alone, in pixels.")
    shape = _extent(rows) if image is None else read_header(image).shape[1:]
    xy = [rows.numbers(label) for label in _COORDINATES]
    frame = {**world_frame(shape, size_A), "translate": (0.0, 0.0)}
    style = points_style(_diameter_A(rows) / size_A)
    metadata = _metadata(rows, size_A, [image.name] if image else [rows.path.stem])
    arguments = {"name": f"{star_name(rows.path)} picks", **frame, **style, "features": rows.table, **metadata}
    return [*layers, (np.stack(xy[::-1], axis=1), arguments, "points")]


def _micrograph_of_picks(path: Path) -> Path | None:
    """Return the micrograph that ``folder/NAME_autopick.star`` belongs to: beside it, or in a MotionCorr job."""
    stems = dict.fromkeys((path.stem, _PICK_SUFFIX.sub("", path.stem)))
    folders = list(path.absolute().parents)
    for stem in stems:
        for folder in folders[:1]:
            if (folder / f"{stem}.mrc").is_file():
                return folder / f"{stem}.mrc"
        for project in folders[1:5]:
            for job in ("MotionCorr/job*", "Micrographs", "MotionCorr"):
                found = sorted(project.glob(f"{job}/{stem}.mrc")) or sorted(project.glob(f"{job}/*/{stem}.mrc"))
                if found:
                    return found[-1]
    return None


def _micrographs(names: Sequence[str], rows: StarRows) -> MicrographSet:
    """Find the micrographs; their size and pixel size are those of the first one that exists."""
    distinct, _ = coded(names)
    size_A = rows.optics_number(*_SIZE_LABELS)
    project = project_folder(rows.path, distinct)
    if project is None:
        return MicrographSet(names=distinct, places=None, pixel_size_A=size_A or 1.0, shape=_extent(rows))
    files = tuple(project / name for name in distinct)
    header = read_header(next(path for path in files if path.is_file()))
    n = len(files)
    places = ImagePlaces(files=files, file=np.arange(n), section=np.zeros(n, np.int64))
    if places.missing:
        text = f"{len(places.missing)} of {n} micrographs are missing, the first is {places.missing[0]}"
        show_warning(f"{rows.path.name}: {text}; they are shown blank.")
    if size_A is None or max(header.voxel_size_A) > 0:
        size_A = pixel_size_A(header)
    if "rlnMicrographPixelSize" in rows.optics and rows.optics["rlnMicrographPixelSize"].nunique() > 1:
        show_warning(f"{rows.path.name}: the micrographs differ in pixel size; all are shown with {size_A:g} Å.")
    return MicrographSet(names=distinct, places=places, pixel_size_A=size_A, shape=header.shape[1:])


def _extent(rows: StarRows) -> tuple[int, int]:
    """Return the shape that holds all coordinates, where no micrograph tells it."""
    if not rows.has(*_COORDINATES):
        return 1, 1
    x, y = (int(np.nanmax(rows.numbers(label))) + 1 for label in _COORDINATES)
    return max(1, y), max(1, x)


def _series(found: MicrographSet, rows: StarRows) -> LayerData:
    assert found.places is not None
    metadata = {"path": str(rows.path), "kind": "micrographs", "names": tuple(found.names), "table": rows.table}
    name = f"{star_name(rows.path)} micrographs"
    size_A = found.pixel_size_A
    return series_layer(found.places, "micrograph", found.shape, pixel_size_A=size_A, name=name, metadata=metadata)


def _points(rows: StarRows, codes: np.ndarray, found: MicrographSet) -> LayerData:
    """Return all coordinates as points (micrograph, 0, y, x) in pixels of the micrograph, first pixel 0."""
    size_A = found.pixel_size_A
    data = np.zeros((len(rows), 4))
    data[:, 0] = codes
    data[:, 2], data[:, 3] = rows.numbers("rlnCoordinateY"), rows.numbers("rlnCoordinateX")
    arguments = {
        "name": f"{star_name(rows.path)} coordinates",
        **series_frame(("micrograph",), found.shape, size_A, centered=False),
        **points_style(_diameter_A(rows) / size_A),
        "features": rows.table,
        **_metadata(rows, size_A, found.names),
    }
    return data, arguments, "points"


def _listed_coordinates(rows: StarRows, found: MicrographSet) -> list[LayerData]:
    """Return the coordinates of the files that an ``autopick.star`` names, as one layer."""
    files = rows.texts("rlnMicrographCoordinates")
    project = project_folder(rows.path, files)
    if project is None:
        show_warning(f"{rows.path.name}: none of its coordinate files is there, the first is {files[0]}.")
        return []
    micrographs = coded(rows.texts("rlnMicrographName"))[1]
    parts = []
    for file, micrograph, name in zip(files, micrographs, rows.texts("rlnMicrographName"), strict=True):
        if (project / file).is_file():
            picks = rows_with(read_star(project / file), project / file, *_COORDINATES)
            if picks is not None:
                parts.append(picks.table.assign(rlnMicrographName=name, _micrograph=micrograph))
    if not parts:
        return []
    table = pd.concat(parts, ignore_index=True)
    codes = table.pop("_micrograph").to_numpy()
    picked = StarRows(path=rows.path, name=rows.name, table=table, optics=rows.optics)
    return [_points(picked, codes, found)]


def points_style(diameter_px: float, *, color: str = POINT_COLOR) -> dict[str, Any]:
    """Return the look of coordinates: open circles of a particle's diameter, in data pixels."""
    return {
        "size": max(diameter_px, 1.0),
        "face_color": "transparent",
        "border_color": color,
        "border_width": 0.06,
        "symbol": "disc",
        "blending": "translucent_no_depth",
    }


def _diameter_A(rows: StarRows) -> float:
    """Return the diameter of the circles: 0.7 of the extracted box."""
    size_A, box = rows.optics_number("rlnImagePixelSize"), rows.optics_number("rlnImageSize")
    return 0.7 * size_A * box if size_A and box else _UNKNOWN_DIAMETER_A


def _metadata(rows: StarRows, size_A: float, names: Sequence[str]) -> dict[str, Any]:
    known = {"path": str(rows.path), "kind": "coordinates", "voxel_size_A": size_A, "names": tuple(names)}
    return {"metadata": {"autorefine": {**known, "optics": rows.optics}}}
