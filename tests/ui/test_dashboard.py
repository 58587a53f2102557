"""Live results: runs from files and from a job, curves, history, hover, tables, and what is left after closing."""

from __future__ import annotations

import csv
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import report_folders
from oracles.run_folders import add_maps, blob, date, refinement

from napari_autorefine.events import Message, Progress
from napari_autorefine.jobs.job_events import IterationWritten, JobEnded, TimedEvent, to_line
from napari_autorefine.jobs.job_folder import JobFolder, JobInfo, state_folder, this_process

MOMENT_MS = 30_000


@pytest.fixture
def settings_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The forms' memory and the project are in the test's folder."""
    from napari_autorefine.ui.project import project
    from napari_autorefine.ui.sessions import sessions

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(project, "_folder", tmp_path)
    yield
    sessions.forget()


@pytest.fixture
def viewer(make_viewer: Callable[..., Any], settings_of_its_own: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    from napari_autorefine.ui.live_maps import LiveMaps

    monkeypatch.setattr(LiveMaps, "uses_surfaces", False)
    return make_viewer()


def settle(dashboard: Any, qtbot: Any) -> None:
    """Wait until nothing is being read or shown."""
    qtbot.waitUntil(lambda: dashboard.worker.is_idle and not dashboard.maps.is_busy, timeout=MOMENT_MS)


@pytest.fixture
def opened(viewer: Any, tmp_path: Path, qtbot: Any) -> Any:
    """The dashboard of a finished run of three iterations in RELION's layout."""
    from napari_autorefine.ui.live_results import open_run

    dashboard = open_run(viewer, refinement(tmp_path / "Refine3D" / "job007"))
    settle(dashboard, qtbot)
    return dashboard


def test_a_finished_folder_of_relion_opens_with_its_history(opened: Any) -> None:
    assert [step.title for step in opened.follower.steps] == [*(f"iteration {n}" for n in range(4)), "final"]
    assert opened.follower.state == "finished" and opened.shown.is_final
    assert "job007/run" in opened.headline.text() and "9.00 Å" in opened.headline.text()
    assert len(opened.fsc._curves) == 4 and opened.table.rowCount() == 5
    at, value = opened.resolution.values(opened.resolution.series[0])
    assert at.tolist() == [1, 2, 3, 4] and value.tolist() == [17, 14, 11, 9]
    assert {layer.name for layer in opened.viewer.layers} >= {"half-map 1", "half-map 2", "final map"}
    assert opened.orientations._directions.n_particle == report_folders.N_PARTICLE
    assert set(opened.sections._images) == {"xy", "xz", "yz"}
    assert "Iteration 3: 11.00 Å" in opened.log.plain_text()


def test_the_numbers_are_those_of_the_files(opened: Any) -> None:
    steps = opened.follower.steps
    assert np.array_equal(steps[2].fsc, report_folders.fsc_curve(14.0))
    assert (steps[3].accuracy_rot_deg, steps[3].change_rot_deg) == pytest.approx((2.0, 10 / 3))
    assert steps[1].angular_step_deg == pytest.approx(3.75) and steps[3].is_local and not steps[1].is_local
    assert np.isnan(steps[0].change_rot_deg)


def test_the_text_under_the_mouse_is_the_shell_the_resolution_and_the_fsc(opened: Any) -> None:
    shell, width_A = 4, report_folders.BOX * report_folders.VOXEL_A
    for step in (opened.follower.steps[1], opened.follower.steps[-1]):
        value = step.fsc[shell]
        opened.fsc.hover_at(shell / width_A + 0.001, value)
        text = opened.fsc.hover.toPlainText()
        assert text == f"{step.title}\nshell 4 · 12.00 Å\nFSC {value:.3f}"
        assert opened.fsc.hover.isVisible()
        place = opened.fsc.hover.mapRectToScene(opened.fsc.hover.boundingRect())
        assert place.width() < 200 and opened.fsc.canvas.sceneRect().intersects(place)
    opened.fsc.hover_at(-1.0, 0.5)
    assert not opened.fsc.hover.isVisible()
    opened.resolution.hover_at(2.2, 1.0)
    assert opened.resolution.hover.toPlainText() == "iteration 2\nresolution 14 Å"
    opened.angles.hover_at(1.9, 1.0)
    assert opened.angles.hover.toPlainText().splitlines() == [
        "iteration 2",
        "step 1.88°",
        "accuracy 2.67°",
        "change 5°",
    ]


