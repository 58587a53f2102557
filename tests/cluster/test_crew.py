"""Refinements whose particles are searched by other processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from oracles import half_sets, phantoms
from oracles.half_sets import Case

from napari_autorefine.cluster import crew as crew_module
from napari_autorefine.cluster import worker
from napari_autorefine.cluster.crew import DaskCrew
from napari_autorefine.cluster.wire import Contract
from napari_autorefine.engine.loop import refine
from napari_autorefine.engine.problem import RefinementProblem, RefineOptions
from napari_autorefine.engine.setup import prepare_setup
from napari_autorefine.engine.state import RefinementState
from napari_autorefine.errors import InputError
from napari_autorefine.events import Message, Progress

OPTIONS = RefineOptions(
    particle_diameter_A=72.0, ini_high_A=25.0, healpix_order=1, auto_local_healpix_order=3, offset_range_px=3.0,
    offset_step_px=1.0, mask_edge_px=3.0, max_iterations=3, low_resol_join_halves_A=-1.0,
)  # fmt: skip


@lru_cache(maxsize=1)
def single_particles() -> RefinementProblem:
    """80 images of clear particles, in blocks of 16: three per half-set."""
    return phantoms.simulate(phantoms.ASYMMETRIC, 80, snr=4.0, box_size=20, pixel_size_A=4.0).problem


@lru_cache(maxsize=1)
def two_groups() -> RefinementProblem:
    """Two optics groups of other box and pixel sizes, one premultiplied; the noise fills the mask's outside."""
    case = Case(n_particle=48, is_premultiplied=True)
    particles = half_sets.tiny_particles(case, case.n_particle)
    images = half_sets.tiny_images(particles, 1.0)
    return RefinementProblem(
        particles=particles,
        read_images=lambda index: np.stack([images[i] for i in index]),
        reference=phantoms.ASYMMETRIC.map(half_sets.BOX, half_sets.VOXEL_A),
        voxel_size_A=half_sets.VOXEL_A,
    )


@lru_cache(maxsize=1)
def volumes() -> RefinementProblem:
    """Subtomograms with their CTF volumes."""
    return half_sets.tiny_problem(Case(n_particle=12, form="volume"))[0]


@lru_cache(maxsize=1)
def tilt_stacks() -> RefinementProblem:
    """Stacks of tilt images with their tilt series."""
    return half_sets.tiny_problem(Case(n_particle=12, form="tilt_stack"))[0]


@lru_cache(maxsize=8)
def alone(problem: Callable[[], RefinementProblem], options: RefineOptions, *, is_local: bool) -> list[RefinementState]:
    """States of a refinement in this process."""
    start = local_start(problem, options) if is_local else None
    return [event for event in refine(problem(), options, start) if isinstance(event, RefinementState)]


def local_start(problem: Callable[[], RefinementProblem], options: RefineOptions) -> RefinementState:
    """A state after one global iteration, from which local searches go on."""
    state = alone(problem, replace(options, max_iterations=1), is_local=False)[-1]
    return replace(state, sampling=replace(state.sampling, is_local=True, sigma_angle_deg=8.0))


def together(
    client: Any,
    problem: Callable[[], RefinementProblem],
    options: RefineOptions,
    *,
    is_local: bool = False,
    when: Callable[[DaskCrew, Progress], None] = lambda *_: None,
) -> tuple[list[RefinementState], list[str]]:
    """States and messages of a refinement by other processes; ``when`` is told of all progress."""
    crew = DaskCrew(client, patience_s=60.0, n_wanted=2)
    start = local_start(problem, options) if is_local else None
    states, texts = [], []
    try:
        texts += [message.text for message in crew.greet(problem().read_images, len(problem().particles))]
        for event in refine(problem(), options, start, crew=crew):
            if isinstance(event, RefinementState):
                states.append(event)
            elif isinstance(event, Message):
                texts.append(event.text)
            elif isinstance(event, Progress) and event.stage == "expectation":
                when(crew, event)
    finally:
        crew.close()
    return states, texts


