"""Groups as products of coset representatives: every rotation once, no rotation interpolated twice."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest

from napari_autorefine.engine.cosets import coset_factors
from napari_autorefine.model.symmetry import point_group

GROUPS = ["C1", "C2", "C3", "C6", "D2", "D6", "D7", "T", "O", "I1", "I2", "I3"]


def is_exact(operators: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(operators - np.rint(operators)).max(axis=(1, 2)) < 1e-6)


@pytest.mark.parametrize("name", GROUPS)
def test_products_of_the_factors_are_the_group(name: str) -> None:
    operators = point_group(name).operators
    with_identity = [np.concatenate([np.eye(3)[None], factor]) for factor in coset_factors(operators)]
    # What is applied last acts on a point first.
    products = reduce(lambda a, b: np.einsum("iab,jbc->ijac", a, b).reshape(-1, 3, 3), with_identity, np.eye(3)[None])
    assert len(products) == len(operators)
    distance = np.abs(products[:, None] - operators).max(axis=(2, 3))
    assert distance.min(axis=0).max() < 1e-9


@pytest.mark.parametrize("name", GROUPS)
def test_only_the_first_factor_interpolates(name: str) -> None:
    assert all(is_exact(factor).all() for factor in coset_factors(point_group(name).operators)[1:])


def test_large_groups_take_few_terms() -> None:
    assert {name: sum(map(len, coset_factors(point_group(name).operators))) for name in ("C6", "D2", "O", "I2")} == {
        "C6": 3,
        "D2": 2,
        "O": 5,
        "I2": 8,
    }
