"""The dock of one job: project, form, command line, and the panel that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

from magicgui.widgets import LineEdit
from psygnal import Signal
from qtpy.QtCore import QSize, Qt, QTimer, QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import (
    QApplication,
    QCheckBox,
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QInputDialog,
    QMenu,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_autorefine.errors import InputError
from napari_autorefine.jobs import JOBS
from napari_autorefine.jobs.job_events import JobEnded
from napari_autorefine.ui.activity import announce
from napari_autorefine.ui.close_guard import guard_window
from napari_autorefine.ui.endings import when_destroyed
from napari_autorefine.ui.fields import ORANGE, RED, plain_label, small_button
from napari_autorefine.ui.file_fields import FileField
from napari_autorefine.ui.forms import JobForm
from napari_autorefine.ui.job_panel import JobPanel
from napari_autorefine.ui.next_steps import NextStep
from napari_autorefine.ui.notices import show_error, show_info, show_warning
from napari_autorefine.ui.project import Project
from napari_autorefine.ui.project import project as shared_project
from napari_autorefine.ui.readers import get_reader
from napari_autorefine.ui.sessions import JobSession, sessions
from napari_autorefine.ui.set_filling import SET, cleared_for
from napari_autorefine.ui.set_viewing import show_set
from napari_autorefine.ui.settings import read_settings

if TYPE_CHECKING:
    from napari.components import ViewerModel

WIDTH, HEIGHT = 390, 640
_LOOK_MS = 600
_NOT_REMEMBERED = frozenset({"overwrite", "continue_from"})


class JobDock(QWidget):
    """A job of the table of jobs as a dock widget.

    Attributes
    ----------
    form, panel : upper and lower part
    session_changed : emitted with the ``JobSession`` that the dock shows from now on
    step_wanted : emitted with the ``NextStep`` that the user chose
    """

    session_changed = Signal(JobSession)
    step_wanted = Signal(NextStep)

    def __init__(
        self, job: str, title: str, viewer: ViewerModel | None = None, *, project: Project = shared_project
    ) -> None:
        super().__init__()
        self.job = job
        self.title = title
        self.viewer = viewer
        self.project = project
        self.form = JobForm(job, project, None if viewer is None else viewer.layers)
        self.in_window = QCheckBox("Run in this window")
        self.in_window.setToolTip(
            "<p>Run the job in a thread of napari instead of a process of its own. It ends with the window, and the"
            " window is less smooth beside it.</p>"
        )
        self.form.add_last(self.in_window)
        self.panel = JobPanel()
        self._is_new = True
        self._lay_out()
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_LOOK_MS)
        self._timer.timeout.connect(self.look_for_running)
        self.form.changed.connect(self._on_change)
        self.panel.run_clicked.connect(self.run)
        self.panel.copy_clicked.connect(self.copy_command)
        self.panel.open_clicked.connect(self._open)
        self.panel.step_clicked.connect(self._on_step)
        if isinstance(set_field := self.form.fields.get(SET), FileField):
            set_field.show_wanted.connect(self.show_particles)
        project.changed.connect(self._on_project)
        when_destroyed(self, partial(_let_go, self.panel, project, WeakMethod(self._on_project)))
        self.recall()
        self._on_change()

    def sizeHint(self) -> QSize:
        """Return a width that leaves most of a laptop's screen to the maps."""
        return QSize(WIDTH, HEIGHT)

    def _lay_out(self) -> None:
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        content = QWidget()
        inner = QVBoxLayout(content)
        inner.setContentsMargins(0, 0, 6, 0)
        inner.addWidget(self.form)
        inner.addStretch(1)
        area.setWidget(content)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 6, 8, 6)
        layout.setSpacing(6)
        layout.addLayout(self._header())
        layout.addWidget(area, 1)
        layout.addWidget(self.panel, 0)

    def _header(self) -> QHBoxLayout:
        self.project_line = LineEdit(value=str(self.project.folder), tooltip="Folder that relative paths start from")
        self.project_line.native.editingFinished.connect(self._move_project)
        browse = small_button("…", "Choose the project folder")
        browse.clicked.connect(self._browse_project)
        menu_button = small_button("☰", "Load parameters, go back to defaults, attach to a job")
        menu_button.setMenu(self._menu(menu_button))
        row = QHBoxLayout()
        row.setSpacing(3)
        row.addWidget(plain_label("Project"))
        row.addSpacing(4)
        row.addWidget(self.project_line.native, 1)
        row.addWidget(browse)
        row.addWidget(menu_button)
        return row

    def _menu(self, parent: QWidget) -> QMenu:
        menu = QMenu(parent)
        for text, action in (
            ("Load parameters…", self._load_dialog),
            ("Reset to defaults", self.form.reset),
            ("Copy command line", self.copy_command),
            ("Attach to running job…", self._attach_dialog),
        ):
            entry = menu.addAction(text)
            if entry is not None:
                entry.triggered.connect(lambda _=False, do=action: do())
        return menu

    def run(self) -> None:
        """Start the job of the form; what is wrong becomes a notification."""
        try:
            params, folder = self.form.params(), self.project.folder
            session = sessions.start(self.job, params, folder, in_window=self.in_window.isChecked())
        except InputError as error:
            self.panel.tell(str(error), RED)
            show_error(f"{self.title}: {error}")
            return
        values = {name: value for name, value in self.form.values().items() if name not in _NOT_REMEMBERED}
        self.project.remember(self.job, values)
        self.panel.tell("")
        self.follow(session)

    def follow(self, session: JobSession) -> None:
        """Show a job that was started here or elsewhere."""
        if session is self.panel.session:
            return
        self.panel.follow(session)
        if not session.is_over:
            announce(session, self.title)
            session.finished.connect(self._on_finished)
            guard_window(self)
        self.session_changed.emit(session)

    def recall(self) -> None:
        """Show what the preferences say, and the values of the last run in this project."""
        self.in_window.setChecked(read_settings().in_window)
        self.form.reset()
        values = preferred(self.job) | self.project.recall(self.job)
        values.pop("output", None)
        self.form.set_values(values)

    def copy_command(self) -> None:
        """Copy the command line."""
        clipboard = QApplication.clipboard()
        if clipboard is not None and self.form.command():
            clipboard.setText(self.form.command())
            show_info("The command line has been copied.")

    def load(self, path: str | Path) -> None:
        """Show the parameters of a file, and say what of it was not taken over."""
        try:
            saved = self.form.load(path)
        except InputError as error:
            show_error(str(error))
            return
        if saved.notes:
            self.panel.tell("Not taken over: " + " ".join(saved.notes), ORANGE)
            show_warning(f"{Path(path).name}: " + " ".join(saved.notes))
        else:
            self.panel.tell(f"Parameters of {Path(path).name}.")

    def attach(self, place: str | Path) -> None:
        """Show the job of an output or a folder."""
        try:
            session = sessions.attach(place)
        except InputError as error:
            show_error(str(error))
            return
        self.follow(session)

    def look_for_running(self) -> None:
        """Attach to the job that is running with the output of the form, or to one that was left running."""
        field = self.form.fields.get("output")
        if field is None or self.panel.is_busy:
            return
        output = str(getattr(field, "text", ""))
        session = sessions.find(self.project.absolute(output)) if output else None
        if session is None and self._is_new:
            left = [job for job in sessions.running_in(self.project.folder) if job.info.job == self.job]
            session = sessions.attach(left[0].folder.path) if left else None
        self._is_new = False
        if session is not None and session.name == self.job:
            self.follow(session)
            self.panel.tell("This job was running already.")

    def _on_change(self) -> None:
        problem = self.form.problem
        self.panel.set_problem(problem)
        self.panel.command.setPlainText(self.form.command() or problem)
        self._timer.start()

    def _on_finished(self, event: JobEnded) -> None:
        """Make the form ready for the next job."""
        if event.state == "finished":
            with suppress(RuntimeError):  # the dock may be gone by now
                values = {"output": self.project.next_output(self.job), "continue_from": None}
                self.form.set_values(values)

    def _on_step(self, step: NextStep) -> None:
        self.step_wanted.emit(step)
        if step.job == self.job:
            self.fill(step.values)

    def fill(self, values: Mapping[str, Any]) -> None:
        """Show values, paths inside the project relative to it; a set of files in place of the particles, or back."""
        shown = {}
        for name, value in cleared_for(values).items():
            is_path = isinstance(value, (str, Path)) and Path(value).is_absolute()
            shown[name] = self.project.relative(value) if is_path else value
        self.form.set_values(shown)

    @property
    def takes_set(self) -> bool:
        """Whether the job takes an optimisation set."""
        return SET in self.form.fields

    def take_set(self, path: str | Path) -> None:
        """Show an optimisation set in place of single files."""
        self.fill({SET: str(Path(path).absolute()), "continue_from": None})

    def show_particles(self) -> None:
        """Show the particles of the set in their tomograms, with their orientations."""
        place = str(getattr(self.form.fields[SET], "text", ""))
        if not place:
            show_error(f"{self.title}: choose an optimisation set first.")
        elif self.viewer is not None:
            show_set(self.viewer, self.project.absolute(place))

    def _open(self, path: str) -> None:
        if path.endswith(".html"):
            QDesktopServices.openUrl(QUrl.fromLocalFile(path))
            return
        open_path: Any = getattr(self.viewer, "open", None)
        if open_path is None:
            return
        try:
            open_path(path, plugin="napari" if get_reader(path) is None else "napari-autorefine")
        except Exception as error:
            show_error(f"{path} cannot be opened: {error}")

    def _on_project(self, folder: str) -> None:
        self.project_line.value = folder
        self._is_new = True
        if self.project.recall(self.job):
            self.recall()
        elif "output" in self.form.fields:
            self.form.set_values({"output": self.project.next_output(self.job)})

    def _move_project(self) -> None:
        try:
            self.project.move_to(str(self.project_line.value))
        except InputError as error:
            self.project_line.value = str(self.project.folder)
            show_error(str(error))

    def _browse_project(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Project folder", str(self.project.folder))
        if path:
            self.project_line.value = path
            self._move_project()

    def _load_dialog(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "Load parameters", str(self.project.folder), "Parameters (*job.star *_params.json);;All files (*)"
        )
        if path:
            self.load(path)

    def _attach_dialog(self) -> None:
        running = sessions.running_in(self.project.folder)
        names = [f"{job.info.output}  ({job.info.job})" for job in running]
        other = "Other folder…"
        choice, is_chosen = QInputDialog.getItem(self, "Attach to running job", "Job", [*names, other], 0, False)
        if not is_chosen:
            return
        if choice in names:
            self.attach(running[names.index(choice)].folder.path)
        else:
            path = QFileDialog.getExistingDirectory(self, "Folder of the job", str(self.project.folder))
            if path:
                self.attach(path)


def _let_go(panel: JobPanel, project: Project, on_project: WeakMethod[Any]) -> None:
    """Leave nothing connected to a dock that is gone; its job goes on."""
    panel.leave()
    if (slot := on_project()) is not None:
        project.changed.disconnect(slot, missing_ok=True)


def preferred(job: str) -> dict[str, Any]:
    """Return the values of napari's preferences that a job has parameters for."""
    settings = read_settings()
    known = JOBS[job].params().model_fields
    values: dict[str, Any] = {"threads": settings.threads} if settings.threads else {}
    if settings.backend == "cpu":
        values["cpu"] = True
    elif settings.gpu_ids:
        values["gpu"] = settings.gpu_ids
    if settings.scratch_dir:
        values["scratch_dir"] = settings.scratch_dir
    return {name: value for name, value in values.items() if name in known}
