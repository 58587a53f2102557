"""Optimisation sets and the viewer: what they show, and the forms that take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import napari.layers
from qtpy.QtWidgets import QWidget

from napari_autorefine.errors import InputError
from napari_autorefine.io.tables import StarFile, read_star
from napari_autorefine.ui.file_fields import layer_kind, set_of_layer
from napari_autorefine.ui.notices import show_error, show_info
from napari_autorefine.ui.project import Project
from napari_autorefine.ui.set_facts import project_of_set

PARTICLES_DOCK = "Particles in tomograms (napari-autorefine)"
PLUGIN = "napari-autorefine"


def places_of_set(viewer: Any, path: Path) -> Any:
    """Return the newest open layer with the particles of a set in their tomograms, or None."""
    for layer in reversed(viewer.layers):
        own = set_of_layer(layer)
        if own is not None and own.resolve() == path.resolve() and layer_kind(layer) == "coordinates_3d":
            return layer
    return None


def show_set(viewer: Any, path: Path) -> Any:
    """Show the particles of a set in their tomograms with their orientations; return the layer of the particles.

    Parameters
    ----------
    viewer : napari viewer
    path : set, or the folder of a job that made one
    """
    from napari_autorefine.jobs.record import output_of

    try:
        place = Path(output_of(path, "optimisation_set"))
    except InputError as error:
        show_error(str(error))
        return None
    if places_of_set(viewer, place) is None:
        viewer.open(str(place), plugin=PLUGIN)
    layer = places_of_set(viewer, place)
    if layer is None:
        show_error(f"{place.name} names no particles with coordinates in tomograms.")
        return None
    dock = particles_dock(viewer)
    dock.choose(layer)
    dock.arrows.setChecked(dock.arrows.isEnabled())
    return layer


def particles_dock(viewer: Any) -> Any:
    """Return the dock for particles in tomograms, left of the maps; it is made when there is none."""
    from napari_autorefine.ui.particles_dock import ParticlesDock

    place = viewer.window.dock_widgets.get(PARTICLES_DOCK)
    widget = getattr(place, "native", place)
    if not isinstance(widget, ParticlesDock):
        widget = ParticlesDock(viewer)
        viewer.window.add_dock_widget(widget, name=PARTICLES_DOCK, area="left")
    parent = widget.parentWidget()
    if parent is not None:
        parent.show()
    return widget


def offer_set(viewer: Any, path: Path) -> None:
    """Fill the forms that take an optimisation set, those in front and those without particles so far.

    When the names in the set are those of another project, that becomes the project first.
    """
    docks = _docks_that_take_one(viewer)
    if not docks:
        return
    _move_to_project_of(path, docks[0].project)
    in_front = [dock for dock in docks if not dock.visibleRegion().isEmpty()]
    for dock in docks:
        if dock in in_front or not _has_particles(dock):
            dock.take_set(path)


def _docks_that_take_one(viewer: Any) -> list[Any]:
    from napari_autorefine.ui.job_dock import JobDock

    window = getattr(viewer, "window", None)
    widgets: list[Any] = [] if window is None else list(window.dock_widgets.values())
    return [one for one in widgets if isinstance(one, QWidget) and isinstance(one, JobDock) and one.takes_set]


def _has_particles(dock: Any) -> bool:
    names = ("optimisation_set", "particles")
    return any(getattr(dock.form.fields.get(name), "text", "") for name in names)


def _move_to_project_of(path: Path, project: Project) -> None:
    """Make the folder that the names of a set are relative to the project, unless they are found from this one."""
    folder = project_of_set(path)
    if folder is None or folder == project.folder or _is_found(path, project):
        return
    project.move_to(folder)
    show_info(f"The project is now {folder}, which the names in {path.name} start from.")


def _is_found(path: Path, project: Project) -> bool:
    from napari_autorefine.io.optimisation_set import read_optimisation_set

    files = read_optimisation_set(path)
    return not files.dead(("particles", "tomograms"), project_dir=project.folder)


def is_set(path: Path) -> bool:
    """Tell whether a file is an optimisation set; only the beginning of a small STAR file is looked at."""
    from napari_autorefine.io.optimisation_set import optimisation_set_pairs

    if path.suffix != ".star" or not path.is_file() or path.stat().st_size > 100_000:
        return False
    try:
        star: StarFile = read_star(path)
    except InputError:
        return False
    return optimisation_set_pairs(star) is not None


def show_in_space(viewer: Any) -> None:
    """Turn to 3D where there are coordinates and no image to cut through: few of them lie in one section."""
    images = [layer for layer in viewer.layers if isinstance(layer, napari.layers.Image) and layer.visible]
    if not images and viewer.dims.ndisplay == 2:
        viewer.dims.ndisplay = 3
        viewer.reset_view()
