"""What napari asks for a file: readers of maps, stacks, STAR files and job folders.

``get_reader`` looks at names only. Files are read by ``read_mrc``, ``read_star_file`` and ``read_folder``, which return
layer data and raise ``InputError``; in the window the error is a notification instead.

STAR files of more than 8 MB are parsed by a thread, so that the window stays alive; their layers come when they are
ready. Images are never read before they are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_autorefine.ui.layers_of_maps import LayerData

_COMPRESSIONS = ("", ".gz", ".bz2")
_MRC = (".mrc", ".mrcs", ".map", ".ccp4", ".rec", ".st")
_MOST_MAPS = 12
_LARGE_BYTES = 8_000_000


def get_reader(path: str | Sequence[str]) -> Callable[[Any], list[Any]] | None:
    """Return the function that reads a path, or None when it is not for this plugin; looks at names only."""
    paths = [path] if isinstance(path, str) else list(path)
    try:
        readers = {_reader_of(Path(one)) for one in paths}
    except (OSError, ValueError):
        return None
    return None if None in readers or not readers else read_paths


def _reader_of(path: Path) -> Callable[[Path], list[LayerData]] | None:
    name = path.name.lower()
    if path.is_dir():
        return read_folder if _is_ours(path) else None
    if name.endswith(".star"):
        return read_star_file
    return read_mrc if name.endswith(tuple(f"{end}{packed}" for end in _MRC for packed in _COMPRESSIONS)) else None


def _is_ours(folder: Path) -> bool:
    """Tell whether a folder has a file that this plugin reads."""
    return any(path.name.endswith((".star", *_MRC)) for path in folder.iterdir())


def _is_large(path: Path) -> bool:
    """Tell whether reading a STAR file takes more than a blink."""
    return path.name.lower().endswith(".star") and path.is_file() and path.stat().st_size > _LARGE_BYTES


def read_paths(path: str | Sequence[str]) -> list[Any]:
    """Read one path or several for napari: errors become notifications, large STAR files come later."""
    from napari import current_viewer

    from napari_autorefine.ui.notices import NO_LAYERS, told_not_raised
    from napari_autorefine.ui.world import prepare_viewer

    viewer = current_viewer()
    prepare_viewer(viewer)
    layers: list[Any] = []
    for one in [path] if isinstance(path, str) else path:
        reader = _reader_of(Path(one))
        if reader is None:
            continue
        if viewer is not None and _is_large(Path(one)):
            from napari_autorefine.ui.background import read_in_background

            read_in_background(reader, Path(one), viewer)
        else:
            layers += [layer for layer in told_not_raised(reader)(Path(one)) if layer[0] is not None]
    _tell_of_sets(viewer, [Path(one) for one in ([path] if isinstance(path, str) else path)], layers)
    if any("run" in layer[1]["metadata"]["autorefine"] for layer in layers):
        from napari_autorefine.ui.live_results import open_run_of_layers

        open_run_of_layers(viewer, layers)
    return layers or list(NO_LAYERS)


def _tell_of_sets(viewer: Any, paths: list[Path], layers: list[Any]) -> None:
    """Fill the forms that take an optimisation set with one that was opened; show coordinates alone in space."""
    if viewer is None or not hasattr(viewer, "window"):
        return
    from qtpy.QtCore import QTimer

    from napari_autorefine.ui.layers_of_runs import main_file
    from napari_autorefine.ui.set_viewing import is_set, offer_set, show_in_space

    for one in paths:
        file = main_file(one) if one.is_dir() else one
        if file is not None and is_set(file):
            QTimer.singleShot(0, partial(offer_set, viewer, file.absolute()))
    if any(layer[1]["metadata"]["autorefine"].get("kind") == "coordinates_3d" for layer in layers):
        QTimer.singleShot(0, partial(show_in_space, viewer))


def read_mrc(path: Path) -> list[LayerData]:
    """Return the layers of an MRC file."""
    from napari_autorefine.ui.layers_of_maps import mrc_layers

    return mrc_layers(path)


def read_star_file(path: Path) -> list[LayerData]:
    """Return the layers of what a STAR file holds.

    Raises
    ------
    InputError
        Nothing in it can be shown; says what it is.
    """
    from napari_autorefine.io.optimisation_set import optimisation_set_pairs
    from napari_autorefine.io.tables import read_star
    from napari_autorefine.ui import layers_of_runs as runs
    from napari_autorefine.ui.layers_of_micrographs import coordinate_layers, micrograph_layers
    from napari_autorefine.ui.layers_of_particles import particle_layers
    from napari_autorefine.ui.layers_of_tomograms import tomo_coordinate_layers, tomogram_series, tomograms_of
    from napari_autorefine.ui.star_tables import rows_with, upgraded

    star = read_star(path)
    pairs, tomograms = optimisation_set_pairs(star), tomograms_of(star, path)
    if "optimiser_general" in star.tables:
        return runs.optimiser_layers(path)
    if "fsc" in star.tables and "general" in star.tables:
        return runs.postprocess_layers(star, path)
    if pairs is not None:
        return runs.optimisation_set_layers(pairs, path, particle_layers)
    if tomograms is not None:
        return tomogram_series(tomograms)
    if rows := rows_with(star, path, "rlnImageName"):
        return particle_layers(upgraded(rows, star))
    for labels in (("rlnTomoName", "rlnCenteredCoordinateXAngst"), ("rlnTomoName", "rlnCoordinateZ")):
        if rows := rows_with(star, path, *labels):
            return tomo_coordinate_layers(rows)
    if rows := rows_with(star, path, "rlnCoordinateX", "rlnCoordinateY"):
        return coordinate_layers(rows)
    if rows := rows_with(star, path, "rlnMicrographName"):
        return micrograph_layers(rows)
    raise _not_shown(path, list(star.tables))


def _not_shown(path: Path, tables: list[str]) -> Exception:
    from napari_autorefine.errors import InputError

    known = {
        "job": "the settings of a job: load it in the form of that job",
        "model_general": "the statistics of a refinement: open its _optimiser.star or its folder",
        "sampling_general": "the sampling of a refinement: open its _optimiser.star or its folder",
        "pipeline_general": "the history of a project: open a job's folder",
    }
    meaning = next((known[name] for name in tables if name in known), "no images, coordinates or maps")
    return InputError(f"{path.name} holds {meaning}.")


def read_folder(path: Path) -> list[LayerData]:
    """Return the layers of a job's folder: its main result; of other folders their maps or micrographs.

    Raises
    ------
    InputError
        The folder holds nothing that can be shown.
    """
    from napari_autorefine.errors import InputError
    from napari_autorefine.io.mrc import read_header
    from napari_autorefine.ui import layers_of_runs as runs
    from napari_autorefine.ui.notices import show_info

    main = runs.main_file(path)
    if main is not None:
        return read_star_file(main) if main.suffix == ".star" else read_mrc(main)
    maps = runs.maps_in(path)
    if maps and read_header(maps[0]).shape[0] == 1:
        return [_micrograph_folder(path, maps)]
    files = maps or runs.maps_in(path, (".mrcs", ".st", ".rec"))
    if not files:
        raise InputError(f"{path} holds no maps, images or particles that can be shown; open a file instead.")
    if len(files) > _MOST_MAPS:
        show_info(f"{path.name} holds {len(files)} maps; the first {_MOST_MAPS} are shown.")
    return [layer for file in files[:_MOST_MAPS] for layer in read_mrc(file)]


def _micrograph_folder(folder: Path, files: list[Path]) -> LayerData:
    """Return the micrographs of a folder as a series."""
    from napari_autorefine.io.mrc import read_header
    from napari_autorefine.ui.layers_of_maps import pixel_size_A, series_layer

    header = read_header(files[0])
    metadata = {"path": str(folder), "kind": "micrographs", "names": tuple(file.name for file in files)}
    return series_layer(
        [(file, 0) for file in files],
        "micrograph",
        header.shape[1:],
        pixel_size_A=pixel_size_A(header),
        name=f"{folder.name} micrographs",
        metadata=metadata,
    )
