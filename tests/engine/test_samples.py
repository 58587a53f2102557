from __future__ import annotations

import numpy as np
import pytest
from oracles import imaging

from napari_autorefine.engine import images as steps
from napari_autorefine.engine.samples import fourier_samples


@pytest.mark.parametrize("box_size", [16, 17, 20])
@pytest.mark.parametrize(("size", "coarse_size"), [(16, 6), (12, 12), (10, 20), (16, 5)])
def test_samples_are_the_independent_coefficients_of_a_disc_the_coarse_disc_first(
    box_size: int, size: int, coarse_size: int
) -> None:
    samples = fourier_samples(box_size, size, coarse_size)
    index, counts = imaging.plane(box_size)
    radius = np.hypot(*index.T)
    expected = {tuple(k) for k in index[counts & (radius <= size / 2)]}
    found = list(zip(samples.x.tolist(), samples.y.tolist(), strict=True))
    assert found[0] == (0, 0)
    assert len(found) == samples.n_sample == len(set(found))
    assert set(found) == expected
    assert set(found[: samples.n_coarse]) == {tuple(k) for k in index[counts & (radius <= min(size, coarse_size) / 2)]}
    assert np.array_equal(samples.shell, imaging.shells(np.array(found)))


@pytest.mark.parametrize("size", [7, 16, 20])
def test_rows_walk_along_the_samples(size: int) -> None:
    samples = fourier_samples(20, size, 8)
    walked = [(x + j, y) for z, y, x, n, _ in samples.rows for j in range(n) if z == 0]
    assert walked == list(zip(samples.x.tolist(), samples.y.tolist(), strict=True))
    assert samples.rows[:, 4].tolist() == [0, *np.cumsum(samples.rows[:-1, 3]).tolist()]
    assert samples.coarse_rows[:, 3].sum() == samples.n_coarse


@pytest.mark.parametrize("box_size", [16, 17])
def test_samples_of_images_are_the_coefficients_of_a_direct_transform(box_size: int) -> None:
    image = np.random.default_rng(3).standard_normal((2, box_size, box_size)).astype(np.float32)
    samples = fourier_samples(box_size, 16, 8)
    transforms = steps.half_transforms(image)
    index = np.stack([samples.x, samples.y], axis=1)
    for one, picked in zip(image, steps.samples_of(transforms, samples), strict=True):
        np.testing.assert_allclose(picked, imaging.coefficients(one, index), atol=1e-7)


def test_the_discs_are_nested_and_the_ring_lies_between_them() -> None:
    samples = fourier_samples(20, 16, 10, 6)
    radius = np.hypot(samples.x, samples.y)
    for n, size in ((samples.n_screen, 6), (samples.n_coarse, 10), (samples.n_sample, 16)):
        assert radius[:n].max() <= size / 2
        assert n == np.count_nonzero(radius <= size / 2)
    ring = samples.ring_rows
    walked = [(x + j, y) for _, y, x, n, _ in ring for j in range(n)]
    inside = slice(samples.n_screen, samples.n_coarse)
    assert walked == list(zip(samples.x[inside].tolist(), samples.y[inside].tolist(), strict=True))
    assert ring[:, 4].tolist() == [0, *np.cumsum(ring[:-1, 3]).tolist()]
    assert samples.screen_rows[:, 3].sum() == samples.n_screen


def test_frequencies_are_in_inverse_angstrom() -> None:
    samples = fourier_samples(20, 8, 8)
    expected = np.stack([samples.x, samples.y], axis=1) / 50.0
    np.testing.assert_allclose(samples.frequencies(2.5), expected)
