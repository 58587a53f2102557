from __future__ import annotations

import numpy as np
import pytest
from oracles import imaging

from napari_autorefine.engine import images as steps
from napari_autorefine.engine.samples import FourierSamples, fourier_samples

DIMENSIONS = pytest.mark.parametrize("dim", [2, 3])


def index_of(samples: FourierSamples) -> np.ndarray:
    """Frequency indices (n_sample, dim)."""
    return np.stack([samples.x, samples.y, samples.z], axis=1)[:, : samples.dim]


def walked(rows: np.ndarray, dim: int) -> list[list[int]]:
    """Frequency indices along the rows of a table."""
    return [[x + j, y, z][:dim] for z, y, x, n, _ in rows.tolist() for j in range(n)]


@DIMENSIONS
@pytest.mark.parametrize("box_size", [16, 17, 20])
@pytest.mark.parametrize(("size", "coarse_size"), [(16, 6), (12, 12), (10, 20), (16, 5)])
def test_samples_are_the_independent_coefficients_of_a_disc_the_coarse_disc_first(
    box_size: int, size: int, coarse_size: int, dim: int
) -> None:
    samples = fourier_samples(box_size, size, coarse_size, dim=dim)
    index, counts = imaging.plane(box_size, dim)
    radius = np.linalg.norm(index, axis=1)
    expected = {tuple(k) for k in index[counts & (radius <= size / 2)].tolist()}
    found = [tuple(k) for k in index_of(samples).tolist()]
    assert found[0] == (0,) * dim
    assert len(found) == samples.n_sample == len(set(found))
    assert set(found) == expected
    inner = index[counts & (radius <= min(size, coarse_size) / 2)]
    assert set(found[: samples.n_coarse]) == {tuple(k) for k in inner.tolist()}
    assert np.array_equal(samples.shell, imaging.shells(np.array(found)))
    inside = np.bincount(samples.shell, minlength=box_size // 2 + 1)
    assert (inside <= steps.coefficient_count(box_size, dim)).all()
    whole = samples.shell < size / 2 - 0.5
    n_whole = int(samples.shell[whole].max()) + 1
    np.testing.assert_array_equal(inside[:n_whole], steps.coefficient_count(box_size, dim)[:n_whole])


@DIMENSIONS
@pytest.mark.parametrize("box_size", [12, 13])
def test_every_independent_coefficient_is_counted_once(box_size: int, dim: int) -> None:
    index, counts = imaging.plane(box_size, dim)
    expected = np.bincount(imaging.shells(index[counts]))[: box_size // 2 + 1]
    np.testing.assert_array_equal(steps.coefficient_count(box_size, dim), expected)


@DIMENSIONS
@pytest.mark.parametrize("size", [7, 16, 20])
def test_rows_walk_along_the_samples(size: int, dim: int) -> None:
    samples = fourier_samples(20, size, 8, dim=dim)
    assert walked(samples.rows, dim) == index_of(samples).tolist()
    assert samples.rows[:, 4].tolist() == [0, *np.cumsum(samples.rows[:-1, 3]).tolist()]
    assert samples.coarse_rows[:, 3].sum() == samples.n_coarse


@DIMENSIONS
@pytest.mark.parametrize("box_size", [16, 17])
def test_samples_of_images_are_the_coefficients_of_a_direct_transform(box_size: int, dim: int) -> None:
    images = np.random.default_rng(3).standard_normal((2, *(box_size,) * dim)).astype(np.float32)
    samples = fourier_samples(box_size, 16 if dim == 2 else 9, 8, dim=dim)
    transforms = steps.half_transforms(images)
    for one, picked in zip(images, steps.samples_of(transforms, samples), strict=True):
        np.testing.assert_allclose(picked, imaging.coefficients(one, index_of(samples)), atol=1e-7)


@DIMENSIONS
def test_the_discs_are_nested_and_the_ring_lies_between_them(dim: int) -> None:
    samples = fourier_samples(20, 16, 10, 6, dim=dim)
    index = index_of(samples)
    radius = np.linalg.norm(index, axis=1)
    for n, size in ((samples.n_screen, 6), (samples.n_coarse, 10), (samples.n_sample, 16)):
        assert radius[:n].max() <= size / 2
        assert n == np.count_nonzero(radius <= size / 2)
    ring = samples.ring_rows
    inside = slice(samples.n_screen, samples.n_coarse)
    assert walked(ring, dim) == index[inside].tolist()
    assert ring[:, 4].tolist() == [0, *np.cumsum(ring[:-1, 3]).tolist()]
    assert samples.screen_rows[:, 3].sum() == samples.n_screen


def test_frequencies_are_in_inverse_angstrom() -> None:
    samples = fourier_samples(20, 8, 8)
    expected = np.stack([samples.x, samples.y], axis=1) / 50.0
    np.testing.assert_allclose(samples.frequencies(2.5), expected)
