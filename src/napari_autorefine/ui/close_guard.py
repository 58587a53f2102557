"""What becomes of running jobs when the window is closed: it asks first."""

from __future__ import annotations

import time
from typing import Any

from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QApplication, QMainWindow, QMessageBox, QWidget

from napari_autorefine.ui.sessions import JobSession, sessions

_LEAVE_S = 10.0


def guard_window(widget: QWidget) -> None:
    """Let the window of a widget ask before it closes while jobs are running; once per window."""
    window = widget.parentWidget()
    while window is not None and not isinstance(window, QMainWindow):
        window = window.parentWidget()
    if window is not None and window.findChild(_CloseGuard) is None:
        window.installEventFilter(_CloseGuard(window))


class _CloseGuard(QObject):
    """Asks what becomes of running jobs when the window is closed."""

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Ask, unless no job is running."""
        if watched is self.parent() and event is not None and event.type() == QEvent.Type.Close and sessions.running():
            answer = ask_about_running(self.parent())
            if answer == "stay":
                event.ignore()
                return True
            _leave(sessions.running() if answer == "cancel" else _in_window())
            sessions.forget()
        return super().eventFilter(watched, event)


def _in_window() -> list[JobSession]:
    """Return the running jobs that end with the window."""
    return [session for session in sessions.running() if session.job.info.in_window]


def _leave(ending: list[JobSession]) -> None:
    """Cancel jobs; wait a moment for those of this process, so that they leave no incomplete files."""
    for session in ending:
        session.cancel()
    end = time.monotonic() + _LEAVE_S
    while _in_window() and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.02)


def ask_about_running(parent: Any) -> str:
    """Ask whether running jobs go on without the window: ``go on``, ``cancel`` or ``stay``."""
    running, bound = sessions.running(), _in_window()
    box = QMessageBox(parent)
    box.setIcon(QMessageBox.Icon.Question)
    box.setWindowTitle("A job is running")
    if len(bound) == len(running):
        box.setText("A job is running in this window and ends with it.")
    else:
        box.setText("A job is running. It can go on without this window; open the dock again to follow it.")
    names = [f"{session.name}: {session.job.info.output}" for session in running]
    box.setInformativeText("\n".join(names))
    go_on = None
    if len(bound) < len(running):
        go_on = box.addButton("Let it go on", QMessageBox.ButtonRole.AcceptRole)
    cancel = box.addButton("Cancel the job", QMessageBox.ButtonRole.DestructiveRole)
    box.addButton("Keep the window", QMessageBox.ButtonRole.RejectRole)
    box.exec()
    answers = {id(go_on): "go on", id(cancel): "cancel"}
    return answers.get(id(box.clickedButton()), "stay")
