"""What napari itself shows of a job: a bar in the activity dock, a notification at the end."""

from __future__ import annotations

from functools import partial
from weakref import WeakSet

from napari.utils import progress

from napari_autorefine.events import Progress
from napari_autorefine.jobs.job_events import JobEnded
from napari_autorefine.ui.notices import show_error, show_info, show_warning
from napari_autorefine.ui.presentation import in_window
from napari_autorefine.ui.sessions import JobSession

_STEPS = 1000


_announced: WeakSet[JobSession] = WeakSet()


def announce(session: JobSession, title: str) -> None:
    """Show a job in the activity dock until it ends, and tell how; once per job, whether its dock stays or not."""
    if session in _announced or session.is_over:
        return
    _announced.add(session)
    bar = progress(total=_STEPS, desc=title)
    session.progressed.connect(partial(_move, bar, title))
    session.finished.connect(partial(_end, bar, title, session.name))


def _move(bar: progress, title: str, event: Progress) -> None:
    if event.total <= 0:
        return
    bar.set_description(": ".join(part for part in (title, stage_text(event), event.forecast) if part))
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
