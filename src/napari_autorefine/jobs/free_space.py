"""What is free on this computer: memory that new data can take."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def free_memory() -> int | None:
    """Return the bytes of memory that new data can take, None where nobody tells.

    The smallest of what the system has, what the limits of a container or of a queue leave (cgroups), and what the
    limit of the process leaves (``ulimit -v``).
    """
    found = list(_limits())
    return min(found) if found else None


def _limits() -> Iterator[int]:
    with contextlib.suppress(OSError, AttributeError, psutil.Error):
        yield int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError, IndexError):
        yield from _of_cgroup()
    with contextlib.suppress(ImportError, OSError, AttributeError, psutil.Error):
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            yield max(0, soft - int(psutil.Process().memory_info().vms))


def _of_cgroup() -> Iterator[int]:
    """Yield what the groups of this process may still take, of both versions of control groups."""
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            yield from _left(_CGROUP / name.lstrip("/"), "memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root = _CGROUP / "memory"
            yield from _left(root / name.lstrip("/"), "memory.limit_in_bytes", "memory.usage_in_bytes")


def _left(group: Path, limit: str, used: str) -> Iterator[int]:
    """Yield what a group and those above it have left."""
    for folder in (group, *group.parents):
        with contextlib.suppress(OSError, ValueError):
            yield max(0, int((folder / limit).read_text()) - int((folder / used).read_text()))
        if folder == _CGROUP:
            return
