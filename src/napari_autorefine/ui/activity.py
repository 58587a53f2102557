"""What napari itself shows of a job: a bar in the activity dock, a notification at the end."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from weakref import WeakSet

from napari.utils import progress

from napari_autorefine.events import Progress
from napari_autorefine.jobs.job_events import JobEnded
from napari_autorefine.ui.notices import show_error, show_info, show_warning
from napari_autorefine.ui.presentation import in_window
from napari_autorefine.ui.sessions import JobSession

_STEPS, _SECONDS = 1000, 5.0


_announced: WeakSet[JobSession] = WeakSet()


def announce(session: JobSession, title: str) -> None:
    """Show a job in the activity dock until it ends, and tell how; once per job, whether its dock stays or not."""
    if session in _announced or session.is_over:
        return
    _announced.add(session)
    bar = progress(total=_STEPS, desc=title)
    session.progressed.connect(partial(_move, bar, title, _Shown()))
    session.finished.connect(partial(_end, bar, title, session.name))


@dataclass
class _Shown:
    """Stage that a bar shows, and since when."""

    stage: str = ""
    moment: float = 0.0


def _move(bar: progress, title: str, shown: _Shown, event: Progress) -> None:
    """Move a bar; seldom, as napari draws the whole window for each change of its text and of its value."""
    now, stage = time.monotonic(), stage_text(event)
    if event.total <= 0 or (stage == shown.stage and now - shown.moment < _SECONDS):
        return
    shown.stage, shown.moment = stage, now
    bar.set_description(": ".join(part for part in (title, stage, event.forecast) if part))
    step = round(_STEPS * min(event.done / event.total, 1.0)) - bar.n
    if step:
        bar.update(step)


def _end(bar: progress, title: str, job: str, event: JobEnded) -> None:
    bar.close()
    tell = {"finished": show_info, "cancelled": show_warning}.get(event.state, show_error)
    tell(f"{title}: {in_window(job, event.text)}")


def stage_text(event: Progress) -> str:
    """Return what is being done, as shown on a bar."""
    stage = event.stage
    if stage == "expectation" and event.done >= event.total:
        stage = "maximization"
    return stage if event.iteration is None else f"iteration {event.iteration}, {stage}"


def time_text(seconds: float | None) -> str:
    """Return time left as minutes and seconds, or nothing."""
    if seconds is None:
        return ""
    total = max(round(seconds), 0)
    if total < 3600:
        return f"{total // 60}:{total % 60:02d} left"
    return f"{total // 3600} h {total % 3600 // 60:02d} min left"
