"""The jobs: each is a parameter class and a generator of events; command line and window are made from this table."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from napari_autorefine.events import Event
from napari_autorefine.params import ForeignOption


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job. Module ``napari_autorefine.jobs.<name>`` is only imported when the job is used.

    The module has a pydantic class ``params_class``, which may come from ``<name>_params`` beside it, and a function
    ``<name>(params) -> Iterator[Event]``;
    ``positional`` is the parameter that is given without a flag on the command line; ``relion_program`` the one whose
    option names are understood.
    """

    name: str
    title: str
    params_class: str
    positional: str = ""
    relion_program: str = ""

    def params(self) -> type[BaseModel]:
        """Return the parameter class of the job."""
        name = f"{__name__}.{self.name}_params"
        module = self._module() if importlib.util.find_spec(name) is None else importlib.import_module(name)
        found: type[BaseModel] = getattr(module, self.params_class)
        return found

    def function(self) -> Callable[[Any], Iterator[Event]]:
        """Return the generator function that runs the job."""
        found: Callable[[Any], Iterator[Event]] = getattr(self._module(), self.name)
        return found

    def foreign_options(self) -> Mapping[str, ForeignOption]:
        """Return options of RELION's program that are accepted or refused with a reason."""
        found: Mapping[str, ForeignOption] = getattr(self._module(), "FOREIGN_OPTIONS", {})
        return found

    def _module(self) -> Any:
        return importlib.import_module(f"napari_autorefine.jobs.{self.name}")


JOBS: dict[str, Job] = {
    job.name: job
    for job in (
        Job(
            name="refine",
            title="3D auto-refinement of particles, to convergence",
            params_class="RefineParams",
            relion_program="relion_refine",
        ),
        Job(
            name="simulate",
            title="Make particles or micrographs from atoms",
            params_class="SimulateParams",
            positional="model",
        ),
        Job(
            name="extract",
            title="Cut particles from micrographs",
            params_class="ExtractParams",
            relion_program="relion_preprocess",
        ),
        Job(
            name="subtomo",
            title="Cut particles of tomograms from tilt series",
            params_class="SubtomoParams",
            relion_program="relion_tomo_subtomo",
        ),
        Job(
            name="rebox",
            title="Change pixel size and box of maps",
            params_class="ReboxParams",
            relion_program="relion_image_handler",
        ),
        Job(
            name="recenter",
            title="Move the centre of particles to a point of the map",
            params_class="RecenterParams",
            relion_program="relion_star_handler",
        ),
        Job(
            name="reconstruct",
            title="Map and half-maps of particles with poses",
            params_class="ReconstructParams",
            relion_program="relion_reconstruct",
        ),
        Job(
            name="reconstruct_particle",
            title="Map of particles straight from their tilt series",
            params_class="ReconstructParticleParams",
            relion_program="relion_tomo_reconstruct_particle",
        ),
        Job(
            name="mask",
            title="Make a soft solvent mask from a map",
            params_class="MaskParams",
            relion_program="relion_mask_create",
        ),
        Job(
            name="postprocess",
            title="Resolution and sharpening of two half maps",
            params_class="PostprocessParams",
            relion_program="relion_postprocess",
        ),
        Job(name="report", title="One page on a job", params_class="ReportParams", positional="folder"),
        Job(name="info", title="Describe MRC and STAR files", params_class="InfoParams", positional="files"),
        Job(name="doctor", title="Check this machine: versions, speed, memory, discs", params_class="DoctorParams"),
        Job(name="demo", title="From simulated micrographs to a map and its report", params_class="DemoParams"),
        Job(name="demo_sta", title="From simulated tilt series to a map and its report", params_class="DemoStaParams"),
    )
}
