"""Intensities of single particles: recovered where they differ, left alone where they do not."""

from __future__ import annotations

import numpy as np
import pytest

from napari_autorefine.engine.intensity import shrunken_intensities


def sums(true: np.ndarray, power: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums (cross, power) of particles of known intensity under the model's own noise."""
    noise = np.random.default_rng(seed).normal(size=len(true))
    return true * power + np.sqrt(power) * noise, power


def test_equal_intensities_stay_almost_equal_whatever_the_noise() -> None:
    power = np.random.default_rng(1).uniform(2.0, 60.0, 3000)
    found = shrunken_intensities(*sums(np.full(3000, 0.8), power, 2))
    assert found.std() < 0.05
    np.testing.assert_allclose(found.mean(), 1.0)


def test_empty_images_among_good_ones_are_found() -> None:
    rng = np.random.default_rng(3)
    true = np.where(rng.uniform(size=2000) < 0.3, 0.1, 1.0)
    found = shrunken_intensities(*sums(true, rng.uniform(60.0, 120.0, 2000), 4))
    expected = true / true.mean()
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.2
    assert found[true < 0.5].max() < found[true > 0.5].mean()


def test_a_shrunken_estimate_is_closer_to_the_truth_than_the_raw_one() -> None:
    rng = np.random.default_rng(5)
    true, power = np.clip(rng.normal(1.0, 0.3, 2000), 0.05, 3.0), rng.uniform(3.0, 12.0, 2000)
    cross, power = sums(true, power, 6)
    found, raw = shrunken_intensities(cross, power), cross / power
    assert np.mean((found - true) ** 2) < 0.6 * np.mean((raw - true) ** 2)


@pytest.mark.parametrize("power", [np.zeros(5), np.array([0.0, 0.0, 3.0, 0.0, 0.0])])
def test_without_information_all_are_1(power: np.ndarray) -> None:
    np.testing.assert_array_equal(shrunken_intensities(np.zeros(5), power), np.ones(5))
