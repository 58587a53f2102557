"""What runs on the processes of a cluster: sessions that hold images and sums, and the tasks that use them.

A session is one process's part in one run. It keeps the setup, the images it has read, and, while a half-set is
searched, that half's reference and Fourier volume. All functions here are called through dask by name.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace

import numpy as np

from napari_autorefine.cluster.cache import ImageCache, WeightCache
from napari_autorefine.cluster.wire import CannotRead, Chunk, ChunkResult, Contract, Key, SessionLost, Step, added
from napari_autorefine.engine.block import BlockResult
from napari_autorefine.engine.half_search import HalfSearch
from napari_autorefine.engine.problem import ReadImages
from napari_autorefine.engine.reconstruction import Accumulators
from napari_autorefine.engine.search_step import SearchStep, StepGeometry, block_source, half_job
from napari_autorefine.engine.setup import Setup
from napari_autorefine.engine.state import HalfModel
from napari_autorefine.engine.workers import Workers
from napari_autorefine.errors import InputError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt in the GNU C library
_N_TRIED = 4  # images read when a process is asked whether it sees the files


@dataclass(slots=True, kw_only=True)
class _Open:
    """The half-set that a session is searching."""

    key: Key
    search: HalfSearch
    stack: ExitStack
    done: dict[int, ChunkResult] = field(default_factory=dict)


class Session:
    """One process's part in a run."""

    def __init__(self, setup: Setup, contract: Contract) -> None:
        problem, data = setup.problem, setup.problem.tomogram_data
        self.weights: WeightCache | None = None
        room = contract.cache_bytes
        if data is not None and data.read_weights is not None:
            room //= 2  # they are as large as the volumes
            self.weights = WeightCache(data.read_weights, room)
            problem = replace(problem, tomogram_data=replace(data, read_weights=self.weights.read))
        self.cache = ImageCache(problem.read_images, room)
        options = replace(
            setup.options,
            threads=contract.threads,
            devices=contract.devices,
            memory_bytes=min(setup.options.memory_bytes, contract.memory_bytes),
        )
        self.setup = replace(setup, options=options, problem=replace(problem, read_images=self.cache.read))
        self.lock = threading.RLock()
        self.is_stopped = False
        self._geometry: tuple[int, StepGeometry] | None = None
        self._open: _Open | None = None
        self._stack = ExitStack()
        self._workers = self._stack.enter_context(Workers(contract.threads))

    def begin(self, key: Key, step: Step, model: HalfModel) -> float:
        """Make one half-set's reference and slices; returns the seconds it took."""
        with self.lock:
            started = time.perf_counter()
            self.leave()
            iteration, half = key
            if self._geometry is None or self._geometry[0] != iteration:
                self._geometry = None
                self._geometry = (iteration, StepGeometry.of(self.setup, step.sampling, step.plan))
            models = (model, model)  # only the half's own is looked at
            whole = SearchStep(plan=step.plan, sampling=step.sampling, poses=step.poses, models=models)
            source = block_source(self.setup, step.poses)
            job = half_job(
                self.setup, whole, half, geometry=self._geometry[1], source=source, threads=self._workers.threads
            )
            stack = ExitStack()
            self._open = _Open(key=key, search=stack.enter_context(HalfSearch(job, self._workers)), stack=stack)
            return time.perf_counter() - started

    def search(self, key: Key, chunk: Chunk) -> ChunkResult:
        """Search a chunk and add its images to the half's Fourier volume."""
        self.cache.read_ahead(chunk.particles)  # while another chunk is searched
        if self.weights is not None:
            self.weights.volumes.read_ahead(chunk.particles)
        with self.lock:
            started = time.perf_counter()
            open_ = self._opened(key)
            if chunk.number in open_.done:  # the answer was lost on its way
                return open_.done[chunk.number]
            results: list[BlockResult] = []
            for result in open_.search.results(open_.search.cut(chunk.particles)):
                results.append(result)
                if self.is_stopped:
                    raise SessionLost("the session was told to stop")
            found = ChunkResult(
                number=chunk.number,
                results=tuple(results),
                seconds=time.perf_counter() - started,
                notes=tuple((note.text, note.level) for note in open_.search.notes()),
            )
            open_.done[chunk.number] = found
            return found

    def finish(self, key: Key) -> Accumulators:
        """Return the Fourier volume of the chunks searched here since ``begin``; the half's reference is dropped."""
        with self.lock:
            accumulators = self._opened(key).search.finish()
            self.leave()
            return accumulators

    def leave(self) -> None:
        """Drop the half-set that is open, with its sums."""
        open_, self._open = self._open, None
        if open_ is not None:
            open_.stack.close()

    def close(self) -> None:
        """Drop everything."""
        with self.lock:
            self.leave()
            self._stack.close()

    def _opened(self, key: Key) -> _Open:
        if self._open is None or self._open.key != key:
            raise SessionLost(f"half-set {key} is not open")
        return self._open


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next arrays, as it does by itself.

    Dask starts processes that give it back at once (MALLOC_TRIM_THRESHOLD_): every array would be made of new pages.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            library = ctypes.CDLL(None)
            library.mallopt(_MMAP_THRESHOLD, 32 << 20)
            library.mallopt(_TRIM_THRESHOLD, 64 << 20)


