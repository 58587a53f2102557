"""Measures against a known truth, and figures: they say what they should on cases with known answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from napari_autorefine.errors import InputError
from napari_autorefine.jobs import plots
from napari_autorefine.jobs.measures import molecule_mask, pose_errors, rows_of
from napari_autorefine.jobs.render import contour_level, map_figure, resampled, surface_image
from napari_autorefine.model.geometry import euler_to_matrix, matrix_to_euler
from napari_autorefine.model.particles import Particles
from napari_autorefine.model.symmetry import point_group


def make_particles(n: int = 50, seed: int = 1) -> Particles:
    rng = np.random.default_rng(seed)
    euler = np.stack([rng.uniform(-180, 180, n), rng.uniform(5, 175, n), rng.uniform(-180, 180, n)], axis=1)
    names = np.array([f"{row + 1:06d}@stack.mrcs" for row in range(n)], dtype=object)
    zeros = np.zeros(n)
    return Particles(
        image_name=names, micrograph_name=names, group_name=names, optics_index=zeros.astype(int), euler_deg=euler,
        origin_A=rng.normal(0, 3, (n, 2)), defocus_A=np.zeros((n, 2)), defocus_angle_deg=zeros, phase_shift_deg=zeros,
        ctf_bfactor_A2=zeros, ctf_scale=zeros + 1, half=zeros.astype(np.int8), norm_correction=zeros + 1, optics=(),
        table=pd.DataFrame(), optics_table=pd.DataFrame(),
    )  # fmt: skip


def test_symmetry_mates_have_no_error() -> None:
    truth, group = make_particles(), point_group("D2")
    mates = euler_to_matrix(truth.euler_deg) @ group.operators[np.arange(len(truth)) % 4]
    errors = pose_errors(replace(truth, euler_deg=matrix_to_euler(mates)), truth, group)
    assert errors.angle_deg.max() < 1e-5
    assert errors.offset_rms_A < 1e-9


def test_rotation_by_five_degrees_is_five_degrees() -> None:
    truth = make_particles()
    turned = replace(truth, euler_deg=truth.euler_deg + np.array([0, 0, 5.0]))
    assert np.allclose(pose_errors(turned, truth, point_group("C1")).angle_deg, 5.0)


@pytest.mark.parametrize(
    ("symmetry", "free"), [("C1", (1.0, 1.0, 1.0)), ("C4", (0.0, 0.0, 1.0)), ("D2", (0.0, 0.0, 0.0))]
)
def test_only_a_shift_that_the_symmetry_allows_is_removed(symmetry: str, free: tuple[float, ...]) -> None:
    truth, shift = make_particles(), np.array([2.0, -1.0, 3.0])
    moved = replace(truth, origin_A=truth.origin_A + (euler_to_matrix(truth.euler_deg) @ shift)[:, :2])
    errors = pose_errors(moved, truth, point_group(symmetry))
    if symmetry == "C1":
        assert errors.offset_rms_A < 1e-9
        assert np.allclose(errors.common_shift_A, shift)
    else:
        assert errors.offset_rms_A > 0.5
        assert np.allclose(errors.common_shift_A[np.array(free) == 0], 0)


def test_rows_are_matched_by_image_whatever_folder_and_zeros() -> None:
    truth = make_particles(5)
    names = np.array([f"{number:08d}@Extract/job1/stack.mrcs" for number in (3, 1, 5)], dtype=object)
    found = replace(truth, image_name=names)
    assert rows_of(found, truth).tolist() == [1, -1, 0, -1, 2]
    other = replace(truth, image_name=np.array(["000001@other.mrcs"] * 5, dtype=object))
    with pytest.raises(InputError, match="no image in common"):
        pose_errors(other, truth, point_group("C1"))


def ball(n: int = 24, radius: float = 6.0) -> np.ndarray:
    axis = np.arange(n) - n // 2
    distance = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    return (1 / (1 + np.exp(2 * (distance - radius)))).astype(np.float32)


def test_mask_covers_the_molecule_and_not_the_corners() -> None:
    data = ball(32)
    mask = molecule_mask(data, 4.0, extend_px=2, edge_px=4)
    assert mask.min() == 0
    assert mask.max() == 1
    assert mask[data > 0.5].min() == 1
    assert mask[0, 0, 0] == 0


def test_crossing_is_interpolated_between_shells() -> None:
    fsc = np.array([1.0, 1.0, 0.8, 0.2, 0.0])
    assert plots.crossing_A(fsc, 2.0, threshold=0.5) == pytest.approx(16.0 / 2.5)
    assert plots.crossing_A(np.ones(5), 2.0, threshold=0.5) == 4.0


def test_fine_grid_keeps_the_map() -> None:
    data = ball(16, 4.0)
    assert np.allclose(resampled(data, 2)[::2, ::2, ::2], data, atol=1e-5)
    assert 0.1 < contour_level(data) < 0.9


def test_surface_of_a_ball_is_a_disc_lit_from_above() -> None:
    image = surface_image(resampled(ball(), 2), 0.5, matrix=np.eye(3))
    covered = image[..., 3] > 0.9
    assert covered.sum() == pytest.approx(np.pi * 12.0**2, rel=0.1)
    brightness = image[..., :3].sum(axis=-1)
    top, bottom = brightness[16, 24], brightness[31, 24]
    assert top > bottom


def test_uniform_directions_have_density_one() -> None:
    rng = np.random.default_rng(0)
    n = 20000
    euler = np.stack([rng.uniform(-180, 180, n), np.rad2deg(np.arccos(rng.uniform(-1, 1, n))), np.zeros(n)], axis=1)
    grid = np.array([[0.0, 0.0, 1.0], [0.6, 0.0, 0.8], [0.0, -1.0, 0.0]])
    density = plots.direction_density(euler, point_group("C1").operators, grid)
    assert np.abs(density - 1).max() < 0.15


def test_every_figure_is_written(tmp_path: Path) -> None:
    fsc = np.linspace(1, 0, 13)
    truth = make_particles()
    figures = {
        "fsc": plots.fsc_figure({"half-maps": fsc, "map and truth": fsc}, 2.0, title="FSC"),
        "slices": plots.slices_figure({"a": ball(), "b": ball()}, 2.0, title="Sections"),
        "directions": plots.direction_figure(truth.euler_deg, operators=point_group("D2").operators, title="Views"),
        "errors": plots.error_figure(np.linspace(0, 3, 50), np.linspace(0, 1, 50), title="Errors"),
        "map": map_figure(ball(), title="Map"),
    }
    paths = {name: plots.save_figure(figure, tmp_path / "figures" / f"{name}.png") for name, figure in figures.items()}
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in paths.values())
