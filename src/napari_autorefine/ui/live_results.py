"""Ways to the live results: a job that begins, a run that is opened, the command."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer

from napari_autorefine.ui.sessions import JobSession

if TYPE_CHECKING:
    from napari_autorefine.ui.dashboard import Dashboard

NAME = "Live results"
DOCK_NAME = f"{NAME} (napari-autorefine)"


def live_results(viewer: Any) -> Dashboard:
    """Return the dashboard of a viewer, below the maps; it is made when there is none."""
    from napari_autorefine.ui.dashboard import Dashboard  # plots take a moment to load

    dock = viewer.window.dock_widgets.get(DOCK_NAME)
    widget = getattr(dock, "native", dock)
    if not isinstance(widget, Dashboard):
        widget = Dashboard(viewer)
        viewer.window.add_dock_widget(widget, name=DOCK_NAME, area="bottom")
    place = widget.parentWidget()
    if place is not None:
        place.show()
        place.raise_()
    return widget


def follow_session(viewer: Any, session: JobSession) -> Dashboard | None:
    """Show a refinement while it runs; other jobs have nothing to show."""
    if session.name != "refine" or not hasattr(viewer, "window"):
        return None
    dashboard = live_results(viewer)
    dashboard.follow(session)
    return dashboard


def open_run(viewer: Any, place: str | Path) -> Dashboard:
    """Show a refinement from its files."""
    dashboard = live_results(viewer)
    dashboard.open(place)
    return dashboard


def open_run_of_layers(viewer: Any, layers: list[Any]) -> None:
    """Show the run that layer data were opened from, as soon as they are in the viewer."""
    for layer in layers:
        run = layer[1].get("metadata", {}).get("autorefine", {}).get("run") if len(layer) > 1 else None
        if run and hasattr(viewer, "window"):
            QTimer.singleShot(0, partial(open_run, viewer, run["prefix"]))
            return
