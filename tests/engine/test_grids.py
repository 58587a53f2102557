"""Orientation grids, offsets and RELION's random draws."""

from __future__ import annotations

import itertools

import healpix
import numpy as np
import pytest

from napari_autorefine.engine import grids
from napari_autorefine.model.geometry import euler_to_matrix, matrix_to_euler, pose_error_deg, view_direction
from napari_autorefine.model.symmetry import is_in_asymmetric_unit, point_group

# Directions at HEALPix orders 1, 2, 3 as RELION keeps them (T, O, I2, I3, I4, C6 also seen in RELION 3.1.3's output).
KEPT = {
    "C1": (48, 192, 768),
    "C2": (24, 96, 384),
    "C4": (12, 48, 192),
    "D2": (12, 48, 192),
    "D7": (3, 13, 53),
    "T": (3, 14, 59),
    "O": (1, 7, 32),
    "I1": (1, 3, 12),
    "I2": (1, 2, 11),  # RELION keeps none at order 1 and cannot search; one is kept here
    "I3": (1, 4, 12),  # likewise
    "I4": (1, 2, 11),
}


@pytest.mark.parametrize("name", KEPT)
def test_number_of_directions(name: str) -> None:
    counts = tuple(grids.make_orientation_grid(order, point_group(name)).n_dir for order in (1, 2, 3))
    assert counts == KEPT[name]


@pytest.mark.parametrize(("name", "counts"), [("C2", (26, 100, 392)), ("C4", (16, 56, 208)), ("D2", (15, 54, 204)),
                                              ("D7", (5, 16, 56)), ("T", (4, 14, 61)), ("I1", (2, 5, 16)),
                                              ("I2", (0, 2, 14)), ("I3", (0, 4, 12)), ("I4", (1, 3, 14))])  # fmt: skip
def test_directions_inside_the_unit_before_duplicates_go(name: str, counts: tuple[int, int, int]) -> None:
    inside = []
    for order in (1, 2, 3):
        tilt, rot = healpix.pix2ang(2**order, np.arange(12 * 4**order), nest=True)
        rot = np.degrees(np.where(rot > np.pi, rot - 2 * np.pi, rot))
        inside.append(int(is_in_asymmetric_unit(point_group(name), rot, np.degrees(tilt)).sum()))
    assert tuple(inside) == counts


def test_number_of_directions_of_c6_up_to_order_6() -> None:
    group = point_group("C6")
    counts = [grids.make_orientation_grid(order, group).n_dir for order in range(2, 7)]
    assert counts == [28, 118, 496, 2005, 8170]


@pytest.mark.parametrize(
    ("name", "order", "coarse"), [("C1", 2, 4608), ("D2", 2, 1152), ("C6", 2, 672), ("C6", 3, 5664)]
)
def test_number_of_orientations(name: str, order: int, coarse: int) -> None:
    grid = grids.make_orientation_grid(order, point_group(name))
    assert grid.n_orientation == coarse
    assert grid.step_deg == pytest.approx(360 / (6 * 2**order))
    np.testing.assert_allclose(grid.psi_deg, np.arange(grid.n_psi) * grid.step_deg)


def test_angles_and_vectors_agree() -> None:
    grid = grids.make_orientation_grid(3, point_group("D2"))
    assert ((grid.rot_deg > -180) & (grid.rot_deg <= 180)).all()
    np.testing.assert_allclose(grid.vectors, view_direction(grid.rot_deg, grid.tilt_deg), atol=1e-15)
    expected = np.stack(healpix.pix2vec(8, grid.pixels, nest=True), axis=1)
    np.testing.assert_allclose(grid.vectors, expected, atol=1e-14)


def test_children_of_all_directions_are_the_next_grid() -> None:
    group = point_group("C1")
    coarse, fine = grids.make_orientation_grid(2, group), grids.make_orientation_grid(3, group)
    np.testing.assert_allclose(coarse.child_rot_deg.ravel(), fine.rot_deg)
    np.testing.assert_allclose(coarse.child_tilt_deg.ravel(), fine.tilt_deg)
    psi = np.sort(coarse.child_psi_deg.ravel())
    np.testing.assert_allclose(np.diff(psi), fine.step_deg)
    assert psi[0] == pytest.approx(-coarse.psi_step_deg / 4)


def test_children_lie_around_their_parent() -> None:
    grid = grids.make_orientation_grid(3, point_group("O"))
    direction, psi = np.divmod(np.arange(0, grid.n_orientation, 17), grid.n_psi)
    children = euler_to_matrix(grid.child_eulers(direction, psi))
    assert children.shape == (len(psi), 8, 3, 3)
    parents = euler_to_matrix(grid.coarse_eulers(direction, psi))
    np.testing.assert_array_less(np.arccos(np.einsum("nci,ni->nc", children[:, :, 2], parents[:, 2])), np.radians(7.5))
    offsets = grid.child_eulers(direction, psi)[:, :, 2] - grid.psi_deg[psi][:, None]
    np.testing.assert_allclose(offsets, np.tile([-1.875, 1.875], (len(psi), 4)))


@pytest.mark.parametrize("perturbation", [0.0, 0.37, -0.5])
def test_matrices_agree_with_angles(perturbation: float) -> None:
    grid = grids.make_orientation_grid(2, point_group("C3"))
    direction, psi = np.array([0, 3, 17, 50, 50]), np.array([0, 5, 23, 1, 2], dtype=np.int32)
    coarse = grid.coarse_matrices(direction, psi, perturbation)
    np.testing.assert_allclose(coarse, euler_to_matrix(grid.coarse_eulers(direction, psi, perturbation)), atol=1e-13)
    fine = grid.child_matrices(direction, psi, perturbation)
    np.testing.assert_allclose(fine, euler_to_matrix(grid.child_eulers(direction, psi, perturbation)), atol=1e-13)


