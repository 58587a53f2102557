"""Centers, their signs and their steps."""

from __future__ import annotations

import numpy as np
import pytest

from napari_autorefine.engine.registration import moved
from napari_autorefine.ui.recenter_model import (
    STEPS_PX,
    RecenterModel,
    center_of_points,
    center_of_shift,
    first_hit,
    in_plane,
    shift_of_center,
)

CENTER = np.array([0.6, -1.3, 2.75])


def blob(center_zyx: np.ndarray, size: int = 24) -> np.ndarray:
    z, y, x = np.indices((size,) * 3) - size // 2
    a, b, c = center_zyx
    return np.exp(-((z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2) / 8).astype(np.float32)


def middle_of_mass(data: np.ndarray) -> np.ndarray:
    """Center of mass x y z from the middle of the box."""
    grid = np.indices(data.shape) - data.shape[0] // 2
    return np.array([(axis * data).sum() / data.sum() for axis in grid])[::-1]


def test_a_map_is_moved_against_its_center_and_then_lies_in_the_middle() -> None:
    map_ = blob(CENTER[::-1])
    np.testing.assert_allclose(middle_of_mass(map_), CENTER, atol=1e-3)
    shift_A = shift_of_center(CENTER, 5.0)
    np.testing.assert_allclose(shift_A, [-13.75, 6.5, -3.0])
    np.testing.assert_allclose(middle_of_mass(moved(map_, shift_A[::-1] / 5.0)), 0, atol=1e-3)


def test_the_tutorial_offset_moves_the_map_down_along_z() -> None:
    np.testing.assert_allclose(center_of_shift([-2.75 * 5.4, 0, 0], 5.4), [0, 0, 2.75])
    np.testing.assert_allclose(center_of_shift(shift_of_center(CENTER, 3.3), 3.3), CENTER)


def test_two_points_give_the_center_that_brings_one_onto_the_other() -> None:
    on_map, on_mask = np.array([10.0, -4.0, 6.0]), np.array([-1.0, 2.0, 3.0])
    center = center_of_points(on_map, on_mask, 2.0)
    np.testing.assert_allclose(on_map + shift_of_center(center, 2.0), on_mask)
    np.testing.assert_allclose(center, [1.5, -3.0, 5.5])


def test_a_drag_in_3d_stays_in_the_plane_of_view() -> None:
    way = in_plane([1.0, 2.0, 3.0], [0.0, 0.0, -2.0])
    np.testing.assert_allclose(way, [1, 2, 0])
    tilted = in_plane([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    assert tilted @ [1, 1, 1] == pytest.approx(0)


def test_a_ray_stops_where_it_first_meets_the_surface() -> None:
    data = np.zeros((20, 20, 20), np.float32)
    data[8:12, 5:15, 5:15] = 1.0
    point = first_hit(data, [0, 10, 10], [19, 10, 10], 0.5)
    np.testing.assert_allclose(point, [7.5, 10, 10], atol=0.01)
    np.testing.assert_allclose(first_hit(data, [19, 10, 10], [0, 10, 10], 0.5), [11.5, 10, 10], atol=0.01)
    assert first_hit(data, [0, 1, 1], [19, 1, 1], 0.5) is None
    np.testing.assert_allclose(first_hit(data, [9, 10, 10], [19, 10, 10], 0.5), [9, 10, 10])


def test_twenty_of_the_finest_steps_are_exactly_one_voxel() -> None:
    model = RecenterModel()
    for _ in range(20):
        model.move_by([0, STEPS_PX[-1], 0])
    assert STEPS_PX[-1] == 0.05
    assert model.center_px.tolist() == [0.0, 1.0, 0.0]


def test_steps_are_undone_and_taken_again() -> None:
    model = RecenterModel()
    assert not (model.can_undo or model.can_redo) and model.is_zero
    model.move_to(CENTER)
    model.move_by([1, 0, 0])
    model.move_by([0, 0, 0])  # no step
    model.undo()
    assert model.center_px.tolist() == CENTER.tolist()
    model.undo()
    model.undo()
    assert model.is_zero and model.can_redo and not model.can_undo
    model.redo()
    model.redo()
    assert model.center_px[0] == 1.6
    model.undo()
    model.move_to([0, 0, 9])
    assert not model.can_redo


def test_a_movement_is_one_step_however_long_its_way() -> None:
    model = RecenterModel()
    for x in np.linspace(0, 3, 30):
        model.pass_through([x, 0, 0])
    assert model.center_px[0] == 3.0 and model.settled_px[0] == 0.0 and not model.can_undo
    model.settle()
    assert model.settled_px[0] == 3.0
    model.undo()
    assert model.is_zero and not model.can_undo


def test_symmetry_keeps_the_center_on_its_axis() -> None:
    model = RecenterModel()
    model.allowed = np.diag([0.0, 0.0, 1.0])
    model.move_to(CENTER)
    assert model.center_px.tolist() == [0.0, 0.0, 2.75]
