"""Each CUDA kernel against its numba twin: on the GPU when there is one, and compiled as C++ on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from oracles.slices import complex_noise, half_disc, sampling_matrices
from scipy.spatial.transform import Rotation

from napari_autorefine.kernels import _cuda
from napari_autorefine.kernels import rotations as rotation_kernels
from napari_autorefine.kernels._symmetrize import symmetrize_planes
from napari_autorefine.kernels.backproject import backproject_cpu
from napari_autorefine.kernels.ctf import ctf
from napari_autorefine.kernels.mean_poses import mean_poses
from napari_autorefine.kernels.moments import mean_power, weighted_power
from napari_autorefine.kernels.positions import set_positions
from napari_autorefine.kernels.project import project_cpu
from napari_autorefine.kernels.residuals import Compared, residual_sums
from napari_autorefine.kernels.shells import shell_sums
from napari_autorefine.kernels.significance import significant_weights
from napari_autorefine.kernels.table import add_rows
from napari_autorefine.xp import to_host

ToTwin = Callable[[Any], Any]


def slice_case(dim: int, factor: float, seed: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Radius of the volume, matrices and rows of a small case that reaches the edge of the volume."""
    radius = 6 if dim == 2 else 4
    return int(np.ceil(factor * radius)) + 1, sampling_matrices(9, factor, seed), half_disc(radius, dim)


# An r2_max no sample comes close to, so that rounding cannot put a sample on either side.
LIMITS = (0.517, 2.0)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("factor", [1.0, 2.0, 1.37])
@pytest.mark.parametrize("dim", [2, 3])
def test_project(to_twin: ToTwin, dim: int, factor: float, limit: float) -> None:
    radius, matrices, rows = slice_case(dim, factor, seed=1)
    volume = complex_noise(np.random.default_rng(2), 2 * radius + 1, 2 * radius + 1, radius + 2)
    n_sample = int(rows[:, 3].sum())
    r2_max = limit * (radius - 1) ** 2
    expected = project_cpu(volume, matrices, rows, n_sample, r2_max)
    found = to_host(_cuda.launch_project(to_twin(volume), to_twin(matrices), rows, n_sample, r2_max))
    np.testing.assert_allclose(found, expected, atol=2e-5)
    cached = to_twin(_cuda.expand_rows(rows))
    again = _cuda.launch_project(to_twin(volume), to_twin(matrices), cached, n_sample, r2_max)
    np.testing.assert_array_equal(to_host(again), found)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("factor", [1.0, 2.0, 1.37])
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("slab", [(0.0, 1.0), (0.3, 0.7), (0.5, 0.55)])
@pytest.mark.parametrize("n_weight", [0, 3, 9])
def test_backproject(
    to_twin: ToTwin, n_weight: int, slab: tuple[float, float], dim: int, factor: float, limit: float
) -> None:
    rng = np.random.default_rng(3)
    radius, matrices, rows = slice_case(dim, factor, seed=4)
    shape = (2 * radius + 1, 2 * radius + 1, radius + 2)
    n_sample = int(rows[:, 3].sum())
    values = complex_noise(rng, len(matrices), n_sample)
    amounts = rng.uniform(size=len(matrices)).astype(np.float32)
    sample_weight = rng.uniform(size=(n_weight, n_sample) if n_weight else n_sample).astype(np.float32)
    amounts[4], values[4] = 0, 0  # left out
    data, weight = complex_noise(rng, *shape), rng.uniform(size=shape).astype(np.float32)
    limits = (limit * (radius - 1) ** 2, *(int(part * shape[0]) for part in slab))
    twin_data, twin_weight = to_twin(data.copy()), to_twin(weight.copy())
    arrays = (to_twin(array) for array in (matrices, values, amounts, sample_weight))
    _cuda.launch_backproject(twin_data, twin_weight, *arrays, rows, *limits)
    backproject_cpu(data, weight, matrices, values, amounts, sample_weight, rows, *limits)
    np.testing.assert_allclose(to_host(twin_data), data, atol=1e-4)
    np.testing.assert_allclose(to_host(twin_weight), weight, atol=1e-4)


