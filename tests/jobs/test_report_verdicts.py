"""Sentences on a refinement: said when they hold, and only then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from oracles.report_folders import (
    N_PARTICLE,
    VOXEL_A,
    fsc_curve,
    optimiser,
    particle_tables,
    random_euler,
    relion_refinement,
)

from napari_autorefine.io.tables import Table, write_star
from napari_autorefine.jobs.report_data import Iteration, Run
from napari_autorefine.jobs.report_maps import Curves
from napari_autorefine.jobs.report_page import Verdict
from napari_autorefine.jobs.report_read import read_run, runs_of
from napari_autorefine.jobs.report_refinement import examine
from napari_autorefine.jobs.report_verdicts import Findings, picked_point_A, verdicts_of
from napari_autorefine.model.geometry import euler_to_matrix


def run_in(folder: Path) -> Run:
    *_, run = read_run(runs_of(folder)[0])
    assert isinstance(run, Run)
    return run


def findings(folder: Path) -> Findings:
    return examine(run_in(folder), mask=None, postprocess=None)


def said(found: Findings) -> dict[str, Verdict]:
    return {verdict.headline: verdict for verdict in verdicts_of(found)}


def write_particles(folder: Path, euler: np.ndarray, origin: np.ndarray, **columns: object) -> None:
    tables: dict[str, Table] = particle_tables(euler, origin)
    for label, values in columns.items():
        tables["particles"][label] = values  # type: ignore[index]
    write_star(folder / "run_data.star", tables)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return relion_refinement(tmp_path / "job007")


def test_a_converged_run_says_why(folder: Path) -> None:
    verdict = said(findings(folder))["Converged."]
    assert verdict.level == "good"
    assert "the resolution had not improved for 1 iteration and" in verdict.text
    assert "settled for 2 iterations" in verdict.text


def test_a_run_that_was_ended_by_force_is_told_apart(folder: Path) -> None:
    write_star(folder / "run_optimiser.star", optimiser(-1, rlnHasConverged=0))
    assert said(findings(folder))["Ended without convergence."].level == "warning"


def test_resolution_at_the_nyquist_limit(folder: Path) -> None:
    found = findings(folder)
    assert "The pixel size limits the resolution." not in said(found)
    sharp = Iteration(number=None, resolution_A=2 * VOXEL_A * 1.05)
    limited = replace(found, run=replace(found.run, iterations=(*found.run.iterations[:-1], sharp)))
    assert "Nyquist limit of 6.00 Å" in said(limited)["The pixel size limits the resolution."].text


@pytest.mark.parametrize(
    ("tilt_deg", "headline", "level"),
    [
        (None, "Views are spread well.", "good"),
        (90.0, "Views are spread well.", "good"),
        (5.0, "Views are spread badly.", "warning"),
    ],
)
def test_the_spread_of_views(folder: Path, tilt_deg: float | None, headline: str, level: str) -> None:
    euler = random_euler(8000)
    if tilt_deg is not None:
        euler[:, 1] = tilt_deg + np.random.default_rng(1).normal(0, 3, len(euler))
    write_particles(folder, euler, np.zeros((8000, 2)))
    assert said(findings(folder))[headline].level == level


def test_half_maps_that_differ_at_low_resolution(folder: Path) -> None:
    found = findings(folder)
    box = 64
    shells = np.arange(box // 2 + 1) / (box * VOXEL_A)
    good = np.clip(1.2 - shells * 8, 0, 1)
    bad = good.copy()
    bad[6:10] = 0.4
    for curve, is_bad in ((good, False), (bad, True)):
        curves = Curves(curves={"half-maps": curve}, voxel_size_A=VOXEL_A)
        assert ("The half-maps differ at low resolution." in said(replace(found, curves=curves))) == is_bad


def test_a_curve_that_does_not_fall_to_zero(folder: Path) -> None:
    found = findings(folder)
    shells = np.arange(65)
    falling = 1 / (1 + np.exp((shells - 20.0) / 2))
    for floor, is_bad in ((0.0, False), (0.12, True)):
        curves = Curves(curves={"half-maps": np.maximum(falling, floor)}, voxel_size_A=VOXEL_A)
        assert ("The FSC does not fall to zero." in said(replace(found, curves=curves))) == is_bad


def test_uncertain_orientations(folder: Path) -> None:
    found = findings(folder)
    lost = Iteration(number=4, resolution_A=20.0, accuracy_rot_deg=23.0, accuracy_trans_A=9.0)
    verdicts = said(replace(found, run=replace(found.run, iterations=(lost,))))
    assert "23.00°" in verdicts["Orientations are uncertain."].text


def test_images_in_both_halves(folder: Path) -> None:
    names = [f"{row // 2 + 1:06d}@mic.mrcs" for row in range(N_PARTICLE)]
    write_particles(folder, random_euler(), np.zeros((N_PARTICLE, 2)), rlnImageName=names)
    verdict = said(findings(folder))["Repeated images."]
    assert verdict.level == "warning"
    assert "20 images occur more than once, 20 of them in both half-sets" in verdict.text


def test_half_sets_are_uneven_only_beyond_chance(folder: Path) -> None:
    for n_first, is_uneven in ((23, False), (36, True)):
        half = np.where(np.arange(N_PARTICLE) < n_first, 1, 2)
        write_particles(folder, random_euler(), np.zeros((N_PARTICLE, 2)), rlnRandomSubset=half)
        assert ("The half-sets are uneven." in said(findings(folder))) == is_uneven


def test_the_point_that_particles_were_picked_on_is_found(folder: Path) -> None:
    point = np.array([4.0, -9.0, 12.0])
    euler = random_euler(400)
    noise = np.random.default_rng(7).normal(0, 1, (400, 2))
    write_particles(folder, euler, -(euler_to_matrix(euler)[:, :2] @ point) + noise)
    found = findings(folder)
    np.testing.assert_allclose(picked_point_A(found.run), point, atol=0.3)
    assert "Particles were picked off their centre." in said(found)
    write_particles(folder, euler, noise)
    assert picked_point_A(run_in(folder)) is None


def test_symmetry_hides_what_it_makes_undefined(tmp_path: Path) -> None:
    folder = relion_refinement(tmp_path / "job007", symmetry="C4")
    euler = random_euler(400)
    write_particles(folder, euler, -(euler_to_matrix(euler)[:, :2] @ np.array([5.0, 0.0, 12.0])))
    point = picked_point_A(run_in(folder))
    assert point is not None
    np.testing.assert_allclose(point[:2], 0, atol=1e-9)
    assert point[2] == pytest.approx(12.0, abs=1.0)


def test_micrographs_of_odd_contrast_are_named(folder: Path) -> None:
    assert "mic3 (2.50)" in said(findings(folder))["Some micrographs differ in contrast."].text


def test_the_resolution_of_a_run_that_goes_on_is_read_at_one_half(tmp_path: Path) -> None:
    folder = relion_refinement(tmp_path / "job007", n=2, is_final=False)
    found = findings(folder)
    assert found.curves is not None
    np.testing.assert_allclose(found.curves.curves["half-maps"], fsc_curve(14.0))
    text = said(found)["Resolution 14.00 Å."].text
    assert "falls to 0.5" in text
    assert "At 0.143 it is" in text
