from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
from oracles.maps import phantom

from napari_autorefine.engine.filters import half_transform, map_of, radii, scale
from napari_autorefine.engine.half_map_fsc import (
    Randomization,
    correlation_of,
    first_shell_below,
    fraction_of_mask,
    particle_curve,
    resolution_shell,
    solvent_corrected_curves,
)
from napari_autorefine.engine.phases import PhaseRandomizer
from napari_autorefine.engine.randomness import RAND_MAX, glibc_rand
from napari_autorefine.engine.sharpening import (
    amplitudes_of_average,
    b_factor_table,
    fit_guinier,
    fsc_weight_table,
    inverse_mtf_table,
    log_amplitudes,
)
from napari_autorefine.io.tables import read_star


def halves(size: int = 24, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    signal = phantom(size)
    first, second = ((signal + noise * rng.standard_normal(signal.shape)).astype(np.float32) for _ in range(2))
    return first, second


def radius_grid(size: int) -> np.ndarray:
    axis = np.fft.fftfreq(size) * size
    return np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + np.arange(size // 2 + 1) ** 2)


def test_the_correlation_is_that_of_the_stored_transform() -> None:
    first, second = (half_transform(half) for half in halves())
    shells = np.floor(radius_grid(24) + 0.5).astype(int)
    wanted = []
    for shell in range(13):
        a, b = first[shells == shell], second[shells == shell]
        wanted.append((a * b.conj()).real.sum() / np.sqrt((abs(a) ** 2).sum() * (abs(b) ** 2).sum()))
    np.testing.assert_allclose(correlation_of(first, second), wanted, atol=1e-12)


def test_random_phases_are_those_of_the_c_library_one_per_changed_coefficient() -> None:
    first, second = (half_transform(half) for half in halves(8))
    stream = PhaseRandomizer(5)
    made = [stream.randomized(transform, 3) for transform in (first, second)]
    draws = glibc_rand(5)
    changed = radius_grid(8) >= 3
    for transform, randomized in zip((first, second), made, strict=True):
        phases = np.array([next(draws) for _ in range(changed.sum())]) / RAND_MAX * 2 * np.pi
        np.testing.assert_allclose(randomized[changed], abs(transform[changed]) * np.exp(1j * phases), atol=1e-14)
        np.testing.assert_array_equal(randomized[~changed], transform[~changed])


def test_a_mask_of_ones_is_corrected_by_the_noise_alone() -> None:
    pair = halves()
    transforms = half_transform(pair[0]), half_transform(pair[1])
    curves = solvent_corrected_curves(pair, transforms, np.ones_like(pair[0]), randomization=Randomization())
    assert curves.masked is not None and curves.randomized is not None and curves.randomize_from is not None
    np.testing.assert_allclose(curves.masked, curves.unmasked, atol=1e-6)
    first = curves.randomize_from
    assert first == first_shell_below(curves.unmasked, 0.8)
    np.testing.assert_array_equal(curves.corrected[: first + 2], curves.masked[: first + 2])
    masked, randomized = curves.masked[first + 2 :], curves.randomized[first + 2 :]
    np.testing.assert_allclose(curves.corrected[first + 2 :], (masked - randomized) / (1 - randomized))


def test_without_a_shell_to_randomize_from_the_unmasked_curve_counts() -> None:
    half = halves()[0]
    transforms = half_transform(half), half_transform(half)
    curves = solvent_corrected_curves((half, half), transforms, np.ones_like(half), randomization=Randomization())
    assert curves.randomize_from is None and not curves.is_mask_used
    np.testing.assert_array_equal(curves.corrected, curves.unmasked)


@pytest.mark.parametrize(
    ("curve", "shell", "between"),
    [
        ([1, 0.9, 0.5, 0.1, 0.2], 2, 2 + (0.5 - 0.143) / 0.4),
        ([1, 0.9, 0.8], 2, 2),
        ([1, 0.1, 0.8], 0, (1 - 0.143) / 0.9),
    ],
)
def test_the_resolution_is_the_last_shell_before_the_fall(curve: list[float], shell: float, between: float) -> None:
    assert resolution_shell(np.array(curve)) == shell
    assert resolution_shell(np.array(curve), is_interpolated=True) == pytest.approx(between)


def test_particle_curves_follow_the_share_of_the_box() -> None:
    mask = np.zeros((10, 10, 10))
    mask[:5] = 1
    assert fraction_of_mask(mask) == pytest.approx(0.952)
    np.testing.assert_allclose(particle_curve(np.array([0.2, 1.0]), 4.0), [0.8 / 1.6, 1.0])


def test_amplitudes_are_means_over_shells_of_the_average() -> None:
    pair = halves()
    first, second = (half_transform(half) for half in pair)
    average = 0.5 * (first + second)
    shells = np.floor(radius_grid(24) + 0.5).astype(int)
    wanted = [np.log(abs(average[shells == shell]).mean()) for shell in range(13)]
    np.testing.assert_allclose(log_amplitudes(amplitudes_of_average(first, second)), wanted, atol=1e-12)


def test_a_b_factor_that_was_applied_is_found_again() -> None:
    rng = np.random.default_rng(6)
    white = half_transform(rng.standard_normal((48, 48, 48)))
    scale(white, b_factor_table(48, 1.5, 200.0))
    frequency2 = (np.arange(25) / (48 * 1.5)) ** 2
    fit = fit_guinier(frequency2, log_amplitudes(amplitudes_of_average(white, white)), lowest_A=10, highest_A=3.2)
    assert fit is not None
    assert 4 * fit.slope == pytest.approx(-200, rel=0.02)
    assert fit.correlation > 0.99


def test_too_few_points_give_no_fit() -> None:
    assert fit_guinier(np.arange(4.0), np.full(4, -99.0), lowest_A=10, highest_A=0) is None


def test_shells_beyond_the_first_without_signal_are_left_out() -> None:
    table = fsc_weight_table(np.array([1.0, 0.5, 0.0, 0.9, 0.9]), 8)
    assert table[0] == 1.0
    assert table[1] == pytest.approx(np.sqrt(1 / 1.5))
    assert not table[4:].any()


def test_the_mtf_is_interpolated_and_left_alone_beyond_nyquist() -> None:
    frequency = np.linspace(0, 0.5, 51)
    table = inverse_mtf_table(20, 2.0, (frequency, 1 - frequency), 2.0)
    radius = radii(20)
    inside = (radius < 9.7) & (radius >= 1)  # near its end RELION takes the last value
    np.testing.assert_allclose(table[inside], 1 / (1 - radius[inside] / 20), rtol=1e-3)
    assert (table[radius >= 10] == 1).all()


def test_scaling_by_radius_is_a_convolution_that_keeps_real_maps_real() -> None:
    half = halves(12)[0].astype(np.float64)
    transform = half_transform(half)
    scale(transform, np.exp(-0.01 * np.arange(len(radii(12)))))
    blurred = map_of(transform)
    wanted = np.fft.ifftn(np.fft.fftn(half) * np.exp(-0.01 * full_radius2(12)))
    np.testing.assert_allclose(blurred, wanted.real, atol=1e-12)
    np.testing.assert_allclose(wanted.imag, 0, atol=1e-12)


def full_radius2(size: int) -> np.ndarray:
    axis = np.fft.fftfreq(size) * size
    return axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2


def test_recorded_curves_of_relion(shared_data: Path) -> None:
    folder = shared_data / "relion_jobs" / "reconstruct"
    pair = tuple(np.array(mrcfile.read(folder / f"run_half{half}_class001_unfil.mrc")) for half in (1, 2))
    transforms = half_transform(pair[0]), half_transform(pair[1])
    mask = np.array(mrcfile.read(folder / "mask.mrc"))
    curves = solvent_corrected_curves((pair[0], pair[1]), transforms, mask, randomization=Randomization(), threads=2)
    table = read_star(folder / "post" / "postprocess.star").loop("fsc")
    assert table is not None
    for label, curve in (
        ("rlnFourierShellCorrelationUnmaskedMaps", curves.unmasked),
        ("rlnFourierShellCorrelationMaskedMaps", curves.masked),
        ("rlnFourierShellCorrelationCorrected", curves.corrected),
        ("rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps", curves.randomized),
    ):
        np.testing.assert_allclose(curve, table[label], atol=5.1e-6)
    assert resolution_shell(curves.corrected) == 17
