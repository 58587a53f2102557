"""Blocks searched by this process's threads: images are read ahead, and fewer at a time when memory runs out."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from napari_autorefine.engine.block import BlockResult, search_particles
from napari_autorefine.engine.device import in_turn
from napari_autorefine.engine.half_job import HalfJob, block_result, make_search, shared_within
from napari_autorefine.engine.second_pass import ParticleResult
from napari_autorefine.engine.source import RawParticles, read_raw
from napari_autorefine.engine.workers import Workers
from napari_autorefine.errors import InputError
from napari_autorefine.events import Message
from napari_autorefine.xp import is_out_of_memory

_READERS = 4


class Room:
    """A room that many may be in at once, or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside, self._is_taken = 0, False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Be in the room with others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_taken)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until all have left, and let nobody in."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_taken)
            self._is_taken = True
            self._changed.wait_for(lambda: self._inside == 0)
        try:
            yield
        finally:
            with self._changed:
                self._is_taken = False
                self._changed.notify_all()


class HostBlocks:
    """Searches blocks of one half-set's particles on the host.

    Readers of their own are a few blocks ahead of the search, so that a slow disc is waited for only when it is slower
    than the search. A block for which memory does not suffice is searched by one thread alone, in halves of halves down
    to single particles; from there on all blocks are cut that small.
    """

    def __init__(self, job: HalfJob, workers: Workers) -> None:
        budget = job.setup.options.memory_bytes // (4 * len(job.geometries))
        self.notes: deque[Message] = deque()
        self._job = job
        self._workers = workers
        self._room = Room()
        self._at_once: int | None = None
        try:
            self._shared = shared_within(job, budget, workers.each)
        except MemoryError:
            self._shared = shared_within(job, 0, workers.each)
            self._note("Memory ran out: slices of the grid are made when they are needed from here on.")

    def results(self, blocks: Sequence[np.ndarray]) -> Iterator[BlockResult]:
        """Search blocks; results come in their order."""
        with Workers(_READERS) as readers:
            yield from self._workers.ordered(self._search, readers.ordered(self._read, blocks))

    def _read(self, indices: np.ndarray) -> tuple[np.ndarray, RawParticles | None]:
        """Return a block with its images, None in their place when there is no memory for them."""
        try:
            return indices, read_raw(self._job.source, indices)
        except MemoryError:
            return indices, None

    def _search(self, item: tuple[np.ndarray, RawParticles | None]) -> BlockResult:
        indices, raw = item
        done: list[ParticleResult] = []
        with self._room.shared():
            is_done = self._attempt(indices, raw, done)
        if not is_done:
            with self._room.alone():
                while not self._attempt(indices, raw, done):
                    self._save_memory(len(indices))
        return block_result(self._job, indices, done)

    def _attempt(self, indices: np.ndarray, raw: RawParticles | None, done: list[ParticleResult]) -> bool:
        """Search what is left of a block and add it to ``done``; False when memory does not suffice."""
        while len(done) < len(indices):
            part = slice(len(done), len(done) + (self._at_once or len(indices)))
            try:
                self._search_part(indices[part], None if raw is None else raw.part(part), done)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            else:
                continue
            return False  # the error is gone here, and with it the arrays that its frames held
        return True

    def _search_part(self, indices: np.ndarray, raw: RawParticles | None, done: list[ParticleResult]) -> None:
        done.extend(search_particles(make_search(self._job, indices, self._shared, raw)))  # keeps those before an error

    def _save_memory(self, n_particle: int) -> None:
        """Make the next try need less memory."""
        at_once = self._at_once or n_particle
        if at_once > 1:
            self._at_once = at_once // 2
            self._note(f"Memory ran out: {self._at_once} particles at a time from here on.")
        elif any(shared.is_kept for shared in self._shared.values()):
            self._shared = shared_within(self._job, 0, in_turn)
            self._note("Memory ran out: slices of the grid are made when they are needed from here on.")
        else:
            raise InputError(
                "Memory does not suffice to search even one particle; end other programs, give --pad 1, or use a"
                " smaller box."
            )

    def _note(self, text: str) -> None:
        self.notes.append(Message(text=text, level="warning"))
