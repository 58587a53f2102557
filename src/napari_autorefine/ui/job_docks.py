"""The docks of the manifest, one per job, and the way from one to the next."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error

from napari_autorefine.jobs import JOBS
from napari_autorefine.ui.job_dock import JobDock
from napari_autorefine.ui.live_results import follow_session
from napari_autorefine.ui.next_steps import NextStep

if TYPE_CHECKING:
    from napari.viewer import Viewer

PLUGIN = "napari-autorefine"
TITLES = {
    "extract": "Extract particles",
    "subtomo": "Extract subtomograms",
    "rebox": "Change map box and pixel size",
    "refine": "Auto-refine",
    "recenter": "Recentre",
    "reconstruct": "Reconstruct",
    "reconstruct_particle": "Reconstruct particle",
    "mask": "Mask",
    "postprocess": "Post-process",
    "report": "Report",
}
"""Name of the dock of every job that has one, as in the manifest."""


class ManifestDock(JobDock):
    """Dock of the job that a subclass names, as napari makes it."""

    job_name = ""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(self.job_name, TITLES[self.job_name], napari_viewer)
        self.step_wanted.connect(self._take_step)

    def _take_step(self, step: NextStep) -> None:
        """Open the form of the next job with the outputs of this one."""
        if step.job != self.job and self.viewer is not None:
            open_dock(self.viewer, step.job, step.values)


class RefineDock(ManifestDock):
    """Auto-refinement."""

    job_name = "refine"

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.session_changed.connect(partial(follow_session, napari_viewer))


class ExtractDock(ManifestDock):
    """Extraction of particles."""

    job_name = "extract"


class SubtomoDock(ManifestDock):
    """Particles of tomograms, cut from tilt series."""

    job_name = "subtomo"


class ReboxDock(ManifestDock):
    """Pixel size and box of maps."""

    job_name = "rebox"


class ReconstructDock(ManifestDock):
    """Map of particles with poses."""

    job_name = "reconstruct"


class ReconstructParticleDock(ManifestDock):
    """Map of particles straight from their tilt series."""

    job_name = "reconstruct_particle"


class MaskDock(ManifestDock):
    """Solvent mask."""

    job_name = "mask"


class PostprocessDock(ManifestDock):
    """Resolution and sharpening."""

    job_name = "postprocess"


class ReportDock(ManifestDock):
    """One page on a job."""

    job_name = "report"


def open_dock(viewer: Any, job: str, values: Mapping[str, Any] | None = None) -> JobDock | None:
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


def open_tutorial(viewer: Viewer, files: Any) -> None:
    """Open the form of the refinement with the files and values of the tutorial filled in."""
    dock = open_dock(viewer, "refine")
    if dock is None:
        return
    names = ("particles", "reference", "mask", "output", "symmetry", "particle_diameter_A")
    dock.form.reset()
    dock.fill({name: getattr(files, name) for name in names if getattr(files, name, None) is not None})
