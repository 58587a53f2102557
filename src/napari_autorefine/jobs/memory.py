"""Memory that a job has freed goes back to the system, not only to this process.

The GNU C library gives threads areas of memory of their own, up to eight per core, and keeps what was freed at the end
of an area for the next arrays there. A process that runs job after job (a window, a script) grows with every area that
happens to be used. So threads share few areas here, and their ends are given back after a job. Other systems do so by
themselves.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import sys
import threading
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of mallopt in the GNU C library
_MOST_KEPT, _OWN_PAGES = 64 << 20, 32 << 20  # what the library comes to by itself when large arrays have been freed
_CORES_PER_AREA = 4
_FEW = 64 << 10
_LARGE_ENOUGH = 2 * _FEW  # the library looks at the end of an area when so much is freed at once


def share_memory_areas() -> None:
    """Let threads share few areas of memory, and let these keep freed memory as long as a job runs.

    To be called before a job starts threads: areas that there are stay. Does nothing without the GNU C library, and
    leaves the number to the user who has chosen one (``MALLOC_ARENA_MAX``).
    """
    library = _library()
    if library is None:
        return
    if "MALLOC_ARENA_MAX" not in os.environ:
        library.mallopt(_ARENA_MAX, _n_area())
    library.mallopt(_MMAP_THRESHOLD, _OWN_PAGES)
    library.mallopt(_TRIM_THRESHOLD, _MOST_KEPT)


def give_back_memory() -> None:
    """Hand freed memory back to the system.

    Only the main thread looks for garbage: some of it may belong to Qt and OpenGL, which no other thread may touch.
    """
    if threading.current_thread() is threading.main_thread():
        gc.collect()
    library = _library()
    if library is not None:
        _give_back_ends(library)
        library.malloc_trim(0)


def _give_back_ends(library: ctypes.CDLL) -> None:
    """Give back the ends of the areas of threads, which ``malloc_trim`` leaves.

    An area gives back its end when a large array is freed in it and more than the threshold is free there. As many
    threads as there are areas get one each; those that other threads are using at the time stay as they are.
    """
    library.mallopt(_TRIM_THRESHOLD, _FEW)
    together = threading.Barrier(_n_area())

    def free_once() -> None:
        with suppress(threading.BrokenBarrierError):
            together.wait(timeout=1.0)
        library.free(library.malloc(_LARGE_ENOUGH))
        with suppress(threading.BrokenBarrierError):
            together.wait(timeout=1.0)

    threads = [threading.Thread(target=free_once, name="autorefine memory") for _ in range(together.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    library.mallopt(_TRIM_THRESHOLD, _MOST_KEPT)


def _n_area() -> int:
    """Return how many areas of memory threads share, that of the main thread included."""
    return max(2, (os.cpu_count() or 1) // _CORES_PER_AREA)


@functools.cache
def _library() -> ctypes.CDLL | None:
    """Return the GNU C library, None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version.restype = ctypes.c_char_p
        library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
        library.mallopt.argtypes, library.malloc_trim.argtypes = [ctypes.c_int, ctypes.c_int], [ctypes.c_size_t]
    except (OSError, AttributeError):
        return None
    return library
