"""Point groups: orders, closure, axes, asymmetric units."""

from __future__ import annotations

import numpy as np
import pytest

from napari_autorefine.errors import InputError
from napari_autorefine.model.geometry import axis_rotation
from napari_autorefine.model.symmetry import is_in_asymmetric_unit, point_group

ORDERS = {"C1": 1, "c2": 2, "C7": 7, "D1": 2, "D2": 4, "d7": 14, "T": 12, "o": 24, "I": 60, "I1": 60, "i2": 60,
          "I3": 60, "I4": 60}  # fmt: skip


def contains(operators: np.ndarray, rotation: np.ndarray) -> bool:
    return bool((np.abs(operators - rotation).max(axis=(1, 2)) < 1e-6).any())


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_order_and_identity(name: str, order: int) -> None:
    group = point_group(name)
    assert len(group) == order
    np.testing.assert_allclose(group.operators[0], np.eye(3), atol=1e-15)


@pytest.mark.parametrize("name", ["C5", "D3", "T", "O", "I1", "I2", "I3", "I4"])
def test_is_a_group_of_rotations(name: str) -> None:
    operators = point_group(name).operators
    np.testing.assert_allclose(
        operators @ operators.swapaxes(1, 2), np.broadcast_to(np.eye(3), operators.shape), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(operators), 1.0, atol=1e-12)
    products = (operators[:, None] @ operators[None, :]).reshape(-1, 3, 3)
    distances = np.abs(products[:, None] - operators[None]).max(axis=(2, 3)).min(axis=1)
    assert distances.max() < 1e-12
    assert all(contains(operators, operator.T) for operator in operators)


@pytest.mark.parametrize(
    ("name", "axis", "angle"),
    [
        ("C6", (0, 0, 1), 60),
        ("D3", (1, 0, 0), 180),
        ("T", (0, 0, 1), 120),
        ("T", (0, 0.816496, 0.577350), 180),
        ("O", (1, 1, 1), 120),
        ("O", (0, 0, 1), 90),
        ("I2", (0, 0, 1), 180),
        ("I2", (0.525731114, 0, 0.850650807), 72),
        ("I2", (0, 0.356822076, 0.934172364), 120),
        ("I1", (1, 0, 0), 180),
        ("I1", (0.85065, 0, -0.525731), 72),
        ("I1", (0.934172, 0.356822, 0), 120),
        ("I3", (-0.525731, 0, 0.850651), 180),
        ("I3", (0, 0, 1), 72),
        ("I3", (-0.491123, 0.356822, 0.794654), 120),
        ("I4", (0.525731, 0, 0.850651), 180),
        ("I4", (0.894427, 0, 0.447214), 72),
        ("I4", (0.491123, 0.356822, 0.794654), 120),
    ],
)
def test_axes_are_those_of_relion(name: str, axis: tuple[float, float, float], angle: float) -> None:
    distances = np.abs(point_group(name).operators - axis_rotation(axis, angle)).max(axis=(1, 2))
    assert distances.min() < 3e-6  # axes are quoted to six digits


@pytest.mark.parametrize("name", ["", "C0", "C", "X", "I5", "D0", "Td", "C100", "CS", "4", "C-2", "C2.5"])
def test_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(InputError, match=r"not known.*C1.*I4"):
        point_group(name)


@pytest.mark.parametrize(("name", "canonical"), [("i", "I2"), (" c04 ", "C4"), ("O", "O")])
def test_name_becomes_canonical(name: str, canonical: str) -> None:
    assert point_group(name).name == canonical


def test_operators_cannot_be_changed_by_accident() -> None:
    with pytest.raises(ValueError, match="read-only"):
        point_group("D2").operators[0, 0, 0] = 5.0


@pytest.mark.parametrize("name", ["C1", "C2", "C5", "D1", "D2", "D7", "T", "O", "I1", "I2", "I3", "I4"])
def test_unit_covers_the_sphere_once(name: str) -> None:
    group = point_group(name)
    views = np.random.default_rng(2).normal(size=(500, 3))
    views /= np.linalg.norm(views, axis=1, keepdims=True)
    mates = views @ group.operators  # (n_operator, 500, 3)
    rot = np.degrees(np.arctan2(mates[..., 1], mates[..., 0]))
    tilt = np.degrees(np.arccos(np.clip(mates[..., 2], -1, 1)))
    np.testing.assert_array_equal(is_in_asymmetric_unit(group, rot, tilt).sum(axis=0), 1)
