"""The processes of a cluster: what they say of themselves, whether they fit, what each may use."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from napari_autorefine.cluster.wire import Chunk, Contract, Greeting, Key

_CACHE_SHARE, _TABLE_SHARE = 0.25, 0.25
GpuGroups = tuple[tuple[int, ...], ...]
"""Devices of one process after the other, as in RELION's ``0,1:2,3``; () = all there are."""


@dataclass(slots=True, kw_only=True, eq=False)
class Member:
    """One process that searches.

    Attributes
    ----------
    serial : number in the order of joining
    opened : future of its session
    key : the half-set that it has open, or None
    begun : future of that
    done : chunks whose images are in the Fourier volume it has open
    flight : futures of chunks on their way
    half : half-set that it is meant for
    """

    address: str
    serial: int
    greeting: Greeting
    contract: Contract
    opened: Any = None
    key: Key | None = None
    begun: Any = None
    done: set[int] = field(default_factory=set)
    flight: dict[Any, Chunk] = field(default_factory=dict)
    half: int = 1

    @property
    def name(self) -> str:
        """Address and computer, for messages."""
        return f"{self.address} on {self.greeting.host}"


def greeter() -> Callable[..., dict[str, Any]]:
    """Return the function that a process introduces itself with.

    It is sent as it stands, not by name, so that it also works where this package is missing or another version.
    """

    def greet(dask_worker: Any) -> dict[str, Any]:
        import importlib
        import os
        import pathlib
        import platform
        import socket
        import zlib
        from importlib import metadata

        import psutil

        found: dict[str, Any] = {"version": None, "source": 0, "gpus": 0}
        try:
            package = importlib.import_module("napari_autorefine")
            xp = importlib.import_module("napari_autorefine.xp")
            folder = pathlib.Path(package.__path__[0])
            source = 0
            for path in sorted(folder.rglob("*.py")) + sorted(folder.rglob("*.cu")):
                source = zlib.crc32(path.read_bytes(), source)
            found = {"version": package.__version__, "source": source, "gpus": xp.gpu_count()}
        except ImportError:
            pass
        limit = getattr(dask_worker.memory_manager, "memory_limit", None)
        libraries = {}
        for name in ("numpy", "scipy", "numba"):
            try:
                libraries[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                libraries[name] = "none"
        return {
            **found,
            "python": ".".join(platform.python_version_tuple()[:2]),
            "libraries": libraries,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "threads": int(dask_worker.state.nthreads),
            "memory_bytes": int(limit or psutil.virtual_memory().available),
            "is_shared": not limit,
        }

    return greet


def own_greeting() -> Greeting:
    """Return what this process says of itself."""
    limit = SimpleNamespace(memory_limit=0)
    return Greeting(**greeter()(SimpleNamespace(memory_manager=limit, state=SimpleNamespace(nthreads=1))))


def misfit(own: Greeting, other: Greeting) -> str:
    """Return how another process cannot work with this one, or nothing."""
    if other.version is None:
        return f"does not have napari-autorefine; install version {own.version} there"
    if other.version != own.version:
        return f"has napari-autorefine {other.version}, this process {own.version}; install the same version"
    if other.source != own.source:
        return f"has other source files of napari-autorefine {own.version} than this process; install the same ones"
    if other.python != own.python:
        return f"runs Python {other.python}, this process {own.python}; use the same version"
    return ""


def differences(own: Greeting, other: Greeting) -> str:
    """Return in which libraries another process differs, or nothing."""
    pairs = [(name, other.libraries.get(name, "none"), version) for name, version in own.libraries.items()]
    return ", ".join(f"{name} {theirs} for {ours}" for name, theirs, ours in pairs if theirs != ours)


def contract_of(greeting: Greeting, earlier: Sequence[Greeting], gpu: GpuGroups | None, run: str) -> Contract:
    """Return what a process may use.

    Parameters
    ----------
    greeting : of the process
    earlier : of all processes, itself included, in the order of joining
    gpu : devices as asked for; None = no GPU
    run : name of the run
    """
    local = [one for one in earlier if one.host == greeting.host]
    index = [one.pid for one in local].index(greeting.pid)
    share = greeting.memory_bytes // (len(local) if greeting.is_shared else 1)
    return Contract(
        session=f"{run}/{uuid.uuid4().hex}",
        threads=max(1, greeting.threads),
        devices=devices_of(gpu, greeting.gpus, index, len(local)),
        cache_bytes=int(_CACHE_SHARE * share),
        memory_bytes=int(_TABLE_SHARE * share),
    )


def devices_of(gpu: GpuGroups | None, count: int, index: int, n_local: int) -> tuple[int, ...]:
    """Return the GPUs of process ``index`` of ``n_local`` on a computer with ``count`` of them.

    Groups are dealt in turn, as RELION deals them to its processes; without any each process takes its share.
    """
    if gpu is None or count == 0:
        return ()
    if gpu:
        return tuple(number for number in gpu[index % len(gpu)] if number < count)
    return tuple(range(index, count, n_local)) if count >= n_local else (index % count,)


def hosts(members: Sequence[Member]) -> str:
    """Return how many processes there are where, in words."""
    count = Counter(member.greeting.host for member in members)
    n, threads = len(members), sum(member.contract.threads for member in members)
    gpus = sum(len(member.contract.devices) for member in members)
    text = f"{n} process{'' if n == 1 else 'es'} on {len(count)} computer{'' if len(count) == 1 else 's'}"
    return f"{text}, {threads} threads" + (f", {gpus} GPUs" if gpus else "")
