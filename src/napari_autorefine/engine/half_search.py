"""One half-set's search in this process: blocks go to its GPUs or threads, their images into one Fourier volume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType

import numpy as np

from napari_autorefine.engine.block import BlockResult
from napari_autorefine.engine.device_team import DeviceTeam
from napari_autorefine.engine.half_job import EDGE, HalfJob, matrix_source
from napari_autorefine.engine.host_blocks import HostBlocks
from napari_autorefine.engine.insertion import HalfSum, OrientationTable
from napari_autorefine.engine.reconstruction import Accumulators
from napari_autorefine.engine.source import cut_into_blocks
from napari_autorefine.engine.workers import Workers
from napari_autorefine.events import Message

_WAITING_BYTES = 96 << 20


class HalfSearch:
    """Searches particles of one half-set, any number of times, and adds up their weighted images; a context manager.

    Results of blocks come in the order of the blocks and hold no images any more.
    """

    def __init__(self, job: HalfJob, workers: Workers) -> None:
        self._job = job
        self._workers = workers
        self._stack = ExitStack()
        self._team: DeviceTeam | None = None
        self._host: HostBlocks | None = None

    def __enter__(self) -> HalfSearch:
        job = self._job
        self._sum = _half_sum(job, self._workers)
        if job.setup.options.devices:
            self._team = self._stack.enter_context(DeviceTeam(job, self._sum.accumulators, self._sum.r2_max))
        else:
            self._host = HostBlocks(job, self._workers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._host = None
        self._stack.__exit__(kind, error, trace)

    def cut(self, members: np.ndarray) -> list[np.ndarray]:
        """Cut particles, in their work order, into blocks as large as is good here."""
        size = self._job.setup.block_size if self._team is None else self._team.block_size
        return cut_into_blocks(members, self._job.setup.problem.particles.optics_index, size)

    def results(self, blocks: Sequence[np.ndarray]) -> Iterator[BlockResult]:
        """Search blocks, on the devices where there are any."""
        for result in self._searched(blocks):
            for particle in result.results:
                for entry in particle.insertions:
                    self._sum.add(result.group, entry)
                particle.insertions.clear()
            yield result

    def notes(self) -> Iterator[Message]:
        """Yield what there is to say about devices and memory since the last call."""
        if self._team is not None:
            yield from self._team.notes()
        while self._host is not None and self._host.notes:
            yield self._host.notes.popleft()

    def finish(self) -> Accumulators:
        """Return the Fourier volume of everything searched, not yet rounded; nothing can be searched afterwards."""
        job = self._job
        accumulators = self._sum.finish({g.index: matrix_source(g, job.grid) for g in job.geometries})
        if self._team is not None:
            self._team.finish()
        return accumulators

    def _searched(self, blocks: Sequence[np.ndarray]) -> Iterator[BlockResult]:
        if self._team is not None:
            return self._team.results(blocks, self._workers)
        assert self._host is not None
        return self._host.results(blocks)


def work_order(members: np.ndarray, euler_deg: np.ndarray, *, is_local: bool) -> np.ndarray:
    """Particles that look alike next to each other, so that neighbours read the same part of the reference.

    Parameters
    ----------
    members : (n,) particles of a half-set
    euler_deg : (N, 3) angles of all particles
    is_local : in global searches the order is kept
    """
    if not is_local:
        return members
    euler = np.radians(euler_deg[members])
    band = np.floor(np.degrees(euler[:, 1]) / 5.0)
    return members[np.lexsort((euler[:, 0] * (1 - 2 * (band % 2)), band))]


def _half_sum(job: HalfJob, workers: Workers) -> HalfSum:
    setup = job.setup
    accumulators = Accumulators.zeros(
        setup.box_size,
        pad=setup.options.pad,
        r_max=job.plan.current_size / 2,
        data_dim=setup.data_dim,
        is_double=not setup.options.devices,  # devices add in an order of their own
    )
    budget = setup.options.memory_bytes // (4 * len(job.geometries))
    tables = {}
    if job.sums_orientations:
        n_fine = job.n_fine_orientation
        for g in job.geometries:
            if OrientationTable.nbytes(n_fine, g.samples.n_sample) <= budget:
                with suppress(MemoryError):  # images are inserted one by one then
                    tables[g.index] = OrientationTable.zeros(n_fine, g.samples.n_sample, g.samples.rows)
    return HalfSum(
        accumulators=accumulators,
        r2_max=accumulators.r2_max * EDGE,
        run=workers.each,
        n_slabs=workers.threads,
        limit_bytes=_WAITING_BYTES,
        tables=tables,
    )
