"""Folder in which a job of its own process keeps its state, so that any other process can find and follow it."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel

from napari_autorefine.errors import InputError
from napari_autorefine.io.files import replacing, write_error
from napari_autorefine.io.run_integrity import prefix_to_go_on
from napari_autorefine.jobs.job_events import ENDED, State
from napari_autorefine.params import describe

HEARTBEAT_S = 2.0
_SILENT_S = 30.0
_CLOCK_S = 5.0
_SUFFIXES = frozenset({".mrc", ".mrcs", ".map", ".star"})
_LOG_LINES = 12
_CONTINUED = re.compile(r"_ct\d+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInfo:
    """What was started: ``output`` as the job's parameters name it, times in seconds since 1970, None until known.

    ``in_window`` says that the process is that of a window, which other things depend on.
    """

    job: str
    output: str
    parameters: Mapping[str, Any]
    command: str
    workdir: str
    version: str
    started: float
    host: str = field(default_factory=socket.gethostname)
    pid: int | None = None
    process_started: float | None = None
    in_window: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """State of a job; a sentence and details once it has ended."""

    state: State
    text: str = ""
    details: str = ""

    @property
    def is_over(self) -> bool:
        """Whether the job has ended in any way."""
        return self.state in ENDED


def output_of_params(params: BaseModel) -> str:
    """Return the output that parameters name: a file, the first part of file names or a folder.

    Raises
    ------
    InputError
        The job writes nothing, or the name is missing.
    """
    for record in describe(type(params)):
        if record.param.file_kind == "write" or "o" in record.flags:
            value = getattr(params, record.name)
            if value:
                return str(value)
    continued = getattr(params, "continue_from", None)
    if continued:
        return _CONTINUED.sub("", str(prefix_to_go_on(str(continued))))
    raise InputError("The output has no name; give it with --o.")


def state_folder(output: str | Path) -> Path:
    """Return ``<output folder>/.<prefix>_job`` for an output."""
    path = Path(output)
    name = path.stem if path.suffix.lower() in _SUFFIXES else path.name
    return path.with_name(f".{name}_job")


class JobFolder:
    """The files of a job's state: ``job.json``, ``state.json``, ``events.jsonl``, ``control``, ``log.txt``."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.events = self.path / "events.jsonl"
        self.log = self.path / "log.txt"
        self._info = self.path / "job.json"
        self._state = self.path / "state.json"
        self._control = self.path / "control"
        self._heartbeat = self.path / "heartbeat"

    def exists(self) -> bool:
        """Whether a job was started here."""
        return self._info.is_file()

    def clear(self) -> None:
        """Make the folder, and remove what an earlier job of this output left in it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for path in (self._info, self._state, self._control, self._heartbeat, self.events, self.log):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise write_error(self.path, error) from error

    def write_info(self, info: JobInfo) -> None:
        """Write what was started."""
        _write_json(self._info, asdict(info))

    def info(self) -> JobInfo:
        """Read what was started.

        Raises
        ------
        InputError
            No job was started here, or its file is damaged.
        """
        try:
            return JobInfo(**json.loads(self._info.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{self.path} does not hold the state of a job ({error}).") from error

    def write_state(self, status: JobStatus) -> None:
        """Write how the job is doing."""
        _write_json(self._state, asdict(status))

    def order(self, word: str) -> None:
        """Leave an order for the job: pause, resume or cancel."""
        try:
            with replacing(self._control) as temporary:
                temporary.write_text(word, encoding="utf-8")
        except InputError:
            if self.path.is_dir():
                raise

    def ordered(self) -> str:
        """Return the last order, or nothing."""
        try:
            return self._control.read_text(encoding="utf-8")
        except OSError:
            return ""

    def beat(self) -> None:
        """Say that the job is alive."""
        self._heartbeat.touch()

    def status(self) -> JobStatus:
        """Return how the job is doing; a process that is gone without a last word has died."""
        written = self._written()
        if written is not None and written.is_over:
            return written
        if self._is_alive(self.info()):
            return written or JobStatus(state="starting")
        written = self._written()  # it may have ended between the two looks
        if written is not None and written.is_over:
            return written
        if self.ordered() == "cancel":
            return JobStatus(state="cancelled", text="Cancelled.")
        return JobStatus(
            state="died",
            text="The job is gone without a last word: it was killed, the computer was restarted or ran out of memory.",
            details=self.log_tail(),
        )

    def log_tail(self, n_line: int = _LOG_LINES) -> str:
        """Return the last lines of the job's log."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-n_line:])

    def _written(self) -> JobStatus | None:
        try:
            return JobStatus(**json.loads(self._state.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _is_alive(self, info: JobInfo) -> bool:
        silence = self._silence_s()
        if info.host != socket.gethostname():
            return silence < _SILENT_S
        if info.pid is None or info.process_started is None:
            return time.time() - info.started < _SILENT_S
        try:
            process = psutil.Process(info.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            # the clock may have been set since, which moves the start times of processes
            return abs(process.create_time() - info.process_started) < _CLOCK_S or silence < _CLOCK_S
        except psutil.Error:
            return False

    def _silence_s(self) -> float:
        try:
            return time.time() - self._heartbeat.stat().st_mtime
        except OSError:
            return float("inf")


def find_folder(place: str | Path) -> JobFolder:
    """Return the state folder that ``place`` means: itself, that of an output, or the newest in a job's folder.

    Raises
    ------
    InputError
        There is none.
    """
    path = Path(place)
    for candidate in (path, state_folder(path)):
        if JobFolder(candidate).exists():
            return JobFolder(candidate)
    inside = folders_in(path)
    if inside:
        return inside[0]
    raise InputError(f"No job was started as {place}; choose the folder of its output, or run it.")


def folders_in(folder: str | Path) -> tuple[JobFolder, ...]:
    """Return the states of jobs whose output is in a folder, the newest first."""
    found = [JobFolder(path) for path in Path(folder).glob(".*_job") if JobFolder(path).exists()]
    return tuple(sorted(found, key=lambda one: (one.path / "job.json").stat().st_mtime, reverse=True))


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1, default=str) + "\n", encoding="utf-8")


def process_start(pid: int) -> float | None:
    """Return when a process was started, or None when it is gone."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def this_process() -> tuple[int, float | None]:
    """Return number and start of the running process."""
    return os.getpid(), process_start(os.getpid())
