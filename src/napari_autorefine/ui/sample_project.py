"""File > Open Sample > Tutorial project: micrographs and what an earlier refinement left of their particles.

The folder is laid out as that of the single-particle tutorial, so that jobs get the numbers they have there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from napari import current_viewer

from napari_autorefine.io.atoms import demo_molecule
from napari_autorefine.io.files import write_error
from napari_autorefine.io.star import read_star, write_star
from napari_autorefine.jobs.simulate import simulate_atoms
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.ui.layers_of_maps import LayerData
from napari_autorefine.ui.layers_of_micrographs import coordinate_layers
from napari_autorefine.ui.notices import show_info
from napari_autorefine.ui.sample_data import in_thread, sample_folder
from napari_autorefine.ui.star_tables import rows_with
from napari_autorefine.ui.world import prepare_viewer

PIXEL_SIZE_A, BINNING = 2.0, 2
BOX, SCALED_BOX = 116, 88
N_PARTICLE, N_MICROGRAPH = 480, 6
SYMMETRY, DIAMETER_A, INI_HIGH_A = "D2", 190.0, 30.0
MICROGRAPHS, PARTICLES, CLASS = (
    "CtfFind/job003/micrographs_ctf.star",
    "Select/job016/selected_particles.star",
    "Select/job016/selected_class.mrc",
)
_MOVIES = "Movies"
_SNR, _SEED = 0.12, 1


def project() -> list[LayerData]:
    """Open the project, made the first time, and the forms of its first three jobs filled in."""
    viewer, folder = current_viewer(), sample_folder() / "project"
    prepare_viewer(viewer)
    if not is_complete(folder):
        show_info(f"Making {N_MICROGRAPH} micrographs of beta-galactosidase; they appear when they are ready.")
        in_thread(partial(make_project, folder))
    if viewer is not None:
        open_forms(viewer, folder)
    return project_layers(folder)


def is_complete(folder: Path) -> bool:
    """Tell whether a project has been made."""
    return all((folder / name).is_file() for name in (MICROGRAPHS, PARTICLES, CLASS))


def make_project(folder: Path, **values: Any) -> None:
    """Write micrographs, their CTF table, and particles and map of an earlier refinement.

    Parameters
    ----------
    folder : it is replaced when it is there
    values : parameters of the simulation that are to be others

    Raises
    ------
    InputError
        The folder cannot be written.
    """
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        params = _simulation(unfinished / "betagal", values)
        for _ in simulate_atoms(demo_molecule(), params):
            pass
        _arrange(unfinished)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    except OSError as error:
        raise write_error(folder, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def form_values() -> dict[str, dict[str, Any]]:
    """Return what stands in the forms of the jobs, in the order in which they are run."""
    scaled_A = PIXEL_SIZE_A * BOX / SCALED_BOX
    extracted, reference = "Extract/job017/", "ReboxRescale/job018/"
    return {
        "extract": {
            "micrographs": MICROGRAPHS,
            "refined_particles": PARTICLES,
            "output": extracted,
            "box_size_px": BOX,
            "scale_size_px": SCALED_BOX,
            "recenter": True,
        },
        "rebox": {
            "input": (CLASS,),
            "output": reference,
            "new_box": SCALED_BOX,
            "rescale_angpix": round(scaled_A, 4),
            "force_pixel_size": True,
        },
        "refine": {
            "particles": f"{extracted}particles.star",
            "reference": f"{reference}selected_class_reboxed_rescaled.mrc",
            "output": "Refine3D/job019/run",
            "ini_high_A": INI_HIGH_A,
            "symmetry": SYMMETRY,
            "particle_diameter_A": DIAMETER_A,
        },
    }


def open_forms(viewer: Any, folder: Path, values: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Make the folder the project and open the forms of its jobs, the first one in front."""
    from napari_autorefine.ui.job_docks import open_dock
    from napari_autorefine.ui.project import project as shared_project

    shared_project.move_to(folder)
    forms = form_values() if values is None else values
    for job, filled in forms.items():
        dock = open_dock(viewer, job)
        if dock is not None:
            dock.form.reset()
            dock.fill(filled)
    open_dock(viewer, next(iter(forms)))


def project_layers(folder: Path) -> list[LayerData]:
    """Return the micrographs with the particles found on them."""
    rows = rows_with(read_star(folder / PARTICLES), folder / PARTICLES, "rlnCoordinateX", "rlnCoordinateY")
    return [] if rows is None else coordinate_layers(rows)


def _simulation(prefix: Path, values: Mapping[str, Any]) -> SimulateParams:
    given = {
        "output": str(prefix),
        "symmetry": SYMMETRY,
        "n_particle": N_PARTICLE,
        "micrographs": N_MICROGRAPH,
        "box_size": BOX,
        "pixel_size_A": PIXEL_SIZE_A,
        "particle_diameter_A": DIAMETER_A,
        "optics_groups": 2,
        "earlier_binning": BINNING,
        "snr": _SNR,
        "seed": _SEED,
        "overwrite": True,
    }
    return SimulateParams(**{**given, **values})


def _arrange(folder: Path) -> None:
    """Put the files of a simulation where a project has them; names in tables become relative to the project."""
    for old, new in (("betagal_micrographs.star", MICROGRAPHS), ("betagal_earlier.star", PARTICLES)):
        star = read_star(folder / old)
        tables = {name: _renamed(table, folder) for name, table in star.tables.items()}
        (folder / new).parent.mkdir(parents=True, exist_ok=True)
        write_star(folder / new, tables)
    (folder / "betagal_earlier.mrc").rename(folder / CLASS)
    (folder / "betagal_micrographs").rename(folder / _MOVIES)
    truth = folder / "Truth"
    truth.mkdir()
    for path in folder.glob("betagal_*"):
        if "truth" in path.name:
            path.rename(truth / path.name)
        else:
            path.unlink()


def _renamed(table: Any, folder: Path) -> Any:
    """Return a table with the names of micrographs as in the project."""
    old = f"{folder}/betagal_micrographs/"
    if isinstance(table, dict):
        return table
    for column in ("rlnMicrographName", "rlnImageName"):
        if column in table:
            names = table[column].astype(str).str.replace(old, f"{_MOVIES}/", regex=False)
            table = table.assign(**{column: names})
    return table
