"""The docks of the manifest, one per job, and the way from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error

from napari_autorefine.jobs import JOBS
from napari_autorefine.ui.job_dock import JobDock
from napari_autorefine.ui.next_steps import NextStep

if TYPE_CHECKING:
    from napari.viewer import Viewer

PLUGIN = "napari-autorefine"
TITLES = {
    "extract": "Extract particles",
    "rebox": "Change map box and pixel size",
    "refine": "Auto-refine",
    "recenter": "Recentre",
    "reconstruct": "Reconstruct",
    "mask": "Mask",
    "postprocess": "Post-process",
}
"""Name of the dock of every job that has one, as in the manifest."""


def make_dock(job: str, viewer: Viewer) -> JobDock:
    """Return the dock of a job."""
    dock = JobDock(job, TITLES[job], viewer)
    dock.step_wanted.connect(lambda step: take_step(viewer, dock, step))
    return dock


def _factory(job: str) -> Callable[[Any], JobDock]:
    def factory(napari_viewer: Viewer) -> JobDock:
        return make_dock(job, napari_viewer)

    factory.__name__ = f"{job}_dock"
    factory.__doc__ = f"Return the dock {TITLES[job]!r}."
    return factory


refine_dock = _factory("refine")
extract_dock = _factory("extract")
rebox_dock = _factory("rebox")
recenter_dock = _factory("recenter")
reconstruct_dock = _factory("reconstruct")
mask_dock = _factory("mask")
postprocess_dock = _factory("postprocess")


def open_dock(viewer: Viewer, job: str, values: Mapping[str, Any] | None = None) -> JobDock | None:
    """Show the dock of a job, filled in with values; its other fields stay as they are.

    Parameters
    ----------
    viewer : napari viewer
    job : name of the job
    values : by parameter name; absolute paths inside the project become relative

    Returns
    -------
    dock : None when there is no such job
    """
    if job not in JOBS:
        show_error(f"The job {job} is not available.")
        return None
    place, dock = viewer.window.add_plugin_dock_widget(PLUGIN, TITLES[job], tabify=True)
    place.show()
    place.raise_()
    if not isinstance(dock, JobDock):
        return None
    if values:
        dock.fill(values)
    return dock


def take_step(viewer: Viewer, dock: JobDock, step: NextStep) -> None:
    """Open the form of the next job with the outputs of this one."""
    if step.job != dock.job:
        open_dock(viewer, step.job, step.values)


def open_tutorial(viewer: Viewer, files: Any) -> None:
    """Open the form of the refinement with the files and values of the tutorial filled in."""
    dock = open_dock(viewer, "refine")
    if dock is None:
        return
    names = ("particles", "reference", "mask", "output", "symmetry", "particle_diameter_A")
    dock.form.reset()
    dock.fill({name: getattr(files, name) for name in names if getattr(files, name, None) is not None})