def assert_same(found: list[RefinementState], expected: list[RefinementState]) -> None:
    """Poses and maps of all iterations have the same bits, whoever has searched which chunk."""
    assert len(found) == len(expected) > 0
    same = np.testing.assert_array_equal
    for own, other in zip(found, expected, strict=True):
        for name in ("euler_deg", "origin_A", "p_max", "n_significant", "intensities"):
            same(getattr(own.poses, name), getattr(other.poses, name))
        for half, expected_half in zip(own.halves, other.halves, strict=True):
            same(half.map, expected_half.map)
            same(half.sigma2_noise, expected_half.sigma2_noise)
            same(half.scale, expected_half.scale)


@pytest.mark.parametrize("problem", [single_particles, two_groups])
@pytest.mark.parametrize("is_local", [False, True])
def test_two_processes_find_what_one_finds(
    client: Any, problem: Callable[[], RefinementProblem], is_local: bool
) -> None:
    options = OPTIONS
    if problem is two_groups:
        options = replace(OPTIONS, zero_mask=False, symmetry="D2")
    found, texts = together(client, problem, options, is_local=is_local)
    assert_same(found, alone(problem, options, is_local=is_local))
    assert any("2 processes on 1 computer" in text for text in texts)
    assert not any("Lost" in text for text in texts)


@pytest.mark.parametrize("problem", [volumes, tilt_stacks])
def test_particles_of_tomograms_are_searched_by_two_processes(
    client: Any, problem: Callable[[], RefinementProblem]
) -> None:
    options = replace(
        OPTIONS, symmetry="D2", particle_diameter_A=half_sets.DIAMETER_A, healpix_order=0, max_iterations=1,
        offset_range_px=1.0,
    )  # fmt: skip
    found, _ = together(client, problem, options)
    assert_same(found, alone(problem, options, is_local=False))


def test_a_last_iteration_with_both_halves_is_the_same(client: Any) -> None:
    options = replace(OPTIONS, max_iterations=1, firstiter_cc=False, force_converge=True)
    found, _ = together(client, single_particles, options)
    expected = alone(single_particles, options, is_local=False)
    assert_same(found, expected)
    assert found[-1].is_final and found[-1].joined is not None and expected[-1].joined is not None
    np.testing.assert_array_equal(found[-1].joined.map, expected[-1].joined.map)


class Killing:
    """Ends processes by SIGKILL once, at some moment of the second iteration."""

    def __init__(self, n_process: int, is_time: Callable[[Progress], bool]) -> None:
        self.n_process, self.is_time = n_process, is_time
        self.pids: list[int] = []

    def __call__(self, crew: DaskCrew, progress: Progress) -> None:
        if self.pids or progress.iteration != 2 or not self.is_time(progress):
            return
        for member in crew.pool.members[: self.n_process]:
            self.pids.append(member.greeting.pid)
            os.kill(member.greeting.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("n_process", "is_time"),
    [
        pytest.param(1, lambda progress: progress.done > 0, id="one, at its first blocks"),
        pytest.param(1, lambda progress: progress.done == progress.total, id="one, while volumes are added"),
        pytest.param(2, lambda progress: progress.done > 0, id="all"),
    ],
)
def test_a_killed_process_costs_its_blocks_only(
    client: Any, n_process: int, is_time: Callable[[Progress], bool]
) -> None:
    killing = Killing(n_process, is_time)
    found, texts = together(client, single_particles, OPTIONS, when=killing)
    assert len(killing.pids) == n_process
    assert_same(found, alone(single_particles, OPTIONS, is_local=False))
    lost = [text for text in texts if text.startswith("Lost")]
    assert len(lost) <= n_process  # volumes may have been fetched before the process ended
    if is_time(Progress(stage="", done=1, total=80)):
        assert lost
        assert n_process == 1 or any(text.startswith("Joined") for text in texts)


def test_a_process_that_has_forgotten_its_session_gets_a_new_one(client: Any) -> None:
    forgotten: list[str] = []

    def forget(crew: DaskCrew, progress: Progress) -> None:
        if not forgotten and progress.iteration == 2 and progress.done > 0:
            forgotten.append(crew.pool.members[0].address)
            client.run(worker.close_sessions, "", workers=forgotten)

    found, texts = together(client, single_particles, OPTIONS, when=forget)
    assert forgotten and any(text.startswith("Lost") for text in texts)
    assert_same(found, alone(single_particles, OPTIONS, is_local=False))


