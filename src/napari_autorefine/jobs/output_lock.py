"""One job at a time per output: a file beside it says which process writes there, and is gone when the job is.

``run`` is locked by ``.run.lock``, a folder ``out/`` by ``.out.lock`` beside it. The file holds process, its start,
computer and job as JSON. A process that is gone leaves a file that the next job takes over: on the same computer one
looks for the process, on another one the file must not have been touched for a while (its job touches it). Locks of
the kernel are not used because network file systems differ in what they make of them.
"""

from __future__ import annotations

import functools
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
from pydantic import BaseModel

from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Message
from napari_autorefine.jobs.job_folder import output_of_params, process_start, state_folder
from napari_autorefine.jobs.memory import give_back_memory, share_memory_areas

_TOUCH_S, _SILENT_S, _CLOCK_S = 10.0, 180.0, 5.0
_TRIES = 5
_CONTINUED = re.compile(r"_ct\d+$")

Params = TypeVar("Params", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who writes to an output; times in seconds since 1970."""

    job: str
    pid: int
    process_started: float | None
    started: float
    host: str = field(default_factory=socket.gethostname)

    def is_alive(self, silence_s: float) -> bool:
        """Whether the process still runs; ``silence_s`` since it last touched its file."""
        if self.host != socket.gethostname():
            return silence_s < _SILENT_S
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            # the clock may have been set since, which moves the start times of processes
            started = process.create_time()
        except psutil.Error:
            return False
        return (
            self.process_started is None or abs(started - self.process_started) < _CLOCK_S or silence_s < 2 * _TOUCH_S
        )

    def words(self) -> str:
        """Return who it is in words."""
        place = "" if self.host == socket.gethostname() else f" on {self.host}"
        since = time.strftime("%d %b %H:%M", time.localtime(self.started))
        return f"{self.job} (process {self.pid}{place}, since {since})"


def lock_path(output: str | Path) -> Path:
    """Return the file that locks an output: a file, the first part of file names, or a folder."""
    path = Path(str(output).rstrip("/\\") or output).absolute()
    if not path.name:  # the root of a disc
        path = path / "output"
    path = path.with_name(_CONTINUED.sub("", path.name) or path.name)
    return state_folder(path).with_name(state_folder(path).name.removesuffix("_job") + ".lock")


def check_unlocked(output: str | Path) -> None:
    """Raise an InputError when a process that is alive writes to an output."""
    path = lock_path(output)
    holder = _read(path)
    if holder is not None and holder.is_alive(_silence_s(path)):
        raise _refusal(output, holder, path)


def one_at_a_time(function: Callable[[Params], Iterator[Event]]) -> Callable[[Params], Iterator[Event]]:
    """Let a job hold the lock of its output from its first event to its end, and give memory back then."""

    @functools.wraps(function)
    def locked(params: Params) -> Iterator[Event]:
        output = _output(params)
        share_memory_areas()
        try:
            if output is None:
                yield from function(params)
                return
            with OutputLock(output, function.__name__) as lock:
                if lock.gone is not None:
                    text = f"{output}: {lock.gone.words()} is gone without having ended; its place is taken."
                    yield Message(text=text, level="warning")
                yield from function(params)
        finally:
            give_back_memory()

    return locked


def _output(params: BaseModel) -> str | None:
    """Return the output of a job, of one that goes on that of the run; None when the parameters name none."""
    with suppress(InputError):
        return output_of_params(params)
    return None


class OutputLock:
    """The lock of one output as a context manager; ``gone`` is the dead holder that it was taken from, or None.

    Where the file cannot be written the job cannot write either and says so itself: there nothing is locked. Folders
    that had to be made for it are removed again when nothing else has come into them.
    """

    def __init__(self, output: str, job: str) -> None:
        self._output = output
        self._path = lock_path(output).absolute()
        self._me = Holder(job=job, pid=os.getpid(), process_started=process_start(os.getpid()), started=time.time())
        self._made: list[Path] = []
        self._is_held = False
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.gone: Holder | None = None

    def __enter__(self) -> OutputLock:
        try:
            self._make_folders()
            self._is_held = self._take()
        except OSError:
            self._remove_folders()
            return self
        except BaseException:
            self._remove_folders()
            raise
        self._thread = threading.Thread(target=self._touch, name="output lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if self._is_held and _read(self._path) == self._me:
            with suppress(OSError):
                self._path.unlink()
        self._remove_folders()

    def _take(self) -> bool:
        """Write the file; raise when a process that is alive has it."""
        for _ in range(_TRIES):
            if self._write():
                return True
            holder = _read(self._path)
            if holder is not None and holder.is_alive(_silence_s(self._path)):
                raise _refusal(self._output, holder, self._path)
            if self._put_aside(holder):
                self.gone = holder
        raise InputError(f"{self._path} cannot be taken over from a job that is gone; remove it and try again.")

    def _write(self) -> bool:
        """Write the file complete or not at all; tell whether it was not there before."""
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}.{threading.get_ident()}")
        text = json.dumps(asdict(self._me)) + "\n"
        try:
            temporary.write_text(text, encoding="utf-8")
            try:
                os.link(temporary, self._path)
            except FileExistsError:
                return False
            except OSError:  # a file system without links
                return self._write_where_it_lies(text)
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _write_where_it_lies(self, text: str) -> bool:
        try:
            with open(self._path, "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            return False
        return True

    def _put_aside(self, holder: Holder | None) -> bool:
        """Remove the file of a holder that is gone; what another process has put there meanwhile stays."""
        aside = self._path.with_name(f"{self._path.name}.{os.getpid()}.gone")
        try:
            os.replace(self._path, aside)
        except FileNotFoundError:
            return False
        is_the_same = _read(aside) == holder
        if not is_the_same:
            with suppress(OSError):
                os.link(aside, self._path)
        aside.unlink(missing_ok=True)
        return is_the_same and holder is not None

    def _touch(self) -> None:
        """Say again and again that the job is alive."""
        while not self._ended.wait(_TOUCH_S):
            with suppress(OSError):
                os.utime(self._path)

    def _make_folders(self) -> None:
        missing = [folder for folder in self._path.parents if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            self._made.append(folder)

    def _remove_folders(self) -> None:
        while self._made:
            with suppress(OSError):
                self._made.pop().rmdir()


def _read(path: Path) -> Holder | None:
    """Return who holds a lock; None without one, or for a damaged file."""
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        holder = Holder(**values)
        is_sound = isinstance(holder.pid, int) and isinstance(holder.host, str) and float(holder.started) >= 0.0
        return holder if is_sound and isinstance(holder.process_started, float | int | None) else None
    except (OSError, ValueError, TypeError):
        return None


def _silence_s(path: Path) -> float:
    """Return the time since a lock was touched, by the clock of its file system where that can be asked."""
    probe = path.with_name(f"{path.name}.{os.getpid()}.now")
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        now = time.time()
    try:
        return now - path.stat().st_mtime
    except OSError:
        return float("inf")


def _refusal(output: str | Path, holder: Holder, path: Path) -> InputError:
    remedy = "" if holder.host == socket.gethostname() else f", remove {path} if that computer has lost it"
    return InputError(f"{output} is being written by {holder.words()}; wait or end it{remedy}, or give another --o.")
