from __future__ import annotations

import numpy as np
import pytest

from napari_autorefine.model.image_values import image_statistics, to_half


@pytest.mark.parametrize(
    ("value", "half"),
    [
        (-1.0981445, -1.0986328),  # a tie, away from zero
        (0.73364258, 0.73388672),
        (2.98e-5, 0.0),  # a subnormal number
        (-6.1035156e-05, -6.1035156e-05),  # the smallest that is not
        (1e6, 65504.0),
        (-np.inf, -65504.0),
        (0.0, 0.0),
        (1.0, 1.0),
    ],
)
def test_half_precision_is_rounded_as_relion_does(value: float, half: float) -> None:
    assert float(to_half(np.full((1, 1, 1), value, np.float32))[0, 0, 0]) == pytest.approx(half, rel=1e-7)


def test_half_precision_is_that_of_ieee_but_for_ties() -> None:
    values = np.random.default_rng(0).normal(0, 3, (4, 50, 50)).astype(np.float32)
    made, ieee = to_half(values), values.astype(np.float16)
    bits = values.view(np.uint32)
    tie = (bits & 0x1FFF) == 0x1000
    normal = np.abs(values) >= 2.0**-14
    np.testing.assert_array_equal(made[~tie & normal], ieee[~tie & normal])
    assert np.isnan(to_half(np.full((1, 1, 1), np.nan, np.float32))[0, 0, 0])


def test_statistics_of_each_image() -> None:
    images = np.random.default_rng(2).normal(5, 2, (3, 20, 20)).astype(np.float32)
    smallest, largest, mean, variance = image_statistics(images).T
    exact = images.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(axis=(1, 2)), rtol=1e-12)
    np.testing.assert_allclose(variance, exact.var(axis=(1, 2)), rtol=1e-9)
    np.testing.assert_array_equal(smallest, exact.min(axis=(1, 2)))
    np.testing.assert_array_equal(largest, exact.max(axis=(1, 2)))
    images[1, 0, 0] = np.nan
    assert np.isnan(image_statistics(images)[:, 2]).tolist() == [False, True, False]
