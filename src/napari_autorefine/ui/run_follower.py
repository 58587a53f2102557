"""A refinement from its first iteration on: files that are there, events of its job, files that others add."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from psygnal import Signal
from qtpy.QtCore import QTimer

from napari_autorefine.errors import InputError
from napari_autorefine.events import Message, Progress
from napari_autorefine.jobs.job_events import IterationWritten, JobEnded, TimedEvent
from napari_autorefine.jobs.report_read import RunFileList
from napari_autorefine.ui.latest_worker import Failure, LatestWorker
from napari_autorefine.ui.run_steps import (
    RunFacts,
    Step,
    complete_steps,
    files_of_run,
    read_facts,
    read_step,
    step_of_event,
)
from napari_autorefine.ui.run_words import step_text
from napari_autorefine.ui.sessions import JobSession

_LOOK_MS = 4000
_STILL_RUNNING_S = 3600.0
_ENDED_FILES = ("RELION_JOB_EXIT_SUCCESS", "RELION_JOB_EXIT_FAILURE", "RELION_JOB_EXIT_ABORTED")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What a look into a folder has found."""

    facts: RunFacts
    steps: Mapping[int, Step]
    is_over: bool
    problems: tuple[str, ...] = ()
    errors: str = ""


@dataclass(slots=True, kw_only=True)
class _Run:
    """What is known of the run that is followed."""

    prefix: Path
    steps: dict[int, Step] = field(default_factory=dict)
    facts: RunFacts | None = None
    log: list[TimedEvent] = field(default_factory=list)


