"""A slider for the density of a surface."""

from __future__ import annotations

import numpy as np
from napari.layers import Image
from psygnal import Signal
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import QDoubleSpinBox, QHBoxLayout, QLabel, QSizePolicy, QSlider, QWidget

from napari_autorefine.ui.layer_style import COLORS, Role, statistics
from napari_autorefine.ui.volume_choice import is_mask, start_level

_STEPS, _TYPED_STEPS = 1000, 100


class LevelSlider(QWidget):
    """Slider and number for the threshold of one volume, marked with its color.

    Attributes
    ----------
    changed : emitted with the density when the user changes it
    """

    changed = Signal(float)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.chip = QLabel("■")
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.number = QDoubleSpinBox()
        self.number.setDecimals(4)
        self.number.setKeyboardTracking(False)
        self.number.setButtonSymbols(QDoubleSpinBox.ButtonSymbols.NoButtons)
        self.number.setFixedWidth(74)
        self.slider.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(6)
        for widget, stretch in ((self.chip, 0), (self.slider, 1), (self.number, 0)):
            row.addWidget(widget, stretch)
        self.slider.valueChanged.connect(self._on_slider)
        self.number.valueChanged.connect(self._on_number)

    def show_volume(self, layer: Image, role: Role) -> None:
        """Span the densities of a volume above its solvent, and show where its surface begins."""
        measured = statistics(np.asarray(layer.data))
        low, high = (0.0, 1.0) if is_mask(layer) else (measured.limits[0], measured.full_range[1])
        self.chip.setStyleSheet(f"QLabel {{ color: {COLORS[role]}; padding: 0px; }}")
        self.chip.setToolTip(layer.name)
        self.setToolTip(f"Threshold of {layer.name}")
        self.slider.setRange(0, _STEPS)
        blocker = QSignalBlocker(self.number)
        self.number.setRange(low, high)
        self.number.setSingleStep((high - low) / _TYPED_STEPS)
        self.number.setValue(start_level(layer))
        blocker.unblock()
        self._show(self.slider, self._position(self.number.value()))

    def set_level(self, level: float) -> None:
        """Set the density as the user does."""
        self.number.setValue(level)

    def _position(self, level: float) -> int:
        low, high = self.number.minimum(), self.number.maximum()
        return round(_STEPS * (level - low) / (high - low)) if high > low else 0

    def _on_slider(self, position: int) -> None:
        low, high = self.number.minimum(), self.number.maximum()
        level = low + (high - low) * position / _STEPS
        blocker = QSignalBlocker(self.number)
        self.number.setValue(level)
        blocker.unblock()
        self.changed.emit(level)

    def _on_number(self, level: float) -> None:
        self._show(self.slider, self._position(level))
        self.changed.emit(level)

    @staticmethod
    def _show(slider: QSlider, position: int) -> None:
        blocker = QSignalBlocker(slider)
        slider.setValue(position)
        blocker.unblock()
