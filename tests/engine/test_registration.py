"""The offset between a map and a mask, with shifts that are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from napari_autorefine.engine.masking import background_profile
from napari_autorefine.engine.registration import MaskOverlap, correlation_peak, mask_offset, moved


def body(size: int, seed: int = 0, n_blobs: int = 14) -> np.ndarray:
    """An asymmetric body of blobs around the centre of a box, (size, size, size) float32."""
    rng = np.random.default_rng(seed)
    axis = np.arange(size) - size // 2
    density = np.zeros((size,) * 3)
    for _ in range(n_blobs):
        z, y, x = rng.normal(0, size / 11, 3)
        width = rng.uniform(0.03, 0.05) * size
        blobs = (np.exp(-((axis - c) ** 2) / (2 * width**2)) for c in (z, y, x))
        density += rng.uniform(0.5, 1.5) * np.einsum("z,y,x->zyx", *blobs)
    return density.astype(np.float32)


def soft_mask(density: np.ndarray, threshold: float, extend: float = 2.0, edge: float = 4.0) -> np.ndarray:
    """Threshold, extend, soft edge: what programs make masks by."""
    distance = distance_transform_edt(density < threshold * density.max())
    return (1.0 - background_profile(distance, extend, edge)).astype(np.float32)


@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (0.0, 0.0, 2.75), (1.3, -0.6, -3.4)])
@pytest.mark.parametrize("threshold", [0.15, 0.4])
def test_a_known_shift_is_found_to_a_twentieth_of_a_voxel(shift: tuple[float, float, float], threshold: float) -> None:
    density = body(40, seed=1)
    found = mask_offset(moved(density, np.array(shift)), soft_mask(density, threshold))
    np.testing.assert_allclose(found.shift_px, shift, atol=0.05)
    assert found.score > 0.98


@pytest.mark.parametrize("size", [45, 72])
def test_odd_boxes_and_boxes_larger_than_the_search_grid(size: int) -> None:
    density, shift = body(size, seed=2), np.array([-1.2, 0.7, 2.75])
    found = mask_offset(moved(density, shift), soft_mask(density, 0.2))
    np.testing.assert_allclose(found.shift_px, shift, atol=0.1)


def test_noise_hardly_matters() -> None:
    density, shift = body(40, seed=3), np.array([0.4, -2.2, 2.75])
    noise = np.random.default_rng(0).standard_normal(density.shape).astype(np.float32)
    found = mask_offset(moved(density, shift) + 0.3 * density.std() * noise, soft_mask(density, 0.2))
    np.testing.assert_allclose(found.shift_px, shift, atol=0.1)


def test_a_layer_beside_the_masked_body_does_not_attract_the_mask() -> None:
    size = 48
    axis = np.arange(size) - size // 2
    disc = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 7.0**2))
    hexagon = sum(
        np.exp(-((axis[:, None] - 8 * np.sin(t)) ** 2 + (axis - 8 * np.cos(t)) ** 2) / (2 * 2.5**2))
        for t in np.arange(6) * np.pi / 3
    )
    wanted = np.exp(-((axis - 2) ** 2) / (2 * 3.5**2))[:, None, None] * np.asarray(hexagon)
    layer = 0.6 * np.exp(-((axis + 13) ** 2) / (2 * 1.5**2))[:, None, None] * disc
    mask, shift = soft_mask(wanted, 0.15), np.array([0.0, 0.0, 2.75])
    found = mask_offset(moved((wanted + layer).astype(np.float32), shift), mask)
    np.testing.assert_allclose(found.shift_px, shift, atol=0.15)


def test_another_shape_scores_low() -> None:
    ball = soft_mask(-np.sqrt(sum(a**2 for a in np.ogrid[-20:20, -20:20, -20:20])) + 20.0, 0.7)
    rod = np.zeros((40, 40, 40), np.float32)
    rod[4:36, 18:22, 18:22] = 1.0
    assert mask_offset(rod, ball).score < 0.7 < mask_offset(ball, ball).score


def test_moving_is_exact_and_undone_by_the_opposite() -> None:
    density = body(24, seed=4)
    np.testing.assert_allclose(moved(density, np.array([1, 2, -3])), np.roll(density, (-3, 2, 1), (0, 1, 2)), atol=1e-5)
    shift = np.array([0.3, -1.7, 2.75])
    np.testing.assert_allclose(moved(moved(density, shift), -shift), density, atol=5e-3)


def test_the_peak_of_a_correlation_is_found_between_voxels() -> None:
    size, shift = 24, np.array([2.31, -5.62, 0.17])
    spectrum = np.fft.rfftn(body(size, seed=5))
    value, found = correlation_peak(np.fft.rfftn(moved(body(size, seed=5), shift)) * np.conj(spectrum), size)
    np.testing.assert_allclose(found, shift, atol=2e-3)
    assert value == pytest.approx(float((body(size, seed=5) ** 2).sum()), rel=1e-3)


def test_the_overlap_is_largest_at_the_shift_that_is_found() -> None:
    density, shift = body(40, seed=1), np.array([0.6, -1.3, 2.75])
    map_, mask = moved(density, shift), soft_mask(density, 0.15)
    overlap, found = MaskOverlap(map_, mask), mask_offset(map_, mask)
    best = overlap.score(shift)
    assert best == pytest.approx(found.score, abs=0.01)
    scores = [overlap.score(fraction * shift) for fraction in (0.0, 0.4, 0.8)]
    assert scores == sorted(scores) and scores[-1] < best
    assert overlap.score(-shift) < scores[0]


def test_the_overlap_of_a_larger_box_counts_in_voxels_of_the_map() -> None:
    density, shift = body(64, seed=2), np.array([-4.0, 2.0, 3.0])
    overlap = MaskOverlap(moved(density, shift), soft_mask(density, 0.15))
    assert overlap.score(shift) > overlap.score(0.7 * shift) > overlap.score(0.4 * shift)
    assert overlap.score(shift) > 0.95
