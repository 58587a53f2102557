"""Whether the kernels are compiled already: the first run on a machine compiles them, later ones read them back."""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numba.core.dispatcher import Dispatcher

from napari_autorefine import engine, kernels
from napari_autorefine.events import Message

_SEARCH = (
    *("project", "backproject", "moments", "table", "ctf", "_symmetrize", "mean_poses", "residuals"),
    *("compiled_passes", "compiled_scores", "grids", "neighborhoods", "priors", "selection", "shifts", "sphere_loops"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCache:
    """How many of the compiled functions lie in a folder for later runs."""

    n_compiled: int
    n_function: int
    folder: str


def host_cache() -> KernelCache:
    """Return the state of the functions that every refinement compiles for the processor."""
    found = list(_functions())
    folders = [folder for _, folder in found]
    return KernelCache(
        n_compiled=sum(_is_compiled(function, folder) for function, folder in found),
        n_function=len(found),
        folder=str(folders[0]) if folders else "",
    )


def device_cache() -> KernelCache:
    """Return how many compiled functions CuPy keeps for GPUs; how many there will be is not known."""
    folder = Path(os.environ.get("CUPY_CACHE_DIR", Path.home() / ".cupy" / "kernel_cache"))
    n = sum(1 for _ in folder.glob("*.cubin")) if folder.is_dir() else 0
    return KernelCache(n_compiled=n, n_function=n, folder=str(folder))


def compilation_notes(devices: tuple[int, ...]) -> list[Message]:
    """Return what the user should know before the first run on a machine; nothing when all is compiled."""
    notes = []
    host = host_cache()
    missing = host.n_function - host.n_compiled
    if missing:
        text = (
            f"First run of this version on this machine: {missing} of {host.n_function} functions are compiled when"
            f" they are first needed, together 10 to 60 s; later runs read them from {host.folder}."
        )
        notes.append(Message(text=text))
    device = device_cache()
    if devices and not device.n_compiled:
        text = (
            "First run on a GPU of this machine: its functions are compiled when they are first needed, together up to"
            f" a minute; later runs read them from {device.folder}."
        )
        notes.append(Message(text=text))
    return notes


def _functions() -> Iterator[tuple[Any, Path]]:
    """Yield the compiled functions of the search and the folder of each."""
    for package in (kernels, engine):
        for module in pkgutil.iter_modules(package.__path__):
            if module.name in _SEARCH:
                yield from _of_module(importlib.import_module(f"{package.__name__}.{module.name}"))


def _of_module(module: Any) -> Iterator[tuple[Any, Path]]:
    for value in vars(module).values():
        is_own = isinstance(value, Dispatcher) and value.py_func.__module__ == module.__name__
        folder = value.stats.cache_path if is_own else None
        if folder:
            yield value, Path(folder)


def _is_compiled(function: Any, folder: Path) -> bool:
    """Tell whether an index of compiled forms is there and not older than the source."""
    code = function.py_func.__code__
    name = f"{function.py_func.__module__.rpartition('.')[2]}.{function.py_func.__qualname__}-{code.co_firstlineno}"
    try:
        newest = max((path.stat().st_mtime for path in folder.glob(f"{name}.*.nbi")), default=0.0)
        return newest > Path(code.co_filename).stat().st_mtime
    except OSError:
        return False