def test_particles_that_end_every_process_end_the_run(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew_module, "_MOST_TRIES", 2)
    problem = single_particles()
    here = os.getpid()
    read = problem.read_images

    def deadly(indices: np.ndarray) -> Any:
        if os.getpid() != here and len(indices) > 1 and 17 in indices:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(indices)

    with pytest.raises(InputError, match="2 processes ended one after the other") as caught:
        together(client, lambda: replace(problem, read_images=deadly), OPTIONS)
    assert "\n" not in str(caught.value)


def test_a_cancelled_run_stops_its_processes(client: Any) -> None:
    problem = single_particles()
    here, read = os.getpid(), problem.read_images

    def slow(indices: np.ndarray) -> Any:
        if os.getpid() != here and len(indices) > 1:
            time.sleep(0.3)
        return read(indices)

    class Enough(Exception):
        pass

    def stop(crew: DaskCrew, progress: Progress) -> None:
        if progress.done > 0:
            raise Enough

    with pytest.raises(Enough):
        together(client, lambda: replace(problem, read_images=slow), OPTIONS, when=stop)
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline and any(busy(client)):
        time.sleep(0.1)
    assert not any(busy(client))
    assert set(client.run(_n_session).values()) == {0}


def _n_session() -> int:
    return len(worker._SESSIONS)


def busy(client: Any) -> list[bool]:
    """Whether processes still run or wait for tasks."""
    return [bool(tasks) for tasks in client.processing().values()]


def test_a_process_of_another_version_is_refused(client: Any) -> None:
    def set_version(version: str) -> str:
        import napari_autorefine

        before, napari_autorefine.__version__ = napari_autorefine.__version__, version
        return before

    first = sorted(client.nthreads())[0]
    (version,) = client.run(set_version, "9.9", workers=[first]).values()
    try:
        with pytest.raises(InputError, match=r"has napari-autorefine 9\.9, this process .*; install the same version"):
            together(client, single_particles, OPTIONS)
    finally:
        client.run(set_version, version, workers=[first])


def test_processes_that_do_not_see_the_images_are_refused(client: Any) -> None:
    problem = single_particles()
    here = os.getpid()

    def missing(indices: np.ndarray) -> Any:
        if os.getpid() != here:
            raise FileNotFoundError(2, "No such file or directory", "/data/stack.mrcs")
        return problem.read_images(indices)

    with pytest.raises(InputError, match=r"stack\.mrcs.*; all must see the same files under the same names"):
        together(client, lambda: replace(problem, read_images=missing), OPTIONS)


def test_what_goes_wrong_elsewhere_is_told_with_the_place(client: Any) -> None:
    problem = single_particles()
    here = os.getpid()

    def broken(indices: np.ndarray) -> Any:
        if os.getpid() != here and len(indices) > 1:
            raise InputError("stack.mrcs has changed while it was read.")
        return problem.read_images(indices)

    with pytest.raises(InputError, match=r"tcp://127\.0\.0\.1:\d+ on .*: stack\.mrcs has changed"):
        together(client, lambda: replace(problem, read_images=broken), OPTIONS)


def test_sessions_of_runs_that_are_gone_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = single_particles()
    setup = prepare_setup(problem, OPTIONS)
    monkeypatch.setattr(worker, "_SESSIONS", {})
    contract = Contract(session="gone/1", threads=1, devices=(), cache_bytes=1 << 20, memory_bytes=1 << 28)
    assert worker.open_session(setup, contract, ("gone/",)) == ""
    earlier = worker._SESSIONS["gone/1"]
    assert worker.open_session(setup, replace(contract, session="here/1"), ("here/",)) == ""
    assert list(worker._SESSIONS) == ["here/1"] and earlier.is_stopped
    worker.close_sessions("here/")
    assert not worker._SESSIONS
