"""The dock of live results: curves, orientations, sections and log of a refinement, and the maps of any iteration."""

from __future__ import annotations

import html
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QSize, Qt, QTimer
from qtpy.QtWidgets import QDockWidget, QFileDialog, QHBoxLayout, QLabel, QMainWindow, QPushButton, QVBoxLayout, QWidget

from napari_autorefine.errors import InputError
from napari_autorefine.events import Progress
from napari_autorefine.jobs.job_events import TimedEvent
from napari_autorefine.ui.activity import announce, stage_text, time_text
from napari_autorefine.ui.close_guard import guard_window
from napari_autorefine.ui.dashboard_parts import HistoryBar, MenuButton, Panel, PanelArea, ViewBar
from napari_autorefine.ui.endings import when_destroyed
from napari_autorefine.ui.iteration_table import IterationTable
from napari_autorefine.ui.latest_worker import Failure, LatestWorker
from napari_autorefine.ui.live_maps import LiveMaps
from napari_autorefine.ui.log_view import LogView
from napari_autorefine.ui.map_frames import MapSet
from napari_autorefine.ui.notices import show_error, show_info, show_warning
from napari_autorefine.ui.plots_base import Look, Plot
from napari_autorefine.ui.plots_fsc import FscPlot
from napari_autorefine.ui.plots_iterations import AnglePlot, OffsetPlot, ResolutionPlot
from napari_autorefine.ui.plots_orientations import Directions, OrientationPlot, read_directions
from napari_autorefine.ui.project import project
from napari_autorefine.ui.run_follower import RunFollower
from napari_autorefine.ui.run_steps import RunFacts, Step
from napari_autorefine.ui.run_words import run_name, step_words
from napari_autorefine.ui.sections_view import SectionsView
from napari_autorefine.ui.sessions import JobSession, sessions

if TYPE_CHECKING:
    from napari.viewer import Viewer

_TITLE = "Auto-refine"
_REMEMBERED = "live results"
_STATES = {
    "reading": "reading…",
    "starting": "starting…",
    "followed": "running elsewhere",
    "ended": "ended without a final map",
    "died": "ended unexpectedly",
}
_EMPTY = "No refinement is shown: run Auto-refine, or open the folder of one, of RELION or of this plugin."