_SESSIONS: dict[str, Session] = {}


def _session(name: str) -> Session:
    if name not in _SESSIONS:
        raise SessionLost(f"there is no session {name}")
    return _SESSIONS[name]


def why_unreadable(read_images: ReadImages, n_particle: int) -> str:
    """Return why images cannot be read from here, or nothing; a few are tried."""
    try:
        for row in np.unique(np.linspace(0, n_particle - 1, _N_TRIED).astype(int)):
            read_images(np.array([row]))
    except (InputError, OSError) as error:
        return str(error) or type(error).__name__
    return ""


def open_session(setup: Setup, contract: Contract, runs: tuple[str, ...]) -> str:
    """Take part in a run; returns why that is not possible, or nothing.

    Parameters
    ----------
    runs : beginnings of the names of sessions whose runs still exist; all others are forgotten
    """
    for session in [name for name in _SESSIONS if not name.startswith(runs) or name == contract.session]:
        close_sessions(session)
    error = why_unreadable(setup.problem.read_images, len(setup.half))
    if not error:
        keep_freed_memory()
        _SESSIONS[contract.session] = Session(setup, contract)
    return error


def begin_half(opened: str, session: str, key: Key, step: Step, model: HalfModel, after: list[Accumulators]) -> float:
    """See ``Session.begin``; ``after`` makes it wait for the end of half-sets before.

    Raises
    ------
    CannotRead
        The session could not be opened.
    """
    del after
    if opened:
        raise CannotRead(opened)
    return _session(session).begin(key, step, model)


def search_chunk(begun: float, session: str, key: Key, chunk: Chunk) -> ChunkResult:
    """See ``Session.search``; ``begun`` makes it wait for the half-set."""
    del begun
    return _session(session).search(key, chunk)


def finish_half(begun: float, session: str, key: Key) -> Accumulators:
    """See ``Session.finish``."""
    del begun
    return _session(session).finish(key)


def add_volumes(first: Accumulators, second: Accumulators) -> Accumulators:
    """Add two Fourier volumes."""
    return added(first, second)


def rounded_volume(volume: Accumulators) -> Accumulators:
    """Return a Fourier volume in single precision, half as much to send: nothing is added to it any more."""
    own = replace(volume)
    own.round()
    return own


def close_sessions(name: str) -> None:
    """Stop and forget the sessions whose names begin so, once their search has ended; called beside the tasks."""
    for session in [one for one in _SESSIONS if one.startswith(name)]:
        found = _SESSIONS.pop(session)
        found.is_stopped = True
        threading.Thread(target=found.close, name="autorefine closing", daemon=True).start()
