"""Slice insertion on the host: the float64 oracle, the adjoint identity, and slabs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from oracles import slices as oracle

from napari_autorefine.kernels import backproject, project

RADIUS = 9
SHAPE = (2 * RADIUS + 1, 2 * RADIUS + 1, RADIUS + 2)


@dataclass(frozen=True)
class Case:
    """Slices to insert."""

    matrices: np.ndarray
    rows: np.ndarray
    values: np.ndarray
    amounts: np.ndarray
    sample_weight: np.ndarray

    def insert(self, r2_max: float, n_slab: int = 1) -> tuple[np.ndarray, np.ndarray]:
        data, weight = np.zeros(SHAPE, dtype=np.complex64), np.zeros(SHAPE, dtype=np.float32)
        arrays = (self.matrices, self.values, self.amounts, self.sample_weight)
        limits = np.linspace(0, SHAPE[0], n_slab + 1).astype(int)
        for begin, end in pairwise(limits):
            backproject(data, weight, *arrays, self.rows, r2_max, int(begin), int(end))
        return data, weight


def case(dim: int = 2, factor: float = 2.0, n_rot: int = 4, *, has_own_weights: bool = False) -> Case:
    rng = np.random.default_rng(21)
    rows = oracle.half_disc(int((RADIUS - 1) / factor), dim)
    n_sample = int(rows[:, 3].sum())
    return Case(
        oracle.sampling_matrices(n_rot, factor, seed=22),
        rows,
        oracle.complex_noise(rng, n_rot, n_sample),
        rng.uniform(0.1, 1, size=n_rot).astype(np.float32),
        rng.uniform(0.1, 1, size=(n_rot, n_sample) if has_own_weights else n_sample).astype(np.float32),
    )


@pytest.mark.parametrize("has_own_weights", [False, True])
@pytest.mark.parametrize("r2_max", [20.3, 64.7])
@pytest.mark.parametrize(("dim", "factor"), [(2, 1.0), (2, 2.0), (2, 1.31), (3, 2.0)])
def test_it_equals_the_oracle(dim: int, factor: float, r2_max: float, has_own_weights: bool) -> None:
    given = case(dim, factor, has_own_weights=has_own_weights)
    weights = given.amounts[:, None] * np.atleast_2d(given.sample_weight)
    samples = oracle.frequencies(given.rows)
    expected = oracle.backproject(SHAPE, given.matrices, given.values, weights, samples, r2_max)
    found = given.insert(r2_max)
    np.testing.assert_allclose(found[0], expected[0], atol=3e-5)
    np.testing.assert_allclose(found[1], expected[1], atol=3e-5)


@pytest.mark.parametrize("slices", [np.complex64, np.complex128])
@pytest.mark.parametrize("cells", [np.complex64, np.complex128])
def test_cells_and_slices_may_be_of_double_precision(cells: type, slices: type) -> None:
    given = case(n_rot=40, has_own_weights=True)
    samples, weights = oracle.frequencies(given.rows), given.amounts[:, None] * given.sample_weight
    expected = oracle.backproject(SHAPE, given.matrices, given.values, weights, samples, 64.7)
    data, weight = np.zeros(SHAPE, dtype=cells), np.zeros(SHAPE, dtype=cells(0).real.dtype)
    arrays = (given.values.astype(slices), given.amounts, given.sample_weight.astype(slices(0).real.dtype))
    backproject(data, weight, given.matrices, *arrays, given.rows, 64.7, 0, SHAPE[0])
    np.testing.assert_allclose(data, expected[0], atol=3e-4)
    np.testing.assert_allclose(weight, expected[1], atol=3e-4)


@pytest.mark.parametrize("slices", [np.complex64, np.complex128])
def test_rounded_sums_of_double_precision_do_not_depend_on_how_slices_are_shared_out(slices: type) -> None:
    given = case(n_rot=40)

    def summed(parts: list[range], cells: type) -> np.ndarray:
        total = np.zeros(SHAPE, dtype=cells)
        for part in parts:
            data, weight = np.zeros(SHAPE, dtype=cells), np.zeros(SHAPE, dtype=cells(0).real.dtype)
            own = list(part)
            arrays = (given.matrices[own], given.values[own].astype(slices), given.amounts[own], given.sample_weight)
            backproject(data, weight, *arrays, given.rows, 64.7, 0, SHAPE[0])
            total += data
        return total.astype(np.complex64)

    shares = [range(0, 40, 3), range(1, 40, 3), range(2, 40, 3)]
    np.testing.assert_array_equal(summed([range(40)], np.complex128), summed(shares, np.complex128))
    assert np.any(summed([range(40)], np.complex64) != summed(shares, np.complex64))


@pytest.mark.parametrize(("dim", "factor"), [(2, 1.0), (2, 1.31), (2, 2.0), (3, 2.0)])
def test_it_is_the_adjoint_of_extraction(dim: int, factor: float) -> None:
    given = case(dim, factor, n_rot=30)
    volume = oracle.complex_noise(np.random.default_rng(23), *SHAPE).astype(np.complex64)
    projected = project(volume, given.matrices, given.rows, given.values.shape[1], 64.7)
    given = replace(given, values=given.values + projected)  # so that the products are far from zero
    inserted, _ = given.insert(64.7)
    # Sample 0, the origin, is kept by the caller.
    left = np.vdot(given.values[:, 1:].astype(np.complex128), projected[:, 1:]).real
    right = np.vdot(inserted.astype(np.complex128), volume).real
    scale = np.linalg.norm(given.values) * np.linalg.norm(projected)
    assert abs(left - right) <= 1e-5 * scale
    assert left > 0.1 * scale


@pytest.mark.parametrize("n_slab", [2, 5, SHAPE[0]])
def test_slabs_do_not_change_a_bit(n_slab: int) -> None:
    given = case(n_rot=40)
    for whole, parts in zip(given.insert(64.7), given.insert(64.7, n_slab), strict=True):
        np.testing.assert_array_equal(parts, whole)


def test_nothing_outside_the_slab_is_touched() -> None:
    given = case(n_rot=10)
    data, weight = np.full(SHAPE, 5, dtype=np.complex64), np.full(SHAPE, 5, dtype=np.float32)
    arrays = (given.matrices, given.values, given.amounts, given.sample_weight)
    backproject(data, weight, *arrays, given.rows, 64.7, 7, 9)
    for array in (data, weight):
        assert np.all(np.delete(array, [7, 8], axis=0) == 5)
        assert np.any(array[7:9] != 5)


def test_every_weight_arrives_whole() -> None:
    given = case(n_rot=25)
    _, weight = given.insert(1e9)
    expected = given.amounts.sum(dtype=np.float64) * given.sample_weight[1:].sum(dtype=np.float64)
    assert weight.sum(dtype=np.float64) == pytest.approx(expected, rel=1e-5)


def test_points_beyond_the_limit_leave_no_trace() -> None:
    _, weight = case(n_rot=25).insert(30.3)
    index = np.indices(SHAPE) - np.array([RADIUS, RADIUS, 0])[:, None, None, None]
    assert np.all(weight[np.sqrt(np.sum(index**2, axis=0)) > np.sqrt(30.3) + np.sqrt(3)] == 0)


def test_inserting_twice_adds_up() -> None:
    given = case()
    once = given.insert(64.7)
    matrices, values, amounts = (np.concatenate([a, a]) for a in (given.matrices, given.values, given.amounts))
    twice = Case(matrices, given.rows, values, amounts, given.sample_weight).insert(64.7)
    for one, two in zip(once, twice, strict=True):
        np.testing.assert_allclose(two, 2 * one, atol=1e-5)


def test_strided_arguments_are_taken() -> None:
    given = case(has_own_weights=True)
    strided = Case(
        np.asfortranarray(given.matrices),
        given.rows,
        np.asfortranarray(given.values),
        given.amounts,
        np.asfortranarray(given.sample_weight),
    )
    for found, expected in zip(strided.insert(64.7), given.insert(64.7), strict=True):
        np.testing.assert_array_equal(found, expected)
