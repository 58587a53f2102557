"""Two volumes side by side under one camera, or one over the other as surfaces: the dock and its commands."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from napari.layers import Image
from qtpy.QtCore import QSize
from qtpy.QtWidgets import QButtonGroup, QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_autorefine.ui.endings import when_destroyed
from napari_autorefine.ui.fields import BLUE, GREY, ORANGE, plain_label, say, small_label
from napari_autorefine.ui.job_docks import PLUGIN, open_dock
from napari_autorefine.ui.level_slider import LevelSlider
from napari_autorefine.ui.pair_view import Mode, PairView, roles_of
from napari_autorefine.ui.presence import Presence
from napari_autorefine.ui.project import Project
from napari_autorefine.ui.project import project as shared_project
from napari_autorefine.ui.volume_choice import VolumeCombo, mismatch, rebox_values, two_volumes

if TYPE_CHECKING:
    from napari.viewer import Viewer

TITLE = "Compare two maps"
_EMPTY = "Open two maps, or a map and its mask: drop their files on the window or use File > Open."
_HINT = "Both views turn, move and zoom together. Stop puts the window back to what it was."
_CHECKED = f"QPushButton:checked {{ background-color: {BLUE}; color: white; }}"


class CompareDock(QWidget):
    """Choice of two volumes, how to show them, a threshold for each."""

    def __init__(self, napari_viewer: Viewer, *, project: Project = shared_project) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.project = project
        self.view = PairView(napari_viewer)
        self.first, self.second = VolumeCombo(napari_viewer.layers), VolumeCombo(napari_viewer.layers)
        self.levels = (LevelSlider(), LevelSlider())
        self.message = small_label(ORANGE)
        self.rebox_button = QPushButton("Rebox…")
        self.hint = small_label(GREY)
        self._buttons = QButtonGroup(self)
        self.buttons: dict[Mode, QPushButton] = {}
        self.stop_button = QPushButton("Stop")
        self._is_filling = False
        self._lay_out()
        self.rebox_button.clicked.connect(lambda: self.open_rebox())
        self.stop_button.clicked.connect(lambda: self.stop())
        self.view.ended.connect(self._on_ended)
        for index, slider in enumerate(self.levels):
            slider.changed.connect(partial(self._set_level, index))
        for combo in (self.first, self.second):
            combo.chosen.connect(self._on_choice)
        napari_viewer.layers.events.inserted.connect(self._on_inserted)
        self.presence = Presence(self)
        self.presence.closed.connect(self.stop)
        when_destroyed(self, partial(_let_go, self.view))
        self.choose_defaults()

    def sizeHint(self) -> QSize:
        """Return a narrow column."""
        return QSize(330, 300)

    def _lay_out(self) -> None:
        modes = QHBoxLayout()
        modes.setSpacing(3)
        for mode, text in zip(get_args(Mode), ("Side by side", "Overlay"), strict=True):
            button = QPushButton(text)
            button.setCheckable(True)
            button.setStyleSheet(_CHECKED)
            button.clicked.connect(lambda _=False, one=mode: self.show_pair(one))
            self._buttons.addButton(button)
            self.buttons[mode] = button
            modes.addWidget(button, 1)
        modes.addWidget(self.stop_button, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 6, 8, 6)
        layout.setSpacing(5)
        for title, widget in (("First", self.first), ("Second", self.second)):
            layout.addWidget(plain_label(title))
            layout.addWidget(widget)
        layout.addWidget(self.message)
        layout.addWidget(self.rebox_button)
        layout.addSpacing(4)
        layout.addLayout(modes)
        self.thresholds = QWidget()
        inner = QVBoxLayout(self.thresholds)
        inner.setContentsMargins(0, 4, 0, 0)
        inner.setSpacing(3)
        inner.addWidget(plain_label("Thresholds of the surfaces"))
        for slider in self.levels:
            inner.addWidget(slider)
        layout.addWidget(self.thresholds)
        layout.addWidget(self.hint)
        layout.addStretch(1)

    def choose_defaults(self) -> None:
        """Choose the selected volumes, else map and mask, else the last two."""
        first, second = two_volumes(self.viewer)
        self._is_filling = True
        self.first.choose(first)
        self.second.choose(second)
        self._is_filling = False
        self._on_choice()

    def show_pair(self, mode: Mode) -> None:
        """Show the chosen volumes in a mode; say what is missing."""
        pair = self._pair()
        if pair is None:
            self._show_state()
            return
        if self.view.is_on and tuple(solid.layer for solid in self.view.solids) == pair:
            self.view.set_mode(mode)
        else:
            self.view.start(*pair, mode)
            for slider, layer, role in zip(self.levels, pair, roles_of(*pair), strict=True):
                slider.show_volume(layer, role)
        self._show_state()

    def stop(self) -> None:
        """Put the window back to what it was."""
        self.view.stop()
        self._show_state()

    def open_rebox(self) -> None:
        """Open the form that puts the second volume on the grid of the first."""
        first, second = self.first.layer, self.second.layer
        if first is not None and second is not None:
            open_dock(self.viewer, "rebox", rebox_values(first, second, self.project))

    def _pair(self) -> tuple[Image, Image] | None:
        first, second = self.first.layer, self.second.layer
        return None if first is None or second is None or first is second else (first, second)

    def _problem(self) -> str:
        first, second = self.first.layer, self.second.layer
        if not (self.first.count() and self.second.count()) or self.first.count() < 2:
            return _EMPTY
        if first is None or second is None:
            return "Choose two volumes."
        return "Choose two different volumes." if first is second else ""

    def _on_choice(self, *_: object) -> None:
        if self._is_filling:
            return
        if self.view.is_on and self._pair() is not None:
            self.show_pair(self.view.mode)
        self._show_state()

    def _on_inserted(self, *_: object) -> None:
        if not self.view.is_on and self._pair() is None:
            self.choose_defaults()

    def _on_ended(self, reason: str) -> None:
        self._show_state()
        if reason:
            say(self.hint, reason)

    def _set_level(self, index: int, level: float) -> None:
        if self.view.is_on:
            self.view.solids[index].set_level(level)

    def _show_state(self) -> None:
        problem, pair = self._problem(), self._pair()
        misfit = "" if pair is None else mismatch(*pair)
        say(self.message, problem or misfit)
        self.rebox_button.setVisible(bool(misfit))
        if pair is not None:
            self.rebox_button.setText("Rebox second to match…")
            self.rebox_button.setToolTip(f"Put {pair[1].name} on the grid of {pair[0].name}")
        self._buttons.setExclusive(False)
        for mode, button in self.buttons.items():
            button.setEnabled(pair is not None)
            button.setChecked(self.view.is_on and self.view.mode == mode)
        self._buttons.setExclusive(True)
        self.stop_button.setEnabled(self.view.is_on)
        self.thresholds.setVisible(self.view.is_on)
        say(self.hint, _HINT if self.view.is_on else "")


def open_compare_dock(viewer: Any) -> CompareDock:
    """Show the dock for two volumes."""
    place, dock = viewer.window.add_plugin_dock_widget(PLUGIN, TITLE, tabify=True)
    place.show()
    place.raise_()
    assert isinstance(dock, CompareDock)
    return dock


def show_side_by_side(viewer: Viewer) -> CompareDock:
    """Show map and mask, or two volumes that are selected, side by side under one camera."""
    return _compare(viewer, "side by side")


def show_overlay(viewer: Viewer) -> CompareDock:
    """Show map and mask, or two volumes that are selected, one over the other as surfaces."""
    return _compare(viewer, "overlay")


def _compare(viewer: Viewer, mode: Mode) -> CompareDock:
    dock = open_compare_dock(viewer)
    if not dock.view.is_on:
        dock.choose_defaults()
    dock.show_pair(mode)
    return dock


def _let_go(view: PairView) -> None:
    """Put the viewer back when the dock is gone."""
    with suppress(RuntimeError):  # the window is being taken apart
        view.stop()
