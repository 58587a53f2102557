"""The log of a job: time, text, color by level; a filter, and a file to keep."""

from __future__ import annotations

import html
import time
from pathlib import Path

from qtpy.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QPushButton, QTextEdit, QVBoxLayout, QWidget

from napari_autorefine.events import Finished, Message
from napari_autorefine.jobs.job_events import IterationWritten, TimedEvent
from napari_autorefine.ui.fields import ORANGE, RED
from napari_autorefine.ui.presentation import printed

_COLORS = {"warning": ORANGE, "error": RED}
_MOST_LINES = 5000
_FILTERS = {"All": ("info", "warning", "error"), "Warnings and errors": ("warning", "error")}


class LogView(QWidget):
    """Lines of a job's log, the last in sight."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._lines: list[tuple[str, str, str]] = []
        self.text = QTextEdit()
        self.text.setReadOnly(True)
        self.text.setMinimumHeight(90)
        self.text.setStyleSheet("QTextEdit { font-size: 11px; }")
        self.filter = QComboBox()
        self.filter.addItems(list(_FILTERS))
        self.filter.currentTextChanged.connect(self._show_all)
        save = QPushButton("Save log…")
        save.clicked.connect(self._save_as)
        row = QHBoxLayout()
        row.addWidget(self.filter, 1)
        row.addWidget(save)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.text, 1)
        layout.addLayout(row)

    def clear(self) -> None:
        """Remove all lines."""
        self._lines.clear()
        self.text.clear()

    def add(self, timed: TimedEvent) -> None:
        """Add the line of an event that has one."""
        event = timed.event
        if isinstance(event, Message):
            self.add_line(timed.time, event.text, event.level)
        elif isinstance(event, Finished) and event.text:
            self.add_line(timed.time, event.text, "info")

    def add_iteration(self, event: IterationWritten, moment: float | None = None) -> None:
        """Add the summary of an iteration."""
        title = "Last iteration" if event.is_final else f"Iteration {event.iteration}"
        search = "local" if event.is_local else "global"
        text = f"{title}: {event.resolution_A:.2f} Å, step {event.angular_step_deg:.3g}° {search}"
        if event.accuracy_rot_deg < 999:
            text += f", accuracy {event.accuracy_rot_deg:.2g}° / {event.accuracy_trans_A:.2g} Å"
        self.add_line(time.time() if moment is None else moment, text + ".", "info")

    def add_line(self, moment: float, text: str, level: str) -> None:
        """Add one line."""
        line = (time.strftime("%H:%M:%S", time.localtime(moment)), printed(text), level)
        self._lines.append(line)
        del self._lines[:-_MOST_LINES]
        self._show(line)

    def plain_text(self) -> str:
        """Return all lines as a file has them."""
        return "\n".join(
            f"{moment} {'' if level == 'info' else level.upper() + ': '}{text}" for moment, text, level in self._lines
        )

    def _show(self, line: tuple[str, str, str]) -> None:
        moment, text, level = line
        if level not in _FILTERS[self.filter.currentText()]:
            return
        shown = html.escape(text).replace("\n", "<br>")
        color = _COLORS.get(level)
        shown = shown if color is None else f'<span style="color: {color}">{shown}</span>'
        self.text.append(f"<span style='color: gray'>{moment}</span> {shown}")

    def _show_all(self) -> None:
        self.text.clear()
        for line in self._lines:
            self._show(line)

    def _save_as(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save log", "log.txt")
        if path:
            Path(path).write_text(self.plain_text() + "\n", encoding="utf-8")
