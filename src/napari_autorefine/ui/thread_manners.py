"""How a thread behaves beside the window's: short turns, and no collection of garbage that may belong to Qt."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SWITCH_S = 2e-4
_lock = threading.Lock()
_inside = 0
_before = (0.005, True)
_holders: set[object] = set()
_YOUNG_S, _ALL_S = 2.0, 60.0
_collected = {1: 0.0, 2: 0.0}


@contextmanager
def beside_the_window() -> Iterator[None]:
    """Let other threads take turns every 0.2 ms instead of every 5 ms, and leave Python's garbage alone.

    The window's thread asks for its turn many times per redraw, and would wait 5 ms each time while a file is parsed.
    A collection of garbage keeps all threads waiting for as long as it takes, half a second beside the words of a large
    STAR file, and run by another thread than the window's it may destroy objects of Qt and OpenGL, which only that one
    may touch. Python collects again when the last block is left.
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
                    gc.enable()


def hold_garbage(holder: object) -> None:
    """Let Python look for garbage only among objects that are newer than now, until ``release_garbage``.

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


def tidy() -> None:
    """Collect garbage while ``beside_the_window`` keeps Python from it for long; from the main thread, now and then."""
    now = time.monotonic()
    if gc.isenabled():
        _collected.update({1: now, 2: now})
        return
    for generation, interval_s in ((2, _ALL_S), (1, _YOUNG_S)):
        if now - _collected[generation] > interval_s:
            _collected.update(dict.fromkeys(range(1, generation + 1), now))
            gc.collect(generation)
            return
