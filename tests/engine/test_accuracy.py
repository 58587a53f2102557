from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from oracles import half_sets, imaging, posterior

from napari_autorefine.engine import batch_accuracy, iteration
from napari_autorefine.engine.accuracy import (
    ROTATION_ERRORS_DEG,
    SHIFT_ERRORS_PX,
    ParticleOptics,
    error_ladder,
    particle_accuracy,
)
from napari_autorefine.engine.batch_accuracy import image_accuracies
from napari_autorefine.engine.iteration import expected_accuracy, half_context
from napari_autorefine.engine.transfers import block_optics, particle_optics
from napari_autorefine.engine.workers import Workers

EULER_DEG = np.array([20.0, 60.0, -40.0])
DECISIVE = -np.log(0.01)


@lru_cache(maxsize=1)
def tiny() -> half_sets.Found:
    return half_sets.run(half_sets.Case())


def accuracy(noise: float = 1.0, seed: int = 3) -> tuple[float, ...]:
    """Accuracy of one particle with noise variances times ``noise``; the angles, A, and orientability."""
    found = tiny()
    model = half_sets.tiny_model(found.job.grid.orientations.n_dir)
    model = replace(model, sigma2_noise=model.sigma2_noise * noise)
    context = half_context(found.setup, model, 1, found.job.plan, found.job.geometries, 1)
    geometry = found.job.geometries[0]
    seen = ParticleOptics(model_ctf=np.ones((1, geometry.samples.n_sample), np.float32))
    return particle_accuracy(context, geometry, EULER_DEG, seen, seed, half_sets.N_SHELL)