@pytest.mark.parametrize("is_first_peak_intact", [False, True])
@pytest.mark.parametrize("decay", [0.0, 12.5])
def test_ctf(to_twin: ToTwin, decay: float, is_first_peak_intact: bool) -> None:
    rng = np.random.default_rng(5)
    frequencies = rng.uniform(-0.35, 0.35, size=(301, 2))
    frequencies[0] = 0
    defocus = rng.uniform(2000, 40000, size=(6, 3)) * (-0.0619, 1e-3, -0.0619)
    offset = rng.uniform(-0.3, 0.1, size=6)
    parameters = np.column_stack([defocus, np.full(6, 323.0), offset, np.full(6, decay), rng.uniform(0.5, 2, size=6)])
    parameters[0, 4], parameters[5, 6] = 0, 1e-9
    extra = rng.normal(scale=0.2, size=301)
    extra[0] = 0
    expected = ctf(parameters, frequencies, extra, is_first_peak_intact)
    found = to_host(_cuda.launch_ctf(to_twin(parameters), frequencies, extra, is_first_peak_intact))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == expected.dtype == np.float32
    # The last particle is so weak that every value is moved to the smallest one allowed, with its sign.
    np.testing.assert_array_equal(found[5], expected[5])
    assert np.all(np.abs(found) >= np.float32(1e-8))


@pytest.mark.parametrize("n_rot", [1, 77])
@pytest.mark.parametrize("n_sample", [5, 300])
def test_moments(to_twin: ToTwin, n_sample: int, n_rot: int) -> None:
    rng = np.random.default_rng(6)
    slices = complex_noise(rng, n_rot, n_sample)
    weights, amounts = rng.uniform(size=n_sample).astype(np.float32), rng.uniform(size=n_rot).astype(np.float32)
    power = _cuda.launch_weighted_power(to_twin(slices), to_twin(weights))
    np.testing.assert_allclose(to_host(power), weighted_power(slices, weights), rtol=1e-5)
    found = _cuda.launch_mean_power(to_twin(slices), to_twin(amounts))
    np.testing.assert_allclose(to_host(found), mean_power(slices, amounts), rtol=1e-5, atol=1e-5 * n_rot)


@pytest.mark.parametrize("n_sample", [5, 300])
def test_moments_of_groups(to_twin: ToTwin, n_sample: int) -> None:
    rng = np.random.default_rng(16)
    slices = complex_noise(rng, 3 * 40, n_sample)
    weights = rng.uniform(size=(3, n_sample)).astype(np.float32)
    amounts = (rng.uniform(size=(3, 40)) * (rng.uniform(size=(3, 40)) > 0.5)).astype(np.float32)
    each = [slices[40 * i : 40 * i + 40] for i in range(3)]
    power = np.concatenate([weighted_power(own, w) for own, w in zip(each, weights, strict=True)])
    np.testing.assert_array_equal(weighted_power(slices, weights), power)
    np.testing.assert_allclose(
        to_host(_cuda.launch_weighted_power(to_twin(slices), to_twin(weights))), power, rtol=1e-5
    )
    mean = np.array([mean_power(own, a) for own, a in zip(each, amounts, strict=True)])
    np.testing.assert_array_equal(mean_power(slices, amounts), mean)
    found = to_host(_cuda.launch_mean_power(to_twin(slices), to_twin(amounts)))
    np.testing.assert_allclose(found, mean, rtol=1e-5, atol=1e-4)


def expected_weights(scores: np.ndarray, fraction: float, max_count: int) -> np.ndarray:
    """Weights of one row relative to the largest, in double precision, one after the other from the largest down."""
    weights = np.exp(scores.astype(np.float64) - scores.max())
    weights[scores - scores.max() <= -30.0] = 0.0
    order, kept, reached = np.argsort(-scores, kind="stable"), np.zeros(len(scores), bool), 0.0
    for place, j in enumerate(order):
        if (fraction < 1.0 and reached >= fraction * weights.sum()) or 0 < max_count <= place:
            break
        kept[j], reached = True, reached + weights[j]
    return np.where(kept, weights, 0.0)


