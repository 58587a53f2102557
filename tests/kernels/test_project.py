"""Slice extraction on the host: the float64 oracle and what must hold for any volume."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import slices as oracle

from napari_autorefine.kernels import project

RADIUS = 9
SHAPE = (2 * RADIUS + 1, 2 * RADIUS + 1, RADIUS + 2)


def hermitian_volume(rng: np.random.Generator, n_fold: int = 1) -> np.ndarray:
    """Half of a random centred Hermitian volume that ``n_fold`` quarter turns about z do not change."""
    full = oracle.complex_noise(rng, *3 * (2 * RADIUS + 1,)).astype(np.complex128)
    full = sum(np.rot90(full, turn, axes=(1, 2)) for turn in range(n_fold))
    full = full + np.conj(full[::-1, ::-1, ::-1])
    half = np.zeros(SHAPE, dtype=np.complex64)
    half[:, :, : RADIUS + 1] = full[:, :, RADIUS:]
    return half


def matrices_and_rows(dim: int, factor: float) -> tuple[np.ndarray, np.ndarray, int]:
    rows = oracle.half_disc(int((RADIUS - 1) / factor), dim)
    return oracle.sampling_matrices(4, factor, seed=11), rows, int(rows[:, 3].sum())


@pytest.mark.parametrize("r2_max", [20.3, 64.7])
@pytest.mark.parametrize(("dim", "factor"), [(2, 1.0), (2, 2.0), (2, 1.31), (3, 2.0)])
def test_it_equals_the_oracle(dim: int, factor: float, r2_max: float) -> None:
    matrices, rows, n_sample = matrices_and_rows(dim, factor)
    volume = hermitian_volume(np.random.default_rng(1))
    expected = oracle.project(volume, matrices, oracle.frequencies(rows), r2_max)
    found = project(volume, matrices, rows, n_sample, r2_max)
    assert found.dtype == np.complex64
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_a_shorter_table_gives_the_same_first_samples() -> None:
    matrices, rows, n_sample = matrices_and_rows(2, 2.0)
    volume = hermitian_volume(np.random.default_rng(2))
    n_part = int(rows[:5, 3].sum())
    part = project(volume, matrices, rows[:5], n_part, 64.7)
    np.testing.assert_array_equal(part, project(volume, matrices, rows, n_sample, 64.7)[:, :n_part])


def test_on_voxels_it_copies_them() -> None:
    _, rows, n_sample = matrices_and_rows(3, 1.0)
    volume = hermitian_volume(np.random.default_rng(3))
    x, y, z = oracle.frequencies(rows).astype(int).T
    found = project(volume, np.eye(3, dtype=np.float32)[None], rows, n_sample, 64.7)
    np.testing.assert_array_equal(found[0], volume[z + RADIUS, y + RADIUS, x])


def test_a_linear_function_is_sampled_without_error() -> None:
    matrices, rows, n_sample = matrices_and_rows(2, 1.31)
    z, y, x = np.meshgrid(*2 * (np.arange(-RADIUS, RADIUS + 1),), np.arange(RADIUS + 2), indexing="ij")
    gradient = np.array([0.3, -1.1, 0.7])
    volume = (1j * (gradient[0] * x + gradient[1] * y + gradient[2] * z)).astype(np.complex64)
    points = oracle.frequencies(rows) @ np.swapaxes(matrices.astype(np.float64), 1, 2)
    found = project(volume, matrices, rows, n_sample, 1e9)
    np.testing.assert_allclose(found, 1j * (points @ gradient), atol=1e-5)


def test_opposite_views_are_conjugate() -> None:
    matrices, rows, n_sample = matrices_and_rows(2, 2.0)
    volume = hermitian_volume(np.random.default_rng(4))
    there, back = (project(volume, sign * matrices[1:], rows, n_sample, 64.7) for sign in (1, -1))
    np.testing.assert_allclose(back, np.conj(there), atol=2e-5)


def test_turning_about_a_symmetry_axis_changes_nothing() -> None:
    matrices, rows, n_sample = matrices_and_rows(2, 2.0)
    volume = hermitian_volume(np.random.default_rng(5), n_fold=4)
    quarter = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=np.float32)
    found = [project(volume, turned, rows, n_sample, 64.7) for turned in (matrices, quarter @ matrices)]
    np.testing.assert_allclose(found[1], found[0], atol=5e-5)


def test_beyond_the_limit_there_is_nothing() -> None:
    matrices, rows, n_sample = matrices_and_rows(2, 2.0)
    found = project(np.ones(SHAPE, dtype=np.complex64), matrices, rows, n_sample, 30.3)
    points = oracle.frequencies(rows) @ np.swapaxes(matrices.astype(np.float64), 1, 2)
    np.testing.assert_allclose(found, np.sum(points**2, axis=-1) <= 30.3, atol=1e-6)


def test_strided_arguments_are_taken() -> None:
    matrices, rows, n_sample = matrices_and_rows(2, 2.0)
    volume = hermitian_volume(np.random.default_rng(6))
    expected = project(volume, matrices, rows, n_sample, 64.7)
    found = project(np.asfortranarray(volume), np.asfortranarray(matrices), rows, n_sample, 64.7)
    np.testing.assert_array_equal(found, expected)
