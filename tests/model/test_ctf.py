"""Contrast transfer function from optics and defocus."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_autorefine.model.ctf import ctf
from napari_autorefine.model.optics import OpticsGroup, even_aberration_phase

TITAN = OpticsGroup(number=1, name="titan", pixel_size_A=1.0, box_size=64)
TALOS = replace(TITAN, voltage_kV=200.0, cs_mm=1.4)
POINTS = np.array([(0, 0), (0.02, 0), (0.05, 0), (0.05, 0.05), (0.1, 0), (0.1, -0.07), (0.25, 0.1)])


def reference(  # the equation of the module, plainly
    optics: OpticsGroup, defocus: tuple[float, float], angle_deg: float, points: np.ndarray, shift_deg: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Phase and -sin(phase) of one particle."""
    wavelength, u2 = optics.wavelength_A, (points**2).sum(axis=1)
    azimuth = np.arctan2(points[:, 1], points[:, 0]) - np.radians(angle_deg)
    z = -(defocus[0] * np.cos(azimuth) ** 2 + defocus[1] * np.sin(azimuth) ** 2)
    phase = np.pi * wavelength * z * u2 + 0.5 * np.pi * optics.cs_mm * 1e7 * wavelength**3 * u2**2
    phase -= np.radians(shift_deg) + np.arcsin(optics.amplitude_contrast)
    return phase, -np.sin(phase)


def test_values_at_300_kv() -> None:
    values = ctf(TITAN, [(15000, 14000)], 30.0, 0.0, 0.0, 1.0, POINTS)
    expected = [0.100000, 0.448453, 0.690885, -0.999997, 0.231900, 0.504368, 0.392383]
    np.testing.assert_allclose(values, [expected], atol=1.5e-6)
    assert values.dtype == np.float32


def test_values_with_phase_plate_and_bfactor() -> None:
    values = ctf(TALOS, [(10000, 9500)], 45.0, 20.0, 50.0, 1.0, POINTS)
    expected = [0.434275, 0.682926, 0.677518, -0.888007, 0.856667, -0.708936, -0.382600]
    np.testing.assert_allclose(values, [expected], atol=1.5e-6)


def test_equation_for_many_particles() -> None:
    rng = np.random.default_rng(4)
    points = rng.uniform(-0.4, 0.4, (300, 2))
    defocus, angle = rng.uniform(3000, 40000, (5, 2)), rng.uniform(-180, 180, 5)
    shift, bfactor, scale = rng.uniform(0, 120, 5), np.array([0, 20.0, 0, -5, 80]), rng.uniform(0.5, 1.5, 5)
    values = ctf(TALOS, defocus, angle, shift, bfactor, scale, points)
    damping = np.exp(-bfactor[:, None] / 4 * (points**2).sum(axis=1))
    expected = np.stack([reference(TALOS, d, a, points, s)[1] for d, a, s in zip(defocus, angle, shift, strict=True)])
    np.testing.assert_allclose(values, expected * damping * scale[:, None], atol=2e-7, rtol=2e-6)


def test_phase_is_kept_in_double_precision() -> None:
    points = np.array([[0.5, 0.0], [0.0, 0.6], [0.45, 0.45]])
    values = ctf(TITAN, [(60000, 55000)], 12.0, 0.0, 0.0, 1.0, points)
    phase, expected = reference(TITAN, (60000, 55000), 12.0, points)
    assert np.abs(phase).max() > 500
    np.testing.assert_allclose(values[0], expected, atol=2e-7)


def test_first_peak_can_be_kept_intact() -> None:
    points = np.stack([np.linspace(0, 0.1, 200), np.zeros(200)], axis=1)
    phase, plain = reference(TITAN, (12000, 12000), 0.0, points)
    values = ctf(TITAN, [(12000, 12000)], 0.0, 0.0, 30.0, 2.0, points, intact_first_peak=True)[0]
    expected = np.where(np.abs(phase) < np.pi / 2, 1.0, plain) * 2.0 * np.exp(-30.0 / 4 * points[:, 0] ** 2)
    np.testing.assert_allclose(values, expected, atol=5e-7)
    assert values[0] == pytest.approx(2.0)


def test_even_zernike_adds_to_the_phase() -> None:
    optics = replace(TITAN, even_zernike=(0.3, -2.0, 0.5, 1.0, 8.0, -9.0))
    phase, _ = reference(TITAN, (15000, 14000), 30.0, POINTS)
    values = ctf(optics, [(15000, 14000)], 30.0, 0.0, 0.0, 1.0, POINTS)
    np.testing.assert_allclose(values[0], -np.sin(phase + even_aberration_phase(optics, POINTS)), atol=2e-7)


def test_magnification_acts_on_frequencies() -> None:
    optics = replace(TITAN, magnification=(1.01, 0.002, -0.004, 0.99))
    moved = POINTS @ np.array([[1.01, 0.002], [-0.004, 0.99]]).T
    values = ctf(optics, [(15000, 14000)], 30.0, 0.0, 0.0, 1.0, POINTS)
    np.testing.assert_allclose(values, ctf(TITAN, [(15000, 14000)], 30.0, 0.0, 0.0, 1.0, moved), atol=1e-6)


def test_never_zero() -> None:
    optics = replace(TITAN, amplitude_contrast=0.0, cs_mm=0.0)
    values = ctf(optics, [(0.0, 0.0)], 0.0, 0.0, 0.0, 1.0, POINTS)
    np.testing.assert_array_equal(np.abs(values), np.float32(1e-8))


def test_pure_amplitude_contrast_is_allowed() -> None:
    optics = replace(TITAN, amplitude_contrast=1.0)
    assert ctf(optics, [(1e4, 1e4)], 0.0, 0.0, 0.0, 1.0, POINTS)[0, 0] == pytest.approx(1.0)
