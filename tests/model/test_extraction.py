"""Pixel operations of the extraction against plain float64 formulas."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import micrographs as oracle

from napari_autorefine.model.extraction import (
    CtfFilter,
    PixelSteps,
    crop,
    cut_particles,
    cut_windows,
    make_background,
    normalise,
    replace_dust,
    rescale,
)


def steps(box: int = 32, **changes: object) -> PixelSteps:
    values = {"box_size": box, "ctf_box_size": box, "scale_size": box, "window_size": box} | changes
    return PixelSteps(**values)


@pytest.fixture
def micrograph() -> np.ndarray:
    rng = np.random.default_rng(3)
    image = rng.normal(200.0, 5.0, (150, 210)) + np.linspace(0, 20, 210) + np.linspace(0, -9, 150)[:, None]
    return image.astype(np.float32)


CENTERS = np.array([[100, 70], [3, 5], [-15, 60], [200, 149], [225, 20], [209, 0]])


def test_windows_hold_the_pixels_of_the_micrograph_and_repeat_its_edges(micrograph: np.ndarray) -> None:
    images, offsets = cut_windows(micrograph, CENTERS, 32, is_centered=False)
    assert not offsets.any()
    for image, (x, y) in zip(images, CENTERS, strict=True):
        np.testing.assert_array_equal(image, oracle.window(micrograph, x, y, 32))


def test_an_even_box_reaches_one_pixel_further_to_the_left() -> None:
    row = np.tile(np.arange(1024, dtype=np.float32), (4, 1))
    (image,), _ = cut_windows(row, np.array([[33, 2]]), 100, is_centered=False)
    assert image[0, 0] == image[0, 17] == 0 and image[0, 18] == 1 and image[0, 99] == 82
    (image,), _ = cut_windows(row, np.array([[-49, 2]]), 100, is_centered=False)
    assert not image.any()
    (image,), _ = cut_windows(row, np.array([[1073, 2]]), 100, is_centered=False)
    assert (image == 1023).all()


def test_what_is_subtracted_for_precision_is_near_the_mean_and_told(micrograph: np.ndarray) -> None:
    plain, _ = cut_windows(micrograph, CENTERS, 32, is_centered=False)
    images, offsets = cut_windows(micrograph, CENTERS, 32)
    np.testing.assert_allclose(images + offsets[:, None, None], plain, atol=2e-5)
    assert np.abs(images.mean(axis=(1, 2))).max() < 10.0


@pytest.mark.parametrize(("box", "size"), [(32, 24), (36, 14), (30, 28), (64, 32), (22, 2)])
def test_resampling_crops_the_transform(box: int, size: int) -> None:
    images = np.random.default_rng(box).normal(3.0, 1.0, (3, box, box)).astype(np.float32)
    new = rescale(images, size)
    assert new.dtype == np.float32
    for one, image in zip(new, images, strict=True):
        np.testing.assert_allclose(one, oracle.rescaled(image.astype(float), size), atol=3e-6)
    np.testing.assert_allclose(new.mean(axis=(1, 2)), images.mean(axis=(1, 2)), rtol=1e-6)


def test_cropping_keeps_the_center_in_the_center() -> None:
    image = np.zeros((1, 20, 20), np.float32)
    image[0, 10, 10] = 1.0
    assert crop(image, 12)[0, 6, 6] == 1.0


@pytest.mark.parametrize("radius", [0, 5, 11.3, 15.9])
@pytest.mark.parametrize("has_ramp", [True, False])
def test_the_background_gets_mean_0_and_deviation_1(micrograph: np.ndarray, radius: float, has_ramp: bool) -> None:
    images, _ = cut_windows(micrograph, CENTERS[:2], 32)
    wanted = [oracle.normalised(oracle.window(micrograph, x, y, 32), radius, ramp=has_ramp) for x, y in CENTERS[:2]]
    assert normalise(images, make_background(32, radius), is_ramp_removed=has_ramp) == 0
    np.testing.assert_allclose(images, wanted, atol=3e-6)


def test_the_background_lies_beyond_the_radius() -> None:
    background = make_background(16, 5.0)
    y, x = np.mgrid[:16, :16] - 8
    np.testing.assert_array_equal(background.mask, x**2 + y**2 > 25)
    assert background.count == background.mask.sum()
    assert make_background(16, 0).count == 255


def test_grey_values_far_from_zero_lose_nothing(micrograph: np.ndarray) -> None:
    far = micrograph - np.float32(200.0) + np.float32(2.0**14)
    settings = steps(scale_size=24, window_size=24, background_radius_px=9.0, is_inverted=True)
    images, _ = cut_particles(far, CENTERS, settings, background=make_background(24, 9.0))
    for image, (x, y) in zip(images, CENTERS, strict=True):
        if 0 <= x < 205:  # boxes beyond the edge are nearly flat
            wanted = -oracle.normalised(oracle.rescaled(oracle.window(far, x, y, 32), 24), 9.0)
            np.testing.assert_allclose(image, wanted, atol=1e-5)


def test_a_flat_image_is_counted_and_not_scaled() -> None:
    settings = steps(background_radius_px=10.0)
    flat = np.full((60, 60), 7.0, np.float32)
    images, n_flat = cut_particles(flat, np.array([[30, 30]]), settings, background=make_background(32, 10.0))
    assert n_flat == 1
    assert not images.any()


def test_without_normalisation_grey_values_stay(micrograph: np.ndarray) -> None:
    images, _ = cut_particles(micrograph, CENTERS[:1], steps(scale_size=20, window_size=16, is_inverted=True))
    wanted = -oracle.rescaled(oracle.window(micrograph, *CENTERS[0], 32), 20)[2:18, 2:18]
    np.testing.assert_allclose(images[0], wanted, rtol=1e-6)


@pytest.mark.parametrize("large", [32, 48])
def test_transfer_functions_act_before_the_edges_are_repeated(micrograph: np.ndarray, large: int) -> None:
    rng = np.random.default_rng(large)
    values = np.cos(rng.normal(size=(2, large, large // 2 + 1))).astype(np.float32)
    index = np.array([0, 1, 0, 1, 0, 1])
    mean = float(micrograph.mean(dtype=np.float64))
    images, _ = cut_particles(
        micrograph, CENTERS, steps(ctf_box_size=large), transfer=CtfFilter(values=values, index=index, mean=mean)
    )
    for image, number, (x, y) in zip(images, index, CENTERS, strict=True):
        np.testing.assert_allclose(
            image, oracle.filtered_window(micrograph, x, y, (32, large), values[number]), atol=1e-4
        )


def test_dust_is_replaced_by_noise_like_the_background() -> None:
    rng = np.random.default_rng(1)
    images = rng.normal(10.0, 2.0, (2, 32, 32)).astype(np.float32)
    images[0, 3, 4], images[0, 16, 16], images[1, 5, 5] = 90.0, 80.0, -60.0
    before, background = images.copy(), make_background(32, 12.0)
    settings = steps(white_dust=6.0, black_dust=6.0)
    assert replace_dust(images, background, settings, np.array([5, 6])) == 3
    changed = np.argwhere(images != before).tolist()
    assert changed == [[0, 3, 4], [0, 16, 16], [1, 5, 5]]
    assert np.abs(images - 10.0).max() < 20.0
    again = before.copy()
    replace_dust(again, background, settings, np.array([5, 6]))
    np.testing.assert_array_equal(again, images)


def test_only_the_dust_that_is_asked_for_is_replaced() -> None:
    images = np.random.default_rng(1).normal(0.0, 1.0, (1, 32, 32)).astype(np.float32)
    images[0, 2, 2], images[0, 3, 3] = 50.0, -50.0
    replace_dust(images, make_background(32, 12.0), steps(white_dust=5.0), np.array([0]))
    assert images[0, 2, 2] < 10.0
    assert images[0, 3, 3] == -50.0
