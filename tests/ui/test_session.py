"""A whole session in a real window: sample, extraction, rebox, live refinement, recentring, report; what is left."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from napari_autorefine.io.star import read_particles
from napari_autorefine.jobs import JOBS

MOMENT_MS = 60_000
JOB_MS = 240_000
LIVE = "Live results (napari-autorefine)"
WORKERS = {"live results", "retired worker"}
SHIFT_PX = (0.5, -0.25, 1.5)


class Session:
    """A window, the folder of its project, and hands."""

    def __init__(self, viewer: Any, qtbot: Any) -> None:
        self.viewer, self.qtbot = viewer, qtbot

    @property
    def folder(self) -> Path:
        from napari_autorefine.ui.project import project

        return project.folder

    def until(self, done: Callable[[], bool], timeout_ms: int = MOMENT_MS) -> None:
        self.qtbot.waitUntil(done, timeout=timeout_ms)

    def dock(self, job: str) -> Any:
        from napari_autorefine.ui.job_docks import open_dock

        return open_dock(self.viewer, job)

    def start(self, dock: Any) -> Any:
        """Press Run."""
        self.until(lambda: dock.panel.run_button.isEnabled() and not dock.form.problem)
        dock.panel.run_button.click()
        return dock.panel.session

    def end(self, dock: Any) -> dict[str, str]:
        """Wait for the end of a job; return its files by kind."""
        session = dock.panel.session
        self.until(lambda: session.is_over, JOB_MS)
        assert session.state == "finished", session.ended
        return dict(session.outputs)

    def run(self, dock: Any) -> dict[str, str]:
        self.start(dock)
        return self.end(dock)

    def press(self, dock: Any, text: str) -> None:
        """Press a button below a job that has ended."""
        flow = dock.panel._flow
        buttons = {flow.itemAt(at).widget().text(): flow.itemAt(at).widget() for at in range(flow.count())}
        buttons[text].click()

    @property
    def dashboard(self) -> Any:
        return self.viewer.window.dock_widgets[LIVE]


def children() -> list[psutil.Process]:
    """Processes of jobs that this one has started and that are alive."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "napari_autorefine.jobs.detached_main" in one.cmdline():
                found.append(one)
    return found


