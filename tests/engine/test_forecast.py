from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from napari_autorefine.engine import forecast
from napari_autorefine.engine.forecast import Forecast, n_step, peak_memory_bytes, told
from napari_autorefine.engine.problem import RefineOptions
from napari_autorefine.engine.state import Convergence, RefinementState, Sampling
from napari_autorefine.events import Event, IterationDone, Message, Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(forecast.time, "perf_counter", lambda: now.s)
    return now


def options(**changes: Any) -> RefineOptions:
    return RefineOptions(particle_diameter_A=200.0, **{"max_iterations": 50, **changes})


def state(iteration: int = 3, order: int = 2, **changes: Any) -> RefinementState:
    convergence = Convergence(current_resolution_A=10.0, current_size=32)
    half: Any = SimpleNamespace(accuracy_rot_deg=3.0, accuracy_trans_A=1.0)
    sampling = Sampling(symmetry="C1", healpix_order=order, psi_step_deg=15.0, offset_range_A=6.0, offset_step_A=2.0)
    poses: Any = None
    made = RefinementState(
        iteration=iteration,
        box_size=64,
        voxel_size_A=2.0,
        halves=(half, half),
        fsc=np.zeros(33),
        poses=poses,
        sampling=sampling,
        convergence=convergence,
    )
    return replace(
        made,
        sampling=replace(sampling, **{k: v for k, v in changes.items() if hasattr(sampling, k)}),
        convergence=replace(convergence, **{k: v for k, v in changes.items() if hasattr(convergence, k)}),
    )


def done(iteration: int) -> IterationDone:
    names = IterationDone.__dataclass_fields__
    return IterationDone(**{**dict.fromkeys(names, 0.0), "iteration": iteration})  # type: ignore[arg-type]


def followed(made: Forecast, events: list[tuple[float, Any]], clock: SimpleNamespace) -> list[Any]:
    def run() -> Iterator[Event | RefinementState]:
        for moment, event in events:
            clock.s = moment
            yield event

    return list(made.follow(run()))  # type: ignore[arg-type]


def searched(n: int, iteration: int = 4) -> Progress:
    return Progress(stage="expectation", done=n, total=100, iteration=iteration)


def test_time_left_of_an_iteration_follows_from_particles_and_from_the_end_of_the_last_one(
    clock: SimpleNamespace,
) -> None:
    events = [(110.0, searched(100)), (115.0, done(4)), (125.0, searched(25, 5)), (145.0, searched(75, 5))]
    seen = followed(Forecast(options=options(), state=state()), events, clock)
    progress = [event for event in seen if isinstance(event, Progress)]
    assert [one.seconds_left for one in progress[1:]] == [pytest.approx(30 + 5), pytest.approx(10 + 5)]
    assert progress[1].forecast.startswith("iteration 35 s, run ")
    assert "GB so far" in progress[1].forecast and "GB expected" in progress[1].forecast


def test_nothing_is_foretold_before_the_first_blocks(clock: SimpleNamespace) -> None:
    early, later = followed(
        Forecast(options=options(), state=state()), [(101.0, searched(1)), (101.5, searched(2))], clock
    )
    assert early.seconds_left is None and early.forecast == ""
    assert later.seconds_left is not None and later.forecast


def test_a_long_iteration_is_told_about_once_in_a_sentence(clock: SimpleNamespace) -> None:
    events = [(100.0 + 4 * n, searched(n)) for n in range(1, 20)] + [(300.0, done(4)), (304.0, searched(1, 5))]
    messages = [
        e.text for e in followed(Forecast(options=options(), state=state()), events, clock) if isinstance(e, Message)
    ]
    assert len(messages) == 2
    assert messages[0].startswith("Forecast for iteration 4: iteration ")
    assert messages[1].startswith("Forecast for iteration 5: iteration ")


def test_a_short_iteration_is_not(clock: SimpleNamespace) -> None:
    events = [(100.0 + n, searched(10 * n)) for n in range(1, 11)]
    assert not any(isinstance(e, Message) for e in followed(Forecast(options=options(), state=state()), events, clock))


@pytest.mark.parametrize(
    ("before", "fewest", "most"),
    [
        (state(order=2), 4, 13),
        (state(order=3), 3, 10),
        (state(order=4, is_local=True), 2, 7),
        (state(order=5, is_local=True, is_fine_enough=True), 1, 7),
        (state(iteration=47, order=2), 2, 2),
        (state(has_converged=True), 0, 0),
    ],
)
def test_iterations_left_are_a_range_that_the_schedule_allows(before: RefinementState, fewest: int, most: int) -> None:
    assert Forecast(options=options(), state=before).iterations_left() == (fewest, most)


def test_the_last_iteration_is_known_as_such(clock: SimpleNamespace) -> None:
    made = Forecast(options=options(force_converge=True), state=state())
    seen = followed(made, [(110.0, searched(50))], clock)
    assert ", run " not in seen[0].forecast
    assert made.iterations_left() == (0, 0)


def test_the_range_of_the_run_holds_its_parts(clock: SimpleNamespace) -> None:
    outlook = Forecast(options=options(), state=state(), after_s=5.0).outlook(20.0, 0.5)
    low, high = outlook.run_s
    assert outlook.iteration_s == pytest.approx(25.0)
    assert outlook.iteration_s < low < high
    assert outlook.expected_bytes >= outlook.peak_bytes == pytest.approx(peak_memory_bytes(), rel=0.2)


def test_more_memory_is_expected_of_larger_boxes() -> None:
    small = Forecast(options=options(), state=replace(state(), box_size=64)).outlook(1.0, 0.5)
    large = Forecast(options=options(), state=replace(state(), box_size=512)).outlook(1.0, 0.5)
    assert large.expected_bytes > small.expected_bytes + 8 * 10**9


def test_what_is_made_is_said_before_it_is_made() -> None:
    made = []

    def steps() -> Iterator[str]:
        for number in range(n_step(is_final=True, is_masked=False)):
            yield f"step {number}"
            made.append(number)
        return "map"

    seen: list[Progress] = []

    def listener() -> Iterator[Any]:
        result = yield from told(steps(), 7, 6)  # type: ignore[arg-type]
        seen.append(result)

    for event in listener():
        assert len(made) == event.done
        assert (event.total, event.iteration) == (6, 7)
    assert seen == ["map"]
    assert made == list(range(6))
