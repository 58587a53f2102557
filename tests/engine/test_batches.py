"""Many particles at once, as devices search them, give what one after the other gives."""

from __future__ import annotations

import numpy as np
import pytest

from napari_autorefine.engine import batch_weights, expectation, second_pass
from napari_autorefine.engine.batch_first import similar
from napari_autorefine.engine.batch_pose import ResidentGrid, kernel_matrices
from napari_autorefine.engine.batch_shifts import Trials, correlations, log_likelihoods
from napari_autorefine.engine.context import SearchGrid
from napari_autorefine.engine.grids import make_orientation_grid
from napari_autorefine.engine.images import move_and_mask
from napari_autorefine.engine.mean_pose import limits, mean_pose
from napari_autorefine.engine.samples import fourier_samples
from napari_autorefine.engine.selection import largest_weights
from napari_autorefine.engine.shifts import shift_basis
from napari_autorefine.engine.state import Sampling
from napari_autorefine.kernels.mean_poses import mean_poses
from napari_autorefine.model.symmetry import point_group


def log_scores(sharpness: float) -> np.ndarray:
    """Scores (6, 40, 9), the last 10 orientations of every second particle left out."""
    scores = (sharpness * np.random.default_rng(1).standard_normal((6, 40, 9))).astype(np.float32)
    scores[::2, 30:] = -np.inf
    return scores


@pytest.mark.parametrize("max_count", [-1, 1, 7, 5000])
@pytest.mark.parametrize("fraction", [0.5, 0.999])
@pytest.mark.parametrize("sharpness", [0.1, 3.0, 40.0])
def test_the_significant_samples_are_those_of_each_particle(sharpness: float, fraction: float, max_count: int) -> None:
    scores = log_scores(sharpness)
    found, total, top = batch_weights.significant(scores.copy(), fraction, max_count)
    for own, other, own_total, own_top in zip(scores, found, total, top, strict=True):
        kept = largest_weights(own, fraction, max_count)
        expected = np.zeros_like(own)
        expected[np.ix_(kept.rows, kept.columns)] = kept.weights
        np.testing.assert_array_equal(other > 0, expected > 0)
        np.testing.assert_allclose(other, expected, rtol=1e-6)
        assert own_total == pytest.approx(kept.total, rel=1e-6) and own_top == kept.top


@pytest.mark.parametrize("most", [1, 5, 20, 30, 1000])
@pytest.mark.parametrize("sharpness", [0.1, 2.0, 5.0])
def test_the_orientations_refined_are_those_of_each_particle(sharpness: float, most: int) -> None:
    scores = log_scores(sharpness)
    scores[1, 25:] = -np.inf  # fits fewer than others
    scores[5, 3:] = -np.inf
    scores[4, 8] += 8  # fits one by far best
    weights, _, _ = batch_weights.significant(scores.copy(), 0.999)
    numbers, particles = np.random.default_rng(3).permutation(1000)[:240].reshape(6, 40), np.arange(6) * 7
    kept = batch_weights.keep(weights, most, numbers, particles)
    n_fit = (weights > 0).any(axis=2).sum(axis=1)
    np.testing.assert_array_equal(kept.n_rotation[n_fit <= most], n_fit[n_fit <= most])
    for i, own in enumerate(scores):
        choice = {"winner_takes_all": False, "fraction": 0.999, "max_count": -1, "most": most}
        expected = expectation.significant(own, **choice, identity=(numbers[i], int(particles[i])))
        assert kept.n_rotation[i] == len(expected.rotations)
        n_r, n_s = kept.n_rotation[i], kept.n_shift[i]
        np.testing.assert_array_equal(kept.positions[i, :n_r], expected.rotations)
        np.testing.assert_array_equal(kept.shifts[i, :n_s], expected.shifts)
        np.testing.assert_array_equal(kept.pairs[i, :n_r][:, expected.shifts], expected.pairs)
        assert kept.count[i] == expected.count and not kept.pairs[i, n_r:].any()
        np.testing.assert_allclose(kept.log_factor[i, :n_r], expected.log_factor, rtol=1e-5, atol=1e-6)
        assert np.isfinite(kept.log_factor[i]).all() and kept.log_factor.dtype == np.float32
        if n_fit[i] <= most:
            assert not kept.log_factor[i, :n_r].any()


