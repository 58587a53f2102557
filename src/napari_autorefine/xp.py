"""The one place that knows about CuPy: which array module, which device, which precision."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Any

import numpy as np

REAL = np.float32
COMPLEX = np.complex64
ACCUMULATOR = np.float64


def array_module(array: Any) -> ModuleType:
    """Return ``numpy`` or ``cupy``, whichever owns ``array``; CuPy is only looked for when it can be the owner."""
    if type(array).__module__.partition(".")[0] == "cupy":
        return importlib.import_module("cupy")
    return np


def to_host(array: Any) -> np.ndarray:
    """Return ``array`` as a NumPy array, copied from the device when it lives there."""
    if type(array).__module__.partition(".")[0] == "cupy":
        return np.asarray(array.get())
    return np.asarray(array)


def to_device(array: Any, device: int | None) -> Any:
    """Return ``array`` on GPU ``device``; ``None`` means the host."""
    if device is None:
        return to_host(array)
    cupy = importlib.import_module("cupy")
    with cupy.cuda.Device(device):
        return cupy.asarray(array)


def gpu_count() -> int:
    """Number of usable CUDA devices; 0 without CuPy or without a driver."""
    if importlib.util.find_spec("cupy") is None:
        return 0
    try:
        cupy = importlib.import_module("cupy")
        return int(cupy.cuda.runtime.getDeviceCount())
    except Exception:  # CuPy raises several unrelated types when the driver is missing or too old
        return 0


def free_device_memory(device: int) -> int:
    """Free memory of GPU ``device`` in bytes."""
    cupy = importlib.import_module("cupy")
    with cupy.cuda.Device(device):
        return int(cupy.cuda.runtime.memGetInfo()[0])
