"""How fast a machine is: matrix products, copies, disc; each measured for about a given time, the best counts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from napari_autorefine import xp

_SIDE, _DEVICE_SIDE = 1024, 8192
_COPY_BYTES = 1 << 27
_PIECE = 1 << 23
_MIN_REPEATS = 2


def _best_s(work: Callable[[], object], seconds: float) -> float:
    """Return the shortest time of ``work``, repeated for some seconds after one call that does not count."""
    work()
    best, end, n = float("inf"), time.perf_counter() + seconds, 0
    while n < _MIN_REPEATS or time.perf_counter() < end:
        began = time.perf_counter()
        work()
        best, n = min(best, time.perf_counter() - began), n + 1
    return best


def matrix_rates(threads: int, seconds: float) -> dict[str, float]:
    """Return 10^9 operations per second of single-precision products: one thread, and all, each with its own product.

    The second is how a refinement uses the processor: threads work on particles, and products do not share threads.
    """
    rng = np.random.default_rng(1)
    first, second = (rng.standard_normal((_SIDE, _SIDE), dtype=np.float32) for _ in range(2))
    outs = [np.empty((_SIDE, _SIDE), np.float32) for _ in range(threads)]
    operations = 2.0 * _SIDE**3

    def product(number: int) -> None:
        np.matmul(first, second, out=outs[number])

    with threadpool_limits(limits=1), ThreadPoolExecutor(threads) as pool:
        one = operations / _best_s(lambda: product(0), seconds)
        together = threads * operations / _best_s(lambda: list(pool.map(product, range(threads))), seconds)
    return {"one_thread_GFLOPS": one / 1e9, "all_threads_GFLOPS": together / 1e9}


def copy_rate(threads: int, seconds: float) -> dict[str, float]:
    """Return 10^9 bytes per second that are copied in memory, by one thread and by all."""
    source = np.ones(_COPY_BYTES // 4, np.float32)
    target = np.empty_like(source)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        one = _COPY_BYTES / _best_s(lambda: np.copyto(target, source), seconds)
        together = _COPY_BYTES / _best_s(lambda: list(pool.map(lambda part: np.copyto(*part), parts)), seconds)
    return {"one_thread_GBps": one / 1e9, "all_threads_GBps": together / 1e9}


def disc_rates(folder: Path, n_byte: int) -> dict[str, Any]:
    """Write a file, bring it to the disc, read it back past the system's memory where that can be asked, remove it.

    Returns
    -------
    rates in 10^6 bytes per second, and whether reading went past the system's memory
    """
    path = folder / f".autorefine_doctor_{os.getpid()}"
    piece = np.random.default_rng(1).bytes(_PIECE)
    n_piece = max(1, n_byte // _PIECE)
    try:
        began = time.perf_counter()
        with open(path, "wb", buffering=0) as file:
            for _ in range(n_piece):
                file.write(piece)
            os.fsync(file.fileno())
        written = time.perf_counter() - began
        is_direct = _forget(path)
        began = time.perf_counter()
        with open(path, "rb", buffering=0) as file:
            while file.read(_PIECE):
                pass
        read = time.perf_counter() - began
    finally:
        with suppress(OSError):
            path.unlink()
    size = n_piece * _PIECE / 1e6
    return {"write_MBps": size / written, "read_MBps": size / read, "is_from_disc": is_direct}


def _forget(path: Path) -> bool:
    """Ask the system to drop what it keeps of a file."""
    if not hasattr(os, "posix_fadvise"):
        return False
    with open(path, "rb") as file, suppress(OSError):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return True
    return False


def device_rates(device: int, seconds: float) -> dict[str, float]:
    """Return rates of one GPU: matrix products, copies within it, to it and from it."""
    cupy = xp.array_module(xp.zeros_on_device((1,), "f4", device))
    host = np.ones(_COPY_BYTES // 4, np.float32)
    with xp.on_device(device):
        first = cupy.ones((_DEVICE_SIDE, _DEVICE_SIDE), np.float32)
        out = cupy.empty_like(first)
        near, far = cupy.asarray(host), cupy.empty(host.shape, np.float32)

        def done(work: Callable[[], object]) -> Callable[[], None]:
            def run() -> None:
                work()
                cupy.cuda.Device(device).synchronize()

            return run

        product = _best_s(done(lambda: cupy.matmul(first, first, out=out)), seconds)
        within = _best_s(done(lambda: cupy.copyto(far, near)), seconds / 4)
        there = _best_s(done(lambda: near.set(host)), seconds / 4)
        back = _best_s(done(lambda: near.get(out=host)), seconds / 4)
    return {
        "matrix_GFLOPS": 2.0 * _DEVICE_SIDE**3 / product / 1e9,
        "copy_GBps": _COPY_BYTES / within / 1e9,
        "to_device_GBps": _COPY_BYTES / there / 1e9,
        "from_device_GBps": _COPY_BYTES / back / 1e9,
    }
