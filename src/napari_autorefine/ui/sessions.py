"""Jobs as the window sees them: followed by a timer, told by signals, wherever they run.

How to follow jobs from another dock::

    from napari_autorefine.ui.sessions import sessions

    sessions.added.connect(follow)             # every job that is started or attached, ``follow(session)``
    for session in sessions.running():         # those that are there already
        follow(session)

    def follow(session):
        for iteration in session.iterations:   # what has been before: the same events as below
            show(iteration)
        session.iteration_done.connect(show)   # IterationWritten: figures, FSC, ``files`` by kind
        session.progressed.connect(bar)        # Progress of one stage, once a second and at every new stage
        session.messaged.connect(log)          # TimedEvent with a Message or a Finished
        session.state_changed.connect(state)   # "starting", "running", "paused", and how it ended
        session.finished.connect(ended)        # JobEnded; ``session.outputs`` has the files by kind

Signals are emitted in the main thread. Paths in ``files`` and ``outputs`` are absolute. ``session.output`` is the
absolute output prefix, ``session.name`` the name of the job (``"refine"``).
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from psygnal import Signal
from pydantic import BaseModel
from qtpy.QtCore import QTimer

from napari_autorefine.errors import InputError
from napari_autorefine.events import Finished, Message, Progress
from napari_autorefine.jobs.detached import DetachedJob, attach, reap, start
from napari_autorefine.jobs.job_events import IterationWritten, JobEnded, State, StateChanged, TimedEvent
from napari_autorefine.jobs.job_folder import JobFolder, folders_in, state_folder
from napari_autorefine.ui.thread_manners import collect_in_this_thread, hold_garbage, release_garbage
from napari_autorefine.ui.window_jobs import start_in_window

POLL_MS = 200
_STATUS_S = 1.0
_PROGRESS_S = 1.0
"""Seconds between two of progress in one stage: what shows it repaints the whole window, as the canvas is in it."""


class JobSession:
    """One job that is followed, from its first event on.

    Attributes
    ----------
    job : the job's process
    state : how it is doing
    iterations : what ``iteration_done`` has told so far
    log : messages so far, the last words included
    outputs : files by kind, once the job has finished
    progress : last progress of the present stage
    moment : when the last event happened that has been read
    ended : how the job ended, None before
    """

    progressed = Signal(Progress)
    messaged = Signal(TimedEvent)
    iteration_done = Signal(IterationWritten)
    state_changed = Signal(str)
    finished = Signal(JobEnded)

    def __init__(self, job: DetachedJob) -> None:
        self.job = job
        self.state: State = "starting"
        self.iterations: list[IterationWritten] = []
        self.log: list[TimedEvent] = []
        self.outputs: dict[str, str] = {}
        self.progress: Progress | None = None
        self.moment = time.time()
        self.ended: JobEnded | None = None
        self._position = 0
        self._stage_began = time.time()
        self._asked = 0.0
        self._told: Progress | None = None
        self._told_at = -_PROGRESS_S

    @property
    def name(self) -> str:
        """Name of the job."""
        return self.job.info.job

    @property
    def output(self) -> Path:
        """Absolute path of the output, for a refinement the beginning of its files' names."""
        return self.job.output

    @property
    def is_over(self) -> bool:
        """Whether the job has ended."""
        return self.ended is not None

    @property
    def seconds_left(self) -> float | None:
        """Time left in the present stage, from what it has taken so far."""
        progress = self.progress
        if progress is None or progress.total <= 0 or self.state != "running":
            return None
        if progress.seconds_left is not None:
            return progress.seconds_left
        fraction, elapsed_s = progress.done / progress.total, time.time() - self._stage_began
        return None if fraction <= 0 or elapsed_s < 1 else elapsed_s * (1 - fraction) / fraction

    def pause(self) -> None:
        """Let the job wait at its next event."""
        self.job.pause()

    def resume(self) -> None:
        """Let a paused job go on."""
        self.job.resume()

    def cancel(self) -> None:
        """End the job; its process is interrupted and killed when it is asked again."""
        self.job.cancel()

    def poll(self) -> None:
        """Read what is new and emit the signals for it."""
        if self.is_over:
            return
        events, self._position = self.job.events(self._position)
        for timed in events:
            self._take(timed)
        self._tell_progress()
        now = time.monotonic()
        if not self.is_over and (events or now - self._asked > _STATUS_S):
            self._asked = now
            self._look()

    def _take(self, timed: TimedEvent) -> None:
        event, self.moment = timed.event, timed.time
        if isinstance(event, Progress):
            self._progress(event, timed.time)
        elif isinstance(event, IterationWritten):
            event = replace(event, files=self._absolute(event.files))
            self.iterations.append(event)
            self.iteration_done.emit(event)
        elif isinstance(event, StateChanged):
            self._set_state(event.state)
        elif isinstance(event, JobEnded):
            self._end(event, timed.time)
        else:
            if isinstance(event, Finished):
                self.outputs = self._absolute(event.outputs)
            self.log.append(timed)
            self.messaged.emit(timed)

    def _progress(self, event: Progress, moment: float) -> None:
        last = self.progress
        if last is None or (last.stage, last.iteration) != (event.stage, event.iteration):
            self._stage_began = moment
        self.progress = event
        self._set_state("running")
        self._tell_progress()

    def _tell_progress(self) -> None:
        """Emit the newest progress when it is of another stage, the last of its stage, or due."""
        event, told, now = self.progress, self._told, time.monotonic()
        if event is None or event is told:
            return
        is_new = told is None or (told.stage, told.iteration) != (event.stage, event.iteration)
        if is_new or event.done >= event.total or now - self._told_at >= _PROGRESS_S:
            self._told, self._told_at = event, now
            self.progressed.emit(event)

    def _look(self) -> None:
        """Learn from the state folder what no event tells: that the process is gone."""
        status = self.job.status()
        if not status.is_over:
            if status.state != "starting":
                self._set_state(status.state)
            return
        events, self._position = self.job.events(self._position)
        for timed in events:
            self._take(timed)
        if not self.is_over:
            self._end(JobEnded(state=status.state, text=status.text, details=status.details), time.time())

    def _end(self, event: JobEnded, moment: float) -> None:
        self.ended = event
        if event.state != "finished":
            is_wanted = event.state == "cancelled"
            timed = TimedEvent(time=moment, event=Message(text=event.text, level="warning" if is_wanted else "error"))
            self.log.append(timed)
            self.messaged.emit(timed)
        self._set_state(event.state)
        self.finished.emit(event)

    def _set_state(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self.state_changed.emit(state)

    def _absolute(self, files: dict[str, str]) -> dict[str, str]:
        return {kind: str(Path(self.job.info.workdir, path)) for kind, path in files.items()}


class Sessions:
    """All jobs that this window follows; ``added`` is emitted for each, before its first event is read."""

    added = Signal(JobSession)

    def __init__(self) -> None:
        self._sessions: dict[Path, JobSession] = {}
        self._timer: QTimer | None = None

    def start(self, job: str, params: BaseModel, workdir: Path, *, in_window: bool = False) -> JobSession:
        """Start a job and follow it: in a process of its own, or in a thread of this one.

        Raises
        ------
        InputError
            It cannot be started; nothing has been written then.
        """
        return self._follow((start_in_window if in_window else start)(job, params, workdir))

    def attach(self, place: str | Path) -> JobSession:
        """Follow the job of a state folder, an output or a job's folder; one that is followed already is returned.

        Raises
        ------
        InputError
            There is none.
        """
        job = attach(place)
        known = self._sessions.get(job.folder.path.resolve())
        if known is not None and known.job.info.started == job.info.started:
            return known
        return self._follow(job)

    def find(self, output: Path) -> JobSession | None:
        """Return the session of a job that is running with this output, attached when it was not; None without one."""
        try:
            folder = JobFolder(state_folder(output))
            if not folder.exists() or folder.status().is_over:
                return None
            return self.attach(folder.path)
        except (InputError, OSError, ValueError):
            return None

    def running(self) -> list[JobSession]:
        """Return the sessions of jobs that have not ended."""
        return [session for session in self._sessions.values() if not session.is_over]

    @staticmethod
    def running_in(project: Path) -> list[DetachedJob]:
        """Return the jobs that run in the folders of a project, whoever started them."""
        places = [project, *(path for path in project.glob("*") if path.is_dir()), *project.glob("*/job*")]
        found = []
        for place in places:
            for folder in folders_in(place):
                try:
                    job = DetachedJob(folder)
                    if not job.status().is_over:
                        found.append(job)
                except InputError:
                    continue
        return found

    def forget(self) -> None:
        """Stop following all jobs; they go on."""
        self._sessions.clear()
        self._run_timer()

    def poll(self) -> None:
        """Read the news of all jobs."""
        for session in list(self._sessions.values()):
            session.poll()
        self._run_timer()

    def _follow(self, job: DetachedJob) -> JobSession:
        collect_in_this_thread()
        session = JobSession(job)
        self._sessions[job.folder.path.resolve()] = session
        self.added.emit(session)
        self._run_timer()
        return session

    def _run_timer(self) -> None:
        if self._timer is None:
            self._timer = QTimer()
            self._timer.setInterval(POLL_MS)
            self._timer.timeout.connect(self.poll)
        is_busy = bool(self.running())
        (hold_garbage if is_busy else release_garbage)(self)
        is_needed = is_busy or (bool(self._sessions) and reap() > 0)  # a process lives a little longer than its job
        if not is_needed:
            self._timer.stop()
        elif not self._timer.isActive():
            self._timer.start()


sessions = Sessions()
"""The sessions of this window."""
