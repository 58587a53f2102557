"""Layers of tomography: tomograms, coordinates in them, optimisation sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import read_header
from napari_autorefine.io.optimisation_set import optimisation_set_pairs
from napari_autorefine.io.tables import StarFile, read_star
from napari_autorefine.ui.found_files import coded, project_folder
from napari_autorefine.ui.layer_style import image_limits
from napari_autorefine.ui.layers_of_maps import LayerData, star_name, tomogram_layer, voxel_size_A
from napari_autorefine.ui.layers_of_micrographs import points_style
from napari_autorefine.ui.lazy import LazyArray, Sections
from napari_autorefine.ui.notices import show_warning
from napari_autorefine.ui.particle_places import ORIGIN, positions_A
from napari_autorefine.ui.star_tables import StarRows, rows_with
from napari_autorefine.ui.world import NO_UNIT, UNIT

_VOLUMES = (
    "rlnTomoReconstructedTomogramDenoised",
    "rlnTomoReconstructedTomogram",
    "rlnTomoReconstructedTomogramHalf1",
)
_DEFAULT_DIAMETER_A = 120.0


def tomograms_of(star: StarFile, path: Path) -> StarRows | None:
    """Return the table of a ``tomograms.star``, or None."""
    return rows_with(star, path, "rlnTomoName") if star.loop("global") is not None else None


def tomo_coordinate_layers(
    rows: StarRows, tomograms: StarRows | None = None, names: Sequence[str] = ()
) -> list[LayerData]:
    """Return where the particles or picks of a table are in their tomograms; nothing without coordinates.

    World 0 is the center of the tomogram. With several tomograms a slider chooses one.

    Parameters
    ----------
    rows : particles or picks
    tomograms : table of the tomograms, which tells their sizes; looked for beside the file when not given
    names : tomograms in the order of the slider; that of the volumes, else of the file, when not given
    """
    of_rows = rows.texts("rlnTomoName") if "rlnTomoName" in rows else [rows.path.stem] * len(rows)
    tomograms = tomograms or _tomograms_beside(rows.path)
    distinct, codes = coded([*(names or _in_order(of_rows, tomograms)), *of_rows])
    codes = codes[len(codes) - len(of_rows) :]
    xyz_A = positions_A(rows, tomograms, distinct, codes)
    return [] if xyz_A is None else [_points(rows, xyz_A, codes, distinct)]


def _in_order(names: Sequence[str], tomograms: StarRows | None) -> list[str]:
    """Return all tomograms of a table that can be shown, so that particles and volumes have one slider."""
    if tomograms is None or "rlnTomoName" not in tomograms or not any(label in tomograms for label in _VOLUMES):
        return []
    listed, used = tomograms.texts("rlnTomoName"), set(names)
    return listed if used <= set(listed) and len(listed) > 1 else []


def _points(rows: StarRows, xyz_A: np.ndarray, codes: np.ndarray, names: Sequence[str]) -> LayerData:
    """Return points ([tomogram,] z, y, x) in diameters of a particle: a slice shows what lies within half a unit."""
    n_series = int(len(names) > 1)
    box, size_A = rows.optics_number("rlnImageSize"), rows.optics_number("rlnImagePixelSize")
    diameter_A = 0.7 * box * size_A if box and size_A else _DEFAULT_DIAMETER_A
    zyx = xyz_A[:, ::-1] / diameter_A
    data = np.column_stack([codes, zyx]) if n_series else np.ascontiguousarray(zyx)
    metadata = {"path": str(rows.path), "kind": "coordinates_3d", "voxel_size_A": diameter_A, "names": tuple(names)}
    metadata["has_origins"] = rows.has(*ORIGIN)
    arguments = {
        "name": f"{star_name(rows.path)} coordinates",
        "scale": (*(1.0,) * n_series, *(diameter_A,) * 3),
        "units": (*(NO_UNIT,) * n_series, *(UNIT,) * 3),
        "axis_labels": (*("tomogram",) * n_series, "z", "y", "x"),
        **points_style(1.0),
        "features": rows.table,
        "metadata": {"autorefine": {**metadata, "optics": rows.optics}},
    }
    return data, arguments, "points"


def tomogram_series(tomograms: StarRows) -> list[LayerData]:
    """Return the layer of the reconstructed tomograms of a ``tomograms.star``, read as they are shown.

    Raises
    ------
    InputError
        The table names no reconstructed tomogram, or none of them is there.
    """
    label = next((label for label in _VOLUMES if label in tomograms), None)
    if label is None:
        raise InputError(f"{tomograms.path.name} names no reconstructed tomograms; reconstruct them first.")
    files = tomograms.texts(label)
    project = project_folder(tomograms.path, files)
    if project is None:
        raise InputError(
            f"{tomograms.path.name}: none of its {len(files)} tomograms is there, the first is {files[0]};"
            f" the folders from {tomograms.path.absolute().parent} upwards and the working directory were searched."
        )
    paths = [project / file for file in files]
    names = tuple(tomograms.texts("rlnTomoName"))
    if len(paths) == 1:
        return [_named(tomogram_layer(paths[0], read_header(paths[0]), name=names[0]), names)]
    return [_series(tomograms.path, paths, names)]


def _series(path: Path, paths: list[Path], names: tuple[str, ...]) -> LayerData:
    """Return several tomograms behind a slider, (tomogram, z, y, x); shorter ones end blank."""
    there = [one for one in paths if one.is_file()]
    headers = {one: read_header(one) for one in there}
    n_z = max(header.shape[0] for header in headers.values())
    first = headers[there[0]]
    shape, size_A = (first.shape[1], first.shape[2]), voxel_size_A(first)[2]
    odd = [one.name for one, header in headers.items() if header.shape != first.shape]
    if odd or len(there) < len(paths):
        text = f"{len(paths) - len(there)} of {len(paths)} tomograms are missing and {len(odd)} differ in size"
        show_warning(f"{path.name}: {text}; these are shown blank, or cut and padded.")
    sections = Sections()

    def fetch(at: tuple[int, ...]) -> np.ndarray:
        file = paths[at[0]]
        beyond = file in headers and at[1] >= headers[file].shape[0]
        return np.zeros(shape, np.float32) if beyond else sections.read_or_blank(file, at[1], shape)

    data = LazyArray((len(paths), n_z), shape, fetch)
    middle = data[paths.index(there[0]), n_z // 2]
    arguments = {
        "name": star_name(path),
        "scale": (1.0, *(size_A,) * 3),
        "translate": (0.0, *(-(n // 2) * size_A for n in (n_z, *shape))),
        "units": (NO_UNIT, UNIT, UNIT, UNIT),
        "axis_labels": ("tomogram", "z", "y", "x"),
        "contrast_limits": image_limits(middle),
        "colormap": "gray",
        "rendering": "mip",
        "metadata": {"autorefine": {"path": str(path), "kind": "tomogram", "voxel_size_A": size_A, "names": names}},
    }
    return data, arguments, "image"


def _named(layer: LayerData, names: tuple[str, ...]) -> LayerData:
    layer[1]["metadata"]["autorefine"]["names"] = names
    return layer


def _tomograms_beside(path: Path) -> StarRows | None:
    """Return the tomograms that the optimisation set beside a particle file names."""
    sets = sorted(path.parent.glob("*optimisation_set.star"))
    for candidate in (*sets, path.with_name("tomograms.star")):
        if candidate.is_file() and candidate != path:
            star = read_star(candidate)
            pairs = optimisation_set_pairs(star)
            named = str(pairs.get("rlnTomoTomogramsFile", "")) if pairs else ""
            if not named:
                return tomograms_of(star, candidate)
            project = project_folder(candidate, [named])
            if project is not None:
                return tomograms_of(read_star(project / named), project / named)
    return None
