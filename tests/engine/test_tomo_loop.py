"""Whole refinements of tiny sets of volumes and of tilt stacks."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import lru_cache

import numpy as np
import pytest
from oracles import phantoms, tomo, tomo_phantoms

from napari_autorefine.engine.loop import refine
from napari_autorefine.engine.problem import RefineOptions
from napari_autorefine.engine.state import HalfModel, RefinementState
from napari_autorefine.events import Message
from napari_autorefine.model.geometry import angular_distance_deg, euler_to_matrix
from napari_autorefine.model.particles import Form

OPTIONS = RefineOptions(
    particle_diameter_A=72.0, ini_high_A=30.0, healpix_order=1, auto_local_healpix_order=2, offset_range_px=2.0,
    offset_step_px=1.5, mask_edge_px=2.0, threads=2, max_iterations=25,
)  # fmt: skip
FORMS = pytest.mark.parametrize("form", ["volume", "tilt_stack"])


@lru_cache(maxsize=4)
def simulated(form: Form, n: int = 16, noise: float = 1.0) -> phantoms.SimulatedSet:
    return tomo_phantoms.simulate(form, n, noise=noise)


@lru_cache(maxsize=2)
def refined(form: Form) -> tuple[phantoms.SimulatedSet, list[object]]:
    """Events of a refinement to convergence, from a reference of the wrong grey scale."""
    data = simulated(form)
    problem = replace(data.problem, reference=np.float32(3.0) * data.problem.reference)
    return data, list(refine(problem, OPTIONS))


def states(events: list[object]) -> list[RefinementState]:
    return [event for event in events if isinstance(event, RefinementState)]


def run(data: phantoms.SimulatedSet, resume: RefinementState | None = None, **changes: object) -> RefinementState:
    """Last state of a refinement with changed options."""
    return states(list(refine(data.problem, replace(OPTIONS, **changes), resume)))[-1]  # type: ignore[arg-type]


def assert_same(first: object, second: object) -> None:
    """All arrays and numbers of two dataclass values are equal to the last bit."""
    for item in fields(first):  # type: ignore[arg-type]
        np.testing.assert_array_equal(getattr(first, item.name), getattr(second, item.name), err_msg=item.name)


@FORMS
def test_a_phantom_is_recovered_and_the_refinement_stops_by_itself(form: Form) -> None:
    data, events = refined(form)
    last = states(events)[-1]
    assert last.is_final and last.iteration < OPTIONS.max_iterations and last.sampling.is_local
    error = angular_distance_deg(last.poses.euler_deg, data.euler_deg, np.eye(3)[None])
    # The map is free to move, and all particles with it.
    rotations = euler_to_matrix(data.euler_deg)
    offset_A = np.einsum("nji,nj->ni", rotations, last.poses.origin_A - data.origin_A)
    drift_A = offset_A.mean(axis=0)
    assert np.linalg.norm(drift_A) < tomo_phantoms.PIXEL_A
    assert last.poses.origin_A.shape == data.origin_A.shape
    assert np.median(error) < 4.0
    assert np.median(np.linalg.norm(offset_A - drift_A, axis=1)) < 0.4 * tomo_phantoms.PIXEL_A
    assert last.joined is not None
    truth = data.problem.reference
    assert isinstance(truth, np.ndarray)
    assert np.corrcoef(last.joined.map.ravel(), truth.ravel())[0, 1] > 0.9
    assert tomo.shell_correlation(last.joined.map, truth)[1:4].min() > 0.9
    # Maps are on the grey scale of the data, whatever the reference's was.
    assert np.polyfit(truth.ravel(), last.joined.map.ravel(), 1)[0] == pytest.approx(1.0, abs=0.25)
    assert last.fsc[1:4].min() > 0.9
    assert any(isinstance(e, Message) and "Last iteration" in e.text for e in events)


@FORMS
def test_the_noise_is_that_of_one_tilt(form: Form) -> None:
    last = states(refined(form)[1])[-1]
    n_value = tomo_phantoms.BOX ** (3 if form == "volume" else 2)
    variance = 1.0 / tomo_phantoms.BOX if form == "volume" else 1.0
    for half in last.halves:
        share = half.sigma2_noise[0, 2:] * 2 * n_value / variance  # masks take the rest
        assert share.min() > 0.15 and share.max() < 2.5


@FORMS
def test_norms_stay_and_offsets_have_a_spread_per_coordinate(form: Form) -> None:
    last = states(refined(form)[1])[-1]
    np.testing.assert_array_equal(last.poses.norm_correction, 1.0)
    for half in last.halves:
        assert half.norm_average == 1.0
        assert 0.25 < half.sigma_offset_A / (0.6 * tomo_phantoms.PIXEL_A) < 2.0


@FORMS
def test_a_resumed_refinement_goes_on_as_if_it_had_not_stopped(form: Form) -> None:
    data, events = refined(form)
    through = states(events)
    problem = replace(data.problem, reference=np.float32(3.0) * data.problem.reference)
    resumed = run(replace(data, problem=problem), through[3], max_iterations=4)
    assert resumed.iteration == through[4].iteration == 4
    assert_same(resumed.poses, through[4].poses)
    assert_same(resumed.convergence, through[4].convergence)
    assert_same(resumed.sampling, through[4].sampling)
    np.testing.assert_array_equal(resumed.halves[0].map, through[4].halves[0].map)
    np.testing.assert_array_equal(resumed.halves[1].sigma2_noise, through[4].halves[1].sigma2_noise)


@FORMS
def test_threads_change_no_bit_of_a_refinement(form: Form) -> None:
    data = simulated(form, 8)
    one, three = (run(data, threads=threads, max_iterations=1, firstiter_cc=False) for threads in (1, 3))
    assert_same(one.poses, three.poses)
    for mine, theirs in zip(one.halves, three.halves, strict=True):
        assert_same(mine, theirs)


@FORMS
def test_half_1_never_sees_the_images_of_half_2(form: Form) -> None:
    # The halves share one FSC, and with it the strength of the regularisation; nothing else may pass.
    data = simulated(form, 8)
    start = run(data, max_iterations=0)
    half = data.problem.particles.half
    images = [
        image if half[i] == 1 else np.ascontiguousarray(2.0 * image[..., ::-1, :] + np.float32(0.3))
        for i, image in enumerate(data.images)
    ]
    problem = data.problem
    assert problem.tomogram_data is not None and isinstance(problem.reference, np.ndarray)
    changed = tomo_phantoms.problem_of(problem.particles, images, problem.tomogram_data, problem.reference)
    changes = {"max_iterations": 1, "low_resol_join_halves_A": -1.0, "firstiter_cc": False}
    mine, theirs = run(data, start, **changes), run(replace(data, problem=changed), start, **changes)
    first = half == 1
    for name in ("euler_deg", "origin_A", "p_max", "log_likelihood", "n_significant"):
        before, after = getattr(mine.poses, name), getattr(theirs.poses, name)
        np.testing.assert_array_equal(before[first], after[first], err_msg=name)
        assert not np.array_equal(before[~first], after[~first]), name
    shared = {"map", "tau2", "ssnr", "completeness", "accuracy_rot_deg", "accuracy_trans_A", "orientability"}
    for item in fields(HalfModel):
        if item.name not in shared:
            before, after = (getattr(state.halves[0], item.name) for state in (mine, theirs))
            np.testing.assert_array_equal(before, after, err_msg=item.name)


@FORMS
def test_noise_behind_the_mask_and_without_ctf_run_as_well(form: Form) -> None:
    data = simulated(form, 8)
    for changes in ({"zero_mask": False}, {"ctf": False}, {"solvent_correct_fsc": True}, {"sigma_tilt_deg": 20.0}):
        state = run(data, max_iterations=1, firstiter_cc=False, **changes)
        assert state.iteration == 1
        assert np.isfinite(state.halves[0].map).all() and (state.poses.p_max > 0).all()
