"""What stands below a form: run, pause and cancel, progress, what came out, the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from psygnal import Signal
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QHBoxLayout,
    QMessageBox,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QFlowLayout

from napari_autorefine.events import Progress
from napari_autorefine.jobs.job_events import IterationWritten, JobEnded, TimedEvent
from napari_autorefine.ui.activity import stage_text, time_text
from napari_autorefine.ui.fields import BLUE, GREY, ORANGE, RED, plain_label, say, small_label
from napari_autorefine.ui.fold import Fold
from napari_autorefine.ui.log_view import LogView
from napari_autorefine.ui.next_steps import NextStep, next_steps, openable
from napari_autorefine.ui.presentation import in_window
from napari_autorefine.ui.sessions import JobSession

_STEPS = 1000
_STATE_TEXT = {"starting": "starting…", "running": "running", "paused": "paused"}
_GREEN = "#30a46c"


class JobPanel(QWidget):
    """Controls of one job at a time.

    Attributes
    ----------
    run_clicked, copy_clicked : Run was pressed, or Copy beside the command line
    open_clicked : a path to open as a layer
    step_clicked : a ``NextStep`` to go on with
    session : job that is shown, None before the first
    """

    run_clicked = Signal()
    copy_clicked = Signal()
    open_clicked = Signal(str)
    step_clicked = Signal(NextStep)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session: JobSession | None = None
        self._problem = ""
        self.run_button = QPushButton("Run")
        self.run_button.setStyleSheet(f"QPushButton:enabled {{ background-color: {BLUE}; color: white; }}")
        self.pause_button = QPushButton("Pause")
        self.cancel_button = QPushButton("Cancel")
        self.bar = QProgressBar()
        self.bar.setRange(0, _STEPS)
        self.bar.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.reason = small_label(GREY)
        self.status = plain_label("")
        self.status.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.details_button = QPushButton("Details…")
        self.results = QWidget()
        self._flow = QFlowLayout(self.results)
        self._flow.setContentsMargins(0, 0, 0, 0)
        self.log = LogView()
        self._lay_out()
        self.run_button.clicked.connect(lambda: self.run_clicked.emit())
        self.pause_button.clicked.connect(self._pause)
        self.cancel_button.clicked.connect(self._cancel)
        self.details_button.clicked.connect(self._show_details)
        self.set_problem("")
        self._show_state()

    def _lay_out(self) -> None:
        buttons = QHBoxLayout()
        for button in (self.run_button, self.pause_button, self.cancel_button):
            buttons.addWidget(button, 1)
        self.fold = Fold("Log", self.log)
        self.log.setFixedHeight(150)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 4, 0, 0)
        layout.setSpacing(5)
        layout.addWidget(self._command_fold())
        layout.addWidget(self.reason)
        layout.addLayout(buttons)
        layout.addWidget(self.bar)
        layout.addWidget(self.status)
        layout.addWidget(self.details_button, 0, Qt.AlignmentFlag.AlignLeft)
        layout.addWidget(self.results)
        layout.addWidget(self.fold)

    def _command_fold(self) -> QWidget:
        self.command = QPlainTextEdit()
        self.command.setReadOnly(True)
        self.command.setFixedHeight(72)
        self.command.setStyleSheet("QPlainTextEdit { font-family: monospace; font-size: 11px; }")
        copy = QPushButton("Copy")
        copy.clicked.connect(lambda: self.copy_clicked.emit())
        content = QWidget()
        row = QHBoxLayout(content)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.command, 1)
        row.addWidget(copy, 0, Qt.AlignmentFlag.AlignTop)
        return Fold("Command line", content)

    def set_problem(self, problem: str) -> None:
        """Say why the job cannot be run, or nothing."""
        self._problem = problem
        say(self.reason, "" if self.is_busy else problem)
        self._show_state()

    def follow(self, session: JobSession) -> None:
        """Show a job, what has happened to it so far included."""
        self.leave()
        self.session = session
        self.log.clear()
        self._clear_results()
        for timed in session.log:
            self.log.add(timed)
        session.progressed.connect(self._on_progress)
        session.messaged.connect(self._on_message)
        session.iteration_done.connect(self._on_iteration)
        session.state_changed.connect(self._on_state)
        session.finished.connect(self._on_finished)
        self.fold.set_open(True)
        self._show_state()
        if session.ended is not None:
            self._on_finished(session.ended)

    def leave(self) -> None:
        """Stop showing the job; it goes on."""
        session, self.session = self.session, None
        if session is not None:
            for signal, slot in (
                (session.progressed, self._on_progress),
                (session.messaged, self._on_message),
                (session.iteration_done, self._on_iteration),
                (session.state_changed, self._on_state),
                (session.finished, self._on_finished),
            ):
                signal.disconnect(slot, missing_ok=True)

    @property
    def is_busy(self) -> bool:
        """Whether the job that is shown has not ended."""
        return self.session is not None and not self.session.is_over

    def tell(self, text: str, color: str = "") -> None:
        """Show a sentence in the status line."""
        self.status.setStyleSheet(f"QLabel {{ padding: 0px; {f'color: {color};' if color else ''} }}")
        self.status.setText(text)
        self.status.setVisible(bool(text))

    def _on_progress(self, event: Progress) -> None:
        left = time_text(None if self.session is None else self.session.seconds_left)
        fraction = min(event.done / event.total, 1.0) if event.total > 0 else 0.0
        parts = [stage_text(event), f"{100 * fraction:.0f} %", left]
        self.bar.setUpdatesEnabled(False)  # else each change is painted at once, and the canvas with it
        self.bar.setValue(round(_STEPS * fraction))
        self.bar.setFormat(" · ".join(part for part in parts if part))
        self.bar.setUpdatesEnabled(True)

    def _on_message(self, timed: TimedEvent) -> None:
        self.log.add(timed)

    def _on_iteration(self, event: IterationWritten) -> None:
        self.log.add_iteration(event, None if self.session is None else self.session.moment)
        self.tell(
            f"{event.resolution_A:.2f} Å · step {event.angular_step_deg:.3g}°"
            f" {'local' if event.is_local else 'global'} · changes {event.change_rot_deg:.2g}° /"
            f" {event.change_trans_A:.2g} Å"
        )

    def _on_state(self, state: str) -> None:
        self._show_state()
        if state in _STATE_TEXT and state != "running":
            self.bar.setFormat(_STATE_TEXT[state])

    def _on_finished(self, event: JobEnded) -> None:
        color = {"finished": _GREEN, "cancelled": ORANGE}.get(event.state, RED)
        name = "" if self.session is None else self.session.name
        self.tell(in_window(name, event.text), color)
        self.bar.setValue(_STEPS if event.state == "finished" else 0)
        self.bar.setFormat({"died": "ended unexpectedly"}.get(event.state, event.state))
        self._show_state()
        if self.session is not None:
            self._show_results(self.session)

    def _show_state(self) -> None:
        """Enable what can be done now."""
        busy = self.is_busy
        self.run_button.setEnabled(not busy and not self._problem)
        self.run_button.setToolTip("The job is running." if busy else self._problem or "Run the job")
        self.pause_button.setEnabled(busy)
        is_paused = self.session is not None and self.session.state == "paused"
        self.pause_button.setText("Resume" if is_paused else "Pause")
        self.cancel_button.setEnabled(busy)
        self.bar.setVisible(self.session is not None)
        self.fold.setVisible(self.session is not None)
        self.status.setVisible(bool(self.status.text()))
        ended = None if self.session is None else self.session.ended
        self.details_button.setVisible(ended is not None and bool(ended.details))

    def _pause(self) -> None:
        if self.session is not None and self.session.state == "paused":
            self.session.resume()
        elif self.session is not None:
            self.session.pause()
            self.bar.setFormat("pausing…")

    def _cancel(self) -> None:
        if self.session is not None:
            self.session.cancel()
            self.bar.setFormat("cancelling…")

    def _show_details(self) -> None:
        if self.session is None or self.session.ended is None:
            return
        box = QMessageBox(QMessageBox.Icon.Information, "Details", self.session.ended.text, parent=self)
        box.setDetailedText(self.session.ended.details)
        box.exec()

    def _clear_results(self) -> None:
        while self._flow.count():
            item = self._flow.takeAt(0)
            widget = None if item is None else item.widget()
            if widget is not None:
                widget.deleteLater()
        self.results.hide()

    def _show_results(self, session: JobSession) -> None:
        self._clear_results()
        for name, path in openable(session.outputs).items():
            self._add_result(f"Open {name}", path, partial(self.open_clicked.emit, path))
        for step in next_steps(session.name, session.outputs):
            self._add_result(f"→ {step.text}", _filled_in(step.values), partial(self.step_clicked.emit, step))
        optimiser = session.iterations[-1].files.get("optimiser") if session.iterations else None
        if session.state != "finished" and session.name == "refine" and optimiser:
            step = NextStep(job="refine", text="Continue this run", values={"continue_from": optimiser, "output": ""})
            self._add_result(step.text, optimiser, partial(self.step_clicked.emit, step))

    def _add_result(self, text: str, tooltip: str, action: Callable[[], object]) -> None:
        button = QPushButton(text)
        button.setToolTip(tooltip)
        button.clicked.connect(lambda: action())
        self._flow.addWidget(button)
        self.results.show()


def _filled_in(values: Mapping[str, str]) -> str:
    return "\n".join(["Fill in:", *values.values()])
