"""Aberrations and anisotropic magnification of an optics group."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_autorefine.model.optics import (
    OpticsGroup,
    aberration_phase,
    even_aberration_phase,
    magnification_matrix,
    magnified,
)

OPTICS = OpticsGroup(number=1, name="one", pixel_size_A=1.0, box_size=64)
POINTS = np.array([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1], [0.12, -0.2], [-0.05, 0.3]])
X, Y = POINTS.T
U2 = X**2 + Y**2


@pytest.mark.parametrize(("voltage", "wavelength"), [(300, 0.0196876), (200, 0.0250795)])
def test_wavelength(voltage: float, wavelength: float) -> None:
    assert replace(OPTICS, voltage_kV=voltage).wavelength_A == pytest.approx(wavelength, abs=5e-8)


def test_no_aberration_by_default() -> None:
    assert not aberration_phase(OPTICS, POINTS).any()
    assert not even_aberration_phase(OPTICS, POINTS).any()
    np.testing.assert_array_equal(magnified(OPTICS, POINTS), POINTS)


def test_beam_tilt_is_axial_coma() -> None:
    optics = replace(OPTICS, beam_tilt_mrad=(0.3, -0.7))
    factor = -2.0 * np.pi * optics.cs_mm * 1e7 * optics.wavelength_A**2
    np.testing.assert_allclose(aberration_phase(optics, POINTS), factor * (3e-4 * X - 7e-4 * Y) * U2, rtol=1e-12)


ODD = [Y, X, 3 * X**2 * Y - Y**3, (3 * U2 - 2) * Y, (3 * U2 - 2) * X, X**3 - 3 * X * Y**2]
EVEN = [
    np.ones(5),
    2 * X * Y,
    2 * U2 - 1,
    X**2 - Y**2,
    4 * X**3 * Y - 4 * X * Y**3,
    2 * X * Y * (4 * U2 - 3),
    6 * U2**2 - 6 * U2 + 1,
    (X**2 - Y**2) * (4 * U2 - 3),
    X**4 - 6 * X**2 * Y**2 + Y**4,
]


@pytest.mark.parametrize("index", range(len(ODD)))
def test_odd_zernike_polynomials(index: int) -> None:
    optics = replace(OPTICS, odd_zernike=(0.0,) * index + (1.5,))
    np.testing.assert_allclose(aberration_phase(optics, POINTS), 1.5 * ODD[index], atol=1e-14)


@pytest.mark.parametrize("index", range(len(EVEN)))
def test_even_zernike_polynomials(index: int) -> None:
    optics = replace(OPTICS, even_zernike=(0.0,) * index + (1.5,))
    np.testing.assert_allclose(even_aberration_phase(optics, POINTS), 1.5 * EVEN[index], atol=1e-14)


def test_odd_is_odd_and_even_is_even() -> None:
    rng = np.random.default_rng(3)
    optics = replace(OPTICS, odd_zernike=tuple(rng.normal(size=12)), even_zernike=tuple(rng.normal(size=15)))
    np.testing.assert_allclose(aberration_phase(optics, -POINTS), -aberration_phase(optics, POINTS), atol=1e-14)
    np.testing.assert_allclose(
        even_aberration_phase(optics, -POINTS), even_aberration_phase(optics, POINTS), atol=1e-14
    )


def test_aberrations_act_on_magnified_frequencies() -> None:
    optics = replace(OPTICS, magnification=(1.02, 0.01, -0.03, 0.97), odd_zernike=(0.4, -0.3, 20.0))
    moved = np.stack([1.02 * X + 0.01 * Y, -0.03 * X + 0.97 * Y], axis=1)
    np.testing.assert_allclose(magnified(optics, POINTS), moved, rtol=1e-14)
    expected = aberration_phase(replace(optics, magnification=None), moved)
    np.testing.assert_allclose(aberration_phase(optics, POINTS), expected, rtol=1e-12)


def test_magnification_matrix_is_the_inverse_in_the_plane() -> None:
    optics = replace(OPTICS, magnification=(1.02, 0.01, -0.03, 0.97))
    product = magnification_matrix(optics)[:2, :2] @ np.array([[1.02, 0.01], [-0.03, 0.97]])
    np.testing.assert_allclose(product, np.eye(2), atol=1e-14)
    assert magnification_matrix(optics)[2, 2] == 1.0
    np.testing.assert_array_equal(magnification_matrix(OPTICS), np.eye(3))
