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


def told_of(events: list[Any]) -> list[Progress]:
    return [event for event in events if isinstance(event, Progress)]


def reference(half: int) -> Progress:
    return Progress(stage=f"reference of half-set {half}", done=half - 1, total=2, iteration=4)


def fresh() -> Forecast:
    return Forecast(options=options(), state=state())


def test_time_left_follows_from_the_pace_of_blocks_not_from_what_comes_before_the_first(clock: SimpleNamespace) -> None:
    events = [
        (110.0, reference(1)),
        (117.0, searched(10)),  # 7 s for tables and a block, then 10 particles in 4 s
        (121.0, searched(20)),
        (133.0, searched(50)),
        (134.0, reference(2)),
        (140.0, searched(60)),
        (148.0, searched(80)),
        (156.0, searched(100)),
        (161.0, done(4)),
    ]
    made = fresh()
    seen = followed(made, events, clock)
    left = {one.done: one.seconds_left for one in seen if isinstance(one, Progress) and one.stage == "expectation"}
    assert left[10] is None
    assert made.after_s == pytest.approx(5.0)
    made.after_s = 0.0
    assert left[20] == pytest.approx(0.4 * 80 + 7, rel=0.2)
    assert left[60] == pytest.approx(0.4 * 40, rel=0.4)
    assert left[80] == pytest.approx(0.4 * 20, rel=0.8)


def test_the_end_of_an_iteration_takes_what_it_took_the_last_time(clock: SimpleNamespace) -> None:
    events = [(110.0, searched(10)), (120.0, searched(60)), (130.0, done(4)), (131.0, searched(10, 5))]
    seen = told_of(followed(fresh(), [*events, (141.0, searched(60, 5))], clock))
    assert seen[-1].seconds_left == pytest.approx(0.2 * 40 + 10.0)
    assert seen[-1].forecast.startswith("iteration 18 s, run ")
    assert "GB so far" in seen[-1].forecast and "GB expected" in seen[-1].forecast


def test_nothing_is_foretold_before_the_first_blocks(clock: SimpleNamespace) -> None:
    events = [(110.0, searched(1)), (110.1, searched(2)), (110.2, searched(3))]
    first, second, third = told_of(followed(fresh(), events, clock))
    assert first.forecast == second.forecast == ""
    assert first.seconds_left is None
    assert third.seconds_left is not None and third.forecast


def test_a_long_iteration_is_told_about_once_in_a_sentence(clock: SimpleNamespace) -> None:
    events = [(100.0 + 4 * n, searched(n)) for n in range(1, 20)]
    events += [(300.0, done(4)), (304.0, searched(1, 5)), (308.0, searched(2, 5)), (312.0, searched(3, 5))]
    messages = [event.text for event in followed(fresh(), events, clock) if isinstance(event, Message)]
    assert len(messages) == 2
    assert messages[0].startswith("Forecast for iteration 4: iteration ")
    assert messages[1].startswith("Forecast for iteration 5: iteration ")


def test_a_short_iteration_is_not(clock: SimpleNamespace) -> None:
    events = [(100.0 + 0.5 * n, searched(10 * n)) for n in range(1, 11)]
    assert not any(isinstance(event, Message) for event in followed(fresh(), events, clock))


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
    seen = told_of(followed(made, [(110.0, searched(40)), (120.0, searched(50))], clock))
    assert seen[-1].forecast and ", run " not in seen[-1].forecast
    assert made.iterations_left() == (0, 0)


def test_the_range_of_the_run_holds_its_parts(clock: SimpleNamespace) -> None:
    outlook = Forecast(options=options(), state=state(), after_s=5.0).outlook(20.0, 20.0)
    low, high = outlook.run_s
    assert outlook.iteration_s == pytest.approx(25.0)
    assert outlook.iteration_s < low < high
    assert outlook.expected_bytes >= outlook.peak_bytes == pytest.approx(peak_memory_bytes(), rel=0.2)


def test_more_memory_is_expected_of_larger_boxes() -> None:
    small = Forecast(options=options(), state=replace(state(), box_size=64)).outlook(1.0, 1.0)
    large = Forecast(options=options(), state=replace(state(), box_size=512)).outlook(1.0, 1.0)
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
