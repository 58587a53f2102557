"""What a process holds: memory, threads, open files, children, memory of GPUs."""

from __future__ import annotations

import gc
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil

from napari_autorefine import xp


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """Memory in bytes; ``temporary`` are names of files under temporary names or locks in a folder."""

    memory: int
    threads: int
    files: int
    children: int
    device_memory: int
    temporary: tuple[str, ...]

    def text(self) -> str:
        return (
            f"{self.memory / 1e6:7.1f} MB, {self.threads} threads, {self.files} open files, {self.children} children,"
            f" {self.device_memory / 1e6:.0f} MB of GPUs, {len(self.temporary)} temporary files"
        )


def holdings(folder: Path) -> Holdings:
    """Return what this process holds after garbage was collected."""
    gc.collect()
    process = psutil.Process()
    opened = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
    return Holdings(
        memory=process.memory_info().rss,
        threads=threading.active_count(),
        files=opened,
        children=len(process.children(recursive=True)),
        device_memory=sum(_used(number) for number in range(xp.gpu_count())),
        temporary=tuple(
            sorted(path.name for path in folder.rglob(".*") if path.is_file() and not path.name.endswith("_job"))
        ),
    )


def _used(device: int) -> int:
    cupy = xp.array_module(xp.zeros_on_device((1,), "f4", device))
    with xp.on_device(device):
        return int(cupy.get_default_memory_pool().used_bytes())
