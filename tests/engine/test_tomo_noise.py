"""Noise spectra of volumes, tilt stacks and premultiplied images: those of the noise before it was multiplied."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from oracles import half_sets, imaging, tomo_sets
from oracles.half_sets import Case

from napari_autorefine.engine.halfmaps import update_parameters
from napari_autorefine.engine.problem import RefinementProblem, RefineOptions
from napari_autorefine.engine.setup import prepare_setup
from napari_autorefine.engine.start import initial_noise, initial_poses
from napari_autorefine.engine.workers import Workers
from napari_autorefine.events import Message, Progress

UNMASKED, MASKED = 400.0, 56.0
FILES = {
    "plain": tomo_sets.Files(has_holes=False),
    "of CTFs": tomo_sets.Files(has_holes=False, holds_ctf=True),
    "normalised": tomo_sets.Files(has_holes=False, is_normalised=True),
    "without multiplicity": tomo_sets.Files(has_holes=False, has_multiplicity=False),
    "without weights": tomo_sets.Files(has_weights=False),
}


def centered(case: Case) -> tuple[RefinementProblem, list[np.ndarray]]:
    """Noise, of particles that need not be moved."""
    problem, images = half_sets.tiny_problem(replace(case, signal=0.0))
    n, dim = problem.particles.origin_A.shape
    particles = replace(problem.particles, origin_A=np.zeros((n, dim)), norm_correction=np.ones(n))
    if case.form == "image":
        images = [multiplied_noise(problem, i, case.is_premultiplied) for i in range(n)]
    return half_sets.problem_of(particles, images, problem.tomogram_data), images


def multiplied_noise(problem: RefinementProblem, i: int, is_premultiplied: bool) -> np.ndarray:
    """White noise of an image, times its CTF in a group that is premultiplied."""
    particles = problem.particles
    optics = particles.optics[particles.optics_index[i]]
    noise = np.random.default_rng(i).standard_normal((optics.box_size,) * 2)
    if is_premultiplied and optics.is_premultiplied:
        line = np.fft.fftfreq(optics.box_size, optics.pixel_size_A)
        points = np.stack([a.ravel() for a in np.meshgrid(line, line)], axis=1)
        transfer = np.sqrt(imaging.transfer(optics, particles, i, points)).reshape(noise.shape)
        noise = np.fft.ifft2(np.fft.fft2(noise) * transfer).real
    return noise.astype(np.float32)


def first_noise(problem: RefinementProblem, diameter_A: float, *, zero_mask: bool = True) -> np.ndarray:
    """Noise spectra (n_optics, n_shell) before the first iteration."""
    options = RefineOptions(particle_diameter_A=diameter_A, mask_edge_px=3.0, zero_mask=zero_mask)
    setup = prepare_setup(problem, options)
    with Workers(2) as workers:
        steps = initial_noise(setup, initial_poses(setup), workers)
        while True:
            try:
                assert isinstance(next(steps), Progress | Message)
            except StopIteration as stop:
                return np.asarray(stop.value)


def expected_noise(case: Case, diameter_A: float) -> list[float]:
    """Variance per component of the transform of white noise inside the mask, per optics group."""
    dim, variance = (3, tomo_sets.VOLUME_NOISE**2) if case.form == "volume" else (2, 1.0)
    found = []
    for box_size, pixel_size_A in ((16, 5.0), (20, 3.6)):
        left = (1 - imaging.background(box_size, diameter_A / (2 * pixel_size_A), 3.0, dim)) ** 2
        found.append(variance * left.mean() / (2 * box_size**dim))
    return found


def assert_noise(sigma2: np.ndarray, expected: list[float], rtol: float) -> None:
    for row, variance in zip(sigma2, expected, strict=True):
        np.testing.assert_allclose(row[3:], variance, rtol=rtol)
        assert row[2:].mean() == pytest.approx(variance, rel=rtol / 3)


@pytest.mark.parametrize("files", FILES)
@pytest.mark.parametrize("is_premultiplied", [False, True])
def test_the_first_estimate_of_noise_in_volumes_is_that_of_one_tilt(files: str, is_premultiplied: bool) -> None:
    case = Case(form="volume", files=FILES[files], is_premultiplied=is_premultiplied, n_particle=16)
    if files == "without weights" and is_premultiplied:
        pytest.skip("what has no weights is not premultiplied")
    problem, _ = centered(case)
    assert_noise(first_noise(problem, UNMASKED), expected_noise(case, UNMASKED), rtol=0.15)


def test_the_first_estimate_of_noise_in_masked_volumes_is_that_inside_the_mask() -> None:
    # Masks smear over edges of the missing wedge, and over zeros of the CTF.
    case = Case(form="volume", files=FILES["plain"], n_particle=16)
    problem, _ = centered(case)
    assert_noise(first_noise(problem, MASKED), expected_noise(case, MASKED), rtol=0.3)


@pytest.mark.parametrize("form", ["image", "tilt_stack"])
@pytest.mark.parametrize("is_premultiplied", [False, True])
def test_the_first_estimate_of_noise_in_images_is_that_before_they_are_multiplied(
    form: half_sets.Form, is_premultiplied: bool
) -> None:
    case = Case(form=form, is_premultiplied=is_premultiplied, n_particle=120)
    problem, _ = centered(case)
    assert_noise(first_noise(problem, UNMASKED), expected_noise(case, UNMASKED), rtol=0.12)


def test_a_shell_that_no_image_shows_takes_the_noise_of_its_neighbor() -> None:
    case = Case(is_premultiplied=True, n_particle=40)
    problem, images = centered(case)
    particles = replace(
        problem.particles,
        optics=tuple(replace(o, amplitude_contrast=0.0) for o in problem.particles.optics),
        phase_shift_deg=np.zeros(40),
    )
    sigma2 = first_noise(half_sets.problem_of(particles, images, None), UNMASKED)
    assert (sigma2[1] > 0).all() and sigma2[1].max() < 100 * np.median(sigma2[1])


@pytest.mark.parametrize("form", ["image", "tilt_stack", "volume"])
def test_the_first_estimate_with_noise_behind_the_mask_is_not_that_of_the_mask(form: half_sets.Form) -> None:
    case = Case(form=form, n_particle=16)
    sigma2 = first_noise(centered(case)[0], MASKED, zero_mask=False)
    assert np.isfinite(sigma2).all() and (sigma2 > 0).all()


KINDS = [*(("volume", name) for name in FILES), ("tilt_stack", "plain"), ("image", "plain")]


@pytest.mark.parametrize(("form", "files"), KINDS)
@pytest.mark.parametrize("is_premultiplied", [False, True])
def test_an_iteration_finds_the_noise_before_it_was_multiplied(
    form: half_sets.Form, files: str, is_premultiplied: bool
) -> None:
    n = 12 if form == "volume" else 60
    case = Case(
        form=form, files=FILES[files], is_premultiplied=is_premultiplied, n_particle=n, diameter_A=UNMASKED,
        has_norm=False, is_local=True,
    )  # fmt: skip
    if files == "without weights" and is_premultiplied:
        pytest.skip("what has no weights is not premultiplied")
    problem, images = centered(case)
    gain = 300.0  # so much that the model makes no difference
    for image in images:
        image *= np.float32(gain)
    found = half_sets.run(case, (problem, images))
    before = half_sets.tiny_model(found.job.grid.orientations.n_dir, form)
    after, _ = update_parameters(found.setup, before, found.statistics, found.job.geometries, is_cc=False)
    used = found.statistics.count > 0
    assert used[:, 3:].sum() > 9
    for row, kept, variance in zip(after.sigma2_noise / gain**2, used, expected_noise(case, UNMASKED), strict=True):
        kept[:3] = False
        np.testing.assert_allclose(row[kept], variance, rtol=0.25)
        assert row[kept].mean() == pytest.approx(variance, rel=0.08)