@pytest.mark.parametrize("is_normalised", [False, True])
@pytest.mark.parametrize("max_count", [-1, 1, 7, 100_000])
@pytest.mark.parametrize("fraction", [0.3, 0.999, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (2, 3000)])
def test_significant_weights(
    to_twin: ToTwin, shape: tuple[int, int], fraction: float, max_count: int, is_normalised: bool
) -> None:
    scores = (5.0 * np.random.default_rng(17).standard_normal(shape) - 1e4).astype(np.float32)
    scores[-1, 1::5] = -np.inf
    weights = scores.copy()
    top, total = significant_weights(weights, fraction, max_count, is_normalised=is_normalised)
    np.testing.assert_array_equal(top, scores.max(axis=1))
    for row, own in enumerate(scores):
        expected = expected_weights(own, fraction, max_count)
        assert total[row] == pytest.approx(expected_weights(own, 1.0, -1).sum(), rel=1e-6)
        np.testing.assert_allclose(weights[row] * (total[row] if is_normalised else 1), expected, rtol=2e-6)
    twin = to_twin(scores.copy())
    found = _cuda.launch_significant_weights(twin, fraction, max_count, is_normalised)
    np.testing.assert_array_equal(to_host(found[0]), top)
    np.testing.assert_allclose(to_host(found[1]), total, rtol=1e-6)
    np.testing.assert_array_equal(to_host(twin) > 0, weights > 0)
    np.testing.assert_allclose(to_host(twin), weights, rtol=2e-6)


def test_weights_that_are_equal_are_kept_together(to_twin: ToTwin) -> None:
    scores = np.repeat(np.float32([0, -1, -2]), 4)[None]
    twin = to_twin(scores.copy())
    significant_weights(scores, 0.9, 6)
    _cuda.launch_significant_weights(twin, 0.9, 6, False)
    np.testing.assert_array_equal(scores[0] > 0, np.arange(12) < 8)
    np.testing.assert_array_equal(to_host(twin) > 0, scores > 0)


@pytest.mark.parametrize("n_child", [(1, 1), (4, 2)])
def test_grid_rotations(to_twin: ToTwin, n_child: tuple[int, int]) -> None:
    rng, n_angle = np.random.default_rng(20), 7
    directions = Rotation.random(5 * n_child[0], random_state=rng).as_matrix()
    radians = rng.uniform(0, 6, n_angle * n_child[1])
    angles = np.stack([np.cos(radians), np.sin(radians)], axis=1)
    orientations = rng.permutation(5 * n_angle * n_child[0] * n_child[1])
    expected = rotation_kernels.grid_rotations(orientations, directions, angles, n_angle, n_child)
    at = np.unravel_index(orientations[3], (5, n_angle, *n_child))
    turn = Rotation.from_euler("z", -radians[at[1] * n_child[1] + at[3]]).as_matrix()
    np.testing.assert_allclose(expected[3], turn @ directions[at[0] * n_child[0] + at[2]], atol=1e-14)
    arrays = (to_twin(array) for array in (orientations, directions, angles))
    found = _cuda.launch_grid_rotations(*arrays, n_angle, n_child)
    np.testing.assert_allclose(to_host(found), expected, atol=1e-14)
    matrix = rng.standard_normal((3, 3))
    matrices = to_host(_cuda.launch_sampling_matrices(found, matrix))
    np.testing.assert_allclose(matrices, rotation_kernels.sampling_matrices(expected, matrix), atol=1e-6)
    np.testing.assert_allclose(matrices, np.swapaxes(expected, 1, 2) @ matrix, atol=1e-6)


@pytest.mark.parametrize("group", ["C1", "D2", "O"])
@pytest.mark.parametrize("dim", [2, 3])
def test_mean_poses(to_twin: ToTwin, dim: int, group: str) -> None:
    rng = np.random.default_rng(21)
    middle, operators = Rotation.random(3, random_state=rng), Rotation.create_group(group)
    near = Rotation.from_rotvec(rng.normal(0, 0.1, (3 * 150, 3)))
    mates = operators[rng.integers(0, len(operators), 450)]
    rotations = (near * middle[np.repeat(np.arange(3), 150)] * mates).as_matrix().reshape(3, 150, 3, 3)
    shifts, weights = rng.normal(0, 2, (3, 11, dim)), rng.exponential(size=(3, 150, 11)).astype(np.float32)
    weights[:, 140:], weights[1, :, 9:] = 0, 0
    limits = float(np.cos(0.25)), 9.0
    expected = mean_poses(rotations, shifts, weights, operators.as_matrix(), limits)
    arrays = (to_twin(array) for array in (rotations, shifts, weights, operators.as_matrix()))
    for found, own in zip(_cuda.launch_mean_poses(*arrays, limits), expected, strict=True):
        np.testing.assert_allclose(to_host(found), own, atol=1e-9)


