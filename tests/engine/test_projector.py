"""The padded transform of a map against direct sums, and what a slice of it means."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import maps

from napari_autorefine.engine.projector import make_reference, padded_size

CASES = [(12, 2, 6), (12, 1, 6), (12, 2, 3), (12, 1, 4), (12, 2, 4.5), (10, 2, 5)]


def noise(size: int) -> np.ndarray:
    return np.random.default_rng(size).standard_normal((size,) * 3).astype(np.float32)


@pytest.mark.parametrize(("size", "pad", "r_max"), CASES)
@pytest.mark.parametrize("is_corrected", [True, False])
def test_every_coefficient_is_the_direct_sum(size: int, pad: int, r_max: float, is_corrected: bool) -> None:
    map_ = noise(size)
    reference = make_reference(map_, pad=pad, r_max=r_max, gridding_correct=is_corrected)
    points = maps.padded_frequencies((len(reference.data) - 1) // 2)
    density = map_ / maps.sinc2(size, pad) if is_corrected else map_
    expected = maps.transform(density, points / pad) / size**2
    expected[(points**2).sum(axis=-1) > reference.r2_max] = 0
    np.testing.assert_allclose(reference.data, expected, atol=3e-6 * np.abs(expected).max())


@pytest.mark.parametrize(("size", "pad", "r_max"), CASES)
def test_layout(size: int, pad: int, r_max: float) -> None:
    reference = make_reference(noise(size), pad=pad, r_max=r_max)
    radius = int(np.ceil(pad * r_max)) + 1
    assert reference.data.shape == (2 * radius + 1, 2 * radius + 1, radius + 2)
    assert reference.data.dtype == np.complex64
    assert (reference.pad, reference.r_max, reference.box_size) == (pad, r_max, size)


@pytest.mark.parametrize("pad", [1, 2])
def test_the_central_plane_is_the_transform_of_the_projection(pad: int) -> None:
    size = 12
    map_ = noise(size)
    reference = make_reference(map_, pad=pad, r_max=size // 2, gridding_correct=False)
    radius = (len(reference.data) - 1) // 2
    image = np.fft.fft2(np.fft.ifftshift(map_.sum(axis=0))) / size**2
    for ky, kx in ((0, 0), (0, 3), (-2, 4), (5, 1)):
        assert reference.data[radius, radius + pad * ky, pad * kx] == pytest.approx(image[ky, kx], abs=1e-6)


def test_subtomograms_see_the_transform_of_the_map() -> None:
    map_ = noise(12)
    image, volume = (make_reference(map_, pad=2, r_max=6, data_dim=dim) for dim in (2, 3))
    np.testing.assert_allclose(volume.data * 12, image.data, atol=1e-6)


def test_threads_change_nothing() -> None:
    first, second = (make_reference(noise(12), pad=2, r_max=6, threads=threads) for threads in (1, 3))
    np.testing.assert_array_equal(first.data, second.data)


def test_the_map_is_not_changed() -> None:
    map_ = noise(12)
    before = map_.copy()
    make_reference(map_, pad=2, r_max=6)
    np.testing.assert_array_equal(map_, before)


def test_frequencies_beyond_half_of_the_box_are_refused() -> None:
    with pytest.raises(ValueError, match="half of the box"):
        make_reference(noise(12), pad=2, r_max=7)


@pytest.mark.parametrize(("box", "pad", "size"), [(12, 2, 24), (12, 1, 12), (64, 2, 128)])
def test_padded_size_is_even(box: int, pad: int, size: int) -> None:
    assert padded_size(box, pad) == size
