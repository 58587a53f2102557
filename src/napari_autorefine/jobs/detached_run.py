"""A job followed from within: its events become lines of its state folder, orders are obeyed in between.

The process of a detached job runs this in its main thread, a window that keeps a job to itself in a thread.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from napari_autorefine.events import Event, Finished, Progress
from napari_autorefine.jobs import JOBS
from napari_autorefine.jobs.failures import failure_details, failure_text
from napari_autorefine.jobs.job_events import JobEnded, JobEvent, StateChanged, TimedEvent, to_line, without_arrays
from napari_autorefine.jobs.job_folder import JobFolder, JobInfo, JobStatus
from napari_autorefine.params import make_params

POLL_S = 0.2
_PROGRESS_S, _PROGRESS_STEP, _PROGRESS_LONGEST_S = 0.2, 0.005, 5.0


class Cancelled(Exception):
    """The order to cancel was found between two events."""


def run_job(
    folder: JobFolder,
    *,
    at_event: Callable[[], None] = lambda: None,
    on_end: Callable[[], None] = lambda: None,
) -> JobStatus:
    """Run the job of a state folder to its end; no error leaves this function.

    Parameters
    ----------
    folder : with the job's information
    at_event : called after every event and while the job is paused; it may raise ``Cancelled``
    on_end : called when the job is being cancelled and begins to clear up

    Returns
    -------
    status : how the job ended, as written into the folder
    """
    with open(folder.events, "a", encoding="utf-8") as file:
        writer = EventWriter(file)
        status = _ended(folder, folder.info(), writer, at_event, on_end)
        writer.write(JobEnded(state=status.state, text=status.text, details=status.details))
        folder.write_state(status)
    return status


def _ended(
    folder: JobFolder,
    info: JobInfo,
    writer: EventWriter,
    at_event: Callable[[], None],
    on_end: Callable[[], None],
) -> JobStatus:
    events: Iterator[Event] | None = None
    try:
        job = JOBS[info.job]
        events = job.function()(make_params(job.params(), dict(info.parameters)))
        folder.write_state(JobStatus(state="running"))
        return JobStatus(state="finished", text=_follow(folder, info, writer, events, at_event))
    except Cancelled:
        on_end()
        return JobStatus(state="cancelled", text=_cancelled_text(events))
    except KeyboardInterrupt as stop:
        on_end()
        return JobStatus(state="cancelled", text=_cancelled_text(events, *stop.args))
    except BaseException as error:
        sys.stderr.write(failure_details(error))
        return JobStatus(state="failed", text=failure_text(error), details=failure_details(error))
    finally:
        _close(events)


def _follow(
    folder: JobFolder, info: JobInfo, writer: EventWriter, events: Iterator[Event], at_event: Callable[[], None]
) -> str:
    """Write every event and obey orders in between; return the last sentence of the job."""
    text = ""
    for event in events:
        writer.write(without_arrays(event, info.output))
        if isinstance(event, Finished):
            text = event.text
        _obey(folder, writer, at_event)
    return text


def _obey(folder: JobFolder, writer: EventWriter, at_event: Callable[[], None]) -> None:
    """Wait while the job is paused; raise when it is to be cancelled."""
    at_event()
    is_paused = False
    while (word := folder.ordered()) == "pause":
        if not is_paused:
            is_paused = True
            folder.write_state(JobStatus(state="paused"))
            writer.write(StateChanged(state="paused"))
        time.sleep(POLL_S)
        at_event()
    if word == "cancel":
        raise Cancelled
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


class EventWriter:
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
