"""Memory that threads of a job have used; in processes of their own, where nothing else has used any."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, sys, threading
import numpy as np, psutil
from napari_autorefine.jobs import memory

def used():
    return psutil.Process().memory_info().rss / 1e6

def work():
    for n in range(1, 5):
        arrays = [np.ones(1 << 20, np.float32) for _ in range(2)]  # 4 MB each
        together.wait()
        del arrays

together = threading.Barrier(6)
memory.share_memory_areas()
before = used()
threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
kept = used() - before
memory.give_back_memory()
print(kept, used() - before)
sys.stdout.flush()
library = ctypes.CDLL(None)
library.fdopen.restype = ctypes.c_void_p
library.malloc_info(0, ctypes.c_void_p(library.fdopen(1, b"w")))
library.fflush(None)
"""


def run(**environment: str) -> tuple[float, float, int]:
    """Memory (MB) that a process holds after its threads, after it has given memory back, and its areas."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("not the GNU C library")
    env = {"PYTHONPATH": ":".join(sys.path), **environment}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=env, check=True)
    kept, left = (float(word) for word in done.stdout.splitlines()[0].split())
    return kept, left, done.stdout.count("<heap nr=")


def test_what_threads_have_freed_goes_back_to_the_system() -> None:
    kept, left, n_area = run()
    assert kept > 16.0  # or there is nothing to give back
    assert left < 4.0
    assert n_area <= 2 or n_area <= (os.cpu_count() or 1) // 4


def test_the_number_of_areas_is_that_of_the_environment_when_it_names_one() -> None:
    assert run(MALLOC_ARENA_MAX="5")[2] == 5