def test_a_click_on_a_row_shows_the_maps_of_that_iteration(opened: Any, qtbot: Any) -> None:
    opened.table.cellClicked.emit(2, 0)
    settle(opened, qtbot)
    assert opened.shown.number == 2 and not opened.history.follow.isChecked()
    assert opened.viewer.layers["half-map 1"].metadata["autorefine"]["path"].endswith("run_it002_half1_class001.mrc")
    assert opened.fsc._shown is opened.shown and "iteration 2 of 3" in opened.history.label.text()
    opened.history.follow.setChecked(True)
    settle(opened, qtbot)
    assert opened.shown.is_final


def test_the_slider_goes_through_the_iterations(opened: Any, qtbot: Any) -> None:
    assert (opened.history.slider.minimum(), opened.history.slider.maximum()) == (0, 4)
    opened.history.back.click()
    assert opened.shown.number == 3 and not opened.history.follow.isChecked()
    opened.history.forward.click()
    assert opened.shown.is_final and opened.history.follow.isChecked()
    settle(opened, qtbot)


def test_a_folder_that_napari_opens_comes_with_its_curves(viewer: Any, tmp_path: Path, qtbot: Any) -> None:
    from napari_autorefine.ui.live_results import DOCK_NAME

    viewer.open(str(refinement(tmp_path / "job007")), plugin="napari-autorefine")
    qtbot.waitUntil(lambda: DOCK_NAME in viewer.window.dock_widgets, timeout=MOMENT_MS)
    dashboard = viewer.window.dock_widgets[DOCK_NAME]
    qtbot.waitUntil(lambda: len(dashboard.follower.steps) == 5, timeout=MOMENT_MS)
    settle(dashboard, qtbot)
    names = [layer.name for layer in viewer.layers]
    assert len(names) == len(set(names)) and sum("half 1" in name or "half-map 1" in name for name in names) <= 2


def test_a_run_that_another_program_goes_on_with_is_followed(viewer: Any, tmp_path: Path, qtbot: Any) -> None:
    from napari_autorefine.ui.live_results import open_run

    folder = refinement(tmp_path / "job007", n=2, is_final=False)
    dashboard = open_run(viewer, folder / "run_it001_optimiser.star")
    settle(dashboard, qtbot)
    assert dashboard.follower.state == "followed" and dashboard.shown.number == 2
    assert dashboard.follower._timer.isActive() and dashboard.viewer.layers["half-map 1"].locked
    refinement(folder, n=3, is_final=False)
    dashboard.follower.look()
    settle(dashboard, qtbot)
    assert dashboard.shown.number == 3
    (folder / "RELION_JOB_EXIT_ABORTED").touch()
    dashboard.follower.look()
    settle(dashboard, qtbot)
    assert dashboard.follower.state == "ended" and not dashboard.follower._timer.isActive()
    assert not dashboard.viewer.layers["half-map 1"].locked


