"""Accumulated sums, their symmetry and statistics, and the map they give, against slow float64 versions and RELION."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from oracles import maps, relion_jobs, slices
from scipy.spatial.transform import Rotation

from napari_autorefine.engine.correlation import fsc
from napari_autorefine.engine.projector import make_reference
from napari_autorefine.engine.reconstruction import (
    Accumulators,
    complete_hermitian,
    fourier_completeness,
    fsc_of_halves,
    join_low_resolution,
    join_radius,
    reconstruct,
    shell_sigma2,
    symmetrize,
)
from napari_autorefine.kernels.backproject import backproject_cpu
from napari_autorefine.model.symmetry import point_group


def random_sums(size: int, pad: int, r_max: float, seed: int = 0, data_dim: int = 2) -> Accumulators:
    """Completed sums of nothing in particular, with the zeros and the small weights of sparse data."""
    rng = np.random.default_rng(seed)
    acc = Accumulators.zeros(size, pad=pad, r_max=r_max, data_dim=data_dim)
    acc.weight[:] = rng.gamma(0.3, 2.0, acc.weight.shape) * (rng.random(acc.weight.shape) > 0.1)
    acc.data[:] = slices.complex_noise(rng, *acc.data.shape) * np.sqrt(acc.weight)
    complete_hermitian(acc)
    return acc


def inserted(density: np.ndarray, pad: int, n_slices: int, seed: int = 0) -> Accumulators:
    """Insert exact slices of a map in random directions, all weights 1."""
    size = len(density)
    rows = slices.half_disc(size // 2)
    samples = slices.frequencies(rows)
    rotations = Rotation.random(n_slices, random_state=seed).as_matrix()
    acc = Accumulators.zeros(size, pad=pad, r_max=size // 2)
    values = maps.transform(density, samples @ rotations.transpose(0, 2, 1)) / size**2
    backproject_cpu(
        acc.data,
        acc.weight,
        (pad * rotations).astype(np.float32),
        values.astype(np.complex64),
        np.ones(n_slices, dtype=np.float32),
        np.ones(len(samples), dtype=np.float32),
        rows,
        acc.r2_max,
        0,
        len(acc.data),
    )
    acc.dc_data, acc.dc_weight = float(values[:, 0].real.sum()), float(n_slices)
    complete_hermitian(acc)
    return acc


@pytest.mark.parametrize(("pad", "tolerance"), [(1, 0.1), (2, 0.02)])
def test_exact_slices_give_the_map_back(pad: int, tolerance: float) -> None:
    density = maps.phantom(24)
    inside = maps.radius2(24) < 64
    map_ = reconstruct(inserted(density, pad, 100))
    assert fsc(map_, density.astype(np.float32), inside).min() > 0.99
    slope = (map_[inside] * density[inside]).sum() / (density[inside] ** 2).sum()
    assert slope == pytest.approx(1.0, abs=tolerance)


@pytest.mark.parametrize("pad", [1, 2])
def test_the_transform_of_a_map_divided_by_one_is_the_map(pad: int) -> None:
    density = maps.phantom(16).astype(np.float32)
    density *= maps.radius2(16) < 49
    reference = make_reference(density, pad=pad, r_max=8, gridding_correct=False)
    acc = Accumulators.zeros(16, pad=pad, r_max=8)
    acc.data[:], acc.weight[:] = reference.data, 1.0
    map_ = reconstruct(acc) * maps.sinc2(16, pad)
    assert fsc(map_.astype(np.float32), density)[:7].min() > 0.998


@pytest.mark.parametrize(("pad", "r_max"), [(2, 6), (1, 6), (2, 4), (2, 5.5)])
@pytest.mark.parametrize("data_dim", [2, 3])
def test_unregularized_map_equals_the_direct_sum(pad: int, r_max: float, data_dim: int) -> None:
    acc = random_sums(12, pad, r_max, data_dim=data_dim)
    expected = maps.reconstruct(acc, None)
    np.testing.assert_allclose(reconstruct(acc), expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("pad", "r_max"), [(2, 8), (1, 8), (2, 7)])
@pytest.mark.parametrize("fudge", [1.0, 4.0])
def test_regularized_map_equals_the_wiener_filter(pad: int, r_max: int, fudge: float) -> None:
    acc = random_sums(16, pad, r_max)
    tau2 = np.random.default_rng(1).uniform(0.01, 1.0, 9)
    tau2[7] = 0.0
    expected = maps.reconstruct(acc, tau2, fudge)
    result = reconstruct(acc, tau2=tau2, tau2_fudge=fudge)
    np.testing.assert_allclose(result, expected, atol=2e-5 * np.abs(expected).max())


def test_threads_change_nothing_and_sums_are_kept() -> None:
    acc = random_sums(12, 2, 6)
    before = acc.copy()
    tau2 = np.full(7, 0.1)
    np.testing.assert_array_equal(reconstruct(acc, tau2=tau2), reconstruct(acc, tau2=tau2, threads=3))
    np.testing.assert_array_equal(acc.data, before.data)
    np.testing.assert_array_equal(acc.weight, before.weight)


def test_twice_the_data_halve_the_noise_variance() -> None:
    acc = random_sums(12, 2, 6)
    twice = acc.copy()
    twice.add(acc)
    np.testing.assert_allclose(shell_sigma2(twice), shell_sigma2(acc) / 2)
    np.testing.assert_allclose(reconstruct(twice), reconstruct(acc), atol=1e-6)


@pytest.mark.parametrize("pad", [1, 2])
def test_noise_variance_of_even_weights(pad: int) -> None:
    acc = Accumulators.zeros(12, pad=pad, r_max=5)
    acc.weight[:] = 4.0
    np.testing.assert_allclose(shell_sigma2(acc), [1 / (4 * pad**3)] * 6 + [0])


def test_completion_adds_mates_and_keeps_the_origin() -> None:
    acc = random_sums(12, 2, 6)
    acc.data[acc.radius, acc.radius, 0] = 3.0
    acc.dc_data, acc.dc_weight = 2.0, 5.0
    before = acc.copy()
    complete_hermitian(acc)
    r = acc.radius
    expected = before.data[r + 2, r - 3, 0] + np.conj(before.data[r - 2, r + 3, 0])
    assert acc.data[r + 2, r - 3, 0] == pytest.approx(expected)
    assert acc.data[r, r, 0] == 5.0
    assert acc.weight[r, r, 0] == pytest.approx(before.weight[r, r, 0] + 5.0)
    assert (acc.dc_data, acc.dc_weight) == (0.0, 0.0)
    np.testing.assert_array_equal(acc.data[:, :, 1:], before.data[:, :, 1:])


@pytest.mark.parametrize("name", ["C1", "C3", "D2", "O", "I1"])
def test_symmetry_sums_equal_the_slow_ones(name: str) -> None:
    acc = random_sums(6, 2, 2)
    operators = point_group(name).operators
    data, weight = maps.symmetrize(acc, operators)
    given, before = (acc.data, acc.weight), acc.copy()
    symmetrize(acc, operators, threads=2)
    np.testing.assert_array_equal(given[0], before.data)  # others may hold what came in
    np.testing.assert_array_equal(given[1], before.weight)
    inside = (maps.padded_frequencies(acc.radius) ** 2).sum(axis=-1) <= acc.r2_max
    np.testing.assert_allclose(acc.data[inside], data[inside], atol=3e-5)
    np.testing.assert_allclose(acc.weight[inside], weight[inside], atol=3e-5)


def test_identity_leaves_the_sums_alone() -> None:
    acc = random_sums(8, 2, 4)
    before = acc.copy()
    symmetrize(acc, np.eye(3)[None])
    np.testing.assert_array_equal(acc.data, before.data)


def test_symmetrized_sums_are_symmetric_and_heavier() -> None:
    acc = random_sums(12, 2, 6)
    total = acc.weight[acc.radius, acc.radius, 0]
    symmetrize(acc, point_group("D2").operators)
    assert acc.weight[acc.radius, acc.radius, 0] == pytest.approx(4 * total)
    map_ = reconstruct(acc)[1:, 1:, 1:]
    for flips in ((1, 2), (0, 2), (0, 1)):
        np.testing.assert_allclose(np.flip(map_, flips), map_, atol=2e-6 * np.abs(map_).max())


@pytest.mark.parametrize(("pad", "r_max"), [(2, 4), (1, 4), (2, 3), (2, 3.5)])
def test_correlation_of_halves_equals_the_slow_one(pad: int, r_max: float) -> None:
    first, second = random_sums(8, pad, r_max, 1), random_sums(8, pad, r_max, 2)
    second.data += first.data
    np.testing.assert_allclose(fsc_of_halves(first, second), maps.fsc_of_halves(first, second), atol=1e-5)


def test_correlation_with_itself_is_one_and_with_noise_is_none() -> None:
    first, second = random_sums(24, 2, 10, 1), random_sums(24, 2, 10, 2)
    np.testing.assert_allclose(fsc_of_halves(first, first), [1.0] * 11 + [0.0] * 2, atol=1e-6)
    assert np.abs(fsc_of_halves(first, second)[4:]).max() < 0.2


def test_joined_halves_share_the_low_shells_only() -> None:
    first, second = random_sums(12, 2, 6, 1), random_sums(12, 2, 6, 2)
    before = first.copy(), second.copy()
    join_low_resolution(first, second, 3)
    inside = (maps.padded_frequencies(first.radius) ** 2).sum(axis=-1) <= 36
    mean = (before[0].data + before[1].data) / 2
    np.testing.assert_allclose(first.data[inside], mean[inside], rtol=1e-5)
    np.testing.assert_array_equal(first.data[inside], second.data[inside])
    np.testing.assert_array_equal(first.weight[inside], second.weight[inside])
    np.testing.assert_array_equal(first.data[~inside], before[0].data[~inside])
    np.testing.assert_array_equal(second.weight[~inside], before[1].weight[~inside])
    np.testing.assert_allclose(fsc_of_halves(first, second)[:3], 1.0, atol=1e-6)


@pytest.mark.parametrize(
    ("box", "voxel", "resolution", "join", "shells"),
    [
        (256, 1.244531, 53.1, 40.0, 6),
        (256, 1.244531, 20.0, 40.0, 8),
        (64, 3.54, 45.312, 40.0, 6),
        (64, 3.54, 9.06, 0, 0),
    ],
)
def test_join_radius(box: int, voxel: float, resolution: float, join: float, shells: int) -> None:
    assert join_radius(box, voxel, resolution, join) == shells


def test_completeness_counts_voxels_that_outweigh_the_prior() -> None:
    acc = Accumulators.zeros(12, pad=2, r_max=6)
    acc.weight[: acc.radius] = 3.0
    tau2 = np.full(7, 1 / 16)
    completeness = fourier_completeness(acc, tau2)
    assert 0.4 < completeness[4] < 0.5
    np.testing.assert_array_equal(fourier_completeness(acc, tau2 / 2), 0.0)
    np.testing.assert_allclose(fourier_completeness(acc, tau2 / 2, tau2_fudge=2.0), completeness)


def test_density_compensation_evens_out_the_sampling() -> None:
    density = maps.phantom(24)
    inside = maps.radius2(24) < 64
    acc = inserted(density, 2, 100)
    plain, compensated = (reconstruct(acc, skip_gridding=skip) for skip in (True, False))
    true = density.astype(np.float32)
    assert fsc(compensated, true, inside)[3:].mean() > fsc(plain, true, inside)[3:].mean() > 0.99


@pytest.mark.parametrize(
    ("name", "half", "symmetry", "tolerance"),
    [
        ("c1.mrc", None, "C1", 2e-5),
        ("run_half1_class001_unfil.mrc", 1, "C4", 4e-6),
        ("run_half2_class001_unfil.mrc", 2, "C4", 4e-6),
    ],
)
def test_recorded_reconstruction(
    shared_data: Path, name: str, half: int | None, symmetry: str, tolerance: float
) -> None:
    """120 particles, 48 px, by relion_reconstruct 3.1.3 (--ctf --skip_gridding --angpix 3.601).

    It sums in double precision; its single-precision builds differ by 6e-5.
    """
    folder = shared_data / "relion_jobs" / "reconstruct"
    acc = relion_jobs.insert_particles(folder, half, voxel_size_A=3.601)
    complete_hermitian(acc)
    symmetrize(acc, point_group(symmetry).operators)
    np.testing.assert_allclose(reconstruct(acc), relion_jobs.read_map(folder / name), atol=tolerance)


def test_recorded_noise_variance_and_correlation(shared_data: Path) -> None:
    """The correlation of the accumulated halves follows that of the reconstructed half maps."""
    folder = shared_data / "relion_jobs" / "reconstruct"
    halves = []
    for half in (1, 2):
        acc = relion_jobs.insert_particles(folder, half, voxel_size_A=3.601)
        complete_hermitian(acc)
        symmetrize(acc, point_group("C4").operators)
        halves.append(acc)
    curve = fsc(*(reconstruct(acc) for acc in halves))
    np.testing.assert_allclose(fsc_of_halves(*halves)[:12], curve[:12], atol=0.1)
