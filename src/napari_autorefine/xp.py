"""The one place that knows about CuPy: which array module, which device, which precision."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

REAL = np.float32


def array_module(array: Any) -> ModuleType:
    """Return ``numpy`` or ``cupy``, whichever owns ``array``; CuPy is only looked for when it can be the owner."""
    return importlib.import_module("cupy") if is_on_device(array) else np


def is_on_device(array: Any) -> bool:
    """Tell whether CuPy owns ``array``."""
    return type(array).__module__.partition(".")[0] == "cupy"


def device_of(array: Any) -> int | None:
    """Return the GPU that holds ``array``; ``None`` means the host."""
    return int(array.device.id) if is_on_device(array) else None


def to_host(array: Any) -> np.ndarray:
    """Return ``array`` as a NumPy array, copied from the device when it lives there."""
    return np.asarray(array.get() if is_on_device(array) else array)


def to_device(array: Any, device: int | None) -> Any:
    """Return ``array`` on GPU ``device``; ``None`` means the host."""
    if device is None:
        return to_host(array)
    cupy = importlib.import_module("cupy")
    with cupy.cuda.Device(device):
        return cupy.asarray(array)


def beside(array: Any, other: Any) -> Any:
    """Return ``array``, which may come from the host, where ``other`` lives; on the host nothing is copied."""
    return importlib.import_module("cupy").asarray(array) if is_on_device(other) else array


_PRODUCTS = threading.Lock()


def product(a: Any, b: Any, *, fast: bool = False) -> Any:
    """Matrix product of two float32 matrices; ``fast`` ones on a GPU round their factors to 11 binary digits (TF32).

    CuPy has one switch for the whole process, so products of several threads are started one after the other.
    """
    if not is_on_device(a):
        return a @ b
    with _PRODUCTS:
        if not fast:
            return a @ b
        kind = importlib.import_module("cupy._core._routines_linalg")
        kind.set_compute_type(np.float32, kind.COMPUTE_TYPE_TF32)
        try:
            return a @ b
        finally:
            kind.set_compute_type(np.float32, kind.COMPUTE_TYPE_DEFAULT)


def zeros_on_device(shape: tuple[int, ...], dtype: Any, device: int) -> Any:
    """Return zeros on GPU ``device``."""
    cupy = importlib.import_module("cupy")
    with cupy.cuda.Device(device):
        return cupy.zeros(shape, dtype=dtype)


@dataclass(frozen=True, slots=True)
class Sent:
    """Arrays on their way to a GPU, None in place of those that there are not, and the mark behind them."""

    arrays: tuple[Any, ...]
    mark: Any


def send_ahead(arrays: tuple[Any, ...], device: int) -> Sent:
    """Begin to copy host arrays to GPU ``device`` beside what it is doing; see :func:`wait_for`."""
    cupy = importlib.import_module("cupy")
    with cupy.cuda.Device(device), _copies(device) as stream:
        there = tuple(None if array is None else cupy.asarray(array) for array in arrays)
        return Sent(there, stream.record())


def wait_for(sent: Sent) -> tuple[Any, ...]:
    """Return arrays that were sent ahead; the device, not the host, waits for them.

    The caller keeps them until the device has finished with them: their memory goes to what is sent next.
    """
    importlib.import_module("cupy").cuda.get_current_stream().wait_event(sent.mark)
    return sent.arrays


@functools.cache
def _copies(device: int) -> Any:
    """Queue of copies to GPU ``device``, which does not wait for others."""
    cupy = importlib.import_module("cupy")
    with cupy.cuda.Device(device):
        return cupy.cuda.Stream(non_blocking=True)


@contextmanager
def on_device(device: int) -> Iterator[None]:
    """Make GPU ``device`` the current one of this thread; every device works through a queue (stream) of its own."""
    with importlib.import_module("cupy").cuda.Device(device):
        yield


def gpu_count() -> int:
    """Return the number of usable CUDA devices; 0 without CuPy or without a driver."""
    if not has_cupy():
        return 0
    try:
        cupy = importlib.import_module("cupy")
        return int(cupy.cuda.runtime.getDeviceCount())
    except Exception:  # CuPy raises several unrelated types when the driver is missing or too old
        return 0


def has_cupy() -> bool:
    """Tell whether CuPy is installed, without importing it."""
    return importlib.util.find_spec("cupy") is not None


def gpu_name(device: int) -> str:
    """Return the product name of GPU ``device``."""
    name = importlib.import_module("cupy").cuda.runtime.getDeviceProperties(device)["name"]
    return name.decode() if isinstance(name, bytes) else str(name)


def free_device_memory(device: int) -> int:
    """Return the memory of GPU ``device`` that can still be allocated, in bytes: free, or kept by CuPy for reuse."""
    cupy = importlib.import_module("cupy")
    with cupy.cuda.Device(device):
        return int(cupy.cuda.runtime.memGetInfo()[0]) + int(cupy.get_default_memory_pool().free_bytes())


def release_device_memory(device: int) -> None:
    """Give back what CuPy keeps of GPU ``device`` without using it."""
    cupy = importlib.import_module("cupy")
    with cupy.cuda.Device(device):
        cupy.get_default_memory_pool().free_all_blocks()


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that the memory of a device, or of the host, does not suffice."""
    if isinstance(error, MemoryError):
        return True
    words = ("ALLOC_FAILED", "OUT_OF_MEMORY", "cudaErrorMemoryAllocation")
    return type(error).__module__.startswith("cupy") and any(word in str(error) for word in words)
