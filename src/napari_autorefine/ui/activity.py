"""Running jobs in napari's activity dock."""

from __future__ import annotations

from napari.utils import progress

from napari_autorefine.events import Progress
from napari_autorefine.ui.sessions import JobSession

_STEPS = 1000


class ActivityBar:
    """One bar for a job, from its beginning to its end."""

    def __init__(self, session: JobSession, title: str) -> None:
        self._session = session
        self._title = title
        self._bar: progress | None = progress(total=_STEPS, desc=title)
        session.progressed.connect(self._show)
        session.finished.connect(self.close)

    def _show(self, event: Progress) -> None:
        if self._bar is None or event.total <= 0:
            return
        self._bar.set_description(f"{self._title}: {stage_text(event)}")
        step = round(_STEPS * min(event.done / event.total, 1.0)) - self._bar.n
        if step:
            self._bar.update(step)

    def close(self, *_: object) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


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
