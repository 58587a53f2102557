"""Spectra, masks and correlation curves against plain float64 formulas, recorded RELION curves and known noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import starfile
from oracles import maps, relion_jobs

from napari_autorefine.engine import shells, spectra
from napari_autorefine.engine.correlation import fsc, randomize_phases, solvent_corrected_fsc
from napari_autorefine.engine.masking import circular_background, low_pass_map, low_pass_profile, spherical_mask
from napari_autorefine.engine.sphere_loops import sphere_hits, sphere_sums
from napari_autorefine.errors import InputError


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("value", "rounded"), [(0.5, 1), (1.49, 1), (2.5, 3), (0.0, 0)])
def test_halves_round_up(value: float, rounded: int) -> None:
    assert shells.round_half_up(value) == rounded


@pytest.mark.parametrize("box", [8, 12])
@pytest.mark.parametrize("n_dim", [2, 3])
def test_shells_of_the_half_transform(box: int, n_dim: int) -> None:
    grids = np.meshgrid(*[np.fft.fftfreq(box) * box] * (n_dim - 1), np.arange(box // 2 + 1), indexing="ij")
    expected = np.floor(np.sqrt(sum(g**2 for g in grids)) + 0.5)
    expected[expected > box // 2] = box // 2 + 1
    np.testing.assert_array_equal(shells.half_shells(box, n_dim), expected)


def test_sums_by_radius_count_every_point() -> None:
    values = np.random.default_rng(0).random((9, 9, 6)).astype(np.float32)
    radius2 = (maps.padded_frequencies(4) ** 2).sum(axis=-1).astype(int)
    expected = np.bincount(radius2.ravel(), weights=values.ravel())[:13]
    sums, hits = np.zeros(13), np.zeros(13, dtype=np.int64)
    sphere_sums(values, np.zeros(13, dtype=np.float32), 12, sums)
    np.testing.assert_allclose(sums, expected)
    np.testing.assert_array_equal(shells.counts_by_radius2(12), np.bincount(radius2.ravel())[:13])
    sphere_hits(values, np.where(np.arange(13) > 3, 0.5, np.inf).astype(np.float32), 12, hits)
    assert hits[:4].sum() == 0
    assert hits[4:].sum() == ((values >= 0.5) & (radius2 > 3) & (radius2 <= 12)).sum()


def test_weights_without_signal_power_count_by_their_inverse() -> None:
    values = np.random.default_rng(1).random((9, 9, 6)).astype(np.float32)
    radius2 = (maps.padded_frequencies(4) ** 2).sum(axis=-1).astype(int)
    prior = np.where(np.arange(13) > 8, -1, 0).astype(np.float32)
    sums = np.zeros(13)
    sphere_sums(values, prior, 12, sums)
    total = values + np.where(radius2 > 8, 1e3 / values.astype(np.float64), 0.0)
    np.testing.assert_allclose(sums, np.bincount(radius2.ravel(), weights=total.ravel())[:13], rtol=1e-6)


def test_power_of_images_by_hand() -> None:
    image = noise(1, 8, 8)
    transform = np.fft.rfft2(image[0].astype(float)) / 64
    expected = [np.mean(np.abs(transform[shells.half_shells(8, 2) == k]) ** 2) for k in range(5)]
    np.testing.assert_allclose(spectra.image_power_spectrum(image)[0], expected, rtol=1e-5)


def test_power_of_a_map_is_kept_by_shells() -> None:
    map_ = noise(12, 12, 12)
    transform = np.fft.rfftn(map_.astype(float)) / 12**3
    expected = [np.mean(np.abs(transform[shells.half_shells(12, 3) == k]) ** 2) for k in range(7)]
    np.testing.assert_allclose(spectra.volume_power_spectrum(map_), expected, rtol=1e-5)
    np.testing.assert_allclose(spectra.initial_tau2(map_), 0.5 * 144 * np.array(expected), rtol=1e-5)
    np.testing.assert_allclose(spectra.initial_tau2(map_, tau2_fudge=2, data_dim=3), expected, rtol=1e-5)


def test_white_noise_gives_its_variance_per_component() -> None:
    images = noise(400, 16, 16)
    mean_image = images.mean(axis=0)[None]
    sigma2 = spectra.initial_sigma2_noise(
        spectra.image_power_spectrum(images).mean(axis=0), spectra.image_power_spectrum(mean_image)[0]
    )
    np.testing.assert_allclose(sigma2[2:], 0.5 / 16**2, rtol=0.1)


def test_shells_without_noise_take_the_one_before() -> None:
    sigma2 = spectra.initial_sigma2_noise(np.array([[1.0, 3.0, 1.0, 5.0]]), np.array([2.0, 1.0, 2.0, 1.0]))
    np.testing.assert_allclose(sigma2, [[1.0, 1.0, 1.0, 2.0]])
    with pytest.raises(InputError, match="no noise"):
        spectra.initial_sigma2_noise(np.ones(4), np.ones(4))


def test_start_ratio_counts_particles() -> None:
    tau2, sigma2 = np.array([1.0, 1.0, 2.0]), np.array([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]])
    np.testing.assert_allclose(spectra.initial_ssnr(tau2, sigma2, 100), [100.0, 25.0, 12.5])


def test_ratio_of_half_maps_and_of_the_joint_map() -> None:
    halves = spectra.ssnr_from_fsc(np.array([1.0, 0.5, 0.143, -0.2]))
    np.testing.assert_allclose(halves, [999.0, 1.0, 0.143 / 0.857, 0.001 / 0.999])
    joint = spectra.ssnr_from_fsc(np.array([1.0, 1.0 / 7.0, 0.143]), is_joint=True)
    np.testing.assert_allclose(joint[1:], 1.0, atol=2e-3)  # half-map FSC 0.143 is 0.5 for all data
    assert spectra.ssnr_from_fsc(np.array([0.5]), tau2_fudge=4.0)[0] == 4.0
    np.testing.assert_allclose(spectra.tau2_from_fsc(np.array([0.5, 0.8]), np.array([2.0, 1.0])), [2.0, 4.0])


@pytest.mark.parametrize(
    ("curve", "shell", "has_dip"),
    [
        ([9, 9, 9, 9, 9, 9, 9, 0.9, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1], 6, False),
        ([9, 9, 9, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], 5, False),
        ([9, 9, 9, 9, 9, 9, 9, 0.9, 2, 2, 0.1, 0.1, 0.1, 0.1], 6, False),
        ([9, 9, 9, 9, 9, 9, 9, 0.9, 0.5, 2, 2, 0.1, 0.1, 0.1], 10, True),
        ([9] * 14, 13, False),
    ],
)
def test_current_resolution(curve: list[float], shell: int, has_dip: bool) -> None:
    found = spectra.current_resolution_shell(np.array(curve))
    assert (found.shell, found.has_dip) == (shell, has_dip)


def test_shell_of_the_initial_filter() -> None:
    assert spectra.low_pass_shell(50.0, 256, 1.244531) == 6
    assert spectra.low_pass_shell(float("inf"), 256, 1.244531) == 0


def test_noise_update() -> None:
    sums = np.array([[8.0, 12.0, 0.0, 4.0], [1.0, 1.0, 1.0, 1.0]])
    counts = np.outer([2.0, 0.0], [1, 2, 3, 0])
    previous = np.full((2, 4), 7.0)
    sigma2 = spectra.update_sigma2_noise(sums, counts, previous)
    np.testing.assert_allclose(sigma2, [[2.0, 1.5, 1.5, 7.0], [7.0] * 4])
    floored = spectra.update_sigma2_noise(sums, counts, previous, is_premultiplied=np.array([True, False]))
    np.testing.assert_allclose(floored[0, 2], 7e-11)
    assert previous.min() == 7.0


def test_scales_are_limited_and_average_one() -> None:
    xa, aa = np.array([1.0, 1.0, 20.0, 0.01, 3.0]), np.array([1.0, 1.0, 1.0, 1.0, 0.0])
    found = spectra.update_scales(xa, aa, np.array([10, 20, 5, 5, 0]))
    assert found.n_limited == 2
    assert found.scale[4] == 1.0
    np.testing.assert_allclose(found.scale[[0, 2, 3]] / found.scale[1], [1.0, 5.0, 0.2])
    assert np.average(found.scale[:4], weights=[10, 20, 5, 5]) == pytest.approx(1.0)
    np.testing.assert_array_equal(spectra.update_scales(xa[:1], aa[:1], np.array([4])).scale, [1.0])


def test_soft_masks() -> None:
    mask = spherical_mask(16, 4.0, 2.0)
    distance = np.sqrt(maps.radius2(16))
    np.testing.assert_array_equal(mask[distance < 4], 1)
    np.testing.assert_array_equal(mask[distance > 6], 0)
    np.testing.assert_allclose(mask[8, 8, 8 + 5], 0.5, atol=1e-6)
    np.testing.assert_allclose(1 - circular_background(16, 4.0, 2.0), mask[8], atol=1e-6)
    np.testing.assert_array_equal(np.unique(spherical_mask(16, 4.0, 0.0)), [0, 1])


def test_low_pass_has_a_cosine_edge_of_two_shells() -> None:
    profile = low_pass_profile(np.array([0, 4, 4.5, 5, 5.5, 6, 9]), 5.0)
    np.testing.assert_allclose(profile, [1, 1, 0.8535534, 0.5, 0.1464466, 0, 0], atol=1e-7)
    map_ = noise(16, 16, 16)
    ratio = np.fft.rfftn(low_pass_map(map_, 16.0, 5.0)) / np.fft.rfftn(map_)
    axis = np.fft.fftfreq(16) * 16
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + np.arange(9) ** 2)
    np.testing.assert_allclose(ratio.real, low_pass_profile(radius, 5.0), atol=1e-4)
    np.testing.assert_allclose(ratio.imag, 0.0, atol=1e-4)


def test_correlation_of_a_map_with_itself_and_with_noise() -> None:
    map_, other = noise(24, 24, 24), noise(24, 24, 24, seed=1)
    np.testing.assert_allclose(fsc(map_, map_), 1.0, atol=1e-6)
    np.testing.assert_allclose(fsc(map_, -map_)[1:], -1.0, atol=1e-6)
    assert np.abs(fsc(map_, other)[5:]).max() < 0.15
    assert fsc(map_, map_ + other)[5:].mean() == pytest.approx(np.sqrt(0.5), abs=0.05)


def test_random_phases_keep_amplitudes_and_low_shells() -> None:
    map_ = noise(16, 16, 16)
    random = randomize_phases(map_, 4, np.random.default_rng(0))
    before, after = np.fft.rfftn(map_), np.fft.rfftn(random)
    inner = shells.half_shells(16, 3) < 4
    np.testing.assert_allclose(after[inner], before[inner], atol=1e-3)
    ratio = np.abs(after[:, :, 1:8]) / np.abs(before[:, :, 1:8])
    np.testing.assert_allclose(ratio, 1.0, atol=1e-2)
    assert np.abs(fsc(map_, random)[6:]).max() < 0.3


def test_mask_made_correlation_is_taken_out() -> None:
    signal = low_pass_map(maps.phantom(32).astype(np.float32), 4.0, 1.0)
    mask = spherical_mask(32, 6.0, 2.0)
    half1, half2 = (signal + 0.05 * noise(32, 32, 32, seed=s) for s in (1, 2))
    curves = solvent_corrected_fsc(half1, half2, mask, seed=3)
    assert curves.randomize_from is not None
    tail = slice(12, 16)
    assert np.abs(curves.corrected[tail]).max() < 0.25
    assert np.all(curves.corrected >= 0)
    head = slice(0, curves.randomize_from + 2)
    np.testing.assert_array_equal(curves.corrected[head], curves.masked[head])


def test_perfect_halves_are_not_randomized() -> None:
    map_ = noise(12, 12, 12)
    curves = solvent_corrected_fsc(map_, map_, spherical_mask(12, 4.0, 1.0))
    assert curves.randomize_from is None
    np.testing.assert_array_equal(curves.corrected, curves.unmasked)


def test_recorded_postprocess_curves(shared_data: Path) -> None:
    """relion_postprocess 3.1.3 --angpix 3.5; its random phases come from another generator."""
    folder = shared_data / "relion_jobs" / "reconstruct"
    half1, half2 = (relion_jobs.read_map(folder / f"run_half{h}_class001_unfil.mrc") for h in (1, 2))
    table = starfile.read(folder / "post" / "postprocess.star")["fsc"]
    curves = solvent_corrected_fsc(half1, half2, relion_jobs.read_map(folder / "mask.mrc"))
    recorded = {name: table[f"rln{name}"].to_numpy(float) for name in (
        "FourierShellCorrelationUnmaskedMaps", "FourierShellCorrelationMaskedMaps",
        "CorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps",
    )}  # fmt: skip
    np.testing.assert_allclose(curves.unmasked, recorded["FourierShellCorrelationUnmaskedMaps"], atol=2e-5)
    np.testing.assert_allclose(curves.masked, recorded["FourierShellCorrelationMaskedMaps"], atol=2e-5)
    assert curves.randomize_from == 7
    random = recorded["CorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps"]
    np.testing.assert_allclose(curves.randomized, random, atol=0.12)


@pytest.mark.parametrize("factor", [1e-12, 1.0, 1e12])
def test_the_first_noise_estimate_follows_the_grey_scale_of_the_images(factor: float) -> None:
    rng = np.random.default_rng(3)
    mean_spectrum = rng.uniform(1.0, 2.0, (2, 9)) * factor
    mean_image_spectrum = rng.uniform(0.0, 0.1, 9) * factor
    found = spectra.initial_sigma2_noise(mean_spectrum, mean_image_spectrum)
    np.testing.assert_allclose(found, 0.5 * (mean_spectrum - mean_image_spectrum))
