"""Three numbers for an offset, in pixels or in angstrom, with steps that can be undone."""

from __future__ import annotations

from functools import partial

import numpy as np
from psygnal import Signal
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_autorefine.ui.fields import GREY, plain_label, say, small_label
from napari_autorefine.ui.recenter_model import DECIMALS, STEPS_PX, RecenterModel

_LARGEST = 99_999.0
_FIRST_STEP = 0.25
_UNITS = ("px", "Å")


class OffsetEditor(QWidget):
    """Fields X, Y, Z, the step of keys and arrows, undo, redo and reset of a ``RecenterModel``.

    Attributes
    ----------
    edited : emitted after the model was changed here
    """

    edited = Signal()

    def __init__(self, model: RecenterModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.model = model
        self.voxel_size_A: float | None = None
        self.boxes = tuple(QDoubleSpinBox() for _ in range(3))
        self.unit, self.step = QComboBox(), QComboBox()
        self.other_unit = small_label(GREY)
        self.undo_button, self.redo_button = QPushButton("Undo"), QPushButton("Redo")
        self.reset_button = QPushButton("Reset")
        self._fill()
        self._lay_out()
        self.refresh()

    def _fill(self) -> None:
        self.unit.addItems(_UNITS)
        self.unit.setToolTip("Unit of X, Y and Z")
        self.unit.currentIndexChanged.connect(lambda *_: self.refresh())
        for step in STEPS_PX:
            self.step.addItem(f"{step:g} px", step)
        self.step.setCurrentIndex(STEPS_PX.index(_FIRST_STEP))
        self.step.setToolTip("Step of keys and mouse wheel")
        self.step.currentIndexChanged.connect(lambda *_: self.refresh())
        for index, (name, box) in enumerate(zip("XYZ", self.boxes, strict=True)):
            box.setRange(-_LARGEST, _LARGEST)
            box.setDecimals(DECIMALS)
            box.setKeyboardTracking(False)
            box.setAlignment(Qt.AlignmentFlag.AlignRight)
            box.setMinimumWidth(70)
            box.setButtonSymbols(QDoubleSpinBox.ButtonSymbols.NoButtons)
            box.setToolTip(
                f"{name} of the point of the map that becomes its centre, from the middle of the box;"
                " arrow keys and mouse wheel change it by a step"
            )
            box.valueChanged.connect(partial(self._on_typed, index))
        for button, action in (
            (self.undo_button, self.model.undo),
            (self.redo_button, self.model.redo),
            (self.reset_button, lambda: self.model.move_to(np.zeros(3))),
        ):
            button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
            button.clicked.connect(lambda _=False, do=action: self._do(do))
        self.undo_button.setToolTip("Ctrl+Z")
        self.redo_button.setToolTip("Ctrl+Shift+Z")

    def _lay_out(self) -> None:
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(4)
        grid.setVerticalSpacing(1)
        for column, (name, box) in enumerate(zip("XYZ", self.boxes, strict=True)):
            label = QLabel(name)
            label.setStyleSheet("QLabel { padding: 0px; }")
            grid.addWidget(label, 0, column)
            grid.addWidget(box, 1, column)
            grid.setColumnStretch(column, 1)
        grid.addWidget(self.unit, 1, 3)
        steps = QHBoxLayout()
        steps.setSpacing(3)
        steps.addWidget(plain_label("Step"))
        steps.addWidget(self.step)
        steps.addStretch(1)
        for button in (self.undo_button, self.redo_button, self.reset_button):
            steps.addWidget(button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        layout.addLayout(grid)
        layout.addWidget(self.other_unit)
        layout.addLayout(steps)

    @property
    def step_px(self) -> float:
        """Step of the keys in pixels."""
        return float(self.step.currentData())

    def set_voxel_size(self, voxel_size_A: float | None) -> None:
        """Take the pixel size of another map; without one there are only pixels."""
        self.voxel_size_A = voxel_size_A
        if voxel_size_A is None:
            self.unit.setCurrentIndex(0)
        self.unit.setEnabled(voxel_size_A is not None)
        self.refresh()

    def refresh(self) -> None:
        """Show the model."""
        center_px = self.model.center_px
        for box, value in zip(self.boxes, center_px * self._factor, strict=True):
            blocker = QSignalBlocker(box)
            box.setSingleStep(self.step_px * self._factor)
            box.setValue(float(value))
            blocker.unblock()
        say(self.other_unit, self._in_other_unit(center_px))
        self.undo_button.setEnabled(self.model.can_undo)
        self.redo_button.setEnabled(self.model.can_redo)
        self.reset_button.setEnabled(not self.model.is_zero)

    @property
    def _factor(self) -> float:
        return self.voxel_size_A if self.unit.currentIndex() == 1 and self.voxel_size_A else 1.0

    def _in_other_unit(self, center_px: np.ndarray) -> str:
        if self.voxel_size_A is None:
            return "In pixels of the particles, as no map is chosen."
        values = center_px if self._factor != 1.0 else center_px * self.voxel_size_A
        unit = _UNITS[0] if self._factor != 1.0 else _UNITS[1]
        digits = 2 if unit == "px" else 1
        numbers = ", ".join(f"{value + 0.0:.{digits}f}" for value in values).replace("-", "−")
        return f"= {numbers} {unit} ({self.voxel_size_A:.4g} Å per px of the map)"

    def _on_typed(self, index: int, value: float) -> None:
        center_px = self.model.center_px
        center_px[index] = value / self._factor
        self.model.move_to(center_px)
        self.refresh()
        self.edited.emit()

    def _do(self, action: object) -> None:
        assert callable(action)
        action()
        self.refresh()
        self.edited.emit()
