"""Euler angles, rotations and pose errors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from napari_autorefine.model import geometry
from napari_autorefine.model.symmetry import point_group


def test_matrix_of_known_angles() -> None:
    expected = [
        [0.043412, 0.909616, -0.413176],
        [-0.829598, 0.263258, 0.492404],
        [0.556670, 0.321394, 0.766044],
    ]
    np.testing.assert_allclose(geometry.euler_to_matrix((30, 40, 50)), expected, atol=1e-6)


def test_matrix_is_product_of_active_rotations() -> None:
    euler = np.array([[12.0, 77.0, -130.0], [-170.0, 3.0, 44.0]])
    expected = Rotation.from_euler("ZYZ", euler, degrees=True).as_matrix()
    np.testing.assert_allclose(geometry.euler_to_matrix(euler).swapaxes(-1, -2), expected, atol=1e-14)


def test_vector_of_the_reference_in_the_view() -> None:
    moved = geometry.euler_to_matrix((30, 40, 50)) @ np.array([3, -2.5, 7.25])
    np.testing.assert_allclose(moved, [-5.139329, 0.422987, 6.420349], atol=1e-6)


def test_angles_survive_a_round_trip() -> None:
    rng = np.random.default_rng(1)
    euler = np.stack([rng.uniform(-180, 180, 200), rng.uniform(0.01, 179.99, 200), rng.uniform(-180, 180, 200)], axis=1)
    np.testing.assert_allclose(geometry.matrix_to_euler(geometry.euler_to_matrix(euler)), euler, atol=1e-9)


@pytest.mark.parametrize("tilt", [0.0, 1e-5, 180.0, 180.0 - 1e-5])
def test_round_trip_at_the_poles_keeps_the_rotation(tilt: float) -> None:
    matrix = geometry.euler_to_matrix([[25.0, tilt, -70.0], [0.0, tilt, 180.0], [-120.0, tilt, 10.0]])
    euler = geometry.matrix_to_euler(matrix)
    np.testing.assert_array_equal(euler[:, 0], 0.0)
    np.testing.assert_allclose(geometry.euler_to_matrix(euler), matrix, atol=3e-7)


def test_negative_tilt_is_the_same_rotation_with_positive_tilt() -> None:
    matrix = geometry.euler_to_matrix((20.0, -35.0, 15.0))
    euler = geometry.matrix_to_euler(matrix)
    assert euler[1] == pytest.approx(35.0)
    np.testing.assert_allclose(geometry.euler_to_matrix(euler), matrix, atol=1e-14)


def test_view_direction_is_the_third_row() -> None:
    matrix = geometry.euler_to_matrix((33.0, 71.0, 9.0))
    np.testing.assert_allclose(geometry.view_direction(33.0, 71.0), matrix[2], atol=1e-15)


@pytest.mark.parametrize("angle", [0.0, 1e-5, 0.3, 90.0, 179.0, 180.0])
def test_rotation_difference_is_the_geodesic_angle(angle: float) -> None:
    start = Rotation.random(random_state=3).as_matrix()
    turned = geometry.axis_rotation((1.0, -2.0, 0.5), angle) @ start
    assert geometry.rotation_difference_deg(start, turned) == pytest.approx(angle, rel=1e-6, abs=1e-7)


def test_pose_error_sees_through_symmetry() -> None:
    operators = point_group("O").operators
    start = Rotation.random(24, random_state=5).as_matrix()
    shifted = geometry.axis_rotation((0.0, 1.0, 1.0), 2.0) @ start @ operators
    error = geometry.pose_error_deg(geometry.matrix_to_euler(start), geometry.matrix_to_euler(shifted), operators)
    np.testing.assert_allclose(error, 2.0, atol=1e-9)


def test_angular_distance_is_the_mean_over_three_axes() -> None:
    first = np.array([[10.0, 50.0, -20.0]])
    second = np.array([[14.0, 55.0, -27.0]])
    cosines = (geometry.euler_to_matrix(first) * geometry.euler_to_matrix(second)).sum(axis=-1)
    expected = np.degrees(np.arccos(cosines)).mean(axis=-1)
    np.testing.assert_allclose(geometry.angular_distance_deg(first, second, np.eye(3)[None]), expected, atol=1e-9)


def test_angular_distance_of_an_in_plane_turn() -> None:
    operators = point_group("D3").operators
    distance = geometry.angular_distance_deg([[40.0, 60.0, 10.0]], [[160.0, 60.0, 16.0]], operators)
    np.testing.assert_allclose(distance, 4.0, atol=1e-9)  # two axes move by 6 degrees, the view axis stays


def test_rounding_goes_away_from_zero() -> None:
    values = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49, -0.49, 3.0]
    np.testing.assert_array_equal(geometry.round_half_away(values), [1, 2, 3, -1, -2, -3, 0, 0, 3])
