from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest

from napari_autorefine.events import Event, Finished, IterationDone, Message, Progress
from napari_autorefine.terminal import Listener, duration, finished_block, iteration_block, progress_line, show


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def iteration(**changes: object) -> IterationDone:
    values: dict[str, object] = {
        "iteration": 3,
        "is_final": False,
        "half_maps": (np.zeros((2, 2, 2)), np.zeros((2, 2, 2))),
        "joined_map": None,
        "voxel_size_A": 2.0,
        "fsc": np.ones(33),
        "resolution_A": 7.25,
        "accuracy_rot_deg": 1.5,
        "accuracy_trans_A": 0.75,
        "angular_step_deg": 3.75,
        "offset_step_A": 1.0,
        "offset_range_A": 5.0,
        "healpix_order": 3,
        "is_local": True,
        "change_rot_deg": 2.5,
        "change_trans_A": 0.5,
        "mean_p_max": 0.61,
        "current_size": 48,
        "seconds": 75.0,
        "summary": "Converged: no gain for 1 iteration.",
    }
    return IterationDone(**(values | changes))


@pytest.mark.parametrize(("seconds", "text"), [(3.4, "3 s"), (75, "1 min 15 s"), (7300, "2 h 01 min")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_iteration_block_tells_what_matters() -> None:
    block = iteration_block(iteration())
    for text in (
        "used to 5.33 A",
        "Iteration 3",
        "1 min 15 s",
        "7.25 A",
        "1.5 deg",
        "0.75 A",
        "3.75 deg local",
        "2.5 deg",
        "Converged",
    ):
        assert text in block


def test_unknown_accuracy_is_a_dash() -> None:
    assert "accuracy     -, -" in iteration_block(iteration(accuracy_rot_deg=999.0, accuracy_trans_A=999.0))


def test_progress_line_estimates_the_time_left() -> None:
    assert "30 s left" in progress_line(Progress(stage="expectation", done=1, total=4, iteration=2), 10.0)
    assert "7 s left" in progress_line(Progress(stage="expectation", done=1, total=4, seconds_left=7.0), 10.0)


def test_progress_of_nothing_does_not_divide_by_zero() -> None:
    assert "0 %" in progress_line(Progress(stage="reading", done=0, total=0), 0.0)


def test_live_progress_is_rewritten_and_removed() -> None:
    screen = Screen()
    listener = Listener(screen)
    listener.take(Progress(stage="expectation", done=1, total=1))
    listener.take(Message(text="Careful.", level="warning"))
    assert "\r" in screen.getvalue()
    assert screen.getvalue().endswith("Warning: Careful.\n")


def test_log_files_get_no_carriage_returns() -> None:
    log = io.StringIO()
    listener = Listener(log)
    for done in range(100):
        listener.take(Progress(stage="expectation", done=done, total=100))
    listener.take(Finished(text="Done.", outputs={"map": "a.mrc"}))
    assert log.getvalue() == finished_block(Finished(text="Done.", outputs={"map": "a.mrc"})) + "\n"


def test_an_interrupted_job_is_closed() -> None:
    closed = []

    def job() -> Iterator[Event]:
        try:
            yield Message(text="one")
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    with pytest.raises(KeyboardInterrupt):
        show(job(), io.StringIO())
    assert closed == [True]


def test_a_forecast_stands_in_the_progress_line_as_far_as_it_fits() -> None:
    text = "iteration 2 min 05 s, run 20 min 00 s to 1 h 10 min left; memory 3.1 GB so far, 4.0 GB expected"
    event = Progress(stage="expectation", done=1, total=4, iteration=2, seconds_left=125.0, forecast=text)
    assert progress_line(event, 1.0, 200).endswith(f"25 %  {text}")
    assert len(progress_line(event, 1.0, 90)) == 90
    assert progress_line(event, 1.0, 90).startswith("Iteration 2: expectation [")
