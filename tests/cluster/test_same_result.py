"""However many processes share the particles of a half-set, the result has the same bits."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from functools import lru_cache, reduce

import numpy as np
import pytest
from oracles import phantoms

from napari_autorefine.cluster.half_work import HalfWork
from napari_autorefine.cluster.wire import Contract, Step, added, lean_setup
from napari_autorefine.cluster.worker import Session
from napari_autorefine.engine.loop import refine
from napari_autorefine.engine.problem import RefinementProblem, RefineOptions
from napari_autorefine.engine.search_step import HalfSums, SearchStep
from napari_autorefine.engine.setup import Setup
from napari_autorefine.engine.state import RefinementState
from napari_autorefine.engine.sums import PoseTable
from napari_autorefine.events import Message, Progress

CONTRACT = Contract(session="run", threads=1, devices=(), cache_bytes=1 << 24, memory_bytes=4 << 30)
OPTIONS = RefineOptions(
    particle_diameter_A=72.0, ini_high_A=25.0, healpix_order=1, auto_local_healpix_order=2, offset_range_px=3.0,
    offset_step_px=1.0, mask_edge_px=3.0, max_iterations=6, low_resol_join_halves_A=-1.0, threads=1,
)  # fmt: skip


class Dealt:
    """A crew of sessions in this process; chunks are dealt in turn, volumes added last to first."""

    def __init__(self, n_session: int) -> None:
        self._n = n_session
        self._sessions: list[Session] = []

    def search(
        self, setup: Setup, step: SearchStep, n_dir: int, table: PoseTable
    ) -> Generator[Progress | Message, None, tuple[HalfSums, HalfSums]]:
        self._sessions = self._sessions or [Session(lean_setup(setup), CONTRACT) for _ in range(self._n)]
        first, second = (self._half(setup, step, half, n_dir=n_dir, table=table) for half in (1, 2))
        return first, second
        yield

    def _half(self, setup: Setup, step: SearchStep, half: int, *, n_dir: int, table: PoseTable) -> HalfSums:
        key = (step.plan.iteration, half)
        work = HalfWork(setup, step, key, n_dir=n_dir, table=table)
        work.cut(self._n, 1)
        for session in self._sessions:
            session.begin(key, Step(plan=step.plan, sampling=step.sampling, poses=step.poses), step.models[half - 1])
        for number, chunk in work.chunks.items():
            work.receive(self._sessions[number % self._n].search(key, chunk))
        assert len(work.chunks) >= self._n
        work.sums = reduce(added, [session.finish(key) for session in self._sessions[::-1]])
        return work.finish()

    def close(self) -> None:
        for session in self._sessions:
            session.close()


@lru_cache(maxsize=1)
def problem() -> RefinementProblem:
    """112 noisy images, in blocks of 16: four per half-set."""
    return phantoms.simulate(phantoms.ASYMMETRIC, 112, snr=0.5, box_size=20, pixel_size_A=4.0).problem


@lru_cache(maxsize=2)
def alone(*, has_tables: bool) -> list[RefinementState]:
    options = replace(OPTIONS, memory_bytes=OPTIONS.memory_bytes if has_tables else 1 << 20)
    return [event for event in refine(problem(), options) if isinstance(event, RefinementState)]


@pytest.mark.parametrize("has_tables", [True, False])
@pytest.mark.parametrize("n_session", [1, 2, 3])
def test_poses_and_maps_of_a_whole_run_do_not_depend_on_the_number_of_processes(
    n_session: int, has_tables: bool
) -> None:
    expected = alone(has_tables=has_tables)
    assert [state.sampling.is_local for state in expected[1:]] == sorted(
        state.sampling.is_local for state in expected[1:]
    )
    assert expected[1].sampling.is_local is False and expected[-1].sampling.is_local
    crew = Dealt(n_session)
    options = replace(OPTIONS, memory_bytes=OPTIONS.memory_bytes if has_tables else 1 << 20)
    found = [event for event in refine(problem(), options, crew=crew) if isinstance(event, RefinementState)]
    crew.close()
    assert len(found) == len(expected) == OPTIONS.max_iterations + 1
    for own, other in zip(found, expected, strict=True):
        for name in ("euler_deg", "origin_A", "p_max", "n_significant", "norm_correction", "intensities"):
            np.testing.assert_array_equal(getattr(own.poses, name), getattr(other.poses, name))
        for half, same in zip(own.halves, other.halves, strict=True):
            np.testing.assert_array_equal(half.map, same.map)
            np.testing.assert_array_equal(half.sigma2_noise, same.sigma2_noise)
