"""The check of this machine from the window: the command line's, in a process of its own, and its page to copy."""

from __future__ import annotations

import sys

import napari.viewer
from qtpy.QtCore import QProcess, QProcessEnvironment, QTimer
from qtpy.QtGui import QFontDatabase
from qtpy.QtWidgets import QApplication, QDialog, QDialogButtonBox, QLabel, QPlainTextEdit, QPushButton, QVBoxLayout

_COMMAND = ("-m", "napari_autorefine", "doctor")
_WAIT_MS = 3000


class MachineCheck(QDialog):
    """A window with the page of the check, which fills when the check is done; closing it ends the check.

    Attributes
    ----------
    text : the page
    copy : button that takes it to the clipboard
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(getattr(viewer.window, "_qt_window", None))
        self.setWindowTitle("Check this machine")
        self.resize(760, 620)
        self.words = QLabel("Rates of processor, memory, disc and graphics cards are measured; this takes a moment…")
        self.words.setWordWrap(True)
        self.text = QPlainTextEdit()
        self.text.setReadOnly(True)
        self.text.setFont(QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont))
        self.text.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self.copy = QPushButton("Copy")
        self.copy.setEnabled(False)
        self.copy.clicked.connect(self._copy)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        buttons.addButton(self.copy, QDialogButtonBox.ButtonRole.ActionRole)
        buttons.rejected.connect(self.reject)
        layout = QVBoxLayout(self)
        for widget in (self.words, self.text, buttons):
            layout.addWidget(widget)
        self.process = QProcess(self)
        self.process.setProcessChannelMode(QProcess.ProcessChannelMode.MergedChannels)
        self.process.finished.connect(self._on_finished)
        self.process.errorOccurred.connect(self._on_error)

    def start(self, *options: str) -> None:
        """Begin the check, with options of the command line, in the system's folder for temporary files."""
        environment = QProcessEnvironment.systemEnvironment()
        environment.insert("PYTHONIOENCODING", "utf-8")
        self.process.setProcessEnvironment(environment)
        self.process.start(sys.executable, [*_COMMAND, *options])

    def reject(self) -> None:
        """Close the window; a check that is at work is ended."""
        if self.process.state() != QProcess.ProcessState.NotRunning:
            self.process.finished.disconnect(self._on_finished)
            self.process.errorOccurred.disconnect(self._on_error)
            self.process.kill()
            self.process.waitForFinished(_WAIT_MS)
        super().reject()
        QTimer.singleShot(0, self.deleteLater)

    def _on_finished(self) -> None:
        page = bytes(self.process.readAllStandardOutput().data()).decode("utf-8", "replace").strip()
        failed = self.process.exitStatus() != QProcess.ExitStatus.NormalExit or self.process.exitCode() != 0
        self.words.setText("The check could not be done:" if failed else "Paste this page into a question about speed.")
        self.text.setPlainText(page)
        self.copy.setEnabled(bool(page))

    def _on_error(self) -> None:
        if self.process.error() == QProcess.ProcessError.FailedToStart:
            self.words.setText(f"{sys.executable} cannot be started: {self.process.errorString()}.")

    def _copy(self) -> None:
        clipboard = QApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(self.text.toPlainText())


def check_machine(viewer: napari.viewer.Viewer) -> MachineCheck:
    """Check this machine as ``autorefine doctor`` does, and show the page."""
    dialog = MachineCheck(viewer)
    dialog.show()
    dialog.start()
    return dialog
