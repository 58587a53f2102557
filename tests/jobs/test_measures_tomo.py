"""Errors of poses in tomograms, against sets that were moved by known amounts, and RELION's figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from oracles.tomo_files import write_tomo_files

from napari_autorefine.errors import InputError
from napari_autorefine.io.star import read_particles
from napari_autorefine.io.tomo_inputs import TomoInputs, gather_files, read_tomo_inputs
from napari_autorefine.io.tomograms import read_tomograms
from napari_autorefine.jobs.measures_tomo import tomo_pose_errors
from napari_autorefine.model.geometry import euler_to_matrix, matrix_to_euler
from napari_autorefine.model.symmetry import point_group


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TomoInputs:
    monkeypatch.chdir(tmp_path)
    write_tomo_files(tmp_path, "2d")
    return read_tomo_inputs(gather_files("optimisation_set.star", {}))


def test_errors_are_those_that_were_put_in(inputs: TomoInputs) -> None:
    truth = inputs.particles
    rng = np.random.default_rng(2)
    matrices, mate = euler_to_matrix(truth.euler_deg), point_group("C6").operators[2]
    tilt = euler_to_matrix(np.array([0.0, 5.0, 0.0]))
    center = np.array([3.0, -2.0, 11.0])
    steps = rng.normal(size=(4, 3))
    euler = matrix_to_euler(matrices @ mate @ tilt)
    # the box is centered where the molecule is at ``center`` of the map
    origin = truth.origin_A + euler_to_matrix(euler) @ center + steps
    found = replace(truth, euler_deg=euler, origin_A=origin)
    errors = tomo_pose_errors(found, truth, inputs.tomograms, point_group("C6"), center_A=center)
    np.testing.assert_allclose(errors.angle_deg, 5.0, atol=1e-6)
    np.testing.assert_allclose(errors.offset_A, np.linalg.norm(steps, axis=1), atol=1e-6)
    exact = replace(found, origin_A=origin - steps)
    fitted = tomo_pose_errors(exact.selected(np.array([3, 0, 1])), truth, inputs.tomograms, point_group("C1"))
    assert fitted.angle_deg.min() > 100
    np.testing.assert_allclose(fitted.offset_A, 0.0, atol=1e-6)
    assert len(fitted.offset_A) == 3


def test_sets_of_other_particles_are_refused(inputs: TomoInputs) -> None:
    truth = inputs.particles
    other = replace(truth, table=truth.table.assign(rlnTomoParticleName="x"))
    with pytest.raises(InputError, match="no particle in common"):
        tomo_pose_errors(other, truth, inputs.tomograms, point_group("C1"))
    nameless = replace(truth, table=truth.table.drop(columns="rlnTomoParticleName"))
    with pytest.raises(InputError, match="have none"):
        tomo_pose_errors(nameless, truth, inputs.tomograms, point_group("C1"))


@pytest.mark.parametrize(
    ("form", "median", "p90", "rms"), [("stack2d", 3.72, 7.49, 1.43), ("sub3d", 5.41, 119.84, 2.08)]
)
def test_figures_recorded_for_relion_come_out(
    form: str, median: float, p90: float, rms: float, shared_data: Path
) -> None:
    root = shared_data / "sta_sim"
    tomograms = read_tomograms(root / "tomograms.star", project_dir=root)
    found = read_particles(root / "Refine3D" / form / "run_data.star", project_dir=root)
    truth = read_particles(root / f"truth_{form}.star", project_dir=root)
    errors = tomo_pose_errors(found, truth, tomograms, point_group("C6"), center_A=(0, 0, 2.75 * 5.4))
    assert np.percentile(errors.angle_deg, (50, 90)) == pytest.approx((median, p90), abs=0.006)
    found_rms = np.sqrt(np.mean(errors.offset_A[errors.angle_deg < 15] ** 2) / 3)
    assert found_rms == pytest.approx(rms, abs=0.006)  # per axis, of particles that are not far off
