"""The truth follows particles to the coordinates at which they were cut out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_autorefine.errors import InputError
from napari_autorefine.io.star import read_particles
from napari_autorefine.jobs.extracted_truth import extracted_truth
from napari_autorefine.jobs.simulate import simulate_atoms
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.model.atoms import Atoms
from napari_autorefine.model.particles import Particles


@pytest.fixture
def truth(tmp_path: Path) -> Particles:
    atoms = Atoms(xyz_A=np.random.default_rng(1).normal(0, 4.0, (20, 3)), element=np.full(20, "C"))
    params = SimulateParams(
        output=str(tmp_path / "p"), n_particle=10, micrographs=2, box_size=16, pixel_size_A=3.0, threads=1,
        optics_groups=2, group_pixel_size_A=(3.0, 2.0), defocus_max_A=9000.0,
    )  # fmt: skip
    list(simulate_atoms(atoms, params))
    return read_particles(tmp_path / "p_truth.star")


def test_the_place_in_the_micrograph_stays(truth: Particles) -> None:
    """Cut two pixels further left and one further down, of the second half in other order."""
    order = np.array([9, 8, 7, 6, 5])
    table = truth.table.iloc[order].reset_index(drop=True)
    table = table.assign(rlnCoordinateX=table["rlnCoordinateX"] - 2, rlnCoordinateY=table["rlnCoordinateY"] + 1)
    names = {name: getattr(truth, name)[order] for name in ("image_name", "micrograph_name", "group_name", "half",
             "optics_index", "norm_correction")}  # fmt: skip
    extracted = replace(truth, **names, table=table, origin_A=np.zeros((5, 2)), euler_deg=np.zeros((5, 3)))
    found = extracted_truth(extracted, truth)
    assert found.image_name.tolist() == truth.image_name[order].tolist()
    assert np.array_equal(found.euler_deg, truth.euler_deg[order])
    assert np.allclose(found.origin_A - truth.origin_A[order], np.array([-2, 1]) * 2.0)


def test_particles_without_coordinates_are_refused(truth: Particles) -> None:
    bare = replace(truth, table=truth.table.drop(columns="rlnCoordinateX"))
    with pytest.raises(InputError, match="rlnCoordinateX"):
        extracted_truth(bare, truth)
    foreign = replace(truth, image_name=np.array([f"{n}@other.mrcs" for n in range(10)], object))
    with pytest.raises(InputError, match="no image in common"):
        extracted_truth(foreign, truth)
