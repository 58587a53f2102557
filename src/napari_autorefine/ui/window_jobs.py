"""Jobs in a thread of the window's process, for who cannot or will not start another one; they end with the window.

The thread is napari's: it is listed among napari's tasks, and napari waits for it when it is closed. All else is as for
a job in a process of its own: the same state folder, the same events, orders obeyed between two events.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from napari.qt.threading import create_worker
from pydantic import BaseModel

from napari_autorefine.errors import InputError
from napari_autorefine.jobs import JOBS
from napari_autorefine.jobs.detached import DetachedJob, begin
from napari_autorefine.jobs.detached_run import Cancelled, run_job
from napari_autorefine.jobs.job_folder import HEARTBEAT_S, JobFolder
from napari_autorefine.params import make_params
from napari_autorefine.ui.thread_manners import beside_the_window, start_worker

_workers: dict[Path, Any] = {}


def start_in_window(job: str, params: BaseModel | Mapping[str, Any], workdir: str | Path) -> DetachedJob:
    """Start a job in a thread of this process; the working folder of the process is the project's until it ends.

    Where the number of threads is not given, one core is left to the window.

    Raises
    ------
    InputError
        As for a job in a process of its own, or there is one in this window already.
    """
    if _workers:
        raise InputError(
            "One job at a time can run in this window; wait for its end, or untick 'Run in this window' under Running."
        )
    known = JOBS[job].params().model_fields if job in JOBS else {}
    given = params.model_dump(exclude_unset=True) if isinstance(params, BaseModel) else dict(params)
    if "threads" in known and not given.get("threads"):
        given["threads"] = max(1, (os.cpu_count() or 2) - 1)
    checked = make_params(JOBS[job].params(), given) if known else params
    folder = begin(job, checked, workdir, launch=lambda *_: os.getpid(), in_window=True)
    beat = _Beat(folder)
    worker = create_worker(_run, folder, beat, _start_thread=False)
    beat.worker = worker
    worker.finished.connect(partial(_ended, folder.path, Path.cwd()))
    _workers[folder.path] = worker
    os.chdir(workdir)
    start_worker(worker)
    return DetachedJob(folder)


def _run(folder: JobFolder, beat: _Beat) -> None:
    with beside_the_window():
        run_job(folder, at_event=beat)


def _ended(path: Path, before: Path) -> None:
    """Put things back, in the main thread."""
    _workers.pop(path, None)
    os.chdir(before)


class _Beat:
    """Says at every event that the job is alive, and ends it when napari asks its threads to end."""

    def __init__(self, folder: JobFolder) -> None:
        self.worker: Any = None
        self._folder = folder
        self._next = 0.0

    def __call__(self) -> None:
        if self.worker.abort_requested:
            raise Cancelled
        now = time.monotonic()
        if now > self._next:
            self._next = now + HEARTBEAT_S
            self._folder.beat()
