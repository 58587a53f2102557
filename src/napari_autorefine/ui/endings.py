"""What is done when a widget has gone."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from qtpy.QtCore import QCoreApplication, QEvent, QObject

_keys = itertools.count()
_endings: dict[int, tuple[Callable[[], Any], Any]] = {}


class _Desk(QObject):
    """Takes the keys of widgets that other threads have collected to the main thread."""

    def __init__(self) -> None:
        super().__init__(QCoreApplication.instance())
        self.keys: list[int] = []

    def customEvent(self, event: QEvent | None) -> None:
        """Do what is due, in the main thread."""
        while self.keys:
            _end(self.keys.pop())


_desks: list[_Desk] = []


def when_destroyed(widget: QObject, end: Callable[[], Any]) -> None:
    """Call ``end`` once when a widget has gone: when Qt has destroyed it, or Python has collected it.

    A slot of ``destroyed`` alone does not do. When another thread collects a widget, Python empties the partials and
    functions among the garbage and Qt puts off its own part to the event loop, where it calls what is empty: the
    process ends. Or the slot is lost. Here slots are kept alive until they are called, and collection is noticed.
    ``end`` must not refer to the widget, or it would never go.
    """
    if not _desks:
        _desks.append(_Desk())
    key = next(_keys)
    slot = partial(_end, key)
    _endings[key] = (end, slot)
    widget.destroyed.connect(slot)
    weakref.finalize(widget, _collected, key).atexit = False


def _collected(key: int) -> None:
    if threading.current_thread() is threading.main_thread():
        _end(key)
    elif key in _endings:
        with suppress(RuntimeError):  # Qt has gone
            _desks[0].keys.append(key)
            QCoreApplication.postEvent(_desks[0], QEvent(QEvent.Type.User))


def _end(key: int, *_: object) -> None:
    end, _slot = _endings.pop(key, (None, None))
    if end is not None:
        end()
