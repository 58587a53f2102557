"""Parts of the live results: slider through iterations, switches of the view, panels beside each other or in tabs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from psygnal import Signal
from qtpy.QtCore import QSignalBlocker, QSize, Qt
from qtpy.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QHBoxLayout,
    QLabel,
    QMenu,
    QPushButton,
    QSlider,
    QStackedWidget,
    QTabBar,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QFlowLayout

from napari_autorefine.ui.run_steps import Step

_SIGMA_STEPS, _LEAST_SIGMA, _MOST_SIGMA = 10, 0.5, 15.0


def _row(*widgets: QWidget, spacing: int = 4) -> QWidget:
    """Return widgets in a row that stays together."""
    box = QWidget()
    layout = QHBoxLayout(box)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(spacing)
    for widget in widgets:
        layout.addWidget(widget)
    return box


class HistoryBar(QWidget):
    """Slider through the iterations that have maps, and whether the newest is followed."""

    step_wanted = Signal(object)
    follow_changed = Signal(bool)

    def __init__(self) -> None:
        super().__init__()
        self._steps: list[Step] = []
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setFixedWidth(150)
        self.slider.setToolTip("Go back through the iterations: maps, curves and orientations of that moment")
        self.slider.valueChanged.connect(self._on_slider)
        self.back, self.forward = self._button("◀", "Earlier iteration", -1), self._button("▶", "Later iteration", 1)
        self.label = QLabel("")
        self.label.setMinimumWidth(self.fontMetrics().horizontalAdvance("iteration 00 of 00") + 6)
        self.follow = QCheckBox("Follow newest")
        self.follow.setToolTip("Show every iteration when it is there")
        self.follow.setChecked(True)
        self.follow.toggled.connect(self._on_follow)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for widget in (self.back, self.slider, self.forward, self.label, self.follow):
            layout.addWidget(widget)

    def _button(self, text: str, tip: str, by: int) -> QToolButton:
        button = QToolButton()
        button.setText(text)
        button.setToolTip(tip)
        button.clicked.connect(lambda: self.slider.setValue(self.slider.value() + by))
        return button

    def show_steps(self, steps: Sequence[Step], shown: Step | None) -> None:
        """Show the iterations that can be chosen, and the one that is shown."""
        self._steps = [step for step in steps if step.has_maps]
        at = self._steps.index(shown) if shown in self._steps else len(self._steps) - 1
        with QSignalBlocker(self.slider):
            self.slider.setRange(0, max(len(self._steps) - 1, 0))
            self.slider.setValue(max(at, 0))
        self.setEnabled(bool(self._steps))
        numbers = [step.number for step in self._steps if step.number is not None]
        if 0 <= at < len(self._steps):
            step = self._steps[at]
            last = f" of {max(numbers)}" if numbers and not step.is_final else ""
            self.label.setText(f"{step.title}{last}" + (" (all data)" if step.is_final else ""))
        else:
            self.label.setText("")

    @property
    def newest(self) -> Step | None:
        """The last iteration that has maps."""
        return self._steps[-1] if self._steps else None

    def set_follow(self, follow: bool) -> None:
        """Follow the newest iteration, or stay where the user is."""
        with QSignalBlocker(self.follow):
            self.follow.setChecked(follow)

    def _on_slider(self, at: int) -> None:
        if 0 <= at < len(self._steps):
            self.set_follow(at == len(self._steps) - 1)
            self.step_wanted.emit(self._steps[at])

    def _on_follow(self, follow: bool) -> None:
        self.follow_changed.emit(follow)
        if follow and self._steps:
            self.step_wanted.emit(self._steps[-1])


class ViewBar(QWidget):
    """How maps are arranged, and where their surfaces are."""

    arranged = Signal(str)
    contour_wanted = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.grid = self._choice("Grid", "Maps side by side, turned together")
        self.overlay = self._choice("Overlay", "Half-maps over each other, or the final map")
        self.grid.setChecked(True)
        group = QButtonGroup(self)
        for button in (self.grid, self.overlay):
            group.addButton(button)
        self.grid.clicked.connect(lambda: self.arranged.emit("grid"))
        self.overlay.clicked.connect(lambda: self.arranged.emit("overlay"))
        self.contour = QSlider(Qt.Orientation.Horizontal)
        self.contour.setRange(round(_LEAST_SIGMA * _SIGMA_STEPS), round(_MOST_SIGMA * _SIGMA_STEPS))
        self.contour.setFixedWidth(110)
        self.contour.setToolTip("Density of the surfaces, in standard deviations above the mean of each map")
        self.contour.valueChanged.connect(self._on_contour)
        self.value = QLabel("")
        self.value.setMinimumWidth(self.fontMetrics().horizontalAdvance("15.0 σ") + 4)
        self.auto = QToolButton()
        self.auto.setText("auto")
        self.auto.setToolTip("Choose the density from each map again")
        self.auto.clicked.connect(lambda: self.contour_wanted.emit(None))
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        widgets = (_row(self.grid, self.overlay, spacing=1), QLabel("Contour"), self.contour, self.value, self.auto)
        for widget in widgets:
            layout.addWidget(widget)

    @staticmethod
    def _choice(text: str, tip: str) -> QPushButton:
        button = QPushButton(text)
        button.setCheckable(True)
        button.setToolTip(tip)
        return button

    def show_contour(self, n_sigma: float | None) -> None:
        """Show where surfaces are, without telling anybody."""
        with QSignalBlocker(self.contour):
            if n_sigma is not None:
                self.contour.setValue(round(n_sigma * _SIGMA_STEPS))
        self.value.setText("" if n_sigma is None else f"{n_sigma:.1f} σ")

    def _on_contour(self, value: int) -> None:
        n_sigma = value / _SIGMA_STEPS
        self.value.setText(f"{n_sigma:.1f} σ")
        self.contour_wanted.emit(n_sigma)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A part of the dashboard with the width it needs beside others; 0 for one that always has its own tab."""

    title: str
    widget: QWidget
    width: int = 0


