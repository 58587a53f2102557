"""Files of a refinement: written after every iteration, and read back to go on from one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from napari_autorefine.engine.grids import make_orientation_grid
from napari_autorefine.engine.randomness import random_halves
from napari_autorefine.engine.state import RefinementState
from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import write_volume
from napari_autorefine.io.optimisation_set import OptimisationSet
from napari_autorefine.io.runs import RunFolder, RunSettings
from napari_autorefine.io.screening import Screening
from napari_autorefine.jobs.record import record_values
from napari_autorefine.jobs.refine_params import RefineParams
from napari_autorefine.model.particles import Particles
from napari_autorefine.model.symmetry import point_group
from napari_autorefine.model.volume import Volume
from napari_autorefine.params import command_line

_OWN_FILE = re.compile(
    r"_(it\d{3,}_.+\.(star|mrc|bild)|(optimiser|data|model|sampling|excluded|optimisation_set)\.star|params\.json"
    r"|class001\.mrc|class001_angdist\.bild|solvent_mask\.mrc|half[12]_class001_unfil\.mrc)$"
)


_ITERATION = re.compile(r"_it(?P<iteration>\d{3,})_(?:data|sampling|optimiser|optimisation_set|half[12]_)[^/]*$")
_TEMPORARY = re.compile(r"\.(?:\.?\d+\.(?P<inner>.+?)(?:\.\d+\.tmp)?|(?P<plain>.+)\.\d+\.tmp)")
_OF_START = ("_params.json", "_excluded.star", "_solvent_mask.mrc")
_LARGE = ("_class001.mrc", "_class001_unfil.mrc", "_angdist.bild", "_data.star")


class RunFiles:
    """What a running refinement leaves on the disc."""

    def __init__(
        self,
        params: RefineParams,
        particles: Particles,
        *,
        particle_diameter_A: float,
        first: int = 0,
        project: OptimisationSet | None = None,
    ) -> None:
        self._params = params
        self._first = first
        self._particles = particles
        settings = replace(_settings(params, particle_diameter_A), files=project)
        if particles.form != "image":
            settings = replace(settings, norm=False)
        self._folder = RunFolder(params.output, settings)
        self._outputs: dict[str, str] = {}
        self._record: dict[str, Any] = {}

    def write_start(
        self,
        screening: Screening,
        all_particles: Particles,
        *,
        resampled_mask: Volume | None = None,
        images: Mapping[str, Any] | None = None,
    ) -> None:
        """Write parameters, images set aside and a mask that had to change; remove what ``--overwrite`` replaces.

        ``images`` is what is noted of the image files.
        """
        remove_leftovers(Path(self._params.output))
        if self._params.overwrite:
            remove_run(Path(self._params.output), after=self._first - 1)
        if self._params.continue_from is not None:
            self._outputs["optimiser"] = self._params.continue_from
        self._record = record_values("refine", self._params, {}) | {"images": dict(images or {})}
        self._outputs["parameters"] = str(self._folder.write_params(self._record))
        if resampled_mask is not None:
            mask_path = self._folder.path("solvent_mask.mrc")
            write_volume(mask_path, resampled_mask.data, resampled_mask.voxel_size_A)
            self._outputs["mask as used"] = str(mask_path)
        if screening.bad:
            self._outputs["set aside"] = str(self._folder.write_excluded(screening.bad, all_particles))

    def withdraw(self) -> None:
        """Remove the files written at the start, when the run could not begin; those of a run that goes on stay."""
        if self._params.continue_from is None:
            for path in self._outputs.values():
                Path(path).unlink(missing_ok=True)

    def write(self, state: RefinementState) -> None:
        """Write the files of one iteration, or of the converged run."""
        grid = make_orientation_grid(state.sampling.healpix_order, point_group(state.sampling.symmetry))
        directions = np.stack([grid.rot_deg, grid.tilt_deg], axis=-1)
        if not state.is_final:
            self._folder.write_iteration(state, self._particles, directions_deg=directions)
            self._outputs["optimiser"] = str(self._folder.path("optimiser.star", state.iteration))
            if self._folder.settings.files is not None:
                self._outputs["optimisation_set"] = str(self._folder.path("optimisation_set.star", state.iteration))
            if self._params.keep_iterations is not None:
                prune(Path(self._params.output), before=state.iteration - self._params.keep_iterations + 1)
            return
        names = {
            "map": "class001.mrc",
            "half1": "half1_class001_unfil.mrc",
            "half2": "half2_class001_unfil.mrc",
            "particles": "data.star",
            "model": "model.star",
            "optimiser": "optimiser.star",
        }
        if self._folder.settings.files is not None:
            names["optimisation_set"] = "optimisation_set.star"
        self._outputs = {name: str(self._folder.path(ending)) for name, ending in names.items()} | {
            name: path for name, path in self._outputs.items() if name not in names
        }
        record = self._record | {"outputs": self._outputs}
        self._folder.write_final(state, self._particles, directions_deg=directions, record=record)

    def outputs(self) -> dict[str, str]:
        """Return the files to look at, by what they are."""
        return dict(self._outputs)


def remove_run(prefix: Path, *, after: int = -1) -> None:
    """Remove the files of an earlier run of this name, and nothing else.

    Parameters
    ----------
    after : keep iterations up to this one, and what was written at the start if there are any
    """
    paths = files_of_run(prefix)
    for path in sorted(paths, key=lambda path: not path.name.endswith("_optimiser.star")):
        iteration = _iteration_of(path)
        is_of_start = path.name.endswith(_OF_START)
        if (after < 0) or (not is_of_start and (iteration is None or iteration > after)):
            path.unlink()


def remove_leftovers(prefix: Path) -> None:
    """Remove temporary files that a run of this name left when it was killed."""
    for path in prefix.parent.iterdir() if prefix.parent.is_dir() else ():
        found = _TEMPORARY.fullmatch(path.name)
        name = "" if found is None else found["inner"] or found["plain"] or ""
        own = re.escape(prefix.name)
        is_probe = re.fullmatch(rf"\.{own}\.\d+\.probe", path.name)
        lock = re.fullmatch(rf"\.{own}\.lock\.(\d+)\.(?:\d+|gone|now)", path.name)
        is_left = is_probe or (lock is not None and not psutil.pid_exists(int(lock[1])))
        if is_left or (name.startswith(prefix.name) and _OWN_FILE.match(name[len(prefix.name) :])):
            path.unlink(missing_ok=True)


def prune(prefix: Path, *, before: int) -> None:
    """Remove maps, particles and cylinders of the iterations before one; what tells the course of the run stays."""
    for path in files_of_run(prefix):
        iteration = _iteration_of(path)
        if iteration is not None and iteration < before and path.name.endswith(_LARGE):
            path.unlink(missing_ok=True)


def _iteration_of(path: Path) -> int | None:
    found = _ITERATION.search(path.name)
    return int(found["iteration"]) if found else None


def files_of_run(prefix: Path) -> tuple[Path, ...]:
    """Return the files of a run of this name that exist."""
    if not prefix.parent.is_dir():
        return ()
    begin = len(prefix.name)
    return tuple(
        path
        for path in prefix.parent.iterdir()
        if path.name.startswith(prefix.name) and _OWN_FILE.match(path.name[begin:])
    )


def assign_halves(particles: Particles, seed: int) -> Particles:
    """Return particles with half-sets, drawn in the order of micrographs or tomograms where the file has none."""
    if np.any(particles.half):
        return particles
    order = np.argsort(particles.micrograph_name.astype(str), kind="stable")
    if particles.form == "tilt_stack" and "rlnMicrographName" not in particles.table:
        order = np.arange(len(particles))  # RELION sorts volumes by tomogram, stacks not at all
    half = np.empty(len(particles), np.int8)
    half[order] = random_halves(len(particles), seed)
    if len(np.unique(half)) < 2:
        raise InputError(f"--random_seed {seed} puts all {len(half)} particles into one half-set; give another.")
    return replace(particles, half=half)


def _settings(params: RefineParams, particle_diameter_A: float) -> RunSettings:
    off = -1.0
    return RunSettings(
        command_line=command_line("refine", params),
        random_seed=params.random_seed or 0,
        particle_diameter_A=particle_diameter_A,
        mask_edge_px=params.mask_edge_px,
        zero_mask=params.zero_mask,
        flatten_solvent=params.flatten_solvent,
        solvent_correct_fsc=params.solvent_correct_fsc,
        mask=params.mask,
        low_resol_join_halves_A=params.low_resol_join_halves_A or off,
        adaptive_fraction=params.adaptive_fraction,
        auto_local_healpix_order=params.auto_local_healpix_order,
        max_iterations=params.max_iterations,
        max_coarse_size=params.coarse_size_px or -1,
        max_significant=params.max_significant or -1,
        strict_highres_exp_A=params.strict_highres_exp_A or off,
        tau2_fudge=params.tau2_fudge,
        pad=params.pad,
        ctf=params.ctf,
        ctf_intact_first_peak=params.ctf_intact_first_peak,
        norm=params.norm,
        scale=params.scale,
    )
