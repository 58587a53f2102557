"""Docks that run jobs: controls, progress, log, results, the next job, attaching, closing the window."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from conftest import ParticleSet

from napari_autorefine.events import Finished, Message, Progress
from napari_autorefine.jobs.job_events import IterationWritten, JobEnded, StateChanged, TimedEvent, to_line
from napari_autorefine.jobs.job_folder import JobFolder, JobInfo, state_folder, this_process

MOMENT_MS = 30_000


@pytest.fixture
def running(make_dock: Callable[..., Any], qtbot: Any) -> Any:
    """A dock whose job counts for minutes."""
    dock = make_dock(output="out/count.mrc")
    dock.panel.run_button.click()
    qtbot.waitUntil(lambda: dock.panel.session.state == "running", timeout=MOMENT_MS)
    return dock


def test_a_job_is_paused_resumed_and_cancelled(running: Any, notices: list[tuple[str, str]], qtbot: Any) -> None:
    panel, session = running.panel, running.panel.session
    assert not panel.run_button.isEnabled() and "running" in panel.run_button.toolTip()
    qtbot.waitUntil(lambda: "counting" in panel.bar.format(), timeout=MOMENT_MS)
    panel.pause_button.click()
    qtbot.waitUntil(lambda: panel.pause_button.text() == "Resume", timeout=MOMENT_MS)
    panel.pause_button.click()
    qtbot.waitUntil(lambda: panel.pause_button.text() == "Pause", timeout=MOMENT_MS)
    panel.cancel_button.click()
    qtbot.waitUntil(lambda: session.is_over, timeout=MOMENT_MS)
    assert session.state == "cancelled" and panel.run_button.isEnabled()
    assert "Counting." in panel.log.plain_text() and "WARNING: Cancelled." in panel.log.plain_text()
    assert any("Cancelled" in text for _, text in notices)
    assert not (running.project.folder / "out" / "count.mrc").exists()


def test_a_second_job_with_the_same_output_is_refused(
    running: Any, make_dock: Callable[..., Any], notices: list[tuple[str, str]]
) -> None:
    other = make_dock(output="out/count.mrc")
    other._timer.stop()  # before it attaches by itself
    other.run()
    assert other.panel.session is None
    assert "is running since" in notices[-1][1] and "is running since" in other.panel.status.text()


def test_a_dock_attaches_to_the_running_job_of_its_output(
    running: Any, make_dock: Callable[..., Any], sessions: Any, qtbot: Any
) -> None:
    sessions.forget()  # as if the window had been closed
    again = make_dock(output="out/count.mrc")
    qtbot.waitUntil(lambda: again.panel.is_busy, timeout=MOMENT_MS)
    assert again.panel.session.job.info.pid == running.panel.session.job.info.pid
    qtbot.waitUntil(lambda: "Counting." in again.panel.log.plain_text(), timeout=MOMENT_MS)
    assert sessions.running() == [again.panel.session]
    assert [job.info.output for job in sessions.running_in(again.project.folder)] == ["out/count.mrc"]


@pytest.mark.parametrize(("failure", "has_details"), [("input", False), ("no sense", True)])
def test_failures_are_told_in_words(
    make_dock: Callable[..., Any], notices: list[tuple[str, str]], qtbot: Any, failure: str, has_details: bool
) -> None:
    dock = make_dock(output="out/count.mrc", steps=1, failure=failure)
    dock.run()
    qtbot.waitUntil(lambda: dock.panel.session.is_over, timeout=MOMENT_MS)
    text = notices[-1][1]
    assert text.startswith("Slow: ") and "Traceback" not in text and "\n" not in text
    assert dock.panel.status.text() in text and "ERROR" in dock.panel.log.plain_text()
    assert dock.panel.details_button.isHidden() is not has_details
    assert dock.panel.run_button.isEnabled()


def test_what_is_missing_keeps_run_disabled_and_is_said(make_dock: Callable[..., Any]) -> None:
    dock = make_dock("refine")
    assert not dock.panel.run_button.isEnabled()
    assert "Reference map" in dock.panel.run_button.toolTip()
    assert dock.panel.reason.text() == dock.panel.run_button.toolTip()


def test_a_folder_without_permission_is_said(
    make_dock: Callable[..., Any], notices: list[tuple[str, str]], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    dock = make_dock(output="file/count.mrc")
    dock.run()
    assert dock.panel.session is None and "cannot be written" in notices[-1][1]


def test_results_are_opened_and_go_into_the_next_form(
    make_viewer: Callable[..., Any],
    sessions: Any,
    particle_set: ParticleSet,
    monkeypatch: pytest.MonkeyPatch,
    qtbot: Any,
) -> None:
    from napari_autorefine.ui.job_docks import TITLES, open_dock
    from napari_autorefine.ui.project import project

    viewer = make_viewer()
    monkeypatch.setattr(project, "_folder", particle_set.folder)
    dock = open_dock(viewer, "rebox", {"input": ("ref.mrc",), "new_box": 12})
    dock.run()
    session = dock.panel.session
    qtbot.waitUntil(lambda: session.is_over, timeout=MOMENT_MS)
    assert session.state == "finished", session.ended
    assert Path(session.outputs["map"]).parent == particle_set.folder / "ReboxRescale" / "job001"
    buttons = {
        item.widget().text(): item.widget() for item in map(dock.panel._flow.itemAt, range(dock.panel._flow.count()))
    }
    buttons["Open map"].click()
    assert viewer.layers[-1].data.shape == (12, 12, 12)
    buttons["→ Auto-refine"].click()
    refine = viewer.window.dock_widgets[f"{TITLES['refine']} (napari-autorefine)"]
    assert refine.form.values()["reference"].startswith("ReboxRescale/job001/")
    assert dock.form.fields["output"].read() == "ReboxRescale/job002/"


def test_every_dock_of_the_manifest_opens_and_fits_a_narrow_column(
    make_viewer: Callable[..., Any], sessions: Any
) -> None:
    from napari_autorefine.ui.job_docks import TITLES, open_dock

    viewer = make_viewer()
    for job in TITLES:
        dock = open_dock(viewer, job)
        assert dock is not None and dock.form.job == job
        for page in range(dock.form.tabs.pages.count()):
            dock.form.tabs.show_page(page)
            assert dock.form.minimumSizeHint().width() <= 340, (job, page)
        assert dock.panel.minimumSizeHint().width() <= 340


@pytest.mark.parametrize(("answer", "is_closed", "state"), [("stay", False, "running"), ("cancel", True, "cancelled")])
def test_closing_the_window_asks_while_a_job_runs(
    running: Any, monkeypatch: pytest.MonkeyPatch, qtbot: Any, answer: str, is_closed: bool, state: str
) -> None:
    from qtpy.QtWidgets import QMainWindow

    from napari_autorefine.ui import close_guard

    window = QMainWindow()
    qtbot.addWidget(window)
    window.setCentralWidget(running)
    window.show()
    session = running.panel.session
    close_guard.guard_window(running)
    close_guard.guard_window(running)
    asked = []
    monkeypatch.setattr(close_guard, "ask_about_running", lambda parent: asked.append(parent) or answer)
    assert window.close() is is_closed and len(asked) == 1
    assert session.job.wait(20 if is_closed else 0.5).state == state
    monkeypatch.setattr(close_guard, "ask_about_running", lambda parent: "cancel")
    window.close()


def event_lines(folder: JobFolder, *events: Any) -> None:
    with open(folder.events, "a", encoding="utf-8") as file:
        file.writelines(to_line(TimedEvent(time=time.time(), event=event)) + "\n" for event in events)


def test_a_session_tells_what_happens_in_order(sessions: Any, tmp_path: Path) -> None:
    folder = JobFolder(state_folder(tmp_path / "run"))
    folder.clear()
    pid, began = this_process()
    began_at = {"workdir": str(tmp_path), "started": 0.0, "pid": pid, "process_started": began}
    folder.write_info(JobInfo(job="refine", output="run", parameters={}, command="", version="", **began_at))
    figures = dict.fromkeys(("voxel_size_A", "resolution_A", "accuracy_rot_deg", "accuracy_trans_A"), 2.5)
    figures |= dict.fromkeys(("angular_step_deg", "offset_step_A", "offset_range_A", "change_rot_deg"), 1.5)
    figures |= dict.fromkeys(("change_trans_A", "mean_p_max", "seconds", "healpix_order", "current_size"), 1)
    iteration = IterationWritten(
        iteration=1, is_final=False, is_local=False, fsc=(1.0,), files={"half1": "a.mrc"}, **figures
    )
    session = sessions.attach(tmp_path / "run")
    told: list[Any] = []
    for signal in (
        session.progressed,
        session.messaged,
        session.iteration_done,
        session.state_changed,
        session.finished,
    ):
        signal.connect(told.append)
    event_lines(folder, Message(text="Begins."), Progress(stage="expectation", done=1, total=4, iteration=1), iteration)
    session.poll()
    event_lines(
        folder,
        StateChanged(state="paused"),
        Finished(text="Done.", outputs={"map": "b.mrc"}),
        JobEnded(state="finished", text="Done."),
    )
    session.poll()
    kinds = [one if isinstance(one, str) else type(getattr(one, "event", one)).__name__ for one in told]
    assert kinds == ["Message", "running", "Progress", "IterationWritten", "paused", "Finished", "finished", "JobEnded"]
    assert session.iterations[0].files == {"half1": str(tmp_path / "a.mrc")}
    assert session.outputs == {"map": str(tmp_path / "b.mrc")} and session.is_over
    assert sessions.attach(os.fspath(tmp_path / "run")) is session


def test_progress_is_told_seldom_but_never_late(sessions: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_autorefine.ui import activity
    from napari_autorefine.ui import sessions as module

    clock = [100.0]
    for one in (module, activity):
        monkeypatch.setattr(one, "time", SimpleNamespace(monotonic=lambda: clock[0], time=time.time))
    folder = JobFolder(state_folder(tmp_path / "run"))
    folder.clear()
    pid, began = this_process()
    began_at = {"workdir": str(tmp_path), "started": 0.0, "pid": pid, "process_started": began}
    folder.write_info(JobInfo(job="refine", output="run", parameters={}, command="", version="", **began_at))
    session = sessions.attach(tmp_path / "run")
    told: list[tuple[str, float]] = []
    session.progressed.connect(lambda event: told.append((event.stage, event.done)))
    bar = MagicMock(n=0)
    monkeypatch.setattr(activity, "progress", lambda **_: bar)
    activity.announce(session, "Refine")

    def after(seconds: float, stage: str, done: float) -> None:
        clock[0] += seconds
        event_lines(folder, Progress(stage=stage, done=done, total=10, iteration=1))
        session.poll()

    after(0.2, "expectation", 1)
    for done in (2, 3, 4):
        after(0.2, "expectation", done)
    clock[0] += 1.0
    session.poll()
    after(0.1, "expectation", 10)
    after(0.1, "reference of half-set 1", 0)
    session.poll()
    event_lines(folder, JobEnded(state="finished", text="Done."))
    session.poll()
    assert told == [("expectation", 1), ("expectation", 4), ("expectation", 10), ("reference of half-set 1", 0)]
    assert bar.set_description.call_count == 3


def test_folders_without_anything_to_show_are_told(
    make_viewer: Callable[..., Any], notices: list[tuple[str, str]], tmp_path: Path
) -> None:
    from napari_autorefine.ui.commands import open_paths

    assert open_paths(make_viewer(), [str(tmp_path)]) == []
    assert notices[-1] == ("error", f"{tmp_path} holds no map, stack or STAR file.")


def test_the_recentring_dock_says_what_to_do_when_nothing_is_open(
    make_viewer: Callable[..., Any], sessions: Any
) -> None:
    from napari_autorefine.ui.job_docks import open_dock

    dock: Any = open_dock(make_viewer(), "recenter")
    assert dock.panel.reason.text() == "Move the map onto the mask, or type its offset."
    assert dock.tool.message.text().startswith("Open a map and mask")
