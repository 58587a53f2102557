"""The process that refines, as head of a crew: hands chunks of particles to processes and collects their sums.

Every process adds the images of its chunks to a Fourier volume of its own; results that are small come back at once.
When all chunks of a half-set are searched the volumes are added pairwise, on the processes, and the sum is fetched. A
process that is lost takes its volume with it: its chunks, and only those, are searched again by others.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_autorefine.cluster import worker
from napari_autorefine.cluster.half_work import HalfWork, Leaf
from napari_autorefine.cluster.members import GpuGroups, Member, hosts
from napari_autorefine.cluster.pool import Lost, Pool, unreadable
from napari_autorefine.cluster.wire import CannotRead, Chunk, ChunkResult, SessionLost, Step, lean_model, lean_setup
from napari_autorefine.engine.problem import ReadImages
from napari_autorefine.engine.search_step import HalfSums, SearchStep
from napari_autorefine.engine.setup import Setup
from napari_autorefine.engine.sums import PoseTable
from napari_autorefine.errors import InputError
from napari_autorefine.events import Message, Progress

_IN_FLIGHT = 2  # chunks per process: one is searched, the images of the next are read
_MOST_TRIES = 3

Events = Generator[Progress | Message, None, None]


@dataclass(slots=True, kw_only=True)
class _Rates:
    """Seconds measured so far in a step, 0 before there are any."""

    begin: float = 0.0
    chunk: float = 0.0


class DaskCrew:
    """Searches particles with the processes behind a dask client; a ``Crew`` of the engine.

    Parameters
    ----------
    client : dask.distributed.Client
    gpu : GPUs as asked for, see ``Contract``; None = CPU only
    patience_s : how long to wait when no process is left
    n_wanted : processes of the client's own cluster, see ``Pool``
    """

    def __init__(
        self, client: Any, *, gpu: GpuGroups | None = None, patience_s: float = 600.0, n_wanted: int = 0
    ) -> None:
        self.pool = Pool(client, gpu=gpu, n_wanted=n_wanted)
        self._patience_s = patience_s
        self._setup: Setup | None = None
        self._home = np.empty(0, np.int64)
        self._halves: tuple[HalfWork, HalfWork] | None = None
        self._rates = _Rates()

    def greet(self, read_images: ReadImages, n_particle: int) -> Iterator[Message]:
        """Wait for the first processes, and check that they fit and see the images; nothing has been written yet.

        Raises
        ------
        InputError
            Nobody comes, or one that is there has another version or does not see the files.
        """
        yield from self._wait_for_someone(is_first=True)
        self.pool.check_fit(read_images, n_particle)
        yield from self.pool.messages()
        yield Message(text=f"Particles are searched by {hosts(self.pool.members)}.")

    def search(
        self, setup: Setup, step: SearchStep, n_dir: int, table: PoseTable
    ) -> Generator[Progress | Message, None, tuple[HalfSums, HalfSums]]:
        """See ``Crew``."""
        yield from self._wait_for_someone()
        if setup is not self._setup:
            self._setup = setup
            self._home = np.full(len(setup.half), -1, np.int64)
            self.pool.share("setup", lean_setup(setup))
        iteration = step.plan.iteration
        self.pool.share("step", Step(plan=step.plan, sampling=step.sampling, poses=step.poses))
        first, second = (HalfWork(setup, step, (iteration, half), n_dir=n_dir, table=table) for half in (1, 2))
        self._halves = (first, second)
        self._rates = _Rates()
        for work, model in zip(self._halves, step.models, strict=True):
            self.pool.share(f"model {work.key[1]}", lean_model(model))
            work.cut(max(1, len(self.pool.members) // 2), max(m.contract.threads for m in self.pool.members))
        try:
            yield from self._work(len(setup.half))
            return first.finish(), second.finish()
        finally:
            self.pool.drop_tasks()
            self._halves = None

    def close(self) -> None:
        """Let the processes stop and forget the run."""
        self.pool.close()

    def _work(self, total: int) -> Events:
        """Hand out, receive, add and fetch until both half-sets are there."""
        halves = self._both()
        self._assign()
        told = -1
        while any(work.sums is None for work in halves):
            for member in self.pool.refresh():
                yield from self._lose(member)
            yield from self.pool.messages()
            if not self.pool.members:
                yield from self._wait_for_someone()
                self._assign()
            for member in self.pool.members:
                self._hand_out(member)
            for work in halves:
                self._add_up(work)
            for task, outcome in self.pool.finished():
                yield from self._handle(task, outcome)
            done = sum(work.n_done for work in halves)
            if done != told:
                told = done
                yield Progress(stage="expectation", done=done, total=total, iteration=halves[0].key[0])

    def _both(self) -> tuple[HalfWork, HalfWork]:
        assert self._halves is not None
        return self._halves

    def _assign(self) -> None:
        """Deal members to halves, by threads, so that each makes only one reference as a rule."""
        load = [0.0, 0.0]
        for member in self.pool.members:
            half = 0 if load[0] <= load[1] else 1
            load[half] += member.contract.threads
            member.half = half + 1

    def _hand_out(self, member: Member) -> None:
        """Give a member chunks until it has enough, or close what it has open when there are none left for it."""
        while len(member.flight) < _IN_FLIGHT:
            work = self._work_for(member)
            if work is None or work.key != member.key:
                if member.flight:
                    return
                self._close_half(member)
                if work is None:
                    return
                self._open_half(member, work)
            chunk = work.take(self._home, member)
            if chunk is None:
                return
            future = self.pool.submit(
                member, ("chunk", member, work, chunk), worker.search_chunk, member.begun, member.contract.session,
                work.key, chunk,
            )  # fmt: skip
            member.flight[future] = chunk

    def _work_for(self, member: Member) -> HalfWork | None:
        """Return the half-set that a member goes on with: its own, else the other when that is worth the change."""
        own = self._both()[member.half - 1]
        other = self._both()[2 - member.half]
        if own.waiting:
            return own
        there = sum(1 for one in self.pool.members if one.half == other.key[1])
        seconds = len(other.waiting) * self._rates.chunk / max(there, 1)
        if other.waiting and (there == 0 or seconds > self._rates.begin + self._rates.chunk):
            member.half = other.key[1]
            return other
        return None

    def _open_half(self, member: Member, work: HalfWork) -> None:
        after = [leaf.future for leaf in self._leaves() if leaf.member is member and not leaf.is_there]
        member.key = work.key
        member.begun = self.pool.submit(
            member, ("begun", member, work, None), worker.begin_half, self.pool.opened(member),
            member.contract.session, work.key,
            self.pool.shared("step"), self.pool.shared(f"model {work.key[1]}"), after,
        )  # fmt: skip

    def _close_half(self, member: Member) -> None:
        """Turn the volume that a member has open into a leaf; one without images is only dropped."""
        key, chunks = member.key, frozenset(member.done)
        member.done = set()
        if key is not None and chunks:
            work = self._both()[key[1] - 1]
            leaf = Leaf(member=member, chunks=chunks, future=None)
            leaf.future = self.pool.submit(
                member, ("leaf", member, work, leaf), worker.finish_half, member.begun, member.contract.session, key
            )
            work.leaves.append(leaf)
        member.key = None

    def _leaves(self) -> Iterator[Leaf]:
        for work in self._both():
            yield from work.leaves

    def _add_up(self, work: HalfWork) -> None:
        """Start the pairwise additions when all volumes of a half-set are there, and ask for the rounded sum."""
        if work.root is not None or work.sums is not None or not work.is_whole:
            return
        leaves = sorted(work.leaves, key=lambda leaf: (leaf.member.greeting.host, leaf.member.serial))
        nodes = [(leaf.member, leaf.future) for leaf in leaves]
        while len(nodes) > 1:
            pairs = zip(nodes[::2], nodes[1::2], strict=False)
            above = [(a, self.pool.submit(a, None, worker.add_volumes, x, y)) for (a, x), (_, y) in pairs]
            nodes = above + nodes[len(above) * 2 :]
        member, whole = nodes[0]
        work.root = self.pool.submit(member, None, worker.rounded_volume, whole)
        self.pool.watch(work.root, ("root", member, work, work.root))

    def _handle(self, task: tuple[str, Member, HalfWork, Any], outcome: Any) -> Events:
        kind, member, work, detail = task
        if isinstance(outcome, CannotRead):
            self.pool.refuse(member, unreadable(str(outcome)))
            yield from self._lose(member)
        elif isinstance(outcome, (Lost, SessionLost)):
            self.pool.readmit(member)
            yield from self._lose(member)
        elif isinstance(outcome, BaseException):
            raise _named(outcome, member)
        elif kind == "begun":
            self._rates.begin = max(self._rates.begin, outcome)
        elif kind == "chunk":
            yield from self._receive(member, work, detail, outcome)
        elif kind == "leaf":
            detail.is_there = True
        elif kind == "root" and work.root is detail:
            work.sums, work.root, work.leaves = outcome, None, []

    def _receive(self, member: Member, work: HalfWork, chunk: Chunk, result: ChunkResult) -> Events:
        future = next((one for one, own in member.flight.items() if own is chunk), None)
        if future is None or member.key != work.key:
            return
        del member.flight[future]
        member.done.add(chunk.number)
        self._home[chunk.particles] = member.serial
        self._rates.chunk = max(self._rates.chunk, result.seconds)
        work.receive(result)
        for text, level in result.notes:
            yield Message(text=f"{member.name}: {text}", level="warning" if level == "warning" else "info")

    def _lose(self, member: Member) -> Events:
        """Take back everything that lay with a member."""
        flying = list(member.flight.values())
        n_particle = 0
        for work in self._both():
            if member.key == work.key:
                self._count_tries(work, flying)
            root = work.root
            n_particle += sum(work.particles_of(work.lose(member)))
            if root is not None and work.root is None:
                self.pool.forget(root)
        member.key, member.begun, member.done, member.flight = None, None, set(), {}
        self.pool.forget_tasks_of(member)
        yield Message(
            text=f"Lost {member.name}: the {n_particle} particles it was at or kept the sum of are searched again.",
            level="warning",
        )

    def _count_tries(self, work: HalfWork, chunks: Sequence[Chunk]) -> None:
        """Refuse to go on when the same particles end one process after the other."""
        for chunk in chunks[:1]:
            work.tries[chunk.number] = work.tries.get(chunk.number, 0) + 1
            if work.tries[chunk.number] >= _MOST_TRIES:
                raise InputError(
                    f"{_MOST_TRIES} processes ended one after the other while they searched the same"
                    f" {len(chunk.particles)} particles; see their logs, give them more memory, and go on with"
                    " --continue."
                )

    def _wait_for_someone(self, *, is_first: bool = False) -> Iterator[Message]:
        """Wait until there is a process to work with."""
        started, is_told = time.monotonic(), False
        while True:
            self.pool.refresh()
            yield from self.pool.messages()
            if self.pool.members:
                return
            if is_first and self.pool.has_refused:
                return
            if not is_told:
                is_told = True
                yield Message(text="Waits for processes to search with: none is there.", level="warning")
            if time.monotonic() - started > self._patience_s:
                raise InputError(
                    f"No process to search with has come within {self._patience_s:g} s; start some (dask worker"
                    f" {self.pool.address}) and try again."
                )
            time.sleep(0.2)


def _named(error: BaseException, member: Member) -> BaseException:
    """Return an error that says where it happened, where that can be said."""
    if isinstance(error, InputError):
        return InputError(f"{member.name}: {error}")
    if isinstance(error, MemoryError):
        return InputError(f"{member.name} has too little memory; give it more and go on with --continue.")
    return error
