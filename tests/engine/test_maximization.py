from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from oracles import half_sets, imaging, phantoms

from napari_autorefine.engine import second_pass
from napari_autorefine.engine.halfmaps import update_parameters
from napari_autorefine.engine.loop import refine
from napari_autorefine.engine.problem import RefinementProblem, RefineOptions
from napari_autorefine.engine.setup import prepare_setup
from napari_autorefine.engine.start import initial_noise, initial_poses
from napari_autorefine.engine.state import RefinementState
from napari_autorefine.engine.workers import Workers
from napari_autorefine.events import Message

OPTIONS = RefineOptions(
    particle_diameter_A=76.0, ini_high_A=24.0, firstiter_cc=False, healpix_order=1, offset_range_px=2.0,
    offset_step_px=1.0, mask_edge_px=3.0, low_resol_join_halves_A=-1.0, max_iterations=1,
)  # fmt: skip


@lru_cache(maxsize=1)
def tiny() -> half_sets.Found:
    return half_sets.run(half_sets.Case())


def test_parameters_follow_from_the_sums() -> None:
    found = tiny()
    statistics, setup = found.statistics, found.setup
    before = half_sets.tiny_model(found.job.grid.orientations.n_dir)
    after, messages = update_parameters(setup, before, statistics, found.job.geometries, is_cc=False)
    count = np.stack([g.count for g in found.job.geometries])
    used = (count > 0) & (statistics.weight > 0)[:, None]
    expected = statistics.noise[used] / (2 * count * statistics.weight[:, None])[used]
    np.testing.assert_allclose(after.sigma2_noise[used], expected, rtol=1e-6)
    np.testing.assert_array_equal(after.sigma2_noise[~used], before.sigma2_noise[~used])
    n = len(found.members)
    assert after.norm_average == pytest.approx(statistics.norm / n)
    assert after.sigma_offset_A == pytest.approx(np.sqrt(statistics.offset_square / (2 * n)), rel=1e-4)
    assert after.pdf_direction.sum() == pytest.approx(1.0, abs=1e-4)
    assert after.mean_p_max == pytest.approx(found.poses.p_max[found.members].mean())
    ratio = statistics.scale_cross / statistics.scale_power
    limited = np.clip(ratio, np.sort(ratio)[1] / 5, 5 * np.sort(ratio)[1])
    np.testing.assert_allclose(after.scale / after.scale[0], limited / limited[0], rtol=1e-6)
    assert not messages


def test_every_noise_coefficient_is_counted() -> None:
    # The power that enters the noise sums with a model of nothing is the power of the whole images.
    found = tiny()
    for geometry in found.job.geometries:
        inside = np.bincount(geometry.model_shell, minlength=half_sets.N_SHELL)
        assert (inside <= geometry.count).all()
        n_pixel = geometry.optics.box_size**2
        assert geometry.count.sum() < n_pixel / 2


def test_a_correlation_iteration_leaves_noise_and_scales_alone() -> None:
    found = half_sets.run(half_sets.Case(is_cc=True))
    before = half_sets.tiny_model(found.job.grid.orientations.n_dir)
    after, _ = update_parameters(found.setup, before, found.statistics, found.job.geometries, is_cc=True)
    np.testing.assert_array_equal(after.sigma2_noise, before.sigma2_noise)
    np.testing.assert_array_equal(after.scale, before.scale)


def test_the_offset_spread_has_a_floor() -> None:
    found = tiny()
    setup = replace(found.setup, options=replace(found.setup.options, min_sigma2_offset_A2=1e4))
    before = half_sets.tiny_model(found.job.grid.orientations.n_dir)
    after, _ = update_parameters(setup, before, found.statistics, found.job.geometries, is_cc=False)
    assert after.sigma_offset_A == pytest.approx(100.0)


def white_noise(n: int, deviation: float) -> RefinementProblem:
    optics = (phantoms.optics_group(1, box_size=16), phantoms.optics_group(2, box_size=20, pixel_size_A=3.2))
    index = np.arange(n) % 2
    rng = np.random.default_rng(6)
    images = [deviation * rng.standard_normal((optics[i].box_size,) * 2).astype(np.float32) for i in index]
    return RefinementProblem(
        particles=phantoms.particles(optics, index),
        read_images=lambda chosen: np.stack([images[i] for i in chosen]),
        reference=phantoms.ASYMMETRIC.map(16, 4.0),
        voxel_size_A=4.0,
    )


