"""A stand-in for CuPy that refuses what CuPy refuses, so that code for a GPU can be run where there is none.

Arrays are NumPy arrays behind a class that does not mix with NumPy's: no implicit conversion, no operation and no index
with a host array, nothing on a device that is not the current one. Memory is counted, and allocation fails beyond what
a device has. Kernels are the CUDA sources compiled as C++. What would be at least one launch is counted, and so is
what the host would wait for.
"""

from __future__ import annotations

import functools
import importlib.machinery
import operator
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import scipy.fft
from oracles.cuda_on_host import compile_for_host, launch_on_host
from oracles.cupy_names import ARRAY, TOP_LEVEL

_UNLIMITED = 1 << 34


class OutOfMemoryError(MemoryError):
    """As CuPy's: a MemoryError."""


class Machine:
    """Devices and what is allocated on them; the current device belongs to a thread."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.total = _UNLIMITED
        self.used: dict[int, int] = {}
        self.peak = self.launches = self.failures = self.sent = self.calls = self.waits = 0
        self.is_tf32 = False
        self.folder = Path()
        self.lock = threading.RLock()
        self._local = threading.local()

    @property
    def current(self) -> int:
        return getattr(self._local, "device", 0)

    @current.setter
    def current(self, device: int) -> None:
        self._local.device = device

    def allocate(self, device: int, n: int) -> None:
        with self.lock:
            used = self.used.get(device, 0) + n
            if used > self.total:
                self.failures += 1
                raise OutOfMemoryError(f"out of memory allocating {n} bytes")
            self.used[device] = used
            self.peak = max(self.peak, used)

    def free(self, device: int, n: int) -> None:
        with self.lock:
            self.used[device] -= n

    def count(self, *, is_wait: bool = False) -> None:
        with self.lock:
            self.calls += not is_wait
            self.waits += is_wait


MACHINE = Machine()


class Device:
    """``cupy.cuda.Device``."""

    def __init__(self, device: int | None = None) -> None:
        self.id = MACHINE.current if device is None else int(device)
        if not 0 <= self.id < len(MACHINE.names):
            raise RuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def __enter__(self) -> Device:
        self._previous, MACHINE.current = MACHINE.current, self.id
        return self

    def __exit__(self, *_: object) -> None:
        MACHINE.current = self._previous

    def synchronize(self) -> None:
        """Nothing is ever under way."""


class Event:
    """``cupy.cuda.Event``: a mark in a queue, on which device, and when it was reached."""

    def __init__(self) -> None:
        self.device, self.reached_s = MACHINE.current, float("nan")

    def record(self) -> None:
        self.reached_s = time.perf_counter()


class Stream:
    """``cupy.cuda.Stream``; everything is done at once, and what is sent ahead is counted."""

    def __init__(self, *, non_blocking: bool = False) -> None:
        assert non_blocking

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def record(self) -> Event:
        with MACHINE.lock:
            MACHINE.sent += 1
        return Event()

    def synchronize(self) -> None:
        """Nothing is ever under way."""

    def wait_event(self, event: Event) -> None:
        if event.device != MACHINE.current:
            raise RuntimeError("cudaErrorInvalidResourceHandle: invalid resource handle")


def _take(value: Any) -> Any:
    """Argument of an operation as NumPy sees it; host arrays and arrays of other devices are refused."""
    if isinstance(value, ndarray):
        if value.device.id != MACHINE.current:
            raise ValueError(f"array device = {value.device.id} while current = {MACHINE.current}")
        return value.host
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, tuple | list):
        return type(value)(_take(item) for item in value)
    return value


def _give(value: Any) -> Any:
    """Result of an operation: arrays, and the numbers NumPy makes of zero-dimensional ones, are on the device.

    What is no view of something else has been computed there.
    """
    if isinstance(value, np.ndarray | np.generic):
        if getattr(value, "base", None) is None:
            MACHINE.count()
        return ndarray(np.asarray(value))
    if isinstance(value, tuple):
        return tuple(_give(item) for item in value)
    return value


class ndarray:
    """``cupy.ndarray``."""

    __module__ = "cupy"
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, host: np.ndarray) -> None:
        self.host = host
        self.device = Device()
        self._owned = host.nbytes if host.base is None else 0
        self._machine = MACHINE
        try:
            MACHINE.allocate(self.device.id, self._owned)
        except OutOfMemoryError:
            self._owned = 0
            raise

    def __del__(self) -> None:
        if self._owned:
            self._machine.free(self.device.id, self._owned)

    def __array__(self, *_: object, **__: object) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_function__(self, function: Any, *_: object) -> Any:
        raise TypeError(f"numpy.{function.__name__} of a device array: take the function from the array's module")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Any:
        return _apply(getattr(ufunc, method), inputs, keywords)

    def get(self) -> np.ndarray:
        MACHINE.count(is_wait=True)
        return self.host.copy()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in ARRAY:
            raise AttributeError(f"CuPy's arrays have no {name}")
        found = getattr(self.host, name)
        if callable(found):
            return lambda *arguments, **keywords: _apply(found, arguments, keywords)
        if name in {"shape", "dtype", "ndim", "size", "nbytes", "flags", "itemsize", "strides"}:
            return found
        _take(self)
        return _give(found)

    def __len__(self) -> int:
        return len(self.host)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        return _give(_take(self)[_take(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        MACHINE.count()
        _take(self)[_take(index)] = _take(value)

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __bool__(self) -> bool:
        return bool(self.get())

    def __index__(self) -> int:
        return operator.index(self.host[()])


def _binary(name: str) -> Callable[..., Any]:
    def method(self: ndarray, *others: Any) -> Any:
        # Operands are taken as arrays, so that 0-d results promote as CuPy's arrays do.
        result = getattr(_take(self), name)(*(_take(other) for other in others))
        if name.startswith("__i") and name != "__invert__":
            MACHINE.count()
            return self
        return NotImplemented if result is NotImplemented else _give(result)

    return method


def _matmul(self: ndarray, other: Any) -> Any:
    """A product of matrices; in TF32, when that is switched on, factors keep 10 of the 23 digits after the first."""
    first, second = _take(self), _take(other)
    if MACHINE.is_tf32 and first.ndim == second.ndim == 2 and first.dtype == np.float32:
        first, second = (_rounded(factor) for factor in (first, second))
    return _give(first @ second)


def _rounded(factor: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(factor).view(np.uint32)
    return ((bits + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)).view(np.float32)


_ARITHMETIC = (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and",
    "or",
    "xor",
    "lshift",
    "rshift",
)
_NAMES = [f"__{prefix}{name}__" for name in _ARITHMETIC for prefix in ("", "r", "i")]
_NAMES += [f"__{name}__" for name in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert")]
for _name in _NAMES:
    setattr(ndarray, _name, _binary(_name))
ndarray.__matmul__ = _matmul  # type: ignore[attr-defined]


def _apply(function: Callable[..., Any], arguments: Any, keywords: dict[str, Any]) -> Any:
    out = keywords.get("out")
    result = function(*_take(tuple(arguments)), **{name: _take(value) for name, value in keywords.items()})
    if out is not None:
        MACHINE.count()
        return out[0] if isinstance(out, tuple) else out
    return _give(result)


def _asarray(value: Any, dtype: Any = None, order: str | None = None) -> ndarray:
    """``cupy.asarray``: the one way onto a device."""
    if isinstance(value, ndarray):
        host = np.asarray(_take(value), dtype=dtype, order=order)  # type: ignore[call-overload]
        return value if host is value.host else ndarray(host)
    MACHINE.count()
    return ndarray(np.array(value, dtype=dtype, order=order or "K"))  # type: ignore[call-overload]


def _searchsorted(array: Any, values: Any) -> Any:
    if not isinstance(values, ndarray):
        raise NotImplementedError("Only int or ndarray are supported for v")
    return _give(np.searchsorted(_take(array), _take(values)))


class RawModule:
    """``cupy.RawModule``: compiles a CUDA source as C++."""

    def __init__(self, *, code: str, options: tuple[str, ...]) -> None:
        self._library = compile_for_host(code, options, MACHINE.folder)

    def get_function(self, name: str) -> Callable[..., None]:
        entry = getattr(self._library, f"run_{name}")

        def launch(grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
            with MACHINE.lock:  # the shim keeps the thread index in one place
                MACHINE.launches += 1
                MACHINE.calls += 1
                launch_on_host(entry, grid, block, _take(arguments))

        return launch


class _Cupy(ModuleType):
    """The module: functions of NumPy on device arrays only."""

    def __init__(self) -> None:
        super().__init__("cupy")
        self.__version__ = "0"
        self.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
        self.ndarray, self.asarray, self.searchsorted, self.RawModule = ndarray, _asarray, _searchsorted, RawModule
        names = {name: _device_function(getattr(scipy.fft, name)) for name in ("rfft2", "irfft2", "rfftn")}
        self.fft = SimpleNamespace(**names)
        pool = SimpleNamespace(free_all_blocks=lambda: None, free_bytes=lambda: 0)
        self.get_default_memory_pool = lambda: pool
        runtime = SimpleNamespace(
            getDeviceCount=lambda: len(MACHINE.names),
            getDeviceProperties=lambda device: {
                "name": MACHINE.names[device].encode(),
                "totalGlobalMem": MACHINE.total,
                "major": 9,
                "minor": 0,
                "multiProcessorCount": 1,
            },
            driverGetVersion=lambda: 13000,
            runtimeGetVersion=lambda: 12090,
            memGetInfo=lambda: (MACHINE.total - MACHINE.used.get(MACHINE.current, 0), MACHINE.total),
        )
        self.cuda = SimpleNamespace(
            Device=Device,
            Stream=Stream,
            Event=Event,
            get_elapsed_time=lambda begin, end: 1e3 * (end.reached_s - begin.reached_s),
            get_current_stream=lambda: Stream(non_blocking=True),
            runtime=runtime,
        )

    def __getattr__(self, name: str) -> Any:
        if name not in TOP_LEVEL:
            raise AttributeError(f"CuPy has no {name}")
        found = getattr(np, name)
        return found if isinstance(found, type) else _device_function(found)


@functools.cache
def _device_function(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments, **keywords: _apply(function, arguments, keywords)


CUPY = _Cupy()
_LINEAR_ALGEBRA = ModuleType("cupy._core._routines_linalg")  # where CuPy's switch for TF32 is
_LINEAR_ALGEBRA.COMPUTE_TYPE_DEFAULT, _LINEAR_ALGEBRA.COMPUTE_TYPE_TF32 = 1, 7  # type: ignore[attr-defined]
_LINEAR_ALGEBRA.set_compute_type = (  # type: ignore[attr-defined]
    lambda dtype, kind: setattr(MACHINE, "is_tf32", dtype is np.float32 and kind == 7)
)
_MODULES: dict[str, ModuleType] = {"cupy": CUPY, _LINEAR_ALGEBRA.__name__: _LINEAR_ALGEBRA}


@contextmanager
def installed(folder: Path, *, n_device: int = 1, total_bytes: int = _UNLIMITED) -> Iterator[Machine]:
    """Make ``import cupy`` find the stand-in, with some devices of ``total_bytes`` memory each."""
    previous = {name: sys.modules.get(name) for name in _MODULES}
    sys.modules.update(_MODULES)
    MACHINE.names = [f"Stand-in {i}" for i in range(n_device)]
    MACHINE.total, MACHINE.folder = total_bytes, folder
    MACHINE.peak = MACHINE.launches = MACHINE.failures = MACHINE.sent = MACHINE.calls = MACHINE.waits = 0
    try:
        yield MACHINE
    finally:
        for name, module in previous.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
