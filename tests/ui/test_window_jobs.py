"""Jobs in a thread of the window's process: the same signals, orders between events, nothing left behind."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ParticleSet

from napari_autorefine.events import Finished, Progress

MOMENT_MS = 30_000


@pytest.fixture
def start(make_dock: Callable[..., Any], qtbot: Any) -> Callable[..., Any]:
    """Run the job of a dock in the window; return the dock once the job is running."""

    def begin(**values: Any) -> Any:
        dock = make_dock(output="out/count.mrc", **values)
        dock.in_window.setChecked(True)
        dock.run()
        assert dock.panel.session is not None, dock.panel.status.text()
        qtbot.waitUntil(lambda: dock.panel.session.state != "starting", timeout=MOMENT_MS)
        return dock

    return begin


def ended(session: Any, qtbot: Any) -> str:
    qtbot.waitUntil(lambda: session.is_over, timeout=MOMENT_MS)
    return str(session.state)


def is_tidy() -> bool:
    return gc.isenabled() and gc.get_freeze_count() == 0


def test_a_job_in_the_window_tells_the_same_as_one_of_its_own(
    start: Callable[..., Any], sessions: Any, qtbot: Any, tmp_path: Path
) -> None:
    here, told = os.getcwd(), []
    sessions.added.connect(lambda one: (one.messaged.connect(told.append), one.progressed.connect(told.append)))
    session = start(steps=200).panel.session
    assert session.job.info.pid == os.getpid() and session.job.info.in_window
    assert ended(session, qtbot) == "finished" and session.outputs == {"map": str(tmp_path / "out" / "count.mrc")}
    kinds = {type(getattr(one, "event", one)) for one in told}
    assert {Progress, Finished} <= kinds and (tmp_path / "out" / "count.mrc").read_text() == "whole"
    qtbot.waitUntil(lambda: os.getcwd() == here and is_tidy(), timeout=MOMENT_MS)


def test_orders_are_obeyed_between_events(start: Callable[..., Any], qtbot: Any, tmp_path: Path) -> None:
    panel = start().panel
    assert not gc.isenabled()  # no thread collects what belongs to OpenGL
    panel.pause_button.click()
    qtbot.waitUntil(lambda: panel.session.state == "paused", timeout=MOMENT_MS)
    panel.pause_button.click()
    qtbot.waitUntil(lambda: panel.session.state == "running", timeout=MOMENT_MS)
    for _ in range(3):  # a process of its own would be killed
        panel.cancel_button.click()
    assert ended(panel.session, qtbot) == "cancelled" and not (tmp_path / "out" / "count.mrc").exists()
    qtbot.waitUntil(is_tidy, timeout=MOMENT_MS)


@pytest.mark.parametrize("failure", ["input", "no sense"])
def test_failures_are_told_in_words(
    start: Callable[..., Any], notices: list[tuple[str, str]], qtbot: Any, failure: str
) -> None:
    session = start(steps=1, failure=failure).panel.session
    assert ended(session, qtbot) == "failed"
    assert notices[-1][0] == "error" and "Traceback" not in notices[-1][1]


def test_one_job_at_a_time_runs_in_the_window(
    start: Callable[..., Any], make_dock: Callable[..., Any], notices: list[tuple[str, str]]
) -> None:
    start()
    other = make_dock(output="out/other.mrc")
    other._timer.stop()
    other.in_window.setChecked(True)
    other.run()
    assert other.panel.session is None and "One job at a time" in notices[-1][1]


def test_closing_the_window_ends_the_job_in_it(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, qtbot: Any
) -> None:
    from qtpy.QtWidgets import QMainWindow

    from napari_autorefine.ui import close_guard

    dock = start()
    window = QMainWindow()
    qtbot.addWidget(window)
    window.setCentralWidget(dock)
    window.show()
    close_guard.guard_window(dock)
    session = dock.panel.session
    monkeypatch.setattr(close_guard, "ask_about_running", lambda parent: "go on")
    assert window.close() and session.state == "cancelled"


def test_a_refinement_runs_in_the_window(sessions: Any, particle_set: ParticleSet, qtbot: Any) -> None:
    from napari_autorefine.jobs.refine_params import RefineParams

    params = RefineParams(
        particles="particles.star", reference="ref.mrc", output="out/run", particle_diameter_A=30.0, max_iterations=1
    )
    session = sessions.start("refine", params, particle_set.folder, in_window=True)
    assert session.job.info.parameters["threads"] == max(1, (os.cpu_count() or 2) - 1)
    qtbot.waitUntil(lambda: session.is_over, timeout=4 * MOMENT_MS)
    assert session.iterations and Path(session.iterations[0].files["half1"]).is_file(), session.ended
