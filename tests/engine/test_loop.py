from __future__ import annotations

from dataclasses import fields, replace
from functools import lru_cache

import numpy as np
import pytest
from oracles import imaging, phantoms
from scipy.spatial.transform import Rotation

from napari_autorefine.engine.loop import refine
from napari_autorefine.engine.problem import RefineOptions
from napari_autorefine.engine.state import HalfModel, RefinementState
from napari_autorefine.events import IterationDone, Message, Progress
from napari_autorefine.model.geometry import angular_distance_deg, euler_to_matrix
from napari_autorefine.model.symmetry import point_group

BOX, PIXEL_A = 20, 4.0
OPTIONS = RefineOptions(
    particle_diameter_A=72.0, ini_high_A=30.0, healpix_order=1, auto_local_healpix_order=3, offset_range_px=3.0,
    offset_step_px=1.0, mask_edge_px=3.0, threads=2, max_iterations=25,
)  # fmt: skip
Events = list[object]


def phantom_of(symmetry: str) -> phantoms.Phantom:
    """Return the asymmetric phantom, or copies of its first three blobs."""
    body = phantoms.ASYMMETRIC
    if symmetry == "C1":
        return body
    few = phantoms.Phantom(centers_A=body.centers_A[:3], heights=body.heights[:3])
    return few.symmetrized(point_group(symmetry).operators)


@lru_cache(maxsize=4)
def simulated(symmetry: str = "C1", n: int = 100, snr: float = 1.0) -> phantoms.SimulatedSet:
    return phantoms.simulate(phantom_of(symmetry), n, snr=snr, box_size=BOX, pixel_size_A=PIXEL_A)


@lru_cache(maxsize=4)
def refined(symmetry: str, n: int) -> tuple[phantoms.SimulatedSet, Events]:
    """Events of a refinement to convergence, from a reference of the wrong grey scale."""
    data = simulated(symmetry, n)
    problem = replace(data.problem, reference=np.float32(5.0) * data.problem.reference)
    return data, list(refine(problem, replace(OPTIONS, symmetry=symmetry)))


def states(events: Events) -> list[RefinementState]:
    return [event for event in events if isinstance(event, RefinementState)]


def run(data: phantoms.SimulatedSet, resume: RefinementState | None = None, **changes: object) -> RefinementState:
    """Last state of a refinement with changed options."""
    options = replace(OPTIONS, **changes)  # type: ignore[arg-type]
    return states(list(refine(data.problem, options, resume)))[-1]


def assert_same(first: object, second: object) -> None:
    """All arrays and numbers of two dataclass values are equal to the last bit."""
    for item in fields(first):  # type: ignore[arg-type]
        np.testing.assert_array_equal(getattr(first, item.name), getattr(second, item.name), err_msg=item.name)


CONVERGING = pytest.mark.parametrize(("symmetry", "n"), [("C1", 100), ("C2", 60), ("D2", 60)])


@CONVERGING
def test_a_phantom_is_recovered_and_the_refinement_stops_by_itself(symmetry: str, n: int) -> None:
    data, events = refined(symmetry, n)
    last = states(events)[-1]
    assert last.is_final and last.iteration < OPTIONS.max_iterations
    assert last.sampling.is_local
    error = angular_distance_deg(last.poses.euler_deg, data.euler_deg, point_group(symmetry).operators)
    offset = np.hypot(*(last.poses.origin_A - data.origin_A).T)
    assert np.median(error) < min(last.halves[0].accuracy_rot_deg, 4.0)
    assert np.median(offset) < 0.3 * PIXEL_A
    assert last.joined is not None
    assert np.corrcoef(last.joined.map.ravel(), data.problem.reference.ravel())[0, 1] > 0.95
    # Maps are on the grey scale of the data, whatever the reference's was.
    slope = np.polyfit(data.problem.reference.ravel(), last.joined.map.ravel(), 1)[0]
    assert slope == pytest.approx(1.0, abs=0.25)


@CONVERGING
def test_maps_have_the_symmetry_that_was_asked_for(symmetry: str, n: int) -> None:
    last = states(refined(symmetry, n)[1])[-1]
    assert last.joined is not None
    inner = last.joined.map[1:, 1:, 1:]
    half_turn = inner[:, ::-1, ::-1]
    likeness = np.corrcoef(inner.ravel(), half_turn.ravel())[0, 1]
    assert (likeness > 0.99) == (symmetry != "C1")


def test_events_tell_the_course_of_the_refinement() -> None:
    _, events = refined("C1", 100)
    found, done = states(events), [e for e in events if isinstance(e, IterationDone)]
    assert [s.iteration for s in found] == list(range(len(found)))
    assert [d.iteration for d in done] == list(range(1, len(found)))
    assert [s.is_final for s in found] == [False] * (len(found) - 1) + [True]
    assert [d.joined_map is not None for d in done] == [d.is_final for d in done] == [s.is_final for s in found[1:]]
    assert done[-1].current_size == BOX
    assert done[0].mean_p_max == 1.0  # a correlation iteration
    orders = [d.healpix_order for d in done]
    assert orders == sorted(orders)
    assert any(isinstance(e, Message) and "Last iteration" in e.text for e in events)
    steps = [e for e in events if isinstance(e, Progress) and e.stage == "expectation" and e.iteration == 1]
    assert [e.done for e in steps] == sorted(e.done for e in steps)
    assert steps[-1].done == steps[-1].total == 100


