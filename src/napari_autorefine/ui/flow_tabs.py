"""Tabs that wrap to a second row in a narrow column, where a tab bar would hide some of them."""

from __future__ import annotations

from collections.abc import Sequence

from psygnal import Signal
from qtpy.QtWidgets import QButtonGroup, QPushButton, QSizePolicy, QStackedWidget, QVBoxLayout, QWidget
from superqt import QFlowLayout

from napari_autorefine.ui.fields import BLUE

_STYLE = f"""
QPushButton {{ padding: 3px 8px; }}
QPushButton:checked {{ background-color: {BLUE}; color: white; }}
"""


class FlowTabs(QWidget):
    """Pages with a strip of names above them; a single page has none."""

    changed = Signal(int)

    def __init__(self, names: Sequence[str], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.pages = _Pages()
        self._buttons = QButtonGroup(self)
        self._buttons.setExclusive(True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        if len(names) > 1:
            layout.addWidget(self._strip(names))
        layout.addWidget(self.pages)
        self.names = tuple(names)

    def _strip(self, names: Sequence[str]) -> QWidget:
        strip = QWidget()
        flow = QFlowLayout(strip)
        flow.setContentsMargins(0, 0, 0, 0)
        flow.setHorizontalSpacing(3)
        flow.setVerticalSpacing(3)
        for index, name in enumerate(names):
            button = QPushButton()
            button.setText(name)
            button.setCheckable(True)
            button.setChecked(index == 0)
            button.setStyleSheet(_STYLE)
            self._buttons.addButton(button, index)
            flow.addWidget(button)
        self._buttons.idClicked.connect(self.show_page)
        policy = strip.sizePolicy()
        policy.setHeightForWidth(True)
        strip.setSizePolicy(policy)
        return strip

    def add_page(self, page: QWidget) -> None:
        """Add the page of the next name."""
        self.pages.addWidget(page)

    def show_page(self, index: int) -> None:
        """Bring a page to the front."""
        button = self._buttons.button(index)
        if button is not None:
            button.setChecked(True)
        self.pages.setCurrentIndex(index)
        self.changed.emit(index)

    def mark(self, index: int, *, is_wrong: bool) -> None:
        """Show on the strip that something on a page needs attention."""
        button = self._buttons.button(index)
        if button is not None:
            button.setText(self.names[index] + (" !" if is_wrong else ""))


class _Pages(QStackedWidget):
    """Stack that is as high as the page in front, not as the highest."""

    def __init__(self) -> None:
        super().__init__()
        self.currentChanged.connect(self._fit)

    def addWidget(self, page: QWidget | None) -> int:
        """Add a page."""
        index = super().addWidget(page)
        self._fit(self.currentIndex())
        return index

    def _fit(self, current: int) -> None:
        for index in range(self.count()):
            page = self.widget(index)
            if page is not None:
                vertical = QSizePolicy.Policy.Preferred if index == current else QSizePolicy.Policy.Ignored
                page.setSizePolicy(QSizePolicy.Policy.Preferred, vertical)
        self.adjustSize()
