"""Small projects of subtomogram averaging, as simulated from a heap of atoms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from napari_autorefine.io.optimisation_set import Kind, read_optimisation_set, write_optimisation_set
from napari_autorefine.io.star import read_star, write_star
from napari_autorefine.jobs.simulate import simulate_atoms
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.model.atoms import Atoms

BOX, PIXEL_A, N_PARTICLE = 20, 7.0, 16


def write_project(folder: Path, form: str = "3d", **changes: object) -> Path:
    """Simulate two tomograms into ``folder/sta``; return the optimisation set, whose names start from the folder."""
    rng = np.random.default_rng(3)
    atoms = Atoms(xyz_A=rng.normal(0, 16.0, (60, 3)), element=np.array(["C", "N", "O", "P", "S"] * 12)).centered()
    values = {
        "output": str(folder / "sta/p"), "n_particle": N_PARTICLE, "box_size": BOX, "pixel_size_A": PIXEL_A,
        "threads": 2, "tomo": form, "tilt_step_deg": 15.0, "snr": 2.0, "bfactor_A2": 300.0, "offset_sigma_A": 6.0,
        "scale_sigma": 0.0, "particle_diameter_A": 90.0, "tilt_dose_e_A2": 1.0, "reference_low_pass_A": 20.0,
        "tilt_series": 2,
    }  # fmt: skip
    list(simulate_atoms(atoms, SimulateParams(**(values | changes))))
    return _with_relative_names(folder)


def _with_relative_names(folder: Path) -> Path:
    """Let all names start from the project's folder, as in a real project, whatever the working directory was."""
    start = f"{folder}/"
    for path in (folder / "sta").rglob("*.star"):
        path.write_text(path.read_text().replace(start, ""))
    return folder / "sta/p_optimisation_set.star"


def with_poses(folder: Path, *, name: str = "Refine3D/job001/run_it003_data.star") -> Path:
    """Write the particles at their true poses, with columns of a refinement; return the file."""
    star = read_star(folder / "sta/p_truth.star")
    table = star.loop("particles")
    assert table is not None
    n = len(table)
    own = {"rlnClassNumber": np.arange(n) % 3 + 1, "rlnMaxValueProbDistribution": np.linspace(0.1, 0.9, n)}
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_star(path, {**star.tables, "particles": table.assign(**own)}, version=star.version)
    return path


def set_around(folder: Path, particles: str, files: Mapping[Kind, str]) -> Path:
    """Write another set of the project beside a particle file."""
    old = read_optimisation_set(folder / "sta/p_optimisation_set.star")
    path = (folder / particles).with_name("run_optimisation_set.star")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_optimisation_set(path, old.with_files({**files, "particles": particles}))
    return path