class RunFollower:
    """Follows one refinement at a time.

    Attributes
    ----------
    began : emitted with the ``RunFacts`` of a run when it is there
    changed : emitted after steps have come
    logged : emitted with a ``TimedEvent`` for the log
    state_changed : emitted with a word: ``running``, ``paused``, ``finished``, ...; ``followed`` without a process
    progressed : ``Progress`` of the job
    failed : emitted with a sentence when there is nothing to follow
    """

    began = Signal(object)
    changed = Signal()
    logged = Signal(object)
    state_changed = Signal(str)
    progressed = Signal(object)
    failed = Signal(str)

    def __init__(self, worker: LatestWorker) -> None:
        self._worker = worker
        self._run: _Run | None = None
        self.session: JobSession | None = None
        self.state = ""
        self._timer = QTimer()
        self._timer.setInterval(_LOOK_MS)
        self._timer.timeout.connect(self.look)

    @property
    def prefix(self) -> Path | None:
        """What the names of the run's files start with, None before the first run."""
        return None if self._run is None else self._run.prefix

    @property
    def facts(self) -> RunFacts | None:
        """What does not change during the run, None until it is known."""
        return None if self._run is None else self._run.facts

    @property
    def steps(self) -> list[Step]:
        """Iterations in order."""
        return [] if self._run is None else [self._run.steps[n] for n in sorted(self._run.steps)]

    @property
    def is_running(self) -> bool:
        """Whether iterations may still come."""
        return self.state in {"starting", "running", "paused", "followed"}

    def open(self, place: Path) -> None:
        """Follow the run of a folder, of one of its STAR files or of a prefix."""
        self.leave()
        self._run = _Run(prefix=place.absolute())
        self._set_state("reading")
        self.look()

    def follow(self, session: JobSession) -> None:
        """Follow a job of this window."""
        if session is self.session:
            return
        self.leave()
        self.session = session
        self._run = _Run(prefix=session.output.absolute())
        self._run.facts = _facts_of(session)
        session.iteration_done.connect(self._on_iteration)
        session.messaged.connect(self._on_message)
        session.progressed.connect(self._on_progress)
        session.state_changed.connect(self._on_state)
        session.finished.connect(self._on_finished)
        self._set_state(session.state)
        self.began.emit(self._run.facts)
        for timed in session.log:
            self.logged.emit(timed)
        for event in session.iterations:
            self._on_iteration(event)
        self.look()

    def leave(self) -> None:
        """Follow nothing; a job goes on."""
        with suppress(RuntimeError):  # Qt may be gone before this
            self._timer.stop()
        self._worker.forget("run")
        session, self.session = self.session, None
        if session is not None:
            for signal, slot in (
                (session.iteration_done, self._on_iteration),
                (session.messaged, self._on_message),
                (session.progressed, self._on_progress),
                (session.state_changed, self._on_state),
                (session.finished, self._on_finished),
            ):
                signal.disconnect(slot, missing_ok=True)
        self._run = None
        self.state = ""

    def look(self) -> None:
        """Read the iterations that are new in the folder."""
        run = self._run
        if run is not None:
            self._worker.ask("run", partial(_look, run.prefix, dict(run.steps)), self._take)

    def _take(self, result: _Look | Failure) -> None:
        run = self._run
        if run is None:
            return
        if isinstance(result, Failure):
            if self.session is None and not run.steps:
                self._set_state("")
                self.failed.emit(result.text)
            return
        is_new = run.facts is None
        if run.facts is None or self.session is None:
            run.facts = result.facts
            run.prefix = result.facts.prefix
        if is_new:
            self.began.emit(run.facts)
        self._take_steps(result)
        if self.session is None:
            self._follow_files(result)

    def _take_steps(self, result: _Look) -> None:
        run = self._run
        assert run is not None
        new = {n: step for n, step in result.steps.items() if n not in run.steps}
        run.steps |= new
        for n in sorted(new):
            if n > 0:
                self._log(step_text(new[n]), moment=new[n].moment)
        for text in result.problems:
            self._log(text, level="warning")
        if new:
            self.changed.emit()

    def _follow_files(self, result: _Look) -> None:
        """Look again while the program that writes the files seems to be at work."""
        if self.state == "reading" and result.errors:
            self._log(result.errors, level="warning")
        if result.is_over:
            self._timer.stop()
            has_final = any(step.is_final for step in result.steps.values())
            self._set_state("finished" if has_final else "ended")
        else:
            self._timer.start()
            self._set_state("followed")

    def _on_iteration(self, event: IterationWritten) -> None:
        run = self._run
        if run is None:
            return
        step = step_of_event(event, moment=_written(event))
        is_new = step.order not in run.steps
        run.steps[step.order] = step
        if is_new:
            self._log(step_text(step), moment=step.moment)
        self.changed.emit()

    def _on_message(self, timed: TimedEvent) -> None:
        self.logged.emit(timed)

    def _on_progress(self, event: Progress) -> None:
        self.progressed.emit(event)

    def _on_state(self, state: str) -> None:
        self._set_state(state)

    def _on_finished(self, event: JobEnded) -> None:
        self._set_state(event.state)
        self.look()

    def _set_state(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self.state_changed.emit(state)

    def _log(self, text: str, *, moment: float | None = None, level: str = "info") -> None:
        message = Message(text=text, level="warning" if level == "warning" else "info")
        self.logged.emit(TimedEvent(time=time.time() if moment is None else moment, event=message))


def _written(event: IterationWritten) -> float:
    """Return when the files of an iteration were written."""
    try:
        return Path(event.files["optimiser"]).stat().st_mtime
    except (KeyError, OSError):
        return time.time()


def _facts_of(session: JobSession) -> RunFacts:
    """Return what the parameters of a job say; a mask and a reference that are not there stay out."""
    parameters, folder = session.job.info.parameters, Path(session.job.info.workdir)

    def existing(name: str) -> Path | None:
        value = parameters.get(name)
        path = folder / str(value) if value else None
        return path if path is not None and path.is_file() and not path.name.endswith(".star") else None

    return RunFacts(
        prefix=session.output,
        reference=existing("reference"),
        mask=existing("mask"),
        symmetry=str(parameters.get("symmetry") or "C1"),
    )


def _look(prefix: Path, known: Mapping[int, Step]) -> _Look:
    """Read what is new in a folder; iterations that cannot be read are told and left out."""
    files = files_of_run(prefix)
    is_over = _is_over(files)
    numbers = complete_steps(files, is_over=is_over)
    steps, problems = {}, []
    for n in numbers:
        order = min(n, 10**6)
        if order in known:
            continue
        try:
            steps[order] = read_step(files, n)
        except InputError as error:
            if is_over or n != numbers[-1]:  # the newest one may be half written
                problems.append(str(error))
    return _Look(
        facts=read_facts(files),
        steps=dict(known) | steps,
        is_over=is_over,
        problems=tuple(problems),
        errors=_standard_error(files),
    )


def _is_over(files: RunFileList) -> bool:
    """Tell whether a run without a process of ours has ended: it says so, or nothing has been written for an hour."""
    folder = files.prefix.parent
    if any((folder / name).exists() for name in _ENDED_FILES):
        return True
    has_final = any(n > 10**6 for n in files.files)
    return has_final or time.time() - files.time > _STILL_RUNNING_S


def _standard_error(files: RunFileList) -> str:
    """Return the last lines of RELION's ``run.err``."""
    try:
        text = files.prefix.with_name("run.err").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
    return "run.err: " + "\n".join(text.splitlines()[-4:]) if text else ""
