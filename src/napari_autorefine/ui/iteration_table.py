"""Table of iterations: a click shows the maps of one."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Sequence
from pathlib import Path

from psygnal import Signal
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

from napari_autorefine.io.files import replacing
from napari_autorefine.ui.run_steps import Step

COLUMNS = (
    ("iteration", "Iteration"),
    ("resolution_A", "Resolution (Å)"),
    ("angular_step_deg", "Step (°)"),
    ("is_local", "Search"),
    ("accuracy_rot_deg", "Accuracy (°)"),
    ("accuracy_trans_A", "Accuracy (Å)"),
    ("change_rot_deg", "Change (°)"),
    ("change_trans_A", "Change (Å)"),
    ("offset_step_A", "Offset step (Å)"),
    ("mean_p_max", "Mean Pmax"),
    ("current_size", "Image size (px)"),
    ("seconds", "Time"),
    ("moment", "Written"),
)


class IterationTable(QTableWidget):
    """One row per iteration, the newest at the bottom."""

    step_clicked = Signal(object)

    def __init__(self) -> None:
        super().__init__(0, len(COLUMNS))
        self._steps: list[Step] = []
        self.setHorizontalHeaderLabels([label for _, label in COLUMNS])
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        rows, columns = self.verticalHeader(), self.horizontalHeader()
        if rows is not None and columns is not None:
            rows.hide()
            rows.setDefaultSectionSize(20)
            columns.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.setToolTip("Click a row to see the maps of that iteration.")
        self.cellClicked.connect(self._on_click)

    def show_steps(self, steps: Sequence[Step], shown: Step | None) -> None:
        """Show the iterations, that of ``shown`` selected."""
        self._steps = list(steps)
        self.setRowCount(len(self._steps))
        for row, step in enumerate(self._steps):
            for column, (name, _) in enumerate(COLUMNS):
                text = cell(step, name)
                item = self.item(row, column)
                if item is None:
                    item = QTableWidgetItem()
                    item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                    self.setItem(row, column, item)
                if item.text() != text:
                    item.setText(text)
        if shown in self._steps:
            self.selectRow(self._steps.index(shown))
            self.scrollToItem(self.item(self._steps.index(shown), 0))

    def save_csv(self, path: Path) -> None:
        """Write the table."""
        with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([name for name, _ in COLUMNS])
            writer.writerows([cell(step, name, is_file=True) for name, _ in COLUMNS] for step in self._steps)

    def _on_click(self, row: int, _: int) -> None:
        if row < len(self._steps):
            self.step_clicked.emit(self._steps[row])


def cell(step: Step, name: str, *, is_file: bool = False) -> str:
    """Return the text of a cell; numbers that are not known are a dash, nothing in a file."""
    if name == "iteration":
        return "final" if step.is_final else str(step.number)
    if name == "is_local":
        return "local" if step.is_local else "global"
    if name == "moment":
        pattern = "%Y-%m-%d %H:%M:%S" if is_file else "%H:%M:%S"
        return time.strftime(pattern, time.localtime(step.moment)) if step.moment else ""
    value = float(getattr(step, name))
    if not math.isfinite(value):
        return "" if is_file else "–"
    if name == "seconds" and not is_file:
        return f"{value:.0f} s" if value < 100 else f"{value // 60:.0f}:{value % 60:02.0f}"
    digits = {"resolution_A": 2, "current_size": 0}.get(name)
    return f"{value:.3g}" if digits is None else f"{value:.{digits}f}"