class PanelArea(QWidget):
    """As many panels beside each other as there is room for, the others in tabs."""

    def __init__(self, panels: Sequence[Panel], *controls: QWidget) -> None:
        super().__init__()
        self.panels = tuple(panels)
        self.tabs = QTabBar()
        self.tabs.setDrawBase(False)
        self.tabs.setExpanding(False)
        self.tabs.setUsesScrollButtons(True)
        self.pages = QStackedWidget()
        self._row = QWidget()
        self._row_layout = QHBoxLayout(self._row)
        self._row_layout.setContentsMargins(0, 0, 0, 0)
        self._row_layout.setSpacing(0)
        self.n_beside = -1
        top = QWidget()
        flow = QFlowLayout(top)
        flow.setContentsMargins(0, 0, 0, 0)
        for widget in (self.tabs, *controls):
            flow.addWidget(widget)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(top)
        layout.addWidget(self.pages, 1)
        self.tabs.currentChanged.connect(self.pages.setCurrentIndex)
        self._arrange(1)

    def sizeHint(self) -> QSize:
        """Return a height that leaves the maps most of the window."""
        return QSize(900, 245)

    def minimumSizeHint(self) -> QSize:
        """Return a size that fits a column at the side."""
        return QSize(300, 170)

    def resizeEvent(self, event: Any) -> None:
        """Move panels between row and tabs."""
        super().resizeEvent(event)
        self._arrange(self.n_that_fit(self.width()))

    def n_that_fit(self, width: int) -> int:
        """Return how many panels a width has room for, at least one."""
        n, room = 0, width
        for panel in self.panels:
            room -= panel.width
            if not panel.width or room < 0:
                break
            n += 1
        return max(n, 1)

    def _arrange(self, n_beside: int) -> None:
        if n_beside == self.n_beside:
            return
        self.n_beside = n_beside
        title = self.tabs.tabText(self.tabs.currentIndex()) if self.tabs.count() else ""
        with QSignalBlocker(self.tabs):
            while self.tabs.count():
                self.tabs.removeTab(0)
            for page in (self._row, *(panel.widget for panel in self.panels)):
                self.pages.removeWidget(page)
                self._row_layout.removeWidget(page)
            self.pages.addWidget(self._row)
            self.tabs.addTab("Overview" if n_beside > 1 else self.panels[0].title)
            for index, panel in enumerate(self.panels):
                if index < n_beside:
                    self._row_layout.addWidget(panel.widget, panel.width)
                    panel.widget.show()
                else:
                    self.pages.addWidget(panel.widget)
                    self.tabs.addTab(panel.title)
            titles = [self.tabs.tabText(index) for index in range(self.tabs.count())]
            self.tabs.setCurrentIndex(titles.index(title) if title in titles else 0)
        self.pages.setCurrentIndex(self.tabs.currentIndex())


class MenuButton(QToolButton):
    """Button with a menu of actions."""

    def __init__(self, actions: Sequence[tuple[str, Callable[[], object]]]) -> None:
        super().__init__()
        self.setText("☰")
        self.setToolTip("Open a run, save plots and tables")
        self.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        menu = QMenu(self)
        for text, action in actions:
            entry = menu.addAction(text)
            if entry is not None:
                entry.triggered.connect(lambda _=False, do=action: do())
        self.setMenu(menu)
