"""The look of the tool that moves a map onto its mask: lists, views, thresholds, offset, score."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psygnal import Signal
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QGridLayout,
    QHBoxLayout,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)
from qtpy.QtWidgets import QLabel as Label

from napari_autorefine.ui.fields import BLUE, GREY, ORANGE, plain_label, say, small_label
from napari_autorefine.ui.fold import Fold
from napari_autorefine.ui.level_slider import LevelSlider
from napari_autorefine.ui.offset_editor import OffsetEditor
from napari_autorefine.ui.pair_view import Look, Mode
from napari_autorefine.ui.recenter_model import RecenterModel
from napari_autorefine.ui.volume_choice import VolumeCombo

if TYPE_CHECKING:
    from napari.components import LayerList

_CHECKED = f"QPushButton:checked {{ background-color: {BLUE}; color: white; }}"
_LOOKS: dict[Look, tuple[str, str]] = {
    "z": ("XY", "Slices along z"),
    "y": ("XZ", "Slices along y"),
    "x": ("YZ", "Slices along x"),
    "3d": ("3D", "Surfaces in 3D"),
}
_SCORE_STEPS = 1000
_SCORE_TIP = (
    "Correlation of the mask with a mask of the same size made from the map where it is now; 1 when they are the same."
)


class RecenterPanel(QWidget):
    """Widgets without what they do.

    Attributes
    ----------
    look_chosen, mode_chosen : emitted when a button of the view is pressed
    """

    look_chosen = Signal(str)
    mode_chosen = Signal(str)

    def __init__(self, layers: LayerList, model: RecenterModel) -> None:
        super().__init__()
        self.model = model
        self.map_choice, self.mask_choice = VolumeCombo(layers), VolumeCombo(layers)
        self.message, self.note, self.hint = small_label(ORANGE), small_label(GREY), small_label(GREY)
        self.rebox_button = QPushButton("Rebox mask to match…")
        self.levels = (LevelSlider(), LevelSlider())
        self.editor = OffsetEditor(model)
        self.suggest_button = QPushButton("Suggest")
        self.pick_button = QPushButton("Pick points")
        self.stop_button = QPushButton("Off")
        self.beside_button = QPushButton("Side by side")
        self.preview = QCheckBox("Show the map moved")
        self.drag_box = QCheckBox("Dragging in slices moves the map")
        self.score = QProgressBar()
        self.looks: dict[Look, QPushButton] = {}
        self._group = QButtonGroup(self)
        self._prepare()
        self._lay_out()
        self.set_ready(False)

    def _prepare(self) -> None:
        for look, (text, tip) in _LOOKS.items():
            button = QPushButton(text)
            button.setCheckable(True)
            button.setToolTip(tip)
            button.setStyleSheet(_CHECKED)
            button.clicked.connect(lambda _=False, one=look: self.look_chosen.emit(one))
            self._group.addButton(button)
            self.looks[look] = button
        for button in (self.pick_button, self.beside_button):
            button.setCheckable(True)
            button.setStyleSheet(_CHECKED)
        self.beside_button.setToolTip("Map and mask in two views under one camera, or one over the other")
        self.beside_button.clicked.connect(lambda on=False: self.mode_chosen.emit("side by side" if on else "overlay"))
        self.suggest_button.setToolTip("Find the offset by cross-correlation")
        self.pick_button.setToolTip("Click a point of the map, then the same point of the mask")
        self.stop_button.setToolTip("Put the window back to what it was; the offset stays")
        self.preview.setChecked(True)
        self.preview.setToolTip("Off: the map where its file has it")
        self.drag_box.setChecked(True)
        self.drag_box.setToolTip("Off: dragging moves the view, and Shift-drag the map")
        self.score.setRange(0, _SCORE_STEPS)
        self.score.setToolTip(_SCORE_TIP)
        self.score.setAlignment(Qt.AlignmentFlag.AlignCenter)
        for widget in (*self.looks.values(), self.pick_button, self.beside_button, self.suggest_button):
            widget.setFocusPolicy(Qt.FocusPolicy.NoFocus)

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(5)
        layout.addLayout(self._choices())
        layout.addWidget(self.message)
        layout.addWidget(self.rebox_button)
        layout.addLayout(_row("View", *self.looks.values(), self.beside_button, self.stop_button))
        layout.addWidget(self.hint)
        layout.addWidget(self._thresholds())
        layout.addWidget(_title("Offset of the map from the mask"))
        layout.addWidget(self.editor)
        layout.addLayout(_row("", self.suggest_button, self.pick_button))
        layout.addWidget(self.note)
        layout.addWidget(self.score)
        layout.addWidget(self.preview)

    def _choices(self) -> QGridLayout:
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setVerticalSpacing(4)
        for row, (text, combo) in enumerate((("Map", self.map_choice), ("Mask", self.mask_choice))):
            grid.addWidget(plain_label(text), row, 0)
            grid.addWidget(combo, row, 1)
        grid.setColumnStretch(1, 1)
        return grid

    def _thresholds(self) -> Fold:
        content = QWidget()
        inner = QVBoxLayout(content)
        inner.setContentsMargins(12, 0, 0, 0)
        inner.setSpacing(3)
        for slider in self.levels:
            inner.addWidget(slider)
        inner.addWidget(self.drag_box)
        return Fold("Thresholds in 3D, dragging", content)

    def set_ready(self, is_ready: bool) -> None:
        """Enable what needs a map and a mask that fit."""
        self._is_ready = is_ready
        for button in (*self.looks.values(), self.suggest_button, self.pick_button):
            button.setEnabled(is_ready)

    def show_state(self, *, is_on: bool, mode: Mode, axis: str) -> None:
        """Show which view is on.

        Parameters
        ----------
        is_on : the viewer is held
        mode : how map and mask are shown
        axis : name of the axis that slices are along, nothing in 3D
        """
        self._group.setExclusive(False)
        for look, button in self.looks.items():
            button.setChecked(is_on and look == (axis or "3d"))
        self._group.setExclusive(True)
        self.beside_button.setEnabled(is_on)
        self.beside_button.setChecked(is_on and mode == "side by side")
        self.stop_button.setEnabled(is_on)
        self.score.setVisible(is_on)
        self.preview.setVisible(is_on)
        self.hint.setVisible(is_on)

    def show_axes(self, names: dict[str, str], *, is_3d: bool, drags_freely: bool) -> None:
        """Say what mouse and keys do in this view."""
        drag = "Drag" if drags_freely and not is_3d else "Shift-drag"
        keys = f"⇧←→ {names['across']}, ⇧↑↓ {names['up']}, ⇧PgUp/PgDn {names['depth']}"
        say(self.hint, f"{drag} to move the map; keys: {keys}.")

    def show_score(self, score: float | None) -> None:
        """Show how well map and mask agree, None while that is computed."""
        self.score.setValue(0 if score is None else round(_SCORE_STEPS * min(max(score, 0.0), 1.0)))
        self.score.setFormat("Overlap …" if score is None else f"Overlap {score:.3f}")

    def set_searching(self, is_searching: bool) -> None:
        """Show that a suggestion is being looked for."""
        self.suggest_button.setEnabled(not is_searching and self._is_ready)
        self.suggest_button.setText("Searching…" if is_searching else "Suggest")

    def tell(self, text: str, color: str = GREY) -> None:
        """Say something below the offset, or nothing."""
        say(self.note, text, color)


def _row(title: str, *widgets: QWidget) -> QHBoxLayout:
    row = QHBoxLayout()
    row.setSpacing(3)
    if title:
        row.addWidget(plain_label(title))
        row.addSpacing(4)
    for widget in widgets:
        row.addWidget(widget, 1)
    return row


def _title(text: str) -> Label:
    label = plain_label(text)
    label.setStyleSheet("QLabel { padding: 4px 0px 0px 0px; font-weight: bold; }")
    return label
