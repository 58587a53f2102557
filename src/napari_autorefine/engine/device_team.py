"""The GPUs that search one half-set: which block goes where."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from types import TracebackType

import numpy as np

from napari_autorefine.engine.block import BlockResult
from napari_autorefine.engine.device import AHEAD, LARGEST_BATCH, DeviceHalf
from napari_autorefine.engine.device_images import Fetched, Sender, Turns
from napari_autorefine.engine.half_job import HalfJob
from napari_autorefine.engine.reconstruction import Accumulators
from napari_autorefine.engine.workers import Workers
from napari_autorefine.events import Message

_BLOCKS_EACH, _SMALLEST_BLOCK = 4, 128  # while a block is searched the next ones are read and sent


class _Member:
    """A GPU with the thread that uses it, and how many blocks it has to do."""

    def __init__(self, half: DeviceHalf, job: HalfJob) -> None:
        self.half = half
        self.n_pending = 0
        self.sender = Sender(half, job.source, job.setup)
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=f"autorefine-gpu{half.device}")

    def run(self, fetched: Fetched) -> BlockResult:
        """Search a block."""
        try:
            return self.half.run(fetched)
        finally:
            fetched.raw = fetched.sent = None  # nothing on the device reads its images any more


class DeviceTeam:
    """The GPUs of one half-set: blocks go to whichever has least to do, results come back in the order of blocks."""

    def __init__(self, job: HalfJob, accumulators: Accumulators, r2_max: float) -> None:
        self._job = job
        self._accumulators = accumulators
        halves = [DeviceHalf(device, job, accumulators, r2_max) for device in job.setup.options.devices]
        self._members = [_Member(half, job) for half in halves]
        self._lock = threading.Lock()
        self._turns = Turns(0)
        self._stack = ExitStack()

    def __enter__(self) -> DeviceTeam:
        with ExitStack() as stack:
            for member in self._members:
                stack.enter_context(member.half)
                stack.callback(member.thread.shutdown, wait=True, cancel_futures=True)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turns.close()
        self._stack.__exit__(kind, error, trace)

    @property
    def block_size(self) -> int:
        """Particles per block: what the smallest member takes at once, and few enough that all have some to do."""
        setup = self._job.setup
        largest = setup.block_size
        if not setup.is_of_tomograms:
            shared = len(setup.members(self._job.context.half)) // (_BLOCKS_EACH * len(self._members))
            largest = min(LARGEST_BATCH, max(_SMALLEST_BLOCK, shared))
        return min(largest, *(member.half.batch for member in self._members))

    def results(self, blocks: Sequence[np.ndarray], readers: Workers) -> Iterator[BlockResult]:
        """Search blocks; their images are read and sent ahead by the threads of ``readers``."""
        waiting: deque[Future[BlockResult]] = deque()
        turns = self._turns = Turns(AHEAD * len(self._members))
        for member, fetched in readers.ordered(partial(self._fetch, turns), enumerate(blocks)):
            waiting.append(member.thread.submit(self._search, turns, member, fetched))
            if len(waiting) > 2 * len(self._members):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def notes(self) -> Iterator[Message]:
        """Yield what there is to say about the devices since the last call."""
        for member in self._members:
            while member.half.notes:
                yield member.half.notes.popleft()

    def finish(self) -> None:
        """Add what the devices have summed to the host's Fourier volume, device after device."""
        for member in self._members:
            member.half.finish(self._accumulators)

    def _fetch(self, turns: Turns, block: tuple[int, np.ndarray]) -> tuple[_Member, Fetched]:
        """Choose who searches a block, and have its images on their way."""
        number, indices = block
        turns.wait(number)
        with self._lock:
            member = min(self._members, key=lambda one: one.n_pending)
            member.n_pending += 1
        return member, member.sender.fetch(indices)

    def _search(self, turns: Turns, member: _Member, fetched: Fetched) -> BlockResult:
        try:
            return member.run(fetched)
        finally:
            turns.done()
            with self._lock:
                member.n_pending -= 1