@pytest.fixture
def small_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_autorefine.ui import sample_project

    monkeypatch.setenv("AUTOREFINE_CACHE", str(tmp_path / "samples"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name, value in {"PIXEL_SIZE_A": 6.0, "BOX": 40, "SCALED_BOX": 32, "N_PARTICLE": 40, "N_MICROGRAPH": 2}.items():
        monkeypatch.setattr(sample_project, name, value)


@pytest.fixture
def session(small_samples: None, make_viewer: Callable[..., Any], npe2pm: Any, qtbot: Any) -> Iterator[Session]:
    from napari_autorefine.ui.project import project
    from napari_autorefine.ui.sessions import sessions

    before = project.folder
    with npe2pm.tmp_plugin(package="napari"):
        yield Session(make_viewer(show=True), qtbot)
    for one in sessions.running():
        for _ in range(3):
            one.cancel()
        one.job.wait(20)
    sessions.forget()
    project.move_to(before)


def test_from_the_sample_to_the_report(session: Session) -> None:
    viewer = session.viewer
    viewer.open_sample("napari-autorefine", "project")
    assert [type(layer).__name__ for layer in viewer.layers] == ["Image", "Points"]
    assert len(viewer.layers[1].data) == 40 and session.folder.name == "project"

    extract = session.dock("extract")
    particles = Path(session.run(extract)["particles"])
    assert particles == session.folder / "Extract/job017/particles.star" and len(read_particles(particles)) == 40
    viewer.layers.clear()
    session.press(extract, "Open montage")
    assert viewer.layers[0].ndim == 2

    rebox = session.dock("rebox")
    assert session.run(rebox)["map"].endswith("ReboxRescale/job018/selected_class_reboxed_rescaled.mrc")
    viewer.layers.clear()
    session.press(extract, "→ Auto-refine")
    session.press(rebox, "→ Auto-refine")
    _refine(session)
    _recenter(session)
    _report(session)
    session.until(lambda: not children())


def _refine(session: Session) -> None:
    """Refine, watched."""
    refine = session.dock("refine")
    values = refine.form.values()
    assert values["particles"] == "Extract/job017/particles.star" and values["symmetry"] == "D2"
    assert values["reference"].startswith("ReboxRescale/job018/")
    refine.fill({"random_seed": 1, "threads": 2})
    job = session.start(refine)
    assert job.output == session.folder / "Refine3D/job019/run"
    session.until(lambda: len(job.iterations) >= 1 and len(session.dashboard.fsc.rows()[1]) > 0, JOB_MS)
    session.until(lambda: {"half-map 1", "half-map 2"} <= {layer.name for layer in session.viewer.layers})
    if not job.is_over:
        assert session.viewer.layers["half-map 1"].locked and children()
    outputs = session.end(refine)
    dashboard = session.dashboard
    session.until(lambda: "final map" in session.viewer.layers and dashboard.worker.is_idle)
    assert "finished" in dashboard.headline.text() and not session.viewer.layers["half-map 1"].locked
    assert dashboard.shown.resolution_A == pytest.approx(job.iterations[-1].resolution_A)
    assert len(dashboard.follower.steps) == len(job.iterations) + 1  # and what was before the first
    for name in ("fsc", "resolution", "angles", "offsets", "orientations"):
        assert dashboard.plots[name].rows()[1], name
    assert Path(outputs["map"]).is_file() and Path(outputs["half1"]).is_file()
    assert (session.folder / "Refine3D/job019/run_params.json").is_file()


def _recenter(session: Session) -> None:
    """Recentre, as the command line would."""
    refine = session.dock("refine")
    session.press(refine, "→ Recentre")
    recenter = session.dock("recenter")
    assert recenter.form.values()["particles"] == "Refine3D/job019/run_data.star"
    recenter.tool.set_center(SHIFT_PX)
    written = read_particles(session.run(recenter)["particles"])
    expected = session.folder / "expected.star"
    values = dict(zip(("center_x_px", "center_y_px", "center_z_px"), SHIFT_PX, strict=True))
    job = JOBS["recenter"]
    given = {"particles": refine.panel.session.outputs["particles"], "output": str(expected)}
    params = job.params()(**given, **values, ref_angpix=recenter.tool.voxel_size_A)
    assert list(job.function()(params))
    assert np.allclose(written.origin_A, read_particles(expected).origin_A, atol=1e-6)
    assert not np.allclose(written.origin_A, read_particles(given["particles"]).origin_A, atol=0.5)
    session.press(recenter, "→ Reconstruct")
    assert session.dock("reconstruct").form.values()["particles"].startswith("Recenter/job")


def _report(session: Session) -> None:
    session.press(session.dock("refine"), "→ Report")
    report = session.dock("report")
    assert report.form.values()["folder"] == "Refine3D/job019"
    page = Path(session.run(report)["report"]).read_text(encoding="utf-8")
    assert "Refine3D/job019/run" in page and "</html>" in page


def test_cancelling_ends_the_process_and_closing_leaves_nothing(session: Session) -> None:
    viewer = session.viewer
    before = {thread.ident for thread in threading.enumerate()}
    viewer.open_sample("napari-autorefine", "project")
    session.run(session.dock("extract"))
    session.run(session.dock("rebox"))
    _cancel_a_refinement(session)
    assert not list(session.folder.glob("Refine3D/job019/*.tmp*"))

    session.until(lambda: session.dashboard.worker.is_idle)
    kept = [session.dashboard, *(session.dock(job) for job in ("extract", "rebox", "refine")), *viewer.layers]
    timers = [kept[0]._begin_timer, kept[0].maps._timer, kept[0].maps._fit_timer]
    gone = {type(one).__name__: weakref.ref(one) for one in kept}
    viewer.layers.clear()
    for dock in list(viewer.window.dock_widgets.values()):
        viewer.window.remove_dock_widget(dock)
    assert not any(timer.isActive() for timer in timers)
    del kept, timers, dock
    session.until(lambda: not _left(gone), 20_000)
    session.until(lambda: not {one.name for one in threading.enumerate() if one.ident not in before} & WORKERS)


def _cancel_a_refinement(session: Session) -> None:
    refine = session.dock("refine")
    endless = {"healpix_order": 3, "auto_local_healpix_order": 9, "symmetry": "C1", "threads": 1, "offset_range_px": 12}
    refine.fill(endless)  # global searches among many shifts: minutes
    job = session.start(refine)
    session.until(lambda: len(job.iterations) >= 1, JOB_MS)
    (process,) = children()
    refine.panel.cancel_button.click()
    session.until(lambda: job.is_over)
    assert job.state == "cancelled"
    session.until(lambda: "half-map 1" in session.viewer.layers, JOB_MS)
    session.until(lambda: not session.viewer.layers["half-map 1"].locked)
    process.wait(20)
    flow = refine.panel._flow
    assert "Continue this run" in [flow.itemAt(at).widget().text() for at in range(flow.count())]


def _left(references: dict[str, Any]) -> list[str]:
    """Names of what is still there."""
    from qtpy.QtCore import QEvent
    from qtpy.QtWidgets import QApplication

    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    gc.collect()
    return [name for name, reference in references.items() if reference() is not None]
