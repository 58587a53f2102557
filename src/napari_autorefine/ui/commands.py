"""What the command palette and the menus run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import napari.viewer
from napari.layers import Image, Layer, Points
from qtpy.QtWidgets import QApplication, QFileDialog

from napari_autorefine.errors import InputError
from napari_autorefine.ui import world
from napari_autorefine.ui.notices import show_error, show_info
from napari_autorefine.ui.orientations import arrows_around_map, arrows_on_points
from napari_autorefine.ui.readers import get_reader

PLUGIN = "napari-autorefine"


def open_job_folder(viewer: napari.viewer.Viewer) -> None:
    """Ask for a job's folder of RELION or of this plugin and open its results."""
    folder = QFileDialog.getExistingDirectory(QApplication.activeWindow(), "Open job folder")
    if folder:
        open_paths(viewer, [folder])


def open_paths(viewer: napari.viewer.Viewer, paths: list[str]) -> list[Any]:
    """Open files or folders with this plugin, whatever other plugins claim them; return the layers."""
    ours = [path for path in paths if get_reader(str(path)) is not None]
    for path in paths:
        if path not in ours:
            show_error(f"{path} holds no map, stack or STAR file.")
    return [layer for path in ours for layer in viewer.open(str(Path(path)), plugin=PLUGIN)]


def match_chimerax(viewer: napari.viewer.Viewer) -> None:
    """Turn the view so that maps appear as in ChimeraX."""
    world.match_chimerax(viewer)
    show_info("x points right, y up, z towards you, as in ChimeraX.")


def show_orientations(viewer: napari.viewer.Viewer) -> Layer | None:
    """Add the orientations of the selected particle or coordinate layer as arrows; return the new layer."""
    layer = viewer.layers.selection.active
    try:
        if isinstance(layer, Points):
            data, arguments, kind = arrows_on_points(layer.data, layer.as_layer_data_tuple()[1])
        elif isinstance(layer, Image):
            data, arguments, kind = arrows_around_map(layer.as_layer_data_tuple()[1])
        else:
            raise InputError("Select a layer of particles or of coordinates first.")
    except InputError as error:
        show_error(str(error))
        return None
    return viewer.add_layer(Layer.create(data, arguments, kind))