def test_an_iteration_that_is_half_written_waits(viewer: Any, tmp_path: Path, qtbot: Any) -> None:
    from napari_autorefine.ui.live_results import open_run

    folder = refinement(tmp_path / "job007", n=2, is_final=False)
    model = folder / "run_it002_half1_model.star"
    text = model.read_text()
    model.write_text(text[: len(text) // 3])
    date([model], minutes_ago=-10)  # long after the moment at which it is read
    dashboard = open_run(viewer, folder)
    settle(dashboard, qtbot)
    assert dashboard.shown.number == 1 and "WARNING" not in dashboard.log.plain_text()
    model.write_text(text)
    date([model], minutes_ago=5)
    dashboard.follower.look()
    settle(dashboard, qtbot)
    assert dashboard.shown.number == 2


class Job:
    """A refinement as its state folder shows it, without its process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.state = JobFolder(state_folder(folder / "run"))
        self.state.clear()
        pid, began = this_process()
        place = {"workdir": str(folder.parent), "started": 0.0, "pid": pid, "process_started": began}
        output, parameters = f"{folder.name}/run", {"symmetry": "D2"}
        info = JobInfo(job="refine", output=output, parameters=parameters, command="", version="", **place)
        self.state.write_info(info)

    def tell(self, *events: Any) -> None:
        with open(self.state.events, "a", encoding="utf-8") as file:
            file.writelines(to_line(TimedEvent(time=time.time(), event=event)) + "\n" for event in events)

    def iterate(self, n: int) -> None:
        add_maps(self.folder, n, scale=1.0 + n)
        figures = {"voxel_size_A": 3.0, "resolution_A": 20.0 - n, "accuracy_rot_deg": 999.0, "accuracy_trans_A": 999.0}
        figures |= {"angular_step_deg": 7.5, "offset_step_A": 2.0, "offset_range_A": 5.0, "change_rot_deg": 3.0}
        figures |= {"change_trans_A": 1.0, "mean_p_max": 0.5, "seconds": 2.0, "healpix_order": 2, "current_size": 12}
        files = {f"half{half}": f"{self.folder.name}/run_it{n:03d}_half{half}_class001.mrc" for half in (1, 2)}
        fsc = tuple(map(float, report_folders.fsc_curve(20.0 - n)))
        event = IterationWritten(iteration=n, is_final=False, is_local=False, fsc=fsc, files=files, **figures)
        self.tell(event)


def test_a_job_is_followed_and_the_user_may_stay_behind(viewer: Any, tmp_path: Path, qtbot: Any) -> None:
    from napari_autorefine.ui.live_results import follow_session
    from napari_autorefine.ui.sessions import sessions

    job = Job(tmp_path / "job008")
    job.tell(Message(text="Begins."), Progress(stage="expectation", done=1, total=4, iteration=1))
    session = sessions.attach(job.folder / "run")
    dashboard = follow_session(viewer, session)
    for n in (1, 2):
        job.iterate(n)
        session.poll()
        settle(dashboard, qtbot)
    assert dashboard.shown.number == 2 and dashboard.follower.state == "running"
    assert viewer.layers["half-map 1"].data.max() == pytest.approx(3 * blob(seed=1).max())
    assert viewer.layers["half-map 1"].locked and "iteration 1, expectation" in dashboard.progress.text()
    dashboard.history.slider.setValue(0)
    job.iterate(3)
    session.poll()
    settle(dashboard, qtbot)
    assert dashboard.shown.number == 1 and len(dashboard.fsc._curves) == 3
    assert viewer.layers["half-map 1"].data.max() == pytest.approx(2 * blob(seed=1).max())
    job.tell(JobEnded(state="cancelled", text="Cancelled."))
    session.poll()
    settle(dashboard, qtbot)
    assert dashboard.follower.state == "cancelled" and not viewer.layers["half-map 1"].locked
    assert "Begins." in dashboard.log.plain_text() and "WARNING: Cancelled." in dashboard.log.plain_text()


def test_an_opened_dock_attaches_to_the_refinement_that_runs_in_the_project(
    viewer: Any, tmp_path: Path, qtbot: Any
) -> None:
    from napari_autorefine.ui.live_results import live_results

    job = Job(tmp_path / "job008")
    job.iterate(1)
    dashboard = live_results(viewer)
    dashboard.attach()
    dashboard.follower.session.poll()
    settle(dashboard, qtbot)
    assert dashboard.follower.prefix == job.folder / "run" and dashboard.shown.number == 1


def test_an_opened_dock_shows_the_last_run_again(opened: Any, viewer: Any, qtbot: Any) -> None:
    from napari_autorefine.ui.live_results import live_results

    prefix = opened.follower.prefix
    viewer.window.remove_dock_widget(opened)
    again = live_results(viewer)
    assert again is not opened
    again.attach()
    settle(again, qtbot)
    assert again.follower.prefix == prefix and again.shown.is_final


def test_the_dock_of_the_refinement_opens_the_live_results(viewer: Any, tmp_path: Path, qtbot: Any) -> None:
    from napari_autorefine.ui.job_docks import open_dock
    from napari_autorefine.ui.live_results import DOCK_NAME

    job = Job(tmp_path / "job008")
    job.iterate(1)
    dock = open_dock(viewer, "refine")
    dock.attach(job.folder)
    dashboard = viewer.window.dock_widgets[DOCK_NAME]
    assert dashboard.follower.session is dock.panel.session
    dashboard.follower.session.poll()
    settle(dashboard, qtbot)
    assert dashboard.shown.number == 1


@pytest.mark.parametrize("place", ["nothing", "missing/run"])
def test_a_place_without_a_run_is_told(
    viewer: Any, tmp_path: Path, notices: list[tuple[str, str]], qtbot: Any, place: str
) -> None:
    from napari_autorefine.ui.live_results import open_run

    (tmp_path / "nothing").mkdir()
    dashboard = open_run(viewer, tmp_path / place)
    qtbot.waitUntil(lambda: bool(notices), timeout=MOMENT_MS)
    assert notices[-1][0] == "error" and ("holds no refinement" in notices[-1][1] or "does not exist" in notices[-1][1])
    assert "No refinement is shown" in dashboard.headline.text() and not dashboard.open_button.isHidden()


def test_tables_and_images_are_written(opened: Any, tmp_path: Path) -> None:
    tables = opened.save(tmp_path, "csv")
    assert {path.name for path in tables} == {
        *(f"run_{name}.csv" for name in ("fsc", "resolution", "angles", "offsets", "orientations", "iterations"))
    }
    with open(tmp_path / "run_fsc.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == report_folders.N_SHELL and rows[0]["resolution_A"] == ""
    assert float(rows[4]["iteration 2"]) == pytest.approx(report_folders.fsc_curve(14.0)[4], abs=1e-5)
    with open(tmp_path / "run_iterations.csv", encoding="utf-8") as file:
        assert [row["resolution_A"] for row in csv.DictReader(file)] == ["20.00", "17.00", "14.00", "11.00", "9.00"]
    for path in opened.save(tmp_path, "png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_panels_that_do_not_fit_become_tabs(opened: Any) -> None:
    area = opened.area
    for width, n_beside in ((1500, 6), (1100, 5), (700, 3), (320, 1)):
        area.resize(width, 240)
        area._arrange(area.n_that_fit(width))
        titles = [area.tabs.tabText(index) for index in range(area.tabs.count())]
        assert area.n_beside == n_beside and titles[-2:] == ["Iterations", "Log"]
        assert len(titles) == 1 + len(area.panels) - n_beside
    assert opened.minimumSizeHint().width() <= 400


def test_colors_follow_the_theme(opened: Any) -> None:
    dark = opened.fsc.look.paper
    opened.viewer.theme = "light"
    assert opened.fsc.look.paper.lightness() > dark.lightness()
    assert opened.sections.look.paper == opened.fsc.look.paper
    opened.viewer.theme = "dark"


def test_nothing_is_left_when_the_dock_is_closed(opened: Any, viewer: Any, qtbot: Any) -> None:
    from napari_autorefine.ui.live_results import DOCK_NAME

    timers = [opened.maps._timer, opened.maps._fit_timer, opened.follower._timer]
    viewer.window.remove_dock_widget(opened)
    assert DOCK_NAME not in viewer.window.dock_widgets
    assert not any(thread.name == "live results" for thread in threading.enumerate())
    assert not any(timer.isActive() for timer in timers)
    viewer.theme = "light"
    viewer.layers.clear()
    viewer.theme = "dark"
    assert opened.maps.maps == {}


def test_a_closed_dock_is_freed(viewer: Any, tmp_path: Path, qtbot: Any) -> None:
    from napari_autorefine.ui.live_results import open_run

    dashboard = open_run(viewer, refinement(tmp_path / "job007"))
    settle(dashboard, qtbot)
    gone = weakref.ref(dashboard)
    viewer.window.remove_dock_widget(dashboard)
    del dashboard
    qtbot.wait(50)
    gc.collect()
    assert gone() is None


def test_directions_are_where_particles_look_from() -> None:
    from napari_autorefine.ui.plots_orientations import from_mollweide, mollweide_grid, to_mollweide

    lon, lat = np.deg2rad([-170.0, 0.0, 35.0, 120.0]), np.deg2rad([80.0, -20.0, 45.0, -60.0])
    back_lon, back_lat, is_inside = from_mollweide(*to_mollweide(lon, lat))
    assert np.all(is_inside) and back_lon == pytest.approx(lon, abs=1e-6) and back_lat == pytest.approx(lat, abs=1e-6)
    _, lat, is_inside = mollweide_grid()
    assert np.mean(np.abs(np.sin(lat[is_inside])) < 0.5) == pytest.approx(0.5, abs=0.02)  # equal areas
