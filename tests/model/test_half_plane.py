from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from oracles.relion_jobs import transfer

from napari_autorefine.model.ctf import ctf
from napari_autorefine.model.half_plane import half_frequencies, half_plane_ctf
from napari_autorefine.model.optics import OpticsGroup

GROUP = OpticsGroup(
    number=1, name="g", pixel_size_A=1.5, box_size=16, voltage_kV=200, cs_mm=2.0, amplitude_contrast=0.1
)
TABLE = SimpleNamespace(rlnVoltage=200, rlnSphericalAberration=2.0, rlnAmplitudeContrast=0.1)
PARAMETERS = np.array([[12000.0, 11000.0, 25.0, 0.0, 0.0, 1.0], [9000.0, 9500.0, 70.0, 0.0, 40.0, 0.8]])


def test_frequencies_are_those_of_a_half_transform_with_a_positive_nyquist_row() -> None:
    points = half_frequencies(8, 2.0).reshape(8, 5, 2)
    np.testing.assert_allclose(points[0, :, 0], np.arange(5) / 16)
    np.testing.assert_allclose(points[:, 0, 1], np.array([0, 1, 2, 3, 4, -3, -2, -1]) / 16)


def test_the_ctf_is_that_of_the_formula() -> None:
    values = half_plane_ctf(GROUP, PARAMETERS, 16)
    points = half_frequencies(16, 1.5)
    for found, (u, v, angle, _, bfactor, scale) in zip(values, PARAMETERS, strict=True):
        row = SimpleNamespace(rlnDefocusU=u, rlnDefocusV=v, rlnDefocusAngle=angle)
        damping = scale * np.exp(-bfactor * (points**2).sum(axis=1) / 4)
        np.testing.assert_allclose(found.ravel(), transfer(row, TABLE, points) * damping, atol=1e-6)


def test_even_aberrations_see_a_negative_nyquist_row() -> None:
    skew = OpticsGroup(number=1, name="g", pixel_size_A=1.5, box_size=16, even_zernike=(0.0, 3.0, 0.0, 0.0))
    round_one = np.array([[12000.0, 12000.0, 0.0, 0.0, 0.0, 1.0]])
    values = half_plane_ctf(skew, round_one, 16)[0]
    nyquist = np.stack([np.arange(9.0), np.full(9, -8.0)], axis=1) / (16 * 1.5)
    np.testing.assert_allclose(values[8], ctf(skew, [[12000.0, 12000.0]], 0, 0, 0, 1, nyquist)[0], atol=1e-6)
    assert not np.allclose(values[8], ctf(skew, [[12000.0, 12000.0]], 0, 0, 0, 1, -nyquist * [-1, 1])[0], atol=1e-2)


def test_the_first_peak_can_be_left_intact() -> None:
    values = half_plane_ctf(GROUP, PARAMETERS, 16, is_first_peak_intact=True)
    assert values[0, 0, 0] == 1.0
    assert np.abs(values[1, 0, 0] - 0.8) < 1e-6
