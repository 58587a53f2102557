"""The folder of a refinement: RELION's file names, written complete or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from napari_autorefine.errors import InputError
from napari_autorefine.io.bild import write_direction_cylinders
from napari_autorefine.io.files import FileSet, replacing, write_error
from napari_autorefine.io.mrc import write_volume
from napari_autorefine.io.optimisation_set import write_optimisation_set
from napari_autorefine.io.resume import SavedRun, read_run
from napari_autorefine.io.run_integrity import FILE_TABLE, RECORD, close_optimiser, file_table, promise
from napari_autorefine.io.run_state import ModelValues, RunSettings, RunState
from napari_autorefine.io.run_tables import (
    model_tables,
    optimiser_tables,
    pose_columns,
    sampling_tables,
    software_version,
)
from napari_autorefine.io.screening import BadImage
from napari_autorefine.io.star import updated_tables, write_star
from napari_autorefine.io.tables import VERSION_3_1, VERSION_5_0, Table
from napari_autorefine.model.particles import Particles

__all__ = ["RunFolder", "RunSettings", "SavedRun", "read_run"]


class RunFolder:
    """Files of one run, all of whose names start with ``prefix`` (``Refine3D/job001/run``).

    The particles handed to the writing functions have their half-sets assigned and are those of ``state.poses``, row
    by row. Directions are those of the sampling grid, (n_dir, 2) rot and tilt in degrees.
    """

    def __init__(self, prefix: str | os.PathLike[str], settings: RunSettings | None = None) -> None:
        self.prefix = Path(prefix)
        self.settings = settings or RunSettings()
        self._began_in = _identity(self.prefix.parent)

    def path(self, ending: str, iteration: int | None = None) -> Path:
        """Return ``PREFIX_itNNN_ending``, or ``PREFIX_ending`` of the finished run."""
        middle = "" if iteration is None else f"_it{iteration:03d}"
        return self.prefix.with_name(f"{self.prefix.name}{middle}_{ending}")

    def existing(self) -> tuple[Path, ...]:
        """Return the optimiser files that this prefix already has, iterations first."""
        name, parent = self.prefix.name, self.prefix.parent
        if not parent.is_dir():
            return ()
        found = [
            path
            for path in parent.iterdir()
            if path.name.startswith(f"{name}_") and path.name.endswith("_optimiser.star")
        ]
        return tuple(sorted(path for path in found if self._is_own(path.name[len(name) :])))

    @staticmethod
    def _is_own(rest: str) -> bool:
        middle = rest.removesuffix("_optimiser.star")
        return not middle or (middle.startswith("_it") and middle[3:].isdigit())

    def check_free(self) -> None:
        """Raise when a run of this prefix exists."""
        existing = self.existing()
        if existing:
            raise InputError(
                f"{existing[-1]} exists already; choose another output, or give --overwrite or --continue."
            )

    def prepare(self) -> None:
        """Make the folder and see that files can be written there."""
        try:
            self.prefix.parent.mkdir(parents=True, exist_ok=True)
            probe = self.prefix.with_name(f".{self.prefix.name}.{os.getpid()}.probe")
            probe.write_bytes(b"probe")
            probe.unlink()
        except OSError as error:
            raise write_error(self.prefix, error) from error

    def write_iteration(self, state: RunState, particles: Particles, *, directions_deg: np.ndarray) -> tuple[Path, ...]:
        """Write the files of one iteration; none has its name before all are complete, the optimiser file is last."""
        iteration = state.iteration
        self._check_folder()
        with FileSet() as files:
            models = []
            for half, model in enumerate(state.halves, start=1):
                map_path = self.path(f"half{half}_class001.mrc", iteration)
                write_volume(files.new(map_path), model.map, state.voxel_size_A)
                if model.unfiltered_map is not None:
                    unfiltered = self.path(f"half{half}_class001_unfil.mrc", iteration)
                    write_volume(files.new(unfiltered), model.unfiltered_map, state.voxel_size_A)
                cylinders = self.path(f"half{half}_class001_angdist.bild", iteration)
                _write_directions(files.new(cylinders), state, model, directions_deg)
                models.append(self.path(f"half{half}_model.star", iteration))
                tables = self._model(state, model, particles, half=half, map_path=map_path)
                self._star(files, models[-1], tables, particles)
            self._write_common(files, state, particles, directions_deg=directions_deg, models=models)
        return files.targets

    def write_final(
        self,
        state: RunState,
        particles: Particles,
        *,
        directions_deg: np.ndarray,
        record: Mapping[str, Any] | None = None,
    ) -> tuple[Path, ...]:
        """Write the files of a converged run from its joined model and the unfiltered maps of its halves.

        ``record`` is what ``PREFIX_params.json`` holds from now on.
        """
        if state.joined is None:
            raise ValueError("the final files need a joined model")
        self._check_folder()
        with FileSet() as files:
            map_path = self.path("class001.mrc")
            write_volume(files.new(map_path), state.joined.map, state.voxel_size_A)
            for half, model in enumerate(state.halves, start=1):
                unfiltered = model.map if model.unfiltered_map is None else model.unfiltered_map
                write_volume(files.new(self.path(f"half{half}_class001_unfil.mrc")), unfiltered, state.voxel_size_A)
            cylinders = files.new(self.path("class001_angdist.bild"))
            _write_directions(cylinders, state, state.joined, directions_deg)
            model_path = self.path("model.star")
            tables = self._model(state, state.joined, particles, half=None, map_path=map_path)
            self._star(files, model_path, tables, particles)
            if record is not None:
                _write_record(files.new(self.path(RECORD[1:])), record)
            self._write_common(files, state, particles, directions_deg=directions_deg, models=[model_path])
        return files.targets

    def _check_folder(self) -> None:
        """Raise when the folder is gone, or another one by now, as below a disc that was unmounted."""
        folder, now = self.prefix.parent, _identity(self.prefix.parent)
        if self._began_in is None:
            self._began_in = now
        elif now != self._began_in:
            what = "has vanished" if now is None else "is another folder than at the beginning"
            raise InputError(f"{folder} cannot be written: it {what}; see whether its disc is mounted.")

    def write_params(self, params: Mapping[str, Any]) -> Path:
        """Write ``PREFIX_params.json``, which reproduces the run."""
        path = self.path(RECORD[1:])
        with replacing(path) as temporary:
            _write_record(temporary, params)
        return path

    def write_excluded(self, bad: Sequence[BadImage], particles: Particles) -> Path:
        """Write ``PREFIX_excluded.star``: images set aside, as named in the input, and why."""
        path = self.path("excluded.star")
        rows = [image.row - 1 for image in bad]
        table = pd.DataFrame(
            {
                "rlnImageName": pd.Series(particles.image_name[rows].tolist(), dtype=object),
                "autorefineRow": [image.row for image in bad],
                "autorefineReason": pd.Series([image.reason for image in bad], dtype=object),
            }
        )
        write_star(path, {"excluded": table})
        return path

    def _model(
        self, state: RunState, model: ModelValues, particles: Particles, *, half: int | None, map_path: Path
    ) -> dict[str, Table]:
        return model_tables(state, model, particles, half=half, map_path=str(map_path), settings=self.settings)

    def _write_common(
        self,
        files: FileSet,
        state: RunState,
        particles: Particles,
        *,
        directions_deg: np.ndarray,
        models: Sequence[Path],
    ) -> None:
        """Write sampling, data and, last, the optimiser file."""
        iteration = state.iteration if state.joined is None else None
        sampling, data = self.path("sampling.star", iteration), self.path("data.star", iteration)
        self._star(files, sampling, sampling_tables(state.sampling, directions_deg), particles)
        poses = state.poses
        columns = pose_columns(poses, particles)
        tables = updated_tables(particles, euler_deg=poses.euler_deg, origin_A=poses.origin_A, columns=columns)
        self._star(files, data, tables, particles)
        names = {"rlnOutputRootName": str(self.prefix)}
        names |= dict(zip(("rlnModelStarFile", "rlnModelStarFile2"), map(str, models), strict=False))
        names |= {"rlnExperimentalDataStarFile": str(data), **self._write_set(files, state, data)}
        names |= {"rlnOrientSamplingStarFile": str(sampling)}
        comments = (promise(f"napari-autorefine {software_version()}"), self.settings.command_line)
        optimiser = optimiser_tables(state, names, self.settings) | {FILE_TABLE: file_table(files)}
        path = self.path("optimiser.star", iteration)
        self._star(files, path, optimiser, particles, comments=comments)
        close_optimiser(files.temporary(path))

    def _write_set(self, files: FileSet, state: RunState, data: Path) -> dict[str, str]:
        """Write the set of a subtomogram project with the new particles; return what the optimiser file says of it."""
        project, is_final = self.settings.files, state.joined is not None
        if project is None:
            return {}
        half1, half2 = (self.path(f"half{half}_class001_unfil.mrc") for half in (1, 2))
        mask = self.settings.mask if is_final else None
        updated = project.after_refinement(data, half_maps=(half1, half2) if is_final else None, mask=mask)
        write_optimisation_set(
            files.new(self.path("optimisation_set.star", None if is_final else state.iteration)), updated
        )
        return {
            "rlnTomoTomogramsFile": project["tomograms"] or "",
            "rlnTomoTrajectoriesFile": project["trajectories"] or "",
        }

    @staticmethod
    def _star(
        files: FileSet, path: Path, tables: Mapping[str, Table], particles: Particles, *, comments: Sequence[str] = ()
    ) -> None:
        version = VERSION_5_0 if particles.version == "5.0" else VERSION_3_1
        write_star(files.new(path), tables, version=version, comments=comments)


def _write_record(path: Path, params: Mapping[str, Any]) -> None:
    text = json.dumps({"version": software_version(), **params}, indent=2, default=str)
    path.write_text(text + "\n", encoding="utf-8")


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return what tells a folder from another one of the same name, None when it does not exist."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _write_directions(path: Path, state: RunState, model: ModelValues, directions_deg: np.ndarray) -> None:
    """Write the distribution of views; all alike before the first iteration, when none is known."""
    weight = model.pdf_direction
    if len(weight) != len(directions_deg):
        weight = np.full(len(directions_deg), 1.0 / len(directions_deg))
    write_direction_cylinders(path, directions_deg, weight, box_size=state.box_size, voxel_size_A=state.voxel_size_A)