def test_the_ladders_grow_by_growing_steps() -> None:
    for ladder, last in ((ROTATION_ERRORS_DEG, 30.0), (SHIFT_ERRORS_PX, 10.0)):
        assert (np.diff(ladder) > 0).all()
        assert (np.diff(ladder, n=2) > -1e-9).all()
        assert ladder[-2] <= last < ladder[-1]
    np.testing.assert_allclose(ROTATION_ERRORS_DEG[:6], [0.05, 0.1, 0.15, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(ROTATION_ERRORS_DEG[-4:], [20.0, 25.0, 30.0, 35.0])
    np.testing.assert_allclose(SHIFT_ERRORS_PX[8:13], [0.9, 1.0, 1.2, 1.4, 1.6])
    np.testing.assert_allclose(error_ladder(((1, 0.5), (np.inf, 2)), last=3.0), [0.5, 1.0, 3.0, 5.0])


def test_more_noise_means_larger_errors() -> None:
    seeds = range(6)
    results = [np.mean([accuracy(noise, seed)[:2] for seed in seeds], axis=0) for noise in (0.03, 0.06, 0.12, 1.0)]
    assert (np.diff(results, axis=0) > 0).all()


def test_the_error_is_the_first_rung_at_which_the_log_odds_are_decisive() -> None:
    found, noise = tiny(), 0.05
    model, particles = half_sets.oracle_model(found), found.setup.problem.particles
    i = int(found.members[0])
    seen = posterior.view(found.images[i], particles, i, model, 12)
    far = np.hypot(*seen.index.T) > 0

    def odds(first: np.ndarray, second: np.ndarray) -> float:
        return float((np.abs(first - second) ** 2 / (2 * noise * seen.sigma2))[far].sum())

    def slice_of(angles: np.ndarray) -> np.ndarray:
        return posterior.slices_of(seen, model, imaging.rotation(angles)[None])[0]

    middle = slice_of(EULER_DEG)
    rungs = []
    for axis in range(3):
        turned = (e for e in ROTATION_ERRORS_DEG if odds(middle, slice_of(EULER_DEG + e * np.eye(3)[axis])) > DECISIVE)
        rungs.append(next(turned, ROTATION_ERRORS_DEG[-1]))
    moves = []
    for axis in range(2):
        ramps = (np.exp(-2j * np.pi * e * seen.index[:, axis] / 16) for e in SHIFT_ERRORS_PX)
        decisive = (
            e for e, ramp in zip(SHIFT_ERRORS_PX, ramps, strict=True) if odds(middle, middle * ramp) > -np.log(0.01)
        )
        moves.append(next(decisive, SHIFT_ERRORS_PX[-1]) * half_sets.VOXEL_A)
    results = [accuracy(noise, seed) for seed in range(12)]
    assert {round(rot, 6) for rot, _, _ in results} == {round(float(r), 6) for r in rungs}
    assert {round(trans, 6) for _, trans, _ in results} == {round(float(m), 6) for m in moves}


TOMO = {
    "volumes": half_sets.Case(form="volume", is_premultiplied=True, n_particle=4),
    "stacks": half_sets.Case(form="tilt_stack", is_premultiplied=True, n_particle=4),
}


@lru_cache(maxsize=2)
def tomo(form: str) -> half_sets.Found:
    return half_sets.run(TOMO[form])


@pytest.mark.parametrize("i", [0, 2])  # of a group that is not premultiplied, and of one that is
@pytest.mark.parametrize("form", TOMO)
def test_errors_of_volumes_and_tilt_stacks_are_the_first_decisive_rungs(form: str, i: int) -> None:
    found, noise = tomo(form), 0.3
    model, problem = half_sets.oracle_model(found), found.setup.problem
    seen = posterior.view(found.images[i], problem.particles, i, model, 12, problem.tomogram_data)
    weight = seen.transfer**2 / (2 * noise * seen.sigma2 * seen.spread) * seen.is_far

    def odds(first: np.ndarray, second: np.ndarray) -> float:
        return float((weight * np.abs(first - second) ** 2).sum())

    def slice_of(angles: np.ndarray) -> np.ndarray:
        return posterior.slices_of(seen, model, imaging.rotation(angles)[None])[0]

    middle = slice_of(EULER_DEG)
    expected_rot, expected_A = set(), []
    for axis in np.eye(3):
        turned = (e for e in ROTATION_ERRORS_DEG if odds(middle, slice_of(EULER_DEG + e * axis)) > DECISIVE)
        expected_rot.add(round(float(next(turned, ROTATION_ERRORS_DEG[-1])), 6))
        shifts_A = np.outer(SHIFT_ERRORS_PX * seen.optics.pixel_size_A, axis)
        evidence = [odds(middle, middle * ramp) for ramp in posterior.ramps(seen, shifts_A)]
        expected_A.append(float(shifts_A.sum(axis=1)[np.argmax(np.array(evidence) > DECISIVE)]))
    context = found.job.context
    model_of_half = half_sets.tiny_model(found.job.grid.orientations.n_dir, found.case.form)
    noisy = replace(model_of_half, sigma2_noise=model_of_half.sigma2_noise * noise)
    context = half_context(found.setup, noisy, 1, found.job.plan, found.job.geometries, 1)
    geometry = found.job.geometries[problem.particles.optics_index[i]]
    optics = particle_optics(found.job.source, geometry, i)
    results = [particle_accuracy(context, geometry, EULER_DEG, optics, seed, half_sets.N_SHELL) for seed in range(16)]
    assert {round(rot, 6) for rot, _, _ in results} == expected_rot
    # Evidence of tilted images is summed in eighths of a frequency.
    found_A = sorted({round(trans, 6) for _, trans, _ in results})
    np.testing.assert_allclose(found_A, sorted({round(e, 6) for e in expected_A}), rtol=0.12)
    for _, _, share in results:
        assert share.sum() == pytest.approx(1.0, abs=1e-5) and share[0] == 0 and (share >= 0).all()


@pytest.mark.parametrize("form", TOMO)
def test_the_expected_errors_of_a_half_set_are_means_over_its_particles(form: str) -> None:
    found = tomo(form)
    job = found.job
    with Workers(2) as workers:
        mean = expected_accuracy(found.setup, job.source, job.context, job.geometries, workers)
    own = []
    for i in found.members:
        geometry = job.geometries[found.setup.problem.particles.optics_index[i]]
        euler = found.setup.problem.particles.euler_deg[i]
        optics = particle_optics(job.source, geometry, i)
        seed = found.setup.options.random_seed + int(i)
        own.append(particle_accuracy(job.context, geometry, euler, optics, seed, half_sets.N_SHELL))
    assert mean.rot_deg == pytest.approx(np.mean([one[0] for one in own]))
    assert mean.trans_A == pytest.approx(np.mean([one[1] for one in own]))
    np.testing.assert_allclose(mean.orientability, np.mean([one[2] for one in own], axis=0))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("n_together", [1, 1 << 15])
def test_the_expected_errors_of_images_are_means_however_many_are_compared_at_once(
    threads: int, n_together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iteration, "_ACCURACY_SAMPLES", n_together)
    found = half_sets.run(half_sets.Case())
    job, particles = found.job, found.setup.problem.particles
    with Workers(threads) as workers:
        mean = expected_accuracy(found.setup, job.source, job.context, job.geometries, workers)
    own = []
    for i in found.setup.members(1):
        geometry = job.geometries[particles.optics_index[i]]
        seen = particle_optics(job.source, geometry, int(i))
        seed = found.setup.options.random_seed + int(i)
        own.append(
            particle_accuracy(job.context, geometry, job.source.poses.euler_deg[i], seen, seed, half_sets.N_SHELL)
        )
    assert mean.rot_deg == pytest.approx(np.mean([one[0] for one in own]))
    assert mean.trans_A == pytest.approx(np.mean([one[1] for one in own]))
    np.testing.assert_allclose(mean.orientability, np.mean([one[2] for one in own], axis=0), atol=1e-6)


@pytest.mark.parametrize("piece", [1, 1 << 28])
@pytest.mark.parametrize("noise", [0.05, 1.0, 1e9])
@pytest.mark.parametrize("case", [half_sets.Case(), half_sets.Case(is_premultiplied=True)])
def test_errors_of_many_images_at_once_are_those_of_each(
    case: half_sets.Case, noise: float, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_accuracy, "_PIECE_BYTES", piece)
    found = half_sets.run(case)
    job, seeds = found.job, np.arange(4)
    model = half_sets.tiny_model(job.grid.orientations.n_dir)
    model = replace(model, sigma2_noise=model.sigma2_noise * noise)
    context = half_context(found.setup, model, 1, job.plan, job.geometries, 1)
    for geometry in job.geometries:
        chosen = np.flatnonzero(found.setup.problem.particles.optics_index == geometry.index)[:4]
        euler = job.source.poses.euler_deg[chosen]
        together = image_accuracies(
            context, geometry, euler, block_optics(job.source, geometry, chosen), seeds, half_sets.N_SHELL
        )
        for i, own in enumerate(together):
            seen = particle_optics(job.source, geometry, int(chosen[i]))
            expected = particle_accuracy(context, geometry, euler[i], seen, int(seeds[i]), half_sets.N_SHELL)
            assert own[:2] == expected[:2]
            np.testing.assert_allclose(own[2], expected[2], atol=1e-6)


def test_orientability_is_a_share_of_the_shells_without_the_origin() -> None:
    _, _, share = accuracy()
    assert share.shape == (half_sets.N_SHELL,)
    assert share.sum() == pytest.approx(1.0, abs=1e-5)
    assert share[0] == 0
    assert (share >= 0).all()


def test_hopeless_noise_ends_at_the_last_rung() -> None:
    rot, trans, _ = accuracy(1e9)
    assert rot == ROTATION_ERRORS_DEG[-1]
    assert trans == pytest.approx(SHIFT_ERRORS_PX[-1] * half_sets.VOXEL_A)
