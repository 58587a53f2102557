"""Jobs in processes of their own: they outlive the window that started them, and any window can follow them again.

``start`` runs ``python -m napari_autorefine.jobs.detached_main FOLDER``, which leaves its events in the state folder
beside the output (``job_folder.py``). Orders go the other way through a file that the job reads at every event.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel

from napari_autorefine.errors import InputError
from napari_autorefine.io.files import write_error
from napari_autorefine.io.run_tables import software_version
from napari_autorefine.jobs import JOBS
from napari_autorefine.jobs.job_events import TimedEvent, from_line
from napari_autorefine.jobs.job_folder import (
    JobFolder,
    JobInfo,
    JobStatus,
    find_folder,
    output_of_params,
    process_start,
    state_folder,
)
from napari_autorefine.jobs.output_lock import check_unlocked
from napari_autorefine.params import command_line, describe, make_params

_STALE_LOCK_S = 60.0
_children: list[subprocess.Popen[bytes]] = []


class DetachedJob:
    """A job in a process of its own, running or ended, as seen from outside."""

    def __init__(self, folder: JobFolder) -> None:
        self.folder = folder
        self.info = folder.info()
        self._cancelled = 0

    @property
    def output(self) -> Path:
        """Output of the job as an absolute path."""
        return Path(self.info.workdir, self.info.output)

    def events(self, since: int = 0) -> tuple[tuple[TimedEvent, ...], int]:
        """Return the events after a position, and the position to ask from next time; 0 is the beginning."""
        try:
            with open(self.folder.events, "rb") as file:
                file.seek(since)
                text = file.read()
        except OSError:
            return (), since
        complete = text[: text.rfind(b"\n") + 1]
        lines = complete.decode("utf-8", "replace").splitlines()
        found = (from_line(line) for line in lines)
        return tuple(event for event in found if event is not None), since + len(complete)

    def status(self) -> JobStatus:
        """Return how the job is doing."""
        reap()
        return self.folder.status()

    def pause(self) -> None:
        """Ask the job to wait at its next event."""
        self.folder.order("pause")

    def resume(self) -> None:
        """Let a paused job go on."""
        self.folder.order("resume")

    def cancel(self) -> None:
        """Ask the job to end and to leave no incomplete files; it interrupts itself when it does not come to that.

        Asked a second time, the process is interrupted from outside; a third time, it is killed. A window is not.
        """
        self.folder.order("cancel")
        pid, started = self.info.pid, self.info.process_started
        is_alone = not self.info.in_window
        if self._cancelled and is_alone and pid is not None and process_start(pid) == started:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                (process.terminate if self._cancelled == 1 else process.kill)()
        self._cancelled += 1

    def wait(self, timeout_s: float) -> JobStatus:
        """Wait until the job has ended, at most some time; return its state then."""
        end = time.monotonic() + timeout_s
        while not (status := self.status()).is_over and time.monotonic() < end:
            time.sleep(0.05)
        return status


def start(job: str, params: BaseModel | Mapping[str, Any], workdir: str | Path) -> DetachedJob:
    """Start a job in a process of its own; relative paths are taken from ``workdir``.

    Raises
    ------
    InputError
        Parameters that cannot be used, an input that is missing, a folder that cannot be written, or a job that runs
        with the same output.
    """
    return DetachedJob(begin(job, params, workdir, launch=_launch))


def begin(
    job: str,
    params: BaseModel | Mapping[str, Any],
    workdir: str | Path,
    *,
    launch: Callable[[JobFolder, Path], int],
    in_window: bool = False,
) -> JobFolder:
    """Check a job, make its state folder and let ``launch`` (folder, working folder) return the process it runs in.

    Raises
    ------
    InputError
        As ``start``.
    """
    if job not in JOBS:
        raise InputError(f"There is no job {job!r}; the jobs are {', '.join(JOBS)}.")
    checked = params if isinstance(params, BaseModel) else make_params(JOBS[job].params(), dict(params))
    root = Path(workdir).resolve()
    if not root.is_dir():
        raise InputError(f"The project folder {root} does not exist.")
    check_inputs(checked, root)
    output = output_of_params(checked)
    folder = JobFolder(state_folder(root / output))
    with _starting(folder):
        refuse_second(folder)
        check_unlocked(root / output)
        folder.clear()
        info = JobInfo(
            job=job,
            output=output,
            parameters=checked.model_dump(mode="json", exclude_unset=True),
            command=command_line(job, checked),
            workdir=str(root),
            version=software_version(),
            started=time.time(),
            in_window=in_window,
        )
        folder.write_info(info)
        pid = launch(folder, root)
        folder.write_info(replace(info, pid=pid, process_started=process_start(pid)))
    return folder


def attach(place: str | Path) -> DetachedJob:
    """Return the job whose state is in a folder, whose output has this name, or the last one in a job's folder.

    Raises
    ------
    InputError
        There is none.
    """
    return DetachedJob(find_folder(place))


def check_inputs(params: BaseModel, workdir: Path) -> None:
    """Check that the files that parameters name as inputs are there."""
    for record in describe(type(params)):
        if record.param.file_kind != "read":
            continue
        value = getattr(params, record.name)
        for one in value if record.is_sequence else (value,):
            if one and not (workdir / one).exists() and not any(mark in str(one) for mark in "*?["):
                raise InputError(f"{record.param.label}: {one} does not exist in {workdir}.")


def refuse_second(folder: JobFolder) -> None:
    """Raise when a job with this output is running."""
    if not folder.exists():
        return
    running = DetachedJob(folder)
    if not running.status().is_over:
        when = time.strftime("%H:%M", time.localtime(running.info.started))
        raise InputError(
            f"A job that writes {running.info.output} is running since {when}; wait, cancel it or give another output."
        )


@contextlib.contextmanager
def _starting(folder: JobFolder) -> Iterator[None]:
    """Keep two processes from starting the same output at the same moment."""
    lock = folder.path.with_name(f"{folder.path.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder.path, error) from error
    try:
        with contextlib.suppress(FileNotFoundError):
            if time.time() - lock.stat().st_mtime > _STALE_LOCK_S:
                lock.unlink()
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
    except FileExistsError as error:
        raise InputError("A job with this output is being started just now; try again in a minute.") from error
    except OSError as error:
        raise write_error(folder.path, error) from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def reap() -> int:
    """Forget children that have ended, so that they do not look alive; return how many there still are."""
    _children[:] = [child for child in _children if child.poll() is None]
    return len(_children)


@atexit.register
def _leave_alone() -> None:
    """Let go of the jobs that run on when this process ends."""
    reap()
    for child in _children:
        child.returncode = 0  # or Popen warns of a child that nobody waited for


def _search_path() -> str:
    """Return PYTHONPATH for a process that starts in another folder; it finds this package wherever it was found."""
    given = [os.path.abspath(place) for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    return os.pathsep.join([*given, str(Path(__file__).resolve().parents[2])])


def _launch(folder: JobFolder, workdir: Path) -> int:
    """Start the process of a job; return its number."""
    child = _spawn(folder, workdir)
    reap()
    _children.append(child)
    return child.pid


def _spawn(folder: JobFolder, workdir: Path) -> subprocess.Popen[bytes]:
    """Run this module so that neither a closed window, nor Ctrl-C, nor a closed terminal ends it.

    A session of its own would do so everywhere, but Linux shares processors between sessions first (``man 7 sched``,
    autogroup): the window could not go before the job. There a group of processes has to do; it ignores SIGHUP.
    """
    options: dict[str, Any] = {"process_group": 0} if sys.platform == "linux" else {"start_new_session": True}
    if sys.platform == "win32":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
        options = {"creationflags": flags}
    command = [sys.executable, "-P", "-m", "napari_autorefine.jobs.detached_main", str(folder.path)]
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONUNBUFFERED": "1", "PYTHONPATH": _search_path()}
    with open(folder.log, "wb") as log:
        return subprocess.Popen(
            command,
            cwd=workdir,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            **options,
        )
