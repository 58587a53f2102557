"""Local searches against a plain search over every orientation and symmetry mate."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from napari_autorefine.engine.grids import OrientationGrid, local_neighborhoods, make_orientation_grid
from napari_autorefine.engine.neighborhoods import tilt_limited
from napari_autorefine.model.geometry import euler_to_matrix, matrix_to_euler, pose_error_deg
from napari_autorefine.model.symmetry import point_group

POLES = [[10.0, 0.5, 40.0], [0.0, 179.9, 10.0], [0.0, 0.0, 0.0], [90.0, 90.0, 0.0], [45.0, 54.7356, 5.0]]


def previous_poses(n: int) -> np.ndarray:
    return np.concatenate([matrix_to_euler(Rotation.random(n, random_state=8).as_matrix()), POLES])


def all_eulers(grid: OrientationGrid) -> np.ndarray:
    return grid.coarse_eulers(*np.divmod(np.arange(grid.n_orientation), grid.n_psi))


def plain_search(grid: OrientationGrid, euler: np.ndarray, sigma_deg: float) -> dict[tuple[int, int], float]:
    """Prior of (direction, psi) by swing and twist of the relative rotation, over all mates."""
    found: dict[tuple[int, int], float] = {}
    rotations = euler_to_matrix(all_eulers(grid))
    for operator in grid.group.operators:
        relative = rotations @ (euler_to_matrix(euler) @ operator).T
        swing = np.degrees(np.arccos(np.clip(relative[:, 2, 2], -1, 1)))
        twist = np.degrees(np.arctan2(relative[:, 0, 1] - relative[:, 1, 0], relative[:, 0, 0] + relative[:, 1, 1]))
        for o in np.flatnonzero((swing < 3 * sigma_deg) & (np.abs(twist) < 3 * sigma_deg)):
            key = (int(o) // grid.n_psi, int(o) % grid.n_psi)
            weight = float(np.exp(-(swing[o] ** 2 + twist[o] ** 2) / (2 * sigma_deg**2)))
            found[key] = max(found.get(key, 0.0), weight)
    return found


@pytest.mark.parametrize(("name", "order"), [("C1", 2), ("D2", 3), ("C6", 3), ("T", 3), ("O", 3), ("I1", 4)])
def test_against_plain_search(name: str, order: int) -> None:
    grid = make_orientation_grid(order, point_group(name))
    euler, sigma = previous_poses(4), 0.97 * grid.step_deg  # no grid point exactly at 3 sigma
    local = local_neighborhoods(grid, euler, sigma)
    for i, one in enumerate(euler):
        rows = slice(*local.offsets[i : i + 2])
        found = dict(zip(zip(local.dir_idx[rows].tolist(), local.psi_idx[rows].tolist(), strict=True),
                         np.exp(local.log_prior[rows]), strict=True))  # fmt: skip
        expected = plain_search(grid, one, sigma)
        assert set(found) == set(expected)
        total = sum(expected.values())
        np.testing.assert_allclose([found[key] for key in expected], [w / total for w in expected.values()], rtol=1e-5)


@pytest.mark.parametrize("name", ["C1", "C7", "D2", "O", "I2"])
def test_whole_ball_is_searched_and_ordered(name: str) -> None:
    grid = make_orientation_grid(3, point_group(name))
    euler, sigma = previous_poses(5), grid.step_deg
    local = local_neighborhoods(grid, euler, sigma)
    candidates = all_eulers(grid)
    for i, one in enumerate(euler):
        rows = slice(*local.offsets[i : i + 2])
        number = local.dir_idx[rows].astype(int) * grid.n_psi + local.psi_idx[rows]
        assert (np.diff(number) > 0).all()
        assert np.exp(local.log_prior[rows]).sum() == pytest.approx(1.0)
        error = pose_error_deg(candidates, np.broadcast_to(one, candidates.shape), grid.group.operators)
        assert set(np.flatnonzero(error < 2.98 * sigma)) <= set(number)
        assert error[number].max() < 3 * np.sqrt(2) * sigma
        # the window of the nearest mates only: nowhere near all orientations of the grid
        assert len(number) < 250


def test_most_probable_orientation_is_the_nearest_one() -> None:
    grid = make_orientation_grid(4, point_group("D2"))
    for o in (3, 20011, 40000):
        direction, psi = np.divmod([o], grid.n_psi)
        local = local_neighborhoods(grid, grid.coarse_eulers(direction, psi), grid.step_deg)
        best = local.log_prior.argmax()
        assert (local.dir_idx[best], local.psi_idx[best]) == (direction[0], psi[0])


def test_symmetry_mates_give_the_same_search() -> None:
    grid = make_orientation_grid(4, point_group("O"))
    euler = np.array([70.0, 33.0, 100.0])
    mates = matrix_to_euler(euler_to_matrix(euler) @ grid.group.operators)
    local = local_neighborhoods(grid, mates, 3.75)
    n = local.offsets[1]
    np.testing.assert_array_equal(local.offsets, n * np.arange(25))
    for values in (local.dir_idx, local.psi_idx):
        np.testing.assert_array_equal(values.reshape(24, n), np.tile(values[:n], (24, 1)))
    np.testing.assert_allclose(local.log_prior.reshape(24, n), np.tile(local.log_prior[:n], (24, 1)), atol=1e-6)


def test_without_a_direction_in_reach_the_nearest_is_searched() -> None:
    grid = make_orientation_grid(2, point_group("C1"))
    euler = np.array([[grid.rot_deg[100] + 3.0, grid.tilt_deg[100] + 2.0, 30.0]])
    local = local_neighborhoods(grid, euler, 0.5)
    assert set(local.dir_idx.tolist()) <= {100}
    wide = local_neighborhoods(grid, euler, 5.0)
    assert 100 in wide.dir_idx


def test_very_wide_prior_takes_the_whole_grid_once() -> None:
    grid = make_orientation_grid(1, point_group("C3"))
    local = local_neighborhoods(grid, [[20.0, 50.0, 70.0]], 100.0)
    assert len(local.dir_idx) == grid.n_orientation
    assert len(set(zip(local.dir_idx.tolist(), local.psi_idx.tolist(), strict=True))) == grid.n_orientation


@pytest.mark.parametrize("tilt", [0.0, 37.0, 90.0, 171.0])
@pytest.mark.parametrize(("name", "order"), [("C1", 2), ("C6", 2), ("D2", 3), ("D7", 3), ("T", 3), ("O", 3), ("I2", 3)])
def test_a_prior_on_the_tilt_is_that_of_the_nearest_mate(name: str, order: int, tilt: float) -> None:
    grid, sigma = make_orientation_grid(order, point_group(name)), 7.0
    chosen, log_weight = tilt_limited(grid, tilt, sigma)
    assert np.exp(log_weight).sum() == pytest.approx(1.0)
    assert (np.diff(chosen) > 0).all()
    expected = {}
    for direction in range(grid.n_dir):
        euler = np.array([grid.rot_deg[direction], grid.tilt_deg[direction], 0.0])
        mates = matrix_to_euler(euler_to_matrix(euler) @ grid.group.operators)
        distance = np.abs(mates[:, 1] - tilt).min()
        if distance <= 3 * sigma:
            expected[direction] = np.exp(-(distance**2) / (2 * sigma**2))
    if not expected:
        assert len(chosen) == 1
        return
    assert set(chosen.tolist()) == set(expected)
    np.testing.assert_allclose(
        np.exp(log_weight), np.array(list(expected.values())) / sum(expected.values()), rtol=1e-6
    )


def test_a_prior_on_the_tilt_that_no_direction_meets_takes_the_nearest() -> None:
    grid = make_orientation_grid(1, point_group("C1"))
    chosen, log_weight = tilt_limited(grid, 89.0, 1e-3)
    assert len(chosen) == 1 and log_weight[0] == pytest.approx(0.0)
    assert abs(grid.tilt_deg[chosen[0]] - 89.0) == pytest.approx(np.abs(grid.tilt_deg - 89.0).min())


def test_no_particles() -> None:
    grid = make_orientation_grid(1, point_group("C1"))
    local = local_neighborhoods(grid, np.empty((0, 3)), 5.0)
    np.testing.assert_array_equal(local.offsets, [0])
    assert local.dir_idx.size == 0