def test_perturbation_multiplies_from_the_right() -> None:
    grid = grids.make_orientation_grid(2, point_group("C1"))
    every = np.divmod(np.arange(40), grid.n_psi)
    expected = grid.coarse_matrices(*every) @ euler_to_matrix((6.0, 6.0, 6.0))
    np.testing.assert_allclose(grid.coarse_matrices(*every, 0.4), expected, atol=1e-14)


@pytest.mark.parametrize("name", ["C1", "D2", "C4", "T", "O"])
def test_every_rotation_is_near_a_grid_orientation(name: str) -> None:
    group, order = point_group(name), 2
    grid = grids.make_orientation_grid(order, group)
    orientations = grid.coarse_eulers(*np.divmod(np.arange(grid.n_orientation), grid.n_psi))
    rng = np.random.default_rng(6)
    euler = np.stack(
        [rng.uniform(-180, 180, 12), np.degrees(np.arccos(rng.uniform(-1, 1, 12))), rng.uniform(-180, 180, 12)], 1
    )
    reach = np.hypot(grids.pixel_radius_deg(order), grid.psi_step_deg / 2) + 1.0
    for one in euler:
        assert pose_error_deg(orientations, np.broadcast_to(one, orientations.shape), group.operators).min() < reach


@pytest.mark.parametrize("name", ["C1", "C5", "D2", "T", "O", "I3"])
def test_every_view_has_a_mate_near_a_direction(name: str) -> None:
    group, order = point_group(name), 3
    grid = grids.make_orientation_grid(order, group)
    views = np.random.default_rng(7).normal(size=(400, 3))
    views /= np.linalg.norm(views, axis=1, keepdims=True)
    cosines = (views @ group.operators @ grid.vectors.T).max(axis=(0, 2))
    # The cut follows pixel centers, so where three borders meet a view may be up to a pixel further away.
    assert np.degrees(np.arccos(cosines)).max() < (1.0 if len(group) in {1, 4} else 1.6) * grids.pixel_radius_deg(order)


def test_pixel_radius_shrinks_with_the_order() -> None:
    radius = [grids.pixel_radius_deg(order) for order in range(7)]
    assert (np.diff(radius) < 0).all()
    assert radius[6] == pytest.approx(radius[5] / 2, rel=0.01)


def test_own_psi_step_is_rounded_down_to_divide_the_circle() -> None:
    grid = grids.make_orientation_grid(2, point_group("C1"), psi_step_deg=11.0)
    assert grid.n_psi == 33
    assert grid.psi_step_deg == pytest.approx(360 / 33)


@pytest.mark.parametrize(
    ("range_A", "step_A", "dim", "n"), [(5, 2, 2, 21), (27, 10.8, 3, 81), (17.55, 5.4, 3, 147), (0, 2, 2, 1)]
)
def test_number_of_translations(range_A: float, step_A: float, dim: int, n: int) -> None:
    shifts = grids.translations(range_A, step_A, dim)
    assert shifts.shape == (n, dim)
    assert np.linalg.norm(shifts, axis=1).max() <= range_A + 1e-3
    children = grids.child_translations(shifts, step_A)
    assert children.shape == (n, 2**dim, dim)
    np.testing.assert_allclose(children.mean(axis=1), shifts, atol=1e-12)
    np.testing.assert_allclose(np.abs(children - shifts[:, None]), step_A / 4)


def test_rand_is_that_of_the_c_library() -> None:
    # The numbers every Linux C program prints first.
    assert list(itertools.islice(grids.glibc_rand(), 5)) == [1804289383, 846930886, 1681692777, 1714636915, 1957747793]
    assert list(itertools.islice(grids.glibc_rand(42), 3)) == [71876166, 708592740, 1483128881]
    assert next(grids.glibc_rand(0)) == next(grids.glibc_rand(1))


def test_perturbations_of_seed_42() -> None:
    value = grids.next_perturbation(0.0, 0.5, 42, 0)
    assert value == pytest.approx(0.460047, abs=5e-7)
    expected = [-0.19192, 0.245518, -0.35225, 0.015173, 0.471593, -0.10744]
    for iteration, number in enumerate(expected, start=1):
        value = grids.next_perturbation(value, 0.5, 42, iteration)
        assert value == pytest.approx(number, abs=5e-6)


def test_no_perturbation_without_a_factor() -> None:
    assert grids.next_perturbation(0.3, 0.0, 42, 3) == 0.0


def test_halves_follow_the_draws() -> None:
    halves = grids.random_halves(1000, 7)
    draws = np.fromiter(itertools.islice(grids.glibc_rand(7), 1000), np.int64)
    np.testing.assert_array_equal(halves, draws % 2 + 1)
    assert halves.dtype == np.int8
    assert 450 < (halves == 1).sum() < 550


def test_output_angles_describe_the_perturbed_rotation() -> None:
    grid = grids.make_orientation_grid(2, point_group("D2"))
    euler = grid.child_eulers(np.array([5]), np.array([3]), 0.25)
    np.testing.assert_allclose(
        matrix_to_euler(grid.child_matrices(np.array([5]), np.array([3]), 0.25)), euler, atol=1e-9
    )
