"""Memory that a job has freed goes back to the system, not only to this process."""

from __future__ import annotations

import ctypes
import functools
import gc
import sys
import threading
from collections.abc import Callable


def give_back_memory() -> None:
    """Hand freed memory back to the system.

    Threads of a job get their memory from areas of their own, which the C library keeps when the threads have ended; a
    process that runs job after job (a window, a script) would seem to grow. Other systems do so by themselves.
    Only the main thread looks for garbage: some of it may belong to Qt and OpenGL, which no other thread may touch.
    """
    if threading.current_thread() is threading.main_thread():
        gc.collect()
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """Return glibc's function for this, None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    return found
