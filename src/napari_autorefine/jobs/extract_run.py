"""Cutting particles with many threads: a few batches in flight, one stack per micrograph, complete or absent."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Message, Progress
from napari_autorefine.io.mrc import check_complete, read_header
from napari_autorefine.io.stack_writer import StackWriter
from napari_autorefine.io.star import read_star
from napari_autorefine.io.tables import write_star
from napari_autorefine.jobs.extract_params import ExtractParams
from napari_autorefine.jobs.extract_plan import ExtractionPlan, MicrographTask
from napari_autorefine.model.extraction import (
    Background,
    CtfFilter,
    cut_particles,
    grey_mean,
    make_background,
)
from napari_autorefine.model.half_plane import half_plane_ctf
from napari_autorefine.model.image_values import image_statistics, to_half

_BATCH_PIXELS = 2**23
_PIECE_PIXELS = 2**18
_KEPT_BYTES = 2**24
_NOTE = "napari-autorefine extract "


class _MicrographWork:
    """One micrograph while its particles are cut: read by the first batch, closed by the last one."""

    def __init__(self, plan: ExtractionPlan, task: MicrographTask, params: ExtractParams) -> None:
        self.plan = plan
        self.task = task
        self.n_flat = 0
        self._params = params
        self._image: np.ndarray | None = None
        self._mean = 0.0
        self._writer: StackWriter | None = None
        self._left = task.count
        self._lock = threading.Lock()
        self._is_failed = False
        self._transfers: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def is_closed(self) -> bool:
        """Whether nothing unfinished is left of it."""
        return self._left == 0 or (self._is_failed and self._image is None)

    def batches(self) -> list[range]:
        """Return rows of the plan's table, some at a time."""
        size = max(1, _BATCH_PIXELS // self.task.steps.ctf_box_size**2)
        last = self.task.first + self.task.count
        return [range(row, min(row + size, last)) for row in range(self.task.first, last, size)]

    def run(self, rows: range) -> int:
        """Cut and write one batch; the last one gives the files their names. Return the number of particles."""
        if self._is_failed:
            return 0
        try:
            micrograph, writer = self._opened()
            self._cut(micrograph, writer, rows)
            with self._lock:
                self._left -= len(rows)
                is_last = self._left == 0
            if is_last:
                self._finish(writer)
        except BaseException:
            self._is_failed = True
            raise
        return len(rows)

    def abandon(self) -> None:
        """Remove what is unfinished."""
        self._is_failed = True
        with self._lock:
            if self._writer is not None and self._left:
                self._writer.abandon()
            self._image = None

    def _opened(self) -> tuple[np.ndarray, StackWriter]:
        with self._lock:
            if self._image is None or self._writer is None:
                task = self.task
                self._image = task.image.read()
                if self.plan.transfer is not None:
                    self._mean = grey_mean(self._image)
                self._writer = StackWriter(
                    task.stack,
                    task.count,
                    task.steps.window_size,
                    pixel_size_A=task.pixel_size_A,
                    is_half=self._params.float16,
                )
            return self._image, self._writer

    def _cut(self, micrograph: np.ndarray, writer: StackWriter, rows: range) -> None:
        """Cut and write a batch, so few particles at a time that they stay in the cache of the processor."""
        steps = self.task.steps
        radius = steps.background_radius_px
        background = None if radius is None else _background(steps.window_size, radius)
        piece = max(1, _PIECE_PIXELS // steps.ctf_box_size**2)
        for start in range(rows.start, rows.stop, piece):
            part = np.arange(start, min(start + piece, rows.stop))
            images, n_flat = cut_particles(
                micrograph,
                self.plan.centers[part],
                steps,
                background=background,
                transfer=self._transfer(part),
                seeds=part,
            )
            self.n_flat += n_flat
            found = image_statistics(images)
            self._check_finite(found[:, 2], part)
            writer.write(start - self.task.first, to_half(images) if self._params.float16 else images, found)

    def _check_finite(self, means: np.ndarray, rows: np.ndarray) -> None:
        bad = np.flatnonzero(~np.isfinite(means))
        if len(bad):
            x, y = self.plan.centers[rows[bad[0]]]
            raise InputError(
                f"The micrograph {self.task.name} holds values that are not finite numbers (NaN or Inf) near x = {x},"
                f" y = {y}; make it again, or leave it out with --skip-missing."
            )

    def _transfer(self, rows: np.ndarray) -> CtfFilter | None:
        """Return the transfer functions of particles."""
        source = self.plan.transfer
        if source is None:
            return None
        keys = np.column_stack([source.group[rows], source.parameters[rows]])
        unique, index = np.unique(keys, axis=0, return_inverse=True)
        made = self._transfers  # of the last piece, most often the same: one local, as other threads replace it
        if made is None or not np.array_equal(made[0], unique):
            self._transfers = made = unique, self._transfer_functions(unique)
        return CtfFilter(values=made[1], index=index.reshape(-1), mean=self._mean)

    def _transfer_functions(self, keys: np.ndarray) -> np.ndarray:
        """Return (n, size, size // 2 + 1) float32 for n rows of optics group and parameters."""
        assert self.plan.transfer is not None
        size = self.task.steps.ctf_box_size
        values = np.empty((len(keys), size, size // 2 + 1), np.float32)
        for group in np.unique(keys[:, 0]).astype(int).tolist():
            members = keys[:, 0] == group
            values[members] = half_plane_ctf(
                self.plan.transfer.groups[group],
                keys[members, 1:],
                size,
                is_first_peak_intact=self._params.ctf_intact_first_peak,
            )
        return np.sign(values) if self._params.phase_flip else values

    def _finish(self, writer: StackWriter) -> None:
        """Give the stack its name, then write the table of this micrograph: when it is there, both are complete."""
        writer.finish()
        task = self.task
        table = self.plan.table.iloc[task.first : task.first + task.count]
        write_star(task.star, {"images": table}, comments=(_NOTE + task.digest,))
        self._image = None


@lru_cache(maxsize=8)
def _background(size: int, radius_px: float) -> Background:
    return make_background(size, radius_px)


def is_done(plan: ExtractionPlan, task: MicrographTask, params: ExtractParams) -> bool:
    """Tell whether an earlier run has finished this micrograph with the same coordinates and options.

    RELION's files say nothing of its options; there coordinates, box and pixel size decide.
    """
    try:
        header, star = check_complete(read_header(task.stack)), read_star(task.star)
    except InputError:
        return False
    table = star.loop("images")
    size = task.steps.window_size
    if table is None or header.shape != (task.count, size, size) or header.mode != (12 if params.float16 else 2):
        return False
    notes = [comment.removeprefix(_NOTE) for comment in star.comments if comment.startswith(_NOTE)]
    if notes:
        return notes == [task.digest] and len(table) == task.count
    mine = plan.table.iloc[task.first : task.first + task.count]
    labels = ["rlnCoordinateX", "rlnCoordinateY"]
    if len(table) != task.count or any(label not in table for label in labels):
        return False
    same = np.allclose(table[labels].to_numpy(float), mine[labels].to_numpy(float), rtol=0, atol=1e-4)
    return bool(same and abs(header.voxel_size_A[0] / task.pixel_size_A - 1.0) < 1e-3)


def cut_all(
    plan: ExtractionPlan, tasks: list[MicrographTask], params: ExtractParams
) -> Generator[Event, None, list[MicrographTask]]:
    """Extract the particles of all tasks; return those whose micrograph could not be read after all.

    Raises
    ------
    InputError
        Such a micrograph, unless what is missing is skipped. Stacks that are finished stay, others vanish.
    """
    threads = params.threads or os.cpu_count() or 1
    total, done, began = sum(task.count for task in tasks), 0, time.monotonic()
    failed: dict[str, MicrographTask] = {}
    n_flat = 0
    # Once a block of this size was freed, glibc keeps smaller ones for the next piece instead of giving them back.
    np.empty(_KEPT_BYTES, np.uint8)
    yield Progress(stage="extract", done=0, total=total)
    for work, future in _in_order(plan, tasks, params, threads):
        try:
            done += future.result()
        except InputError as error:
            if not params.skip_missing:
                raise InputError(_how_to_go_on(str(error), done)) from error
            if work.task.name not in failed:
                yield Message(text=f"Left out: {error}", level="warning")
            failed[work.task.name] = work.task
        seconds = time.monotonic() - began
        left = seconds * (total - done) / done if done and seconds > 1.0 else None
        yield Progress(stage="extract", done=done, total=total, seconds_left=left)
        if work.n_flat:
            n_flat, work.n_flat = n_flat + work.n_flat, 0
    if n_flat:
        yield Message(
            text=f"{n_flat} particles have a background without any variation, so they are not scaled.",
            level="warning",
        )
    return list(failed.values())


def _how_to_go_on(text: str, done: int) -> str:
    if not done:
        return text
    return f"{text.removesuffix('.')}; stacks that are finished are kept, go on with --only_do_unfinished."


def _in_order(
    plan: ExtractionPlan, tasks: list[MicrographTask], params: ExtractParams, threads: int
) -> Iterator[tuple[_MicrographWork, Future[int]]]:
    """Yield batches in the order of the tasks as they are done, with few more in flight than there are threads."""
    waiting: deque[tuple[_MicrographWork, Future[int]]] = deque()
    works: list[_MicrographWork] = []
    with ThreadPoolExecutor(threads) as pool:
        try:
            for task in tasks:
                work = _MicrographWork(plan, task, params)
                works = [other for other in works if not other.is_closed] + [work]
                for rows in work.batches():
                    if len(waiting) > 2 * threads:
                        yield waiting.popleft()
                    waiting.append((work, pool.submit(work.run, rows)))
            while waiting:
                yield waiting.popleft()
        finally:
            pool.shutdown(cancel_futures=True)
            for work in works:
                work.abandon()
