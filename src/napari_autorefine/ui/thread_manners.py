"""How threads behave beside the window's: short turns, and garbage is left to the window's own thread.

Python looks for garbage in whichever thread has just made an object. Garbage of a window holds objects of Qt and
OpenGL, which only the window's thread may destroy: in another one they leave timers and queued events behind that end
the process later, in Qt's event loop. So from the first thread on that this plugin starts in a window, the window's
thread collects by a timer, and Python by itself as good as never.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from qtpy.QtCore import QCoreApplication, QTimer
from qtpy.QtGui import QCursor, QGuiApplication

_SWITCH_S = 2e-4
_lock = threading.Lock()
_inside = 0
_before = (0.005, True)
_holders: set[object] = set()

_TURN_MS = 1000
_YOUNG, _OLDER = 700, 10
"""As many new objects, and as many collections of them, as Python waits for."""
_MANY = 50_000
"""New objects in which garbage is not looked for at once: it would take more than 10 ms."""
_FALLBACK = 1_000_000
"""New objects after which Python collects by itself: no event loop turns, a script is at work."""
_ALL_S, _ALL_AT_LAST_S, _RESTED_S = 60.0, 900.0, 5.0
_LEFT_MS = 2000
_started: dict[int, Any] = {}


@contextmanager
def beside_the_window() -> Iterator[None]:
    """Let other threads take turns every 0.2 ms instead of every 5 ms, and leave Python's garbage alone.

    The window's thread asks for its turn many times per redraw, and would wait 5 ms each time while a file is parsed.
    A collection of garbage keeps all threads waiting for as long as it takes, half a second beside the words of a large
    STAR file, so there is none of Python's own until the last block is left.
    """
    global _inside, _before
    with _lock:
        if _inside == 0:
            _before = (sys.getswitchinterval(), gc.isenabled())
            sys.setswitchinterval(min(_before[0], _SWITCH_S))
            gc.disable()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                sys.setswitchinterval(_before[0])
                if _before[1]:
                    if _collector is not None and gc.get_count()[0] > _MANY:
                        _promote()
                    gc.enable()


def hold_garbage(holder: object) -> None:
    """Look for garbage only among objects that are newer than now, until ``release_garbage``.

    A full search walks through all objects of napari, a third of a second in which the window stands still. Garbage
    that is older stays until the last holder has released it. From the main thread.
    """
    if not _holders:
        gc.freeze()
    _holders.add(holder)


def release_garbage(holder: object) -> None:
    """End ``hold_garbage`` of a holder; nothing happens without one."""
    if holder in _holders:
        _holders.discard(holder)
        if not _holders:
            gc.unfreeze()


def _promote() -> None:
    """Count all new objects among the old ones without a look at them, which takes no time."""
    gc.freeze()
    if not _holders:
        gc.unfreeze()


class GarbageCollector:
    """Collects garbage in the window's thread, in turns that are too short to be noticed.

    New objects are looked through every second. Through all of them, a third of a second in napari, it goes when the
    mouse has rested for a while, or at last after a quarter of an hour.
    """

    def __init__(self) -> None:
        self._thresholds = gc.get_threshold()
        gc.set_threshold(_FALLBACK, *self._thresholds[1:])
        self._all_at = self._moved_at = time.monotonic()
        self._mouse: object = None
        self._timer = QTimer(QCoreApplication.instance())
        self._timer.setInterval(_TURN_MS)
        self._timer.timeout.connect(self.turn)
        self._timer.start()

    def turn(self) -> None:
        """Collect what is due."""
        new, young, _ = gc.get_count()
        if self._is_time_for_all():
            gc.collect()
            self._all_at = time.monotonic()
        elif new > _MANY:
            _promote()
        elif new > _YOUNG:
            gc.collect(1 if young >= _OLDER else 0)

    def stop(self) -> None:
        """Leave collecting to Python again."""
        self._timer.stop()
        self._timer.deleteLater()
        gc.set_threshold(*self._thresholds)

    def _is_time_for_all(self) -> bool:
        """Tell whether old objects can be looked through: now and then, when it does not disturb."""
        now = time.monotonic()
        mouse = (QCursor.pos(), QGuiApplication.mouseButtons())
        if mouse != self._mouse:
            self._mouse, self._moved_at = mouse, now
        waited_s = now - self._all_at
        is_quiet = now - self._moved_at > _RESTED_S and not _inside
        return (is_quiet and waited_s > _ALL_S) or waited_s > _ALL_AT_LAST_S


_collector: GarbageCollector | None = None


def collect_in_this_thread() -> None:
    """Let the window's thread, which calls this, look for garbage from now on; nothing happens the second time."""
    global _collector
    app = QCoreApplication.instance()
    if _collector is None and isinstance(app, QGuiApplication):
        _collector = GarbageCollector()
        app.aboutToQuit.connect(collect_in_any_thread)


def collect_in_any_thread() -> None:
    """End ``collect_in_this_thread``."""
    global _collector
    if _collector is not None:
        _collector.stop()
        _collector = None
        app = QCoreApplication.instance()
        if app is not None:
            app.aboutToQuit.disconnect(collect_in_any_thread)


def start_worker(worker: Any) -> None:
    """Start a worker of napari or superqt; from the main thread.

    They leave it to chance which thread lets go of the worker last. That one destroys its signals, which are an object
    of Qt of the main thread; so it is kept here until its thread has left it.
    """
    collect_in_this_thread()
    key = id(worker)
    _started[key] = worker
    worker.finished.connect(partial(QTimer.singleShot, _LEFT_MS, partial(_started.pop, key, None)))
    worker.start()
