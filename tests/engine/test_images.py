from __future__ import annotations

import numpy as np
import pytest
from oracles import imaging

from napari_autorefine.engine import images as steps
from napari_autorefine.engine.masking import circular_background, spherical_background
from napari_autorefine.engine.samples import fourier_samples


def noise(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def power_per_shell(image: np.ndarray) -> np.ndarray:
    """Power of the independent coefficients of an image per shell up to N / 2, by the direct transform."""
    n_shell = len(image) // 2 + 1
    index, counts = imaging.plane(len(image), image.ndim)
    power = np.abs(imaging.coefficients(image, index[counts])) ** 2
    shell = imaging.shells(index[counts])
    return np.bincount(shell[shell < n_shell], weights=power[shell < n_shell], minlength=n_shell)


def test_images_move_gain_and_mask_as_pixel_by_pixel() -> None:
    images, shifts = noise(4, 12, 12) + np.float32(0.3), np.array([[0, 0], [3, -2], [-5, 1], [14, 0]])
    gains, outside = np.array([1.0, 2.0, 0.5, 1.0]), circular_background(12, 3.2, 2.0)
    np.testing.assert_allclose(outside, imaging.background(12, 3.2, 2.0), atol=1e-6)
    masked, moved = steps.move_and_mask(images, shifts, gains, outside)
    for i, image in enumerate(images):
        expected = gains[i] * imaging.moved(image, shifts[i])
        np.testing.assert_allclose(moved[i], expected, atol=1e-6)
        np.testing.assert_allclose(masked[i], imaging.masked(expected, outside), atol=1e-6)


def test_volumes_move_gain_and_mask_as_voxel_by_voxel() -> None:
    volumes, shifts = noise(3, 10, 10, 10) + np.float32(0.3), np.array([[0, 0, 0], [3, -2, 1], [0, 1, -10]])
    gains, outside = np.array([1.0, 2.0, 0.5]), spherical_background(10, 2.7, 2.0)
    np.testing.assert_allclose(outside, imaging.background(10, 2.7, 2.0, 3), atol=1e-6)
    masked, moved = steps.move_and_mask(volumes, shifts, gains, outside)
    for i, volume in enumerate(volumes):
        expected = gains[i] * imaging.moved(volume, shifts[i])
        np.testing.assert_allclose(moved[i], expected, atol=1e-6)
        np.testing.assert_allclose(masked[i], imaging.masked(expected, outside), atol=1e-6)


def test_a_given_fill_goes_behind_the_mask() -> None:
    images, fill, outside = noise(2, 12, 12), noise(2, 12, 12, seed=2), circular_background(12, 3.0, 2.0)
    masked, _ = steps.move_and_mask(images, np.zeros((2, 2), int), np.ones(2), outside, fill=fill)
    np.testing.assert_allclose(masked, (1 - outside) * images + outside * fill, atol=1e-6)


def test_the_input_images_stay_as_they_are() -> None:
    images = noise(2, 12, 12)
    before = images.copy()
    steps.move_and_mask(images, np.array([[1, 2], [0, 0]]), np.full(2, 3.0), circular_background(12, 3.0, 2.0))
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("box_size", [16, 17])
def test_half_transforms_are_centered_and_normalised(box_size: int) -> None:
    images = noise(2, box_size, box_size)
    index, _ = imaging.plane(box_size)
    index = index[index[:, 0] >= 0]
    for image, transform in zip(images, steps.half_transforms(images), strict=True):
        found = transform[index[:, 1] % box_size, index[:, 0]]
        np.testing.assert_allclose(found, imaging.coefficients(image, index), atol=1e-7)


def test_a_delta_at_the_center_has_a_flat_real_transform() -> None:
    image = np.zeros((1, 16, 16), np.float32)
    image[0, 8, 8] = 256.0
    np.testing.assert_allclose(steps.half_transforms(image), 1.0, atol=1e-6)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("box_size", [12, 13])
@pytest.mark.parametrize("size", [6, 11, 12])
def test_power_inside_and_outside_the_disc_is_the_power_of_the_image(box_size: int, size: int, dim: int) -> None:
    images, samples = noise(2, *(box_size,) * dim), fourier_samples(box_size, size, 6, dim=dim)
    transforms = steps.half_transforms(images)
    inside = np.abs(steps.samples_of(transforms, samples)) ** 2
    outside = steps.outer_power(transforms, samples)
    n_shell = box_size // 2 + 1
    for image, near, far in zip(images, inside, outside, strict=True):
        total = np.bincount(samples.shell, weights=near, minlength=n_shell) + far
        np.testing.assert_allclose(total, power_per_shell(image), rtol=1e-5)
    ones = np.ones(transforms.shape, np.float32)
    sums = np.bincount(samples.shell, minlength=n_shell) + steps.outer_sums(ones, samples)
    np.testing.assert_allclose(sums[0], steps.coefficient_count(box_size, dim), rtol=1e-6)


@pytest.mark.parametrize("box_size", [16, 17, 20])
def test_coefficients_are_counted_once(box_size: int) -> None:
    index, counts = imaging.plane(box_size)
    shell = imaging.shells(index[counts])
    expected = np.bincount(shell)[: box_size // 2 + 1]
    np.testing.assert_array_equal(steps.coefficient_count(box_size), expected)


@pytest.mark.parametrize("dim", [2, 3])
def test_noise_images_have_the_spectrum_they_are_asked_for_and_depend_on_their_seed_alone(dim: int) -> None:
    size, n = (16, 400) if dim == 2 else (10, 60)
    shape, sigma2 = (size,) * dim, np.linspace(2.0, 0.5, size // 2 + 1) / size**dim
    images = steps.noise_images(sigma2, shape, np.arange(n))
    index, counts = imaging.plane(size, dim)
    chosen = counts & (index[:, 0] > 0) & (index[:, 0] < size // 2)
    where = tuple(axis % size for axis in index[chosen].T[::-1])
    transforms = steps.half_transforms(images)[:, *where]
    shell = imaging.shells(index[chosen])
    for k in range(1, size // 2):
        found = 0.5 * np.mean(np.abs(transforms[:, shell == k]) ** 2)
        assert found == pytest.approx(sigma2[k], rel=0.1)
    np.testing.assert_array_equal(steps.noise_images(sigma2, shape, np.array([7]))[0], images[7])
