from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_autorefine.io.mrc import read_volume
from napari_autorefine.model.resize import even_size, fourier_resize, window

RECORDED = [
    ("even36", "rescale_6.7", 6.7, None),
    ("even36", "rescale_3.57", 3.57, None),
    ("even36", "rescale_3.57_box40_header", 3.57, 40),
    ("even36", "rebox_28", None, 28),
    ("even36", "rebox_45", None, 45),
    ("odd35", "odd_rescale_6.8", 6.8, None),
    ("odd35", "odd_rebox_40", None, 40),
]


@pytest.mark.parametrize(("source", "recorded", "voxel_size_A", "box"), RECORDED)
def test_agrees_with_relion_image_handler(
    shared_data: Path, source: str, recorded: str, voxel_size_A: float | None, box: int | None
) -> None:
    folder = shared_data / "relion_jobs" / "map"
    volume = read_volume(folder / f"{source}.mrc")
    data = volume.data
    if voxel_size_A is not None:
        data = fourier_resize(data, even_size(data.shape[0], volume.voxel_size_A, voxel_size_A))
    if box is not None:
        data = window(data, box)
    expected = read_volume(folder / f"{recorded}.mrc").data
    assert expected.std() > 1.0
    np.testing.assert_allclose(data, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("n", "voxel", "new_voxel", "size"), [(64, 3.54, 1.244, 182), (36, 5.0, 6.7, 26), (35, 5.0, 6.8, 26)]
)
def test_even_size_of_known_cases(n: int, voxel: float, new_voxel: float, size: int) -> None:
    assert even_size(n, voxel, new_voxel) == size


@given(n=st.integers(3, 11), size=st.integers(2, 8).map(lambda half: 2 * half))
def test_a_constant_map_stays_constant(n: int, size: int) -> None:
    np.testing.assert_allclose(fourier_resize(np.full((n, n, n), 2.5, np.float32), size), 2.5, rtol=1e-6)


def test_enlarging_and_back_returns_the_map() -> None:
    rng = np.random.default_rng(0)
    density = fourier_resize(rng.standard_normal((16, 16, 16)).astype(np.float32), 8)  # band-limited below Nyquist
    density = fourier_resize(fourier_resize(density, 16), 12)
    np.testing.assert_allclose(fourier_resize(fourier_resize(density, 20), 12), density, atol=1e-5)


@given(n=st.integers(2, 9), size=st.integers(2, 12))
def test_window_keeps_the_center(n: int, size: int) -> None:
    density = np.zeros((n, n, n))
    density[n // 2, n // 2, n // 2] = 1.0
    result = window(density, size)
    assert result[size // 2, size // 2, size // 2] == 1.0
    assert result.sum() == 1.0