@pytest.mark.parametrize("has_precision", [False, True])
def test_residual_sums(to_twin: ToTwin, has_precision: bool) -> None:
    rng, n_image, n_sample, n_shell = np.random.default_rng(22), 5, 300, 12

    def real(*shape: int) -> np.ndarray:
        return rng.uniform(0.5, 2, shape).astype(np.float32)

    arrays: dict[str, Any] = {
        "masked": complex_noise(rng, n_image, n_sample), "contrast": real(n_image, n_sample),
        "ctf": real(n_image, n_sample), "score_weight": real(n_sample),
        "precision": real(n_image, n_sample) if has_precision else None,
        "shell": rng.integers(0, 9, n_sample).astype(np.int32),
        "use_for_scale": (real(n_shell) > 1).astype(np.float32), "use_for_intensity": real(n_shell),
    }  # fmt: skip
    at, cross, power, total = np.array([3, 0, 4]), real(3, n_sample), real(3, n_sample), real(3)
    intensity = rng.uniform(0.5, 2, 3)
    noise, sums = residual_sums(Compared(**arrays), at, (cross, power), total, intensity)
    own = {name: one[at].astype(np.complex128) for name, one in arrays.items() if one is not None and one.ndim == 2}
    square, factor = np.abs(own["masked"]) ** 2, own["contrast"].real
    residual = total[:, None] * square - 2 * factor * cross + factor**2 * power
    expected = [np.bincount(arrays["shell"], weights=row, minlength=n_shell) for row in residual]
    np.testing.assert_allclose(noise, expected, rtol=1e-6, atol=1e-6)
    weight = arrays["score_weight"] * (own["precision"].real if has_precision else 1)
    used = arrays["use_for_intensity"][arrays["shell"]] * weight
    np.testing.assert_allclose(sums[:, 0], (weight * square).sum(axis=1), rtol=1e-6)
    np.testing.assert_allclose(sums[:, 3], (used * factor * cross).sum(axis=1) / intensity, rtol=1e-6)
    there = Compared(**{name: None if one is None else to_twin(one) for name, one in arrays.items()})
    moments = to_twin(cross), to_twin(power)
    found = _cuda.launch_residual_sums(there, to_twin(at), moments, to_twin(total), to_twin(intensity))
    np.testing.assert_allclose(to_host(found[0]), noise, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(to_host(found[1]), sums, rtol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("n", [1, 255, 257, 1500])
def test_set_positions(to_twin: ToTwin, n: int, share: float) -> None:
    flags = np.random.default_rng(19).uniform(size=(4, n)) < share
    for width in {1, n, int(flags.sum(axis=1).max())} - {0}:
        found = set_positions(flags, width)
        for own, row in zip(found, flags, strict=True):
            expected = np.concatenate([np.flatnonzero(row), np.repeat(np.flatnonzero(~row)[:1], width)])[:width]
            np.testing.assert_array_equal(own, expected)
        np.testing.assert_array_equal(to_host(_cuda.launch_set_positions(to_twin(flags), width)), found)


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (5, 700)])
def test_shell_sums(to_twin: ToTwin, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(18)
    values = rng.standard_normal(shape).astype(np.float32)
    shell = rng.integers(0, 9, size=shape[1]).astype(np.int32)
    expected = np.array([np.bincount(shell, weights=row, minlength=12) for row in values])
    np.testing.assert_allclose(shell_sums(values, shell, 12), expected, atol=1e-12)
    found = to_host(_cuda.launch_shell_sums(to_twin(values), to_twin(shell), 12))
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("group", ["C2", "D2", "D3", "O"])
@pytest.mark.parametrize("planes", [slice(0, 15), slice(4, 9)])
def test_symmetrize(to_twin: ToTwin, planes: slice, group: str) -> None:
    rng = np.random.default_rng(7)
    data, weight = complex_noise(rng, 15, 15, 9), rng.uniform(size=(15, 15, 9)).astype(np.float32)
    # Turned a little, so that no point lies on the fold by construction and on the other side by rounding.
    turn = Rotation.from_rotvec([0.03, 0.05, 0.02])
    operators = (turn * Rotation.create_group(group)).as_matrix()[1:].astype(np.float32)
    expected = np.full_like(data, 7), np.full_like(weight, 7)
    found = to_twin(expected[0].copy()), to_twin(expected[1].copy())
    symmetrize_planes(data, weight, operators, 35.5, planes, *expected)
    _cuda.launch_symmetrize(to_twin(data), to_twin(weight), to_twin(operators), 35.5, planes, *found)
    np.testing.assert_allclose(to_host(found[0]), expected[0], atol=2e-5)
    np.testing.assert_allclose(to_host(found[1]), expected[1], atol=2e-5)


@pytest.mark.parametrize("n_weight", [1, 30])
@pytest.mark.parametrize("limits", [(0, 20), (5, 11), (20, 30)])
@pytest.mark.parametrize("n_sample", [3, 290])
def test_add_rows(to_twin: ToTwin, n_sample: int, limits: tuple[int, int], n_weight: int) -> None:
    rng = np.random.default_rng(8)
    rows = np.sort(rng.integers(0, 20, size=30))
    values = rng.standard_normal((30, 2 * n_sample)).astype(np.float32)
    amounts = rng.uniform(size=30).astype(np.float32)
    sample_weight = rng.uniform(size=(n_weight, n_sample)).astype(np.float32)
    table = rng.standard_normal((20, 2 * n_sample)).astype(np.float32)
    expected = (table, rng.uniform(size=(20, n_sample)).astype(np.float32), np.zeros(20, dtype=np.bool_))
    found = tuple(to_twin(array.copy()) for array in expected)
    add_rows(*expected, rows, values, amounts, sample_weight, *limits)
    arrays = (to_twin(array) for array in (rows, values, amounts, sample_weight))
    _cuda.launch_add_rows(*found, *arrays, *limits)
    np.testing.assert_allclose(to_host(found[0]), expected[0], atol=1e-5)
    np.testing.assert_allclose(to_host(found[1]), expected[1], atol=1e-5)
    np.testing.assert_array_equal(to_host(found[2]), expected[2])


def test_nothing_to_do_is_no_launch(to_twin: ToTwin) -> None:
    rows = half_disc(3)
    n_sample = int(rows[:, 3].sum())
    volume, none = to_twin(np.zeros((15, 15, 9), np.complex64)), to_twin(np.zeros((0, 3, 3), np.float32))
    assert _cuda.launch_project(volume, none, rows, n_sample, 9.0).shape == (0, n_sample)


def test_a_kernel_never_writes_to_a_copy(to_twin: ToTwin) -> None:
    rows = half_disc(2)
    n_sample = int(rows[:, 3].sum())
    data, weight = to_twin(np.zeros((15, 15, 9), np.complex128)), to_twin(np.zeros((15, 15, 9), np.float32))
    ones = to_twin(np.ones(n_sample, np.float32))
    values = to_twin(np.ones((1, n_sample), np.complex64))
    with pytest.raises(ValueError, match="complex64"):
        _cuda.launch_backproject(data, weight, to_twin(sampling_matrices(1, 1, 0)), values, ones, ones, rows, 9, 0, 15)


def test_expanded_rows_list_every_sample_once() -> None:
    rows = half_disc(4, dim=3)
    coordinates = _cuda.expand_rows(rows)
    assert len(np.unique(coordinates, axis=0)) == len(coordinates) == rows[:, 3].sum()
    assert tuple(coordinates[0]) == (0, 0, 0)
    z, y, x_start, n, offset = rows[7]
    np.testing.assert_array_equal(coordinates[offset : offset + n, 0], np.arange(x_start, x_start + n))
    assert np.all(coordinates[offset : offset + n, 1:] == (y, z))