@pytest.mark.parametrize("most", [5, 30, 64])
def test_representatives_are_those_of_each_particle(most: int) -> None:
    weights = np.random.default_rng(2).exponential(size=(4, 60, 7)).astype(np.float32)
    weights[::2, 20:] = 0
    weights /= weights.sum(axis=(1, 2), keepdims=True)
    chosen, found = batch_weights.representatives(weights, most)
    for i in range(4):
        kept = np.flatnonzero(weights[i].sum(axis=1) > 0)
        rows, expected = second_pass._representatives(weights[i][kept], weights[i][kept].sum(axis=1), most)
        own = found[i].sum(axis=1) > 0
        np.testing.assert_array_equal(chosen[i][own], kept[rows])
        np.testing.assert_allclose(found[i][own], expected, rtol=1e-5)


def test_the_winner_takes_all_of_each_particle() -> None:
    scores = log_scores(1.0)
    weights, top = batch_weights.only_winners(scores)
    assert np.all(weights.sum(axis=(1, 2)) == 1)
    np.testing.assert_array_equal(top, scores.max(axis=(1, 2)))
    np.testing.assert_array_equal((weights * np.where(np.isfinite(scores), scores, 0)).sum(axis=(1, 2)), top)


def grid_of(order: int) -> SearchGrid:
    group = point_group("D2")
    sampling = Sampling(
        symmetry="D2", healpix_order=order, psi_step_deg=15.0, offset_range_A=6.0, offset_step_A=3.0,
        perturbation=0.31, is_local=False, sigma_angle_deg=10.0, is_3d_translation=False,
    )  # fmt: skip
    return SearchGrid.from_sampling(sampling, make_orientation_grid(order, group))


def test_rotations_of_a_grid_are_the_same_on_a_device() -> None:
    grid, chosen = grid_of(2), np.array([0, 5, 77, 400])
    resident, orientations = ResidentGrid.of(grid, None), grid.orientations
    dir_idx, psi_idx = np.divmod(chosen, orientations.n_psi)
    coarse = orientations.coarse_matrices(dir_idx, psi_idx, grid.perturbation)
    np.testing.assert_allclose(resident.coarse_rotations(chosen), coarse, atol=1e-14)
    children = orientations.child_matrices(dir_idx, psi_idx, grid.perturbation)
    found = resident.child_rotations(8 * chosen[:, None] + np.arange(8))
    np.testing.assert_allclose(found, children, atol=1e-14)
    turn = np.array([[2.0, 0.1, 0], [-0.1, 2.1, 0], [0, 0, 2]])
    expected = (np.swapaxes(coarse, 1, 2) @ turn).astype(np.float32)
    np.testing.assert_allclose(kernel_matrices(resident.coarse_rotations(chosen), turn), expected, atol=1e-6)


def test_mean_poses_are_those_of_each_particle() -> None:
    grid, rng = grid_of(1), np.random.default_rng(3)
    orientations = grid.orientations
    chosen = rng.integers(0, orientations.n_orientation, size=(5, 12))
    rotations = ResidentGrid.of(grid, None).child_rotations(
        8 * np.repeat(chosen, 8, axis=1) + np.tile(np.arange(8), 12)
    )
    shifts = np.array([rng.permutation(grid.fine_shifts_A.reshape(-1, 2))[:20] for _ in range(5)])
    weights = rng.exponential(size=(5, 96, 20)).astype(np.float32)
    weights[:, 80:], weights[:, :, 17:] = 0, 0
    steps, operators = (0.5 * orientations.step_deg, grid.fine_step_A), orientations.group.operators
    found, found_shifts = mean_poses(rotations, shifts, weights, operators, limits(steps))
    for i in range(5):
        expected, shift = mean_pose(rotations[i, :80], shifts[i, :17], weights[i, :80, :17], operators, steps)
        np.testing.assert_allclose(found[i], expected, atol=1e-6)
        np.testing.assert_allclose(found_shifts[i], shift, atol=1e-5)


