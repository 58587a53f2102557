"""One half-set's search on GPUs: what stays in their memory, which blocks they get, and the sums they leave.

A :class:`DeviceHalf` owns everything that lives on one GPU during one half-set's search; one thread uses it. Images go
there block by block; poses, noise spectra and posterior weights come back. Weighted images are added to the device's
own Fourier volume, which is added to the host's at the end, device after device. When memory runs out the batch is
halved and what is left of the block is repeated; a particle that cannot be searched on the device at all is searched on
the host.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Literal

import numpy as np

from napari_autorefine.engine.batch_first import Batch, can_be_batched, make_batch, ranking_of_batch
from napari_autorefine.engine.batch_pose import ResidentGrid, kernel_matrices
from napari_autorefine.engine.batch_search import search_batch
from napari_autorefine.engine.block import BlockResult, search_particles
from napari_autorefine.engine.context import GroupGeometry, HalfContext
from napari_autorefine.engine.device_images import Fetched
from napari_autorefine.engine.device_sums import DeviceSums
from napari_autorefine.engine.half_job import HalfJob, block_result, make_search, shared_within
from napari_autorefine.engine.insertion import OrientationTable
from napari_autorefine.engine.maximization import Insertion
from napari_autorefine.engine.reconstruction import Accumulators
from napari_autorefine.engine.second_pass import ParticleResult
from napari_autorefine.engine.shifts import ShiftBasis
from napari_autorefine.engine.slices import SharedSlices
from napari_autorefine.engine.source import RawParticles
from napari_autorefine.events import Message
from napari_autorefine.xp import (
    free_device_memory,
    is_out_of_memory,
    on_device,
    release_device_memory,
    to_device,
    to_host,
    zeros_on_device,
)

LARGEST_BATCH = 1024  # what a launch costs is shared by as many as that
AHEAD = 4  # blocks that have been read for a device at most, the one it searches among them
_SUMS_SHARE, _TABLE_SHARE, _SLICE_SHARE, _BATCH_SHARE = 0.5, 0.25, 0.3, 0.5  # of the memory free at that moment
_KEPT_SHARE = 0.99  # of a particle's weight must lie on what scores in TF32 would keep
_ROOM_SHARE = 0.25  # the same, for slices of a batch and what is made from them


def batch_size(free_bytes: int, geometry: GroupGeometry, *, n_rot: int, n_trans: int, n_image: int = 1) -> int:
    """Return how many particles fit on a device at once.

    Parameters
    ----------
    free_bytes : memory that nothing occupies; half of it is left for the second pass, whose size is not known before
    geometry : of the particles' optics group
    n_rot : orientations that all particles are compared with together; 0 in local searches
    n_trans : coarse shifts
    n_image : images of a particle, the tilts of a stack
    """
    samples = geometry.samples
    # Volumes have weights beside them; what has been read ahead has been sent, too.
    per_pixel = 48 + 4 * AHEAD if samples.dim == 2 else 72 + 8 * AHEAD
    images = n_image * (per_pixel * samples.box_size**samples.dim + 80 * samples.n_sample)
    scores = 16 * (n_rot + samples.n_coarse) * (n_trans + 1) if n_rot else 0
    once = 48 * n_rot * n_trans
    return int(np.clip((_BATCH_SHARE * free_bytes - once) // (images + scores), 1, LARGEST_BATCH))


def resident_context(context: HalfContext, device: int) -> HalfContext:
    """Copy of a half's context whose reference and noise models are on a device."""
    put = partial(to_device, device=device)
    models = tuple(
        replace(
            model,
            inverse_sigma2=put(model.inverse_sigma2),
            score_weight=put(model.score_weight),
            expected_power=put(model.expected_power),
        )
        for model in context.models
    )
    return replace(context, reference=put(context.reference), models=models)


def resident_geometry(geometry: GroupGeometry, device: int) -> GroupGeometry:
    """Copy of a group's geometry whose masks, corrections and shifts are on a device; tables of indices stay."""
    return replace(
        geometry,
        correction=None if geometry.correction is None else to_device(geometry.correction, device),
        background=to_device(geometry.background, device),
        coarse_shifts=resident_shifts(geometry.coarse_shifts, device),
        screen_shifts=resident_shifts(geometry.screen_shifts, device),
        ring_shifts=None if geometry.ring_shifts is None else resident_shifts(geometry.ring_shifts, device),
        fine_shifts=resident_shifts(geometry.fine_shifts, device),
    )


