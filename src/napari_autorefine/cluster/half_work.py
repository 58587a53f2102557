"""The work on one half-set in an iteration, as the process that hands it out sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_autorefine.cluster.members import Member
from napari_autorefine.cluster.wire import Chunk, ChunkResult, Key
from napari_autorefine.engine.half_search import work_order
from napari_autorefine.engine.iteration import HalfTally
from napari_autorefine.engine.reconstruction import Accumulators
from napari_autorefine.engine.search_step import SearchStep
from napari_autorefine.engine.setup import Setup
from napari_autorefine.engine.source import cut_into_blocks
from napari_autorefine.engine.sums import PoseTable

_CHUNKS_PER_WORKER, _LARGEST_CHUNK = 6, 64  # blocks


@dataclass(slots=True, kw_only=True, eq=False)
class Leaf:
    """A finished Fourier volume that lies with a member.

    Attributes
    ----------
    chunks : whose images are in it
    future : of the volume
    """

    member: Member
    chunks: frozenset[int]
    future: Any
    is_there: bool = False


class HalfWork:
    """Chunks of one half-set: waiting, on their way, searched; and the volumes that hold them."""

    def __init__(self, setup: Setup, step: SearchStep, key: Key, *, n_dir: int, table: PoseTable) -> None:
        self.key = key
        self._table = table
        self._is_estimated = setup.options.particle_scale and not step.plan.is_cc
        self._members = work_order(setup.members(key[1]), step.poses.euler_deg, is_local=step.sampling.is_local)
        self._optics_index = setup.problem.particles.optics_index
        self._block_size = setup.block_size
        self._tally = HalfTally(setup, step.models[key[1] - 1].norm_average, n_dir=n_dir, table=table)
        self.chunks: dict[int, Chunk] = {}
        self.waiting: list[int] = []
        self.tries: dict[int, int] = {}
        self.leaves: list[Leaf] = []
        self.root: Any = None
        self.sums: Accumulators | None = None
        self.n_done = 0
        self._results: dict[int, ChunkResult] = {}
        self._taken = 0
        self._counted: set[int] = set()

    def cut(self, n_worker: int, threads: int) -> None:
        """Cut the half-set for ``n_worker`` processes of ``threads`` threads; blocks are those of a single process."""
        blocks = cut_into_blocks(self._members, self._optics_index, self._block_size)
        size = chunk_size(len(blocks), n_worker, threads)
        for start in range(0, len(blocks), size):
            part = blocks[start : start + size]
            groups = [int(self._optics_index[block[0]]) for block in part]
            for group in dict.fromkeys(groups):
                own = np.concatenate([block for block, one in zip(part, groups, strict=True) if one == group])
                self.chunks[len(self.chunks)] = Chunk(number=len(self.chunks), particles=own)
        self.waiting = list(self.chunks)

    def take(self, home: np.ndarray, member: Member) -> Chunk | None:
        """Take a chunk for a member: best one whose images it has read, else one that nobody has, else any."""
        if not self.waiting:
            return None
        owners = {number: _owner(home[self.chunks[number].particles]) for number in self.waiting}
        number = min(self.waiting, key=lambda n: (owners[n] != member.serial, owners[n] >= 0, n))
        self.waiting.remove(number)
        return self.chunks[number]

    def give_back(self, numbers: Sequence[int] | set[int]) -> None:
        """Put chunks back whose images are lost."""
        self.waiting = sorted({*self.waiting, *numbers})

    def receive(self, result: ChunkResult) -> int:
        """Take results, in any order; returns the number of particles that are new."""
        if result.number in self._counted:
            return 0
        self._counted.add(result.number)
        self._results[result.number] = result
        while self._taken in self._results:
            for block in self._results.pop(self._taken).results:
                self._tally.take(block)
            self._taken += 1
        new = len(self.chunks[result.number].particles)
        self.n_done += new
        return new

    def lose(self, member: Member) -> set[int]:
        """Forget what lay with a member; returns the chunks to be searched again."""
        if self.sums is not None:
            return set()
        gone = [leaf for leaf in self.leaves if leaf.member is member]
        self.leaves = [leaf for leaf in self.leaves if leaf.member is not member]
        again = set().union(*(leaf.chunks for leaf in gone))
        if member.key == self.key:
            again |= member.done | {chunk.number for chunk in member.flight.values()}
        if again:
            self.root = None
        self.give_back(again)
        return again

    @property
    def is_whole(self) -> bool:
        """Every chunk is in a volume that is there."""
        there = [leaf for leaf in self.leaves if leaf.is_there]
        return sum(len(leaf.chunks) for leaf in there) == len(self.chunks)

    def finish(self) -> tuple[Any, Accumulators]:
        """Return statistics and sums once everything is there."""
        assert self.sums is not None
        self.sums.round()
        assert self._taken == len(self.chunks)
        self._table.level_intensity(self._members, is_estimated=self._is_estimated)
        return self._tally.statistics, self.sums

    def particles_of(self, numbers: Sequence[int] | set[int]) -> Iterator[int]:
        """Return how many particles chunks have, one by one."""
        return (len(self.chunks[number].particles) for number in numbers)


def chunk_size(n_block: int, n_worker: int, threads: int) -> int:
    """Return how many blocks are handed out together.

    Enough that a process's threads have work, few enough that all processes end at the same time.
    """
    fair = -(-n_block // (n_worker * _CHUNKS_PER_WORKER))
    full = min(threads, -(-n_block // (2 * n_worker)))
    return max(1, min(max(fair, full), _LARGEST_CHUNK))


def _owner(serials: np.ndarray) -> int:
    """Return the process that has read most of these particles, -1 when that is nobody."""
    known = serials[serials >= 0]
    return int(np.bincount(known).argmax()) if len(known) * 2 > len(serials) else -1
