"""How busy a GPU is while it searches: how long it has blocks to work on, and how long the host waits for it.

Used by ``benchmarks/gpu.py``. Between the launch of a block's first kernel and the end of its last one, as events on
the GPU tell, kernels run or wait for the next launch. While the host waits for results they run. So the GPU computes
for no longer than the first time, and for no shorter than the second.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gpu_rates import module

from napari_autorefine import xp
from napari_autorefine.engine import device as device_module
from napari_autorefine.engine.block import BlockResult
from napari_autorefine.engine.device_images import Fetched


@dataclass(slots=True)
class Load:
    """Seconds since the last ``take``: spans of blocks are pairs of events on the GPU."""

    spans: list[tuple[Any, Any]] = field(default_factory=list)
    waited_s: float = 0.0
    n_block: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def take(self, device: int) -> tuple[float, float, int]:
        """Return seconds with a block at work, seconds that the host waited, and blocks; begins again."""
        cupy = module(device)
        cupy.cuda.Device(device).synchronize()
        with self.lock:
            busy_s = sum(1e-3 * cupy.cuda.get_elapsed_time(*span) for span in self.spans)
            found = busy_s, self.waited_s, self.n_block
            self.spans.clear()
            self.waited_s, self.n_block = 0.0, 0
        return found


@contextmanager
def measuring(load: Load, device: int) -> Iterator[None]:
    """Measure the searches on a GPU while the context is open."""
    cupy, run, copy = module(device), device_module.DeviceHalf.run, xp.to_host
    searching = threading.local()

    def watched_run(half: device_module.DeviceHalf, fetched: Fetched) -> BlockResult:
        with xp.on_device(half.device):
            begin, end = cupy.cuda.Event(), cupy.cuda.Event()
            begin.record()
            searching.is_on = True
            try:
                return run(half, fetched)
            finally:
                searching.is_on = False
                end.record()
                with load.lock:
                    load.spans.append((begin, end))
                    load.n_block += 1

    def watched_copy(array: Any) -> Any:
        if getattr(searching, "is_on", False) and xp.is_on_device(array):
            began = time.perf_counter()
            cupy.cuda.get_current_stream().synchronize()
            with load.lock:
                load.waited_s += time.perf_counter() - began
        return copy(array)

    users = [one for name, one in sorted(sys.modules.items()) if name.startswith("napari_autorefine.")]
    users = [one for one in users if getattr(one, "to_host", None) is copy]
    try:
        device_module.DeviceHalf.run = watched_run  # type: ignore[method-assign]
        for one in users:
            one.to_host = watched_copy  # type: ignore[attr-defined]
        yield
    finally:
        device_module.DeviceHalf.run = run  # type: ignore[method-assign]
        for one in users:
            one.to_host = copy  # type: ignore[attr-defined]