def resident_shifts(basis: ShiftBasis, device: int) -> ShiftBasis:
    """Copy of trial shifts whose tables are on a device."""
    return replace(
        basis,
        ramps=None if basis.ramps is None else to_device(basis.ramps, device),
        functions=None if basis.functions is None else to_device(basis.functions, device),
        coefficients=None if basis.coefficients is None else to_device(basis.coefficients, device),
    )


class DeviceHalf:
    """Owner of everything that one half-set keeps on one GPU; a context manager, used by one thread at a time."""

    def __init__(self, device: int, job: HalfJob, accumulators: Accumulators, r2_max: float) -> None:
        self.device = device
        self.batch = 0
        self.notes: deque[Message] = deque()
        self._host_job = job
        self._like = accumulators
        self._r2_max = r2_max
        self._job: HalfJob | None = None
        self._sums: DeviceSums | None = None
        self._shared: dict[int, SharedSlices] = {}
        self._grid: ResidentGrid | None = None
        self._room = 0
        self._is_together = True
        self._is_fast: bool | None = None
        self._has_told_of_host = False

    def __enter__(self) -> DeviceHalf:
        if not self._attempt_without_images(self._load):
            self._warn("has too little free memory for the reference: its particles are searched on the CPU")
        elif not self._attempt_without_images(self._make_sums):
            self._warn("has too little free memory for the sums of images: these are kept in the computer's memory")
        if self._job is not None and not self._attempt(self._share):
            self._shared = shared_within(self._job, 0, in_turn)
        self._choose_batch()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._job, self._sums, self._shared, self._grid = None, None, {}, None
        release_device_memory(self.device)

    @property
    def can_search(self) -> bool:
        """Whether the device has room for the reference."""
        return self._job is not None

    def run(self, fetched: Fetched) -> BlockResult:
        """Search a block of particles of one optics group."""
        indices = fetched.indices
        done: dict[int, ParticleResult] = {}
        left = np.arange(len(indices))
        while self._job is not None and len(left):
            part = left[: self.batch]
            is_done = self._attempt(self._search, part, fetched, done)
            left = left[[row not in done for row in left.tolist()]]
            if not is_done and not self._save_memory():
                break
        if len(left):
            done.update(zip(left.tolist(), self._on_host(indices[left], fetched.on_host(left)), strict=True))
        return block_result(self._host_job, indices, [done[row] for row in range(len(indices))])

    def finish(self, accumulators: Accumulators) -> None:
        """Add what the device has summed to the host's Fourier volume."""
        self._shared = {}
        if self._sums is not None:
            release_device_memory(self.device)
            job = self._host_job
            with on_device(self.device):
                self._sums.insert_tables({g.index: partial(self._matrices, g.frequency_matrix) for g in job.geometries})
                self._sums.add_to(accumulators)
            self._sums = None

    def _matrices(self, frequency_matrix: np.ndarray, fine: np.ndarray) -> Any:
        """Kernel matrices (n, 3, 3) of orientations of the fine grid."""
        assert self._grid is not None
        return kernel_matrices(self._grid.child_rotations(to_device(fine, self.device)), frequency_matrix)

    def _attempt(self, action: Callable[..., None], *arguments: Any) -> bool:
        """Do something on the device; False when its memory does not suffice."""
        try:
            with on_device(self.device):
                action(*arguments)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        else:
            return True
        # The error is gone here, and with it the arrays that its frames held.
        release_device_memory(self.device)
        return False

    def _attempt_without_images(self, action: Callable[[], None]) -> bool:
        """Do something on the device, if need be without the images that are kept there."""
        return self._attempt(action) or (self._host_job.setup.resident.drop(self.device) and self._attempt(action))

    def _load(self) -> None:
        job = self._host_job
        self._job = replace(
            job,
            context=resident_context(job.context, self.device),
            geometries=tuple(resident_geometry(g, self.device) for g in job.geometries),
        )
        self._grid = ResidentGrid.of(job.grid, self.device)

    def _make_sums(self) -> None:
        """Reserve the Fourier volume and, for global searches, tables of sums per orientation."""
        job, free = self._host_job, free_device_memory(self.device)
        like = self._like
        needed = like.data.nbytes + like.weight.nbytes
        if needed > _SUMS_SHARE * free:
            raise MemoryError
        zeros = partial(zeros_on_device, device=self.device)
        sums = DeviceSums(
            data=zeros(like.data.shape, np.complex64), weight=zeros(like.weight.shape, np.float32), r2_max=self._r2_max
        )
        budget = _TABLE_SHARE * (free - needed) / len(job.geometries)
        n = job.n_fine_orientation if job.sums_orientations else 0
        for g in job.geometries if n else ():
            n_sample = g.samples.n_sample
            if OrientationTable.nbytes(n, n_sample) <= budget:
                sums.tables[g.index] = OrientationTable(
                    values=zeros((n, n_sample), np.complex64),
                    weights=zeros((n, n_sample), np.float32),
                    touched=zeros((n,), np.bool_),
                    rows=g.samples.rows,
                )
        self._sums = sums

    def _share(self) -> None:
        """Make the slices of the whole grid, as many as there is room for."""
        job = self._job
        if job is not None:
            budget = _SLICE_SHARE * free_device_memory(self.device) / len(job.geometries)
            self._shared = shared_within(job, int(budget), in_turn)

    def _choose_batch(self) -> None:
        job = self._host_job
        n_rot = job.grid.orientations.n_orientation if job.shares_slices else 0
        n_trans, tilts = len(job.grid.trial_shifts_A), job.setup.tilts
        n_image = 1 if tilts is None else tilts.most_tilts
        free = free_device_memory(self.device)
        self._room = int(_ROOM_SHARE * free)
        self.batch = min(batch_size(free, g, n_rot=n_rot, n_trans=n_trans, n_image=n_image) for g in job.geometries)

    def _search(self, rows: np.ndarray, fetched: Fetched, done: dict[int, ParticleResult]) -> None:
        """Search particles on the device; those that are through are added to ``done`` under their rows."""
        assert self._job is not None
        search = make_search(self._job, fetched.indices[rows], self._shared, fetched.on_device(rows))
        if self._sums is not None and self._is_together and can_be_batched(search):
            assert self._grid is not None
            batch = make_batch(search, self._grid, room=self._room)
            for found in search_batch(replace(batch, fast=self._can_be_fast(batch)), self._sums):
                done.update({int(rows[i]): result for i, result in found.items()})
            return
        for row, result in zip(rows.tolist(), search_particles(search), strict=True):
            if self._sums is None:
                done[row] = replace(result, insertions=[_on_host(entry) for entry in result.insertions])
                continue
            # All that is needed is on the device before the first is added: memory cannot run out between them.
            entries = [replace(e, matrices=to_device(e.matrices, self.device)) for e in result.insertions]
            for entry in entries:
                self._sums.add(search.block.geometry.index, entry)
            done[row] = replace(result, insertions=[])

    def _can_be_fast(self, batch: Batch) -> bool:
        """Tell whether scores may be made in TF32: asked for, and tried on the first batch of the whole grid."""
        if not self._host_job.setup.options.tf32:
            return False
        if self._is_fast is None:
            found = ranking_of_batch(batch)
            if found is not None:
                self._is_fast = found[0] >= _KEPT_SHARE
                if not self._is_fast:
                    text = f"would refine poses with only {found[0]:.1%} of the weight of a particle in TF32"
                    self._warn(f"{text}: scores are made in single precision")
        return bool(self._is_fast)

    def _save_memory(self) -> bool:
        """Make the next try need less memory; False when nothing is left to save."""
        if self._host_job.setup.resident.drop(self.device):
            return True
        if self.batch > 1:
            self.batch //= 2
            self._room //= 2
            self._note(f"GPU {self.device} ran out of memory: it gets {self.batch} particles at a time from here on.")
            return True
        if self._is_together:
            self._is_together = False  # pieces of one particle after the other
            return True
        if self._job is not None and any(shared.is_kept for shared in self._shared.values()):
            self._shared = shared_within(self._job, 0, in_turn)
            return True
        return False

    def _on_host(self, indices: np.ndarray, raw: RawParticles | None) -> list[ParticleResult]:
        """Search particles on the host."""
        if self._job is not None and not self._has_told_of_host:
            self._has_told_of_host = True
            self._warn("has too little memory for some particles even one by one: these are searched on the CPU")
        job = self._host_job
        return list(search_particles(make_search(job, indices, shared_within(job, 0, in_turn), raw)))

    def _warn(self, text: str) -> None:
        self._note(f"GPU {self.device} {text}.", level="warning")

    def _note(self, text: str, level: Literal["info", "warning"] = "info") -> None:
        self.notes.append(Message(text=text, level=level))


def in_turn(function: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Call a function on every item; what a device does it does in parallel by itself."""
    for item in items:
        function(item)


def _on_host(entry: Insertion) -> Insertion:
    return replace(
        entry,
        values=to_host(entry.values),
        amounts=to_host(entry.amounts),
        sample_weight=to_host(entry.sample_weight),
    )
