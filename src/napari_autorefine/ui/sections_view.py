"""Three central sections of a map as small images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QRectF, QSize, Qt
from qtpy.QtGui import QImage, QPainter, QPen
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_autorefine.ui.plots_base import Look, save_widget

_LENGTHS_A = (1000, 500, 200, 100, 50, 20, 10, 5, 2, 1)
_GAP, _TITLE = 6, 18


class SectionsView(QWidget):
    """Sections perpendicular to z, y and x through the middle, rows upwards as in the viewer, with a scale bar."""

    def __init__(self) -> None:
        super().__init__()
        self.look = Look()
        self.caption = "central sections"
        self._images: dict[str, QImage] = {}
        self._width_A = 0.0
        self.setMinimumSize(150, 110)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)

    def sizeHint(self) -> QSize:
        """Return room for three squares."""
        return QSize(360, 190)

    def set_look(self, look: Look) -> None:
        """Take the colors of the window."""
        self.look = look
        self.update()

    def show_sections(self, sections: Mapping[str, np.ndarray], voxel_size_A: float, caption: str) -> None:
        """Draw sections (n, n) by the name of their plane, on one scale of grey."""
        self.caption = caption
        self._images = {}
        if sections:
            values = np.concatenate([section.ravel() for section in sections.values()])
            low, high = np.percentile(values, (1.0, 99.8))
            for name, section in sections.items():
                self._images[name] = grey_image(section, float(low), float(high))
            self._width_A = next(iter(sections.values())).shape[1] * voxel_size_A
        self.update()

    def save_png(self, path: Path) -> None:
        """Write the sections as an image."""
        save_widget(self, path)

    def paintEvent(self, event: Any) -> None:
        """Draw caption and images, as large as they fit."""
        painter = QPainter(self)
        painter.fillRect(self.rect(), self.look.paper)
        painter.setPen(self.look.ink)
        font = painter.font()
        font.setPointSize(9)
        painter.setFont(font)
        top = QRectF(0, 0, self.width(), _TITLE)
        painter.drawText(top, Qt.AlignmentFlag.AlignCenter, self.caption)
        n = max(len(self._images), 1)
        side = min((self.width() - (n + 1) * _GAP) / n, self.height() - _TITLE - _GAP)
        left = (self.width() - n * side - (n - 1) * _GAP) / 2
        font.setPointSize(8)
        painter.setFont(font)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        for index, (name, image) in enumerate(self._images.items()):
            place = QRectF(left + index * (side + _GAP), _TITLE, side, side)
            painter.drawImage(place, image)
            painter.setPen(Qt.GlobalColor.white)
            painter.drawText(place.adjusted(5, 3, 0, 0), name)
            if index == 0:
                self._draw_bar(painter, place)
        painter.end()

    def _draw_bar(self, painter: QPainter, place: QRectF) -> None:
        length = next((value for value in _LENGTHS_A if value < 0.4 * self._width_A), 1)
        width = place.width() * length / self._width_A
        y = place.bottom() - 7
        painter.setPen(QPen(Qt.GlobalColor.white, 2))
        painter.drawLine(int(place.left() + 6), int(y), int(place.left() + 6 + width), int(y))
        painter.drawText(QRectF(place.left() + 6, y - 17, place.width(), 15), f"{length} Å")


def grey_image(section: np.ndarray, low: float, high: float) -> QImage:
    """Return a section (n_y, n_x) as an image whose first row is at the bottom."""
    scaled = np.clip((section - low) / max(high - low, 1e-12), 0, 1)
    pixels = np.ascontiguousarray((255 * scaled[::-1]).astype(np.uint8))
    n_y, n_x = pixels.shape
    return QImage(pixels.tobytes(), n_x, n_y, n_x, QImage.Format.Format_Grayscale8).copy()