class Dashboard(QWidget):
    """Live results of one refinement at a time.

    Attributes
    ----------
    follower : where iterations come from
    maps : the layers in the viewer
    shown : iteration that is shown, None before the first
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.worker = LatestWorker()
        self.follower = RunFollower(self.worker)
        self.maps = LiveMaps(napari_viewer, self.worker)
        self.shown: Step | None = None
        self._is_closed = False
        self._has_looked = False
        self._begin_timer = QTimer(self)
        self._begin_timer.setSingleShot(True)
        self._begin_timer.timeout.connect(self._begin)
        self._make_parts()
        self._lay_out()
        self._connect()
        when_destroyed(self, partial(_let_go, self.worker, self.follower, self.maps))
        self._show_state()

    def sizeHint(self) -> QSize:
        """Return a height that leaves the maps most of the window."""
        return QSize(1000, 275)

    def _make_parts(self) -> None:
        self.fsc, self.resolution, self.angles, self.offsets = FscPlot(), ResolutionPlot(), AnglePlot(), OffsetPlot()
        self.orientations, self.sections = OrientationPlot(), SectionsView()
        self.table, self.log = IterationTable(), LogView()
        self.log.text.setMinimumHeight(40)
        self.history, self.view = HistoryBar(), ViewBar()
        self.headline, self.progress = QLabel(""), QLabel("")
        self.headline.setTextFormat(Qt.TextFormat.RichText)
        self.headline.setMinimumWidth(60)
        self.open_button = QPushButton("Open run…")
        self.open_button.setToolTip("Open the folder of a refinement, running or finished")
        self.menu_button = MenuButton(
            (
                ("Open run…", self._open_dialog),
                ("Save plots as PNG…", partial(self._save_dialog, "png")),
                ("Save tables as CSV…", partial(self._save_dialog, "csv")),
                ("Look for new files now", self.follower.look),
            )
        )

    @property
    def plots(self) -> dict[str, Plot]:
        """Plots by the name of their files."""
        return {
            "fsc": self.fsc,
            "resolution": self.resolution,
            "angles": self.angles,
            "offsets": self.offsets,
            "orientations": self.orientations,
        }

    def _lay_out(self) -> None:
        self.area = PanelArea(
            (
                Panel(title="FSC", widget=self.fsc, width=270),
                Panel(title="Resolution", widget=self.resolution, width=170),
                Panel(title="Angles", widget=self.angles, width=190),
                Panel(title="Offsets", widget=self.offsets, width=180),
                Panel(title="Orientations", widget=self.orientations, width=220),
                Panel(title="Sections", widget=self.sections, width=320),
                Panel(title="Iterations", widget=self.table),
                Panel(title="Log", widget=self.log),
            ),
            self.history,
            self.view,
            self.menu_button,
        )
        top = QHBoxLayout()
        top.setSpacing(10)
        top.addWidget(self.headline, 1)
        top.addWidget(self.progress)
        top.addWidget(self.open_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 2, 6, 2)
        layout.setSpacing(2)
        layout.addLayout(top)
        layout.addWidget(self.area, 1)

    def _connect(self) -> None:
        self.follower.began.connect(self._on_began)
        self.follower.changed.connect(self._on_steps)
        self.follower.logged.connect(self._on_log)
        self.follower.state_changed.connect(self._on_state)
        self.follower.progressed.connect(self._on_progress)
        self.follower.failed.connect(self._on_failed)
        self.maps.shown.connect(self._on_maps)
        self.maps.failed.connect(self._on_warning)
        self.history.step_wanted.connect(self.show_step)
        self.view.arranged.connect(self.maps.arrange)
        self.view.contour_wanted.connect(self.maps.set_contour)
        self.table.step_clicked.connect(self._choose)
        for plot in (self.resolution, self.angles, self.offsets):
            plot.step_clicked.connect(self._choose)
        self.open_button.clicked.connect(self._open_dialog)
        self.viewer.events.theme.connect(self._on_theme)
        self._on_theme()

    def follow(self, session: JobSession) -> None:
        """Show a job of this window, from its first iteration on."""
        if session is not self.follower.session:
            self._clear()
            self.follower.follow(session)
            announce(session, _TITLE)
            guard_window(self)
            self._show_state()

    def open(self, place: str | Path) -> None:
        """Show the refinement of a folder, of one of its STAR files or of a prefix; a job that runs is followed."""
        path = Path(place)
        session = _session_of(path)
        if session is not None:
            self.follow(session)
            return
        self._clear()
        self.follower.open(path)

    def attach(self) -> None:
        """Show the refinement that is running in the project, else the one that was shown last."""
        self._has_looked = True
        running = [session for session in sessions.running() if session.name == "refine"]
        if running:
            self.follow(running[-1])
            return
        left = [job for job in sessions.running_in(project.folder) if job.info.job == "refine"]
        if left:
            self.follow(sessions.attach(left[0].folder.path))
            return
        last = project.recall(_REMEMBERED).get("prefix")
        if last and Path(str(last)).parent.is_dir():
            self.open(str(last))

    def show_step(self, step: Step) -> None:
        """Show the maps, curves and orientations of an iteration."""
        self.shown = step
        if step.has_maps:
            self.maps.show(step)
        self._draw()
        if "data" in step.files:
            facts = self.follower.facts
            symmetry = "C1" if facts is None else facts.symmetry
            task = partial(read_directions, step.files["data"], title=step.title, symmetry=symmetry)
            self.worker.ask("orientations", task, self._on_directions)

    def save(self, folder: Path, kind: str) -> list[Path]:
        """Write all plots as ``png``, or their numbers as ``csv``, into a folder; return the files.

        Raises
        ------
        InputError
            The folder cannot be written.
        """
        prefix = self.follower.prefix
        begin = "run" if prefix is None else prefix.name
        files = []
        for name, plot in self.plots.items():
            if not plot.rows()[1]:
                continue
            path = folder / f"{begin}_{name}.{kind}"
            (plot.save_png if kind == "png" else plot.save_csv)(path)
            files.append(path)
        last = folder / (f"{begin}_sections.png" if kind == "png" else f"{begin}_iterations.csv")
        (self.sections.save_png if kind == "png" else self.table.save_csv)(last)
        return [*files, last]

    def close_run(self) -> None:
        """Let go of viewer, thread and job; for the end of the dock."""
        if not self._is_closed:
            self._is_closed = True
            self.viewer.events.theme.disconnect(self._on_theme)
            _let_go(self.worker, self.follower, self.maps)

    def event(self, event: QEvent | None) -> bool:
        """Notice when the dock is taken out of its window."""
        if event is not None and event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.close_run()
        return bool(super().event(event))

    def closeEvent(self, event: Any) -> None:
        """Let go of everything."""
        self.close_run()
        super().closeEvent(event)

    def showEvent(self, event: Any) -> None:
        """Move below the maps, and look for a refinement, the first time."""
        super().showEvent(event)
        if not self._has_looked and self.follower.prefix is None:
            self._has_looked = True
            self._begin_timer.start(0)

    def _begin(self) -> None:
        dock, window = self.parent(), self.window()
        if isinstance(dock, QDockWidget) and isinstance(window, QMainWindow):
            below = Qt.DockWidgetArea.BottomDockWidgetArea
            if window.dockWidgetArea(dock) == Qt.DockWidgetArea.RightDockWidgetArea:
                window.addDockWidget(below, dock)
        if self.follower.prefix is None:
            self.attach()

    def _clear(self) -> None:
        self.follower.leave()
        self.maps.remove_layers()
        self.worker.forget("orientations")
        self.shown = None
        self.log.clear()
        self.orientations.show_directions(None)
        self.sections.show_sections({}, 1.0, "central sections")
        self.history.set_follow(True)
        self.view.show_contour(None)
        self._draw()

    def _choose(self, step: Step) -> None:
        """Show an iteration that was clicked, and stay there unless it is the newest."""
        self.history.set_follow(step is self.history.newest)
        self.show_step(step)

    def _draw(self) -> None:
        steps = self.follower.steps
        for plot in (self.fsc, self.resolution, self.angles, self.offsets):
            plot.show_steps(steps, self.shown)
        self.table.show_steps(steps, self.shown)
        self.history.show_steps(steps, self.shown)
        self._show_state()

    def _show_state(self) -> None:
        prefix, step = self.follower.prefix, self.shown
        self.open_button.setVisible(prefix is None)
        if prefix is None:
            self.headline.setText(_EMPTY)
            self.progress.setText("")
            return
        state = self.follower.state
        words = [f"<b>{html.escape(run_name(prefix))}</b>", _STATES.get(state, state)]
        if step is not None:
            words += step_words(step)
        self.headline.setText(" &nbsp;·&nbsp; ".join(word for word in words if word))
        self.headline.setToolTip(str(prefix))

    def _on_began(self, facts: RunFacts) -> None:
        self.maps.begin(facts)
        project.remember(_REMEMBERED, {"prefix": str(facts.prefix)})
        self._show_state()

    def _on_steps(self) -> None:
        self.history.show_steps(self.follower.steps, self.shown)
        newest = self.history.newest
        if newest is not None and (self.shown is None or (self.history.follow.isChecked() and newest != self.shown)):
            self.show_step(newest)
        else:
            self._draw()

    def _on_log(self, timed: TimedEvent) -> None:
        self.log.add(timed)

    def _on_state(self, state: str) -> None:
        self.maps.set_running(self.follower.is_running)
        if not self.follower.is_running:
            self.progress.setText("")
        self._show_state()

    def _on_progress(self, event: Progress) -> None:
        session = self.follower.session
        percent = f"{100 * min(event.done / event.total, 1):.0f} %" if event.total > 0 else ""
        left = time_text(None if session is None else session.seconds_left)
        self.progress.setText(" · ".join(part for part in (stage_text(event), percent, left) if part))

    def _on_failed(self, text: str) -> None:
        self._clear()
        self._show_state()
        show_error(text)

    def _on_warning(self, text: str) -> None:
        show_warning(text)

    def _on_maps(self, maps: MapSet) -> None:
        voxel_size_A = next(iter(maps.frames.values())).voxel_size_A
        of_what = "final map" if "joined" in maps.frames else "mean of half-maps"
        self.sections.show_sections(maps.sections, voxel_size_A, f"{of_what}, {maps.step.title}")
        self.view.show_contour(self.maps.contour_in_sigma())
        if self.follower.state == "running" or self.follower.is_running:
            self.maps.set_running(True)

    def _on_directions(self, result: Directions | Failure) -> None:
        if isinstance(result, Directions):
            self.orientations.show_directions(result)
        else:
            self.orientations.show_directions(None)
            self.log.add_line(time.time(), f"Orientations are not shown: {result.text}", "warning")

    def _on_theme(self) -> None:
        look = Look(self.viewer.theme)
        for plot in self.plots.values():
            plot.set_look(look)
        self.sections.set_look(look)

    def _open_dialog(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Folder of a refinement", str(project.folder))
        if path:
            self.open(path)

    def _save_dialog(self, kind: str) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder for the files", str(project.folder))
        if not folder:
            return
        try:
            files = self.save(Path(folder), kind)
        except InputError as error:
            show_error(str(error))
            return
        show_info(f"{len(files)} files are in {folder}.")


def _let_go(worker: LatestWorker, follower: RunFollower, maps: LiveMaps) -> None:
    """End the thread and leave nothing connected; the job goes on, the layers stay."""
    with suppress(RuntimeError):  # at the very end Qt may be gone before this
        follower.leave()
        maps.close()
    worker.stop()


def _session_of(place: Path) -> JobSession | None:
    """Return the job that is running in a folder or with a prefix, None without one."""
    running = [session for session in sessions.running() if session.name == "refine"]
    for session in running:
        if place in {session.output, session.output.parent}:
            return session
    folder = place if place.is_dir() else place.parent
    try:
        session = sessions.attach(folder)
    except (InputError, OSError):
        return None
    session.poll()
    return session if session.name == "refine" and not session.is_over else None