@pytest.mark.parametrize("n_shift", [3, 49])
def test_trials_are_those_of_each_particle(n_shift: int) -> None:
    """49 shifts of half a pixel have a basis of fewer functions, 3 are cheaper as they are."""
    rng, samples = np.random.default_rng(4), fourier_samples(32, 12, 12)
    axis = 0.5 * np.arange(-3, 4)
    basis = shift_basis(samples, np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2), slice(None))
    assert basis.functions is not None and len(basis.functions) < 40
    images, slices = (
        rng.standard_normal((*shape, 2 * samples.n_sample)).astype(np.float32).view(np.complex64)
        for shape in ((3,), (3, 10))
    )
    contrast, weight = rng.uniform(0.5, 2, (2, 3, samples.n_sample)).astype(np.float32)
    shifts = np.array([rng.permutation(49)[:n_shift] for _ in range(3)])
    trials = Trials.at(basis, images, shifts)
    scores = log_likelihoods(slices, trials, contrast, weight)
    matches = correlations(slices, trials, images, contrast, weight)
    weights = rng.uniform(size=(3, 10, n_shift)).astype(np.float32)
    averaged, cross = trials.averaged(weights, contrast), trials.correlation(slices, weights)
    for i in range(3):
        own = basis.of(images[i], shifts[i])
        close = {"rtol": 1e-4, "atol": 1e-3}
        np.testing.assert_allclose(
            scores[i], expectation.log_likelihoods(slices[i], own, contrast[i], weight[i]), **close
        )
        expected = expectation.correlations(slices[i], own, images[i], contrast[i], weight[i])
        np.testing.assert_allclose(matches[i], expected, **close)
        np.testing.assert_allclose(averaged[i], own.times(contrast[i]).averaged(weights[i]), **close)
        np.testing.assert_allclose(cross[i], own.correlation(slices[i], weights[i]), **close)
    whole = Trials.at(basis, images)
    np.testing.assert_allclose(
        whole.products(slices, contrast)[1], basis.of(images[1]).scores(slices[1], contrast[1]), rtol=1e-4, atol=1e-3
    )


def test_groups_hold_what_is_alike_and_fits() -> None:
    sizes = np.array([10, 800, 12, 790, 11, 5000, 9, 300])
    groups = similar(sizes, 100 * sizes, room=200_000, spare=0)
    assert sorted(np.concatenate(groups).tolist()) == list(range(8))
    assert [sorted(own.tolist()) for own in groups] == [[5], [1, 3], [7], [0, 2, 4, 6]]
    assert all(len(own) == 1 for own in similar(sizes, 100 * sizes, room=1))
    assert [len(own) for own in similar(sizes, 100 * sizes, room=10**9, spare=100_000)] == [1, 3, 4]
    assert len(similar(sizes, 100 * sizes, room=10**9)) == 1


@pytest.mark.parametrize("dim", [2, 3])
def test_images_are_moved_at_once_as_one_by_one(dim: int) -> None:
    """The host moves image by image; what devices do is written with indices, here as a plain formula."""
    rng = np.random.default_rng(5)
    images = rng.standard_normal((4, *[8] * dim)).astype(np.float32)
    shifts, gains = rng.integers(-9, 10, (4, dim)), rng.uniform(0.5, 2, 4)
    _, moved = move_and_mask(images, shifts, gains, np.zeros([8] * dim, np.float32))
    for i, voxel in np.ndenumerate(np.empty((4, 8))):
        place = (i[1],) * dim
        source = tuple(int(p - s) for p, s in zip(place, shifts[i[0], ::-1], strict=True))
        inside = all(0 <= s < 8 for s in source)
        expected = images[(i[0], *source)] * np.float32(gains[i[0]]) if inside else 0.0
        assert moved[(i[0], *place)] == pytest.approx(expected), voxel
