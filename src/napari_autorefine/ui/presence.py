"""Whether a dock can be seen: a tab in front, not closed; docks of napari that are closed live on without a window."""

from __future__ import annotations

from psygnal import Signal
from qtpy.QtCore import QEvent, QObject, QTimer
from qtpy.QtWidgets import QDockWidget, QWidget


class Presence(QObject):
    """Watches a widget of a dock; tells when events are through, so that layers can be added and removed then.

    Attributes
    ----------
    changed : emitted with whether the widget is in sight now; not when the window is minimized
    closed : emitted when the widget has been taken out of its dock
    """

    changed = Signal(bool)
    closed = Signal()

    def __init__(self, widget: QWidget) -> None:
        super().__init__(widget)
        self._widget = widget
        self._dock: QDockWidget | None = None
        self._is_front = True
        self._was_present = False
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(0)
        self._timer.timeout.connect(self._look)
        widget.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Note that the widget is shown, hidden or moved elsewhere."""
        if event is not None and not event.spontaneous():
            if event.type() in {QEvent.Type.Show, QEvent.Type.ParentChange}:
                self._find_dock()
            if event.type() in {QEvent.Type.Show, QEvent.Type.Hide, QEvent.Type.ParentChange}:
                self._timer.start()
        return super().eventFilter(watched, event)

    def _find_dock(self) -> None:
        parent = self._widget.parentWidget()
        while parent is not None and not isinstance(parent, QDockWidget):
            parent = parent.parentWidget()
        if parent is not None and parent is not self._dock:
            self._dock, self._is_front = parent, True
            parent.visibilityChanged.connect(self._on_tab)

    def _on_tab(self, is_front: bool) -> None:
        self._is_front = is_front
        self._timer.start()

    def _look(self) -> None:
        is_present = self._widget.isVisible() and self._is_front
        if is_present != self._was_present:
            self._was_present = is_present
            self.changed.emit(is_present)
        if not is_present and self._widget.parentWidget() is None:
            self.closed.emit()