def first_noise(problem: RefinementProblem, diameter_A: float) -> tuple[np.ndarray, list[Message]]:
    """Noise spectra before the first iteration, and what the user is told."""
    setup = prepare_setup(problem, replace(OPTIONS, particle_diameter_A=diameter_A))
    messages = []
    with Workers(1) as workers:
        steps = initial_noise(setup, initial_poses(setup), workers)
        while True:
            try:
                event = next(steps)
                messages += [event] if isinstance(event, Message) else []
            except StopIteration as stop:
                return stop.value, messages


@pytest.mark.parametrize("deviation", [1.0, 1.7])
def test_the_first_noise_estimate_of_white_noise_is_its_variance(deviation: float) -> None:
    # sigma2 is the variance per component of the N^2-normalised transform of what the mask leaves.
    sigma2, _ = first_noise(white_noise(400, deviation), 64.0)
    for row, box_size, pixel_size_A in zip(sigma2, (16, 20), (4.0, 3.2), strict=True):
        left = (1 - imaging.background(box_size, 32.0 / pixel_size_A, OPTIONS.mask_edge_px)) ** 2
        expected = deviation**2 * left.mean() / (2 * box_size**2)
        np.testing.assert_allclose(row[2:8], expected, rtol=0.08)
        assert row[1:9].mean() == pytest.approx(expected, rel=0.03)


def one_iteration(problem: RefinementProblem, options: RefineOptions = OPTIONS) -> RefinementState:
    states = [event for event in refine(problem, options) if isinstance(event, RefinementState)]
    assert states[-1].iteration == 1
    return states[-1]


def test_the_norm_correction_finds_a_gain_of_two() -> None:
    n = 60
    gains = np.where(np.arange(n) % 3 == 0, 2.0, 1.0)
    data = phantoms.simulate(phantoms.ASYMMETRIC, n, snr=0.2, gains=gains, box_size=20)
    norm = one_iteration(data.problem).poses.norm_correction
    assert norm[gains == 2.0].mean() / norm[gains == 1.0].mean() == pytest.approx(2.0, rel=0.06)
    assert norm[gains == 1.0].std() / norm[gains == 1.0].mean() < 0.1


def test_group_scales_recover_the_strength_of_the_signal() -> None:
    n = 160
    group = np.arange(n) // 2 % 4
    strengths = np.array([0.6, 0.9, 1.1, 1.4])[group]
    names = np.array([f"m{g}" for g in group], dtype=object)
    data = phantoms.simulate(phantoms.ASYMMETRIC, n, snr=0.5, strengths=strengths, group_name=names, box_size=20)
    state = one_iteration(data.problem)
    for half in state.halves:
        np.testing.assert_allclose(half.scale, [0.6, 0.9, 1.1, 1.4], rtol=0.12)
        assert half.scale.mean() == pytest.approx(1.0, abs=1e-6)


def test_the_noise_of_an_iteration_is_that_of_the_images() -> None:
    data = phantoms.simulate(phantoms.ASYMMETRIC, 80, snr=0.3, box_size=20)
    state = one_iteration(data.problem, replace(OPTIONS, particle_diameter_A=80.0))
    left = ((1 - imaging.background(20, 10.0, OPTIONS.mask_edge_px)) ** 2).mean()
    for half in state.halves:
        assert half.sigma2_noise[0, 5:10].mean() == pytest.approx(left / (2 * 20**2), rel=0.05)


def test_representatives_of_a_flat_posterior_carry_its_whole_weight() -> None:
    rng = np.random.default_rng(5)
    weights = rng.dirichlet(np.ones(20000)).reshape(2000, 10).astype(np.float32)
    chosen, own = second_pass._representatives(weights, weights.sum(axis=1, dtype=np.float64), 256)
    assert 200 < len(chosen) <= 256
    assert np.all(np.diff(chosen) > 0)
    np.testing.assert_allclose(own.sum(), 1.0, rtol=1e-5)
    # A mean over the sample is the mean over all, here of the row number and of the column number.
    np.testing.assert_allclose(own.sum(axis=1) @ chosen, weights.sum(axis=1) @ np.arange(2000), rtol=5e-3)
    np.testing.assert_allclose(own.sum(axis=0), weights.sum(axis=0), rtol=0.2)


def test_a_sharp_posterior_represents_itself() -> None:
    weights = np.random.default_rng(6).uniform(size=(40, 7)).astype(np.float32)
    chosen, own = second_pass._representatives(weights, weights.sum(axis=1), 40)
    np.testing.assert_array_equal(chosen, np.arange(40))
    np.testing.assert_array_equal(own, weights)