def test_half_sets_and_curves_are_kept() -> None:
    data, events = refined("C1", 100)
    last = states(events)[-1]
    assert last.fsc.shape == (BOX // 2 + 1,)
    assert last.fsc[0] == pytest.approx(1.0)
    assert (np.abs(last.fsc) <= 1 + 1e-6).all()
    assert last.fsc[1:4].min() > 0.9
    for half in last.halves:
        assert half.unfiltered_map is not None
        assert np.isfinite(half.unfiltered_map).all()
    assert not np.array_equal(last.halves[0].map, last.halves[1].map)
    assert (last.poses.p_max > 0).all() and (last.poses.p_max <= 1 + 1e-5).all()
    assert len(last.poses.p_max) == len(data.images)


@pytest.mark.parametrize("search", ["global", "local"])
def test_threads_change_no_bit(search: str) -> None:
    data = simulated(n=40)
    changes: dict[str, object] = {"max_iterations": 2}
    if search == "local":
        poses = replace(data.problem.particles, euler_deg=data.euler_deg, origin_A=data.origin_A)
        data = replace(data, problem=replace(data.problem, particles=poses))
        changes |= {"firstiter_cc": False, "healpix_order": 3}
    first, *others = (run(data, threads=threads, **changes) for threads in (1, 2, 3))
    assert first.sampling.is_local == (search == "local")
    for other in others:
        assert_same(first.poses, other.poses)
        for mine, theirs in zip(first.halves, other.halves, strict=True):
            assert_same(mine, theirs)
        np.testing.assert_array_equal(first.fsc, other.fsc)


def test_a_resumed_refinement_goes_on_as_if_it_had_not_stopped() -> None:
    data = simulated(n=40)
    through = states(list(refine(data.problem, replace(OPTIONS, max_iterations=4))))
    resumed = run(data, through[2], max_iterations=4)
    assert resumed.iteration == through[-1].iteration == 4
    assert_same(resumed.poses, through[-1].poses)
    assert_same(resumed.convergence, through[-1].convergence)
    assert_same(resumed.sampling, through[-1].sampling)
    np.testing.assert_array_equal(resumed.halves[0].map, through[-1].halves[0].map)


def test_half_1_never_sees_the_images_of_half_2() -> None:
    # The halves share one FSC, and with it the strength of the regularisation; nothing else may pass.
    data = simulated(n=40)
    start = run(data, max_iterations=0)
    second = np.flatnonzero(data.problem.particles.half == 2)
    images = data.images.copy()
    images[second] = 2.0 * images[second][::-1, ::-1] + 0.3
    other = replace(data, problem=replace(data.problem, read_images=lambda index: images[index]))
    changes = {"max_iterations": 1, "low_resol_join_halves_A": -1.0, "firstiter_cc": False, "solvent_correct_fsc": True}
    mine, theirs = run(data, start, **changes), run(other, start, **changes)
    first = data.problem.particles.half == 1
    for item in fields(mine.poses):
        before, after = getattr(mine.poses, item.name), getattr(theirs.poses, item.name)
        np.testing.assert_array_equal(before[first], after[first], err_msg=item.name)
        assert not np.array_equal(before[~first], after[~first]), item.name
    shared = {"map", "tau2", "ssnr", "completeness", "accuracy_rot_deg", "accuracy_trans_A", "orientability"}
    for item in fields(HalfModel):
        if item.name not in shared:
            before, after = (getattr(state.halves[0], item.name) for state in (mine, theirs))
            np.testing.assert_array_equal(before, after, err_msg=item.name)
    assert not np.array_equal(mine.halves[1].unfiltered_map, theirs.halves[1].unfiltered_map)


def test_rotating_the_reference_rotates_the_poses() -> None:
    data = simulated(n=40, snr=3.0)
    turn = Rotation.from_euler("zyx", [40, 25, -70], degrees=True).as_matrix()
    scale = data.problem.reference.max() / phantoms.ASYMMETRIC.map(BOX, PIXEL_A).max()
    turned = np.float32(scale) * phantoms.ASYMMETRIC.rotated(turn).map(BOX, PIXEL_A)
    changes = {"max_iterations": 1, "healpix_order": 2, "ini_high_A": 14.0}
    mine = run(data, **changes)
    theirs = run(replace(data, problem=replace(data.problem, reference=turned)), **changes)
    # A(turned) maps turned reference coordinates to the view: A(turned) @ turn is the pose in the first frame.
    back = euler_to_matrix(theirs.poses.euler_deg) @ turn
    cosine = (np.einsum("nij,nij->n", back, euler_to_matrix(mine.poses.euler_deg)) - 1) / 2
    distance = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    assert np.median(distance) < mine.sampling.fine_angular_step_deg
    truth = np.array([imaging.rotation(e) for e in data.euler_deg])
    cosine = (np.einsum("nij,nij->n", back, truth) - 1) / 2
    assert np.median(np.degrees(np.arccos(np.clip(cosine, -1, 1)))) < mine.sampling.fine_angular_step_deg


def test_a_forced_last_iteration_uses_all_data_to_nyquist() -> None:
    state = run(simulated(n=40), force_converge=True, firstiter_cc=False)
    assert state.is_final and state.iteration == 1
    assert state.convergence.current_size == BOX
    assert state.joined is not None
    assert state.joined.map.shape == (BOX,) * 3


def test_the_iteration_limit_is_kept() -> None:
    assert run(simulated(n=40), max_iterations=2).iteration == 2
