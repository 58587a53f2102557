"""What all plots of the dashboard share: the window's colors, a small size, axes in plain numbers, files."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyqtgraph as pg
from napari.utils.theme import get_theme
from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QHBoxLayout, QSizePolicy, QWidget

from napari_autorefine.io.files import replacing

ACCENT, SECOND, THIRD = "#56b4e9", "#e69f00", "#cc79a7"
"""Colors of curves, of Okabe & Ito (2008), told apart by color-blind eyes."""
_TITLE_PT, _TICK_PT = "9pt", 8


class Look:
    """Colors of the window's theme."""

    def __init__(self, theme: str = "dark") -> None:
        colors = get_theme(theme)
        self.paper = QColor(colors.background.as_hex())
        self.ink = QColor(colors.text.as_hex())
        self.muted = _mixed(self.ink, self.paper, 0.55)
        self.grid = _mixed(self.ink, self.paper, 0.15)

    def faded(self, age: float) -> QColor:
        """Return the color of a curve from 0 (new) to 1 (old)."""
        return _mixed(self.ink, self.paper, 0.62 - 0.42 * age)


def _mixed(first: QColor, second: QColor, share: float) -> QColor:
    parts = [
        round(share * one + (1 - share) * other)
        for one, other in zip(first.getRgb()[:3], second.getRgb()[:3], strict=True)
    ]
    return QColor(*parts)


class Plot(QWidget):
    """A small plot with a title, without menus, that fits beside others.

    Attributes
    ----------
    plot : pyqtgraph's plot
    hover : text of the point under the mouse
    """

    title = ""

    def __init__(self, *, x_label: str, y_label: str, axes: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.canvas = pg.PlotWidget(axisItems=axes or {})
        self.plot: Any = self.canvas.plotItem
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.canvas)
        self._labels = {"bottom": x_label, "left": y_label}
        self.look = Look()
        self.plot.setMenuEnabled(False)
        self.plot.hideButtons()
        self.setMinimumSize(150, 110)
        self.canvas.setMinimumSize(60, 60)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.plot.setContentsMargins(2, 0, 8, 0)
        self.hover = pg.TextItem(anchor=(0, 0))
        self.hover.setZValue(100)
        self.hover.hide()
        self.plot.addItem(self.hover, ignoreBounds=True)
        self.canvas.scene().sigMouseMoved.connect(self._on_mouse)
        self.set_look(self.look)

    def sizeHint(self) -> QSize:
        """Return a size of which several fit side by side; pyqtgraph's own takes half the window."""
        return QSize(250, 190)

    def set_look(self, look: Look) -> None:
        """Take the colors of the window."""
        self.look = look
        self.canvas.setBackground(look.paper)
        self.plot.setTitle(self.title, color=look.ink, size=_TITLE_PT)
        for side, text in self._labels.items():
            axis = self.plot.getAxis(side)
            axis.enableAutoSIPrefix(False)
            axis.setLabel(text, color=look.ink.name(), **{"font-size": "8pt"})
            axis.setPen(look.muted)
            axis.setTextPen(look.ink)
            font = axis.font()
            font.setPointSize(_TICK_PT)
            axis.setTickFont(font)
        self.hover.setColor(look.ink)
        self.hover.fill = pg.mkBrush(_mixed(look.paper, look.ink, 0.9))
        self.redraw()

    def redraw(self) -> None:
        """Draw the curves once more, in the colors of ``look``."""

    def describe_at(self, x: float, y: float) -> tuple[str, float, float] | None:
        """Return the text for the point under the mouse and where it is, or None; coordinates of the axes."""
        return None

    def rows(self) -> tuple[Sequence[str], list[Sequence[object]]]:
        """Return head and rows of a table of what is drawn."""
        return (), []

    def save_csv(self, path: Path) -> None:
        """Write what is drawn as a table."""
        head, rows = self.rows()
        with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(head)
            writer.writerows([plain(value) for value in row] for row in rows)

    def save_png(self, path: Path) -> None:
        """Write what is drawn as an image, twice as fine as the screen."""
        save_widget(self, path)

    def _on_mouse(self, position: Any) -> None:
        box = self.plot.vb
        if not self.plot.sceneBoundingRect().contains(position):
            self.hover.hide()
            return
        point = box.mapSceneToView(position)
        self.hover_at(point.x(), point.y())

    def hover_at(self, x: float, y: float) -> None:
        """Show what is under a point of the axes."""
        told = self.describe_at(x, y)
        if told is None:
            self.hover.hide()
            return
        text, at_x, at_y = told
        (left, right), (bottom, top) = self.plot.vb.viewRange()
        is_right, is_low = at_x > 0.5 * (left + right), at_y < 0.5 * (bottom + top)
        self.hover.setText(text)
        self.hover.setAnchor((1.05 if is_right else -0.05, 1.1 if is_low else -0.1))
        self.hover.setPos(at_x, at_y)
        self.hover.show()
        self.hover.updateTransform(force=True)  # it is not kept up to date while hidden

    def leaveEvent(self, event: Any) -> None:
        """Hide the text of the point under the mouse."""
        self.hover.hide()
        super().leaveEvent(event)


def save_widget(widget: Any, path: Path) -> None:
    """Write a widget as an image, twice as fine as the screen."""
    from qtpy.QtGui import QImage, QPainter

    size = widget.size()
    image = QImage(size * 2, QImage.Format.Format_ARGB32)
    image.setDevicePixelRatio(2.0)
    image.fill(Qt.GlobalColor.transparent)
    painter = QPainter(image)
    widget.render(painter)
    painter.end()
    with replacing(path) as temporary:
        image.save(str(temporary), "PNG")


def plain(value: object) -> object:
    """Return a number as a file has it: nothing for NaN."""
    if isinstance(value, (float, np.floating)):
        return "" if math.isnan(float(value)) else f"{float(value):.6g}"
    return value


Ticks = Callable[[float, float, float], list[tuple[float, list[float]]]]


def axis_with(side: str, ticks: Ticks, text: Callable[[float], str]) -> Any:
    """Return an axis with ticks of its own.

    Parameters
    ----------
    side : ``bottom`` or ``left``
    ticks : of the two ends of the axis and its length in px: distance and places of the ticks
    text : of a tick
    """
    axis = pg.AxisItem(side)
    axis.tickValues = ticks
    axis.tickStrings = lambda values, scale, spacing: [text(value) for value in values]
    return axis


def whole_numbers(low: float, high: float, size_px: float) -> list[tuple[float, list[float]]]:
    """Return ticks at whole numbers."""
    most = max(2.0, size_px / 34.0)
    step = next((step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500) if (high - low) / step <= most), 1000)
    first = math.ceil(low / step)
    return [(float(step), [float(n * step) for n in range(first, math.floor(high / step) + 1)])]
