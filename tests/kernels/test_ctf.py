"""CPU kernel of the contrast transfer function against float64 NumPy, over all options."""

from __future__ import annotations

import numpy as np
import pytest

from napari_autorefine.kernels.ctf import ctf


def oracle(p: np.ndarray, frequencies: np.ndarray, extra: np.ndarray, is_first_peak_intact: bool) -> np.ndarray:
    x, y = frequencies.T
    u2 = x**2 + y**2
    p = p[..., None]
    phase = p[:, 0] * x**2 + p[:, 1] * x * y + p[:, 2] * y**2 + p[:, 3] * u2**2 + p[:, 4] + extra
    value = np.where((np.abs(phase) < np.pi / 2) & is_first_peak_intact, 1.0, -np.sin(phase))
    return value * p[:, 6] * np.exp(-p[:, 5] * u2)


@pytest.mark.parametrize("is_first_peak_intact", [False, True])
@pytest.mark.parametrize("decay", [0.0, 12.0, -1.0])
@pytest.mark.parametrize("n_frequency", [1, 7, 1000])
def test_against_float64(is_first_peak_intact: bool, decay: float, n_frequency: int) -> None:
    rng = np.random.default_rng(n_frequency)
    parameters = np.column_stack(
        [
            rng.uniform(-2500, 500, (6, 3)) * [1, 0.1, 1],
            rng.uniform(50, 300, 6),
            rng.uniform(-2, 0, 6),
            np.full(6, decay),
            rng.uniform(0.2, 2, 6),
        ]
    )
    frequencies, extra = rng.uniform(-0.5, 0.5, (n_frequency, 2)), rng.normal(size=n_frequency)
    values = ctf(parameters, frequencies, extra, is_first_peak_intact)
    assert values.shape == (6, n_frequency)
    assert values.dtype == np.float32
    np.testing.assert_allclose(
        values, oracle(parameters, frequencies, extra, is_first_peak_intact), rtol=3e-7, atol=3e-7
    )


def test_sine_series_over_many_periods() -> None:
    phase = np.linspace(-50, 50, 20001)
    parameters = np.array([[0, 0, 0, 0, 0, 0, 1.0]])
    values = ctf(parameters, np.zeros((phase.size, 2)), phase, False)[0]
    np.testing.assert_allclose(values, -np.sin(phase), atol=7e-8)


def test_smallest_value_keeps_its_sign() -> None:
    parameters = np.array([[0, 0, 0, 0, 0, 0, 1.0]])
    values = ctf(parameters, np.zeros((3, 2)), np.array([0.0, 1e-9, -1e-9]), False)[0]
    np.testing.assert_array_equal(values, np.array([1e-8, -1e-8, 1e-8], dtype=np.float32))
