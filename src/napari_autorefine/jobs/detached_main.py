"""The process of a detached job: ``python -m napari_autorefine.jobs.detached_main FOLDER``."""

from __future__ import annotations

import _thread
import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import psutil

from napari_autorefine.events import Event, Finished, Progress
from napari_autorefine.jobs import JOBS
from napari_autorefine.jobs.failures import failure_details, failure_text
from napari_autorefine.jobs.job_events import JobEnded, JobEvent, StateChanged, TimedEvent, to_line, without_arrays
from napari_autorefine.jobs.job_folder import HEARTBEAT_S, JobFolder, JobInfo, JobStatus
from napari_autorefine.params import make_params

_NICE = 10
_AUTOGROUP = Path("/proc/self/autogroup")
_POLL_S = 0.2
_PROGRESS_S, _PROGRESS_STEP, _PROGRESS_LONGEST_S = 0.2, 0.005, 5.0
_INTERRUPT_AFTER_S, _GIVE_UP_AFTER_S = 3.0, 60.0


def main(argv: list[str] | None = None) -> int:
    """Run the job of a state folder to its end; return 0 when it finished."""
    folder = JobFolder((sys.argv[1:] if argv is None else argv)[0])
    faulthandler.enable()
    _be_polite()
    signal.signal(signal.SIGTERM, _interrupt_once)
    watchdog = _Watchdog(folder)
    watchdog.start()
    try:
        with open(folder.events, "a", encoding="utf-8") as file:
            return _run(folder, folder.info(), _Writer(file), watchdog)
    finally:
        watchdog.stop()


def _run(folder: JobFolder, info: JobInfo, writer: _Writer, watchdog: _Watchdog) -> int:
    events: Iterator[Event] | None = None
    try:
        job = JOBS[info.job]
        events = job.function()(make_params(job.params(), dict(info.parameters)))
        folder.write_state(JobStatus(state="running"))
        text = _follow(folder, info, writer, events)
        status = JobStatus(state="finished", text=text)
    except _Cancelled:
        watchdog.ending = True
        status = JobStatus(state="cancelled", text=_cancelled_text(events))
    except KeyboardInterrupt as stop:
        watchdog.ending = True
        status = JobStatus(state="cancelled", text=_cancelled_text(events, *stop.args))
    except BaseException as error:
        sys.stderr.write(failure_details(error))
        status = JobStatus(state="failed", text=failure_text(error), details=failure_details(error))
    finally:
        _close(events)
    writer.write(JobEnded(state=status.state, text=status.text, details=status.details))
    folder.write_state(status)
    return 0 if status.state == "finished" else 1


class _Cancelled(Exception):
    """The order to cancel was found between two events."""


def _follow(folder: JobFolder, info: JobInfo, writer: _Writer, events: Iterator[Event]) -> str:
    """Write every event and obey orders in between; return the last sentence of the job."""
    text = ""
    for event in events:
        writer.write(without_arrays(event, info.output))
        if isinstance(event, Finished):
            text = event.text
        _obey(folder, writer)
    return text


def _obey(folder: JobFolder, writer: _Writer) -> None:
    """Wait while the job is paused; raise when it is to be cancelled."""
    is_paused = False
    while (word := folder.ordered()) == "pause":
        if not is_paused:
            is_paused = True
            folder.write_state(JobStatus(state="paused"))
            writer.write(StateChanged(state="paused"))
        time.sleep(_POLL_S)
    if word == "cancel":
        raise _Cancelled
    if is_paused:
        folder.write_state(JobStatus(state="running"))
        writer.write(StateChanged(state="running"))


def _cancelled_text(events: Iterator[Event] | None, *words: str) -> str:
    """Interrupt the job as Ctrl-C does, and return what it says about going on."""
    throw: Callable[..., Any] | None = getattr(events, "throw", None)
    if throw is not None and not words:
        try:
            throw(KeyboardInterrupt())
        except KeyboardInterrupt as stop:
            words = stop.args
        except BaseException as error:
            words = (failure_text(error),)
    return " ".join(["Cancelled.", *map(str, words)])


def _close(events: Iterator[Event] | None) -> None:
    close: Callable[[], None] | None = getattr(events, "close", None)
    if close is not None:
        with contextlib.suppress(Exception):
            close()


class _Writer:
    """Appends events; of progress only what a bar can show."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._last = Progress(stage="", done=0, total=0)
        self._last_time = 0.0

    def write(self, event: JobEvent) -> None:
        """Append one event as a complete line."""
        now = time.time()
        if isinstance(event, Progress):
            if not self._is_news(event, now - self._last_time):
                return
            self._last, self._last_time = event, now
        self._file.write(to_line(TimedEvent(time=now, event=event)) + "\n")
        self._file.flush()

    def _is_news(self, event: Progress, elapsed_s: float) -> bool:
        last = self._last
        if (event.stage, event.iteration, event.total) != (last.stage, last.iteration, last.total):
            return True
        if event.done >= event.total > last.done or elapsed_s > _PROGRESS_LONGEST_S:
            return True
        return elapsed_s > _PROGRESS_S and event.done - last.done >= _PROGRESS_STEP * event.total


class _Watchdog(threading.Thread):
    """Says that the job is alive; interrupts it when it does not come to an order to cancel by itself."""

    def __init__(self, folder: JobFolder) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.ending = False
        self._folder = folder
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self.join(timeout=HEARTBEAT_S)

    def run(self) -> None:
        """Look after the job until ``stop``."""
        cancelled_at: float | None = None
        is_interrupted = False
        next_beat = 0.0
        while not self._stopped.wait(_POLL_S):
            now = time.monotonic()
            if now >= next_beat:
                next_beat = now + HEARTBEAT_S
                with contextlib.suppress(OSError):
                    self._folder.beat()
            if self._folder.ordered() != "cancel":
                continue
            cancelled_at = now if cancelled_at is None else cancelled_at
            if now - cancelled_at > _INTERRUPT_AFTER_S and not (self.ending or is_interrupted):
                is_interrupted = True
                _interrupt_main_thread()
            if now - cancelled_at > _GIVE_UP_AFTER_S:
                self._folder.write_state(JobStatus(state="cancelled", text="Cancelled; the process had to be ended."))
                os._exit(1)


def _interrupt_once(*_: object) -> None:
    """Answer a request to end as Ctrl-C would, and let nothing disturb the clearing up that follows."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _interrupt_main_thread() -> None:
    if hasattr(signal, "pthread_kill"):
        identity = threading.main_thread().ident
        assert identity is not None
        signal.pthread_kill(identity, signal.SIGTERM)
    else:
        _thread.interrupt_main()


def _be_polite() -> None:
    """Leave the window in front when all cores are busy.

    Linux shares processors between sessions first, whatever the niceness of the processes in them: a job of its own
    session needs a nice session (``man 7 sched``, autogroup).
    """
    with contextlib.suppress(psutil.Error, OSError, AttributeError):
        psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS if sys.platform == "win32" else _NICE)
    with contextlib.suppress(OSError):
        if _AUTOGROUP.exists() and os.getsid(0) == os.getpid():
            _AUTOGROUP.write_text(str(_NICE), encoding="ascii")


if __name__ == "__main__":
    sys.exit(main())
