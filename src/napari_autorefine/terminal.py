"""Show the events of a job on a terminal or in a log file."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable
from typing import TextIO

from napari_autorefine.events import Event, Finished, IterationDone, Message, Progress, duration

__all__ = ["Listener", "duration", "finished_block", "iteration_block", "progress_line", "show"]

_WIDTH, _LOG_WIDTH = 100, 200
_BAR = 30
_LOG_SECONDS = 30.0


def show(events: Iterable[Event], stream: TextIO | None = None) -> None:
    """Print every event until the job ends; an interrupted job is closed."""
    listener = Listener(sys.stdout if stream is None else stream)
    try:
        for event in events:
            listener.take(event)
    finally:
        listener.clear()
        close = getattr(events, "close", None)
        if close is not None:
            close()


class Listener:
    """Prints events; on a terminal progress is one line that is rewritten, elsewhere a line now and then."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_live = stream.isatty()
        self._stage = ""
        self._stage_began = 0.0
        self._last_shown = 0.0
        self._line_length = 0

    def take(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Progress):
            self._progress(event)
            return
        self.clear()
        if isinstance(event, Message):
            prefix = "" if event.level == "info" else f"{event.level.capitalize()}: "
            self._line(prefix + event.text)
        elif isinstance(event, IterationDone):
            self._line(iteration_block(event))
        elif isinstance(event, Finished):
            self._line(finished_block(event))

    def clear(self) -> None:
        """Remove the live progress line."""
        if self._line_length:
            self._stream.write("\r" + " " * self._line_length + "\r")
            self._stream.flush()
            self._line_length = 0

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()

    def _progress(self, event: Progress) -> None:
        now = time.monotonic()
        stage = f"{event.iteration}:{event.stage}"
        if stage != self._stage:
            self._stage, self._stage_began, self._last_shown = stage, now, now
        is_last = event.done >= event.total
        if not is_last and now - self._last_shown < (0.1 if self._is_live else _LOG_SECONDS):
            return
        if is_last and not self._is_live:
            return
        self._last_shown = now
        width = shutil.get_terminal_size((_WIDTH, 24)).columns - 1 if self._is_live else _LOG_WIDTH
        text = progress_line(event, now - self._stage_began, max(width, _BAR + 20))
        if self._is_live:
            padded = text.ljust(self._line_length)
            self._stream.write("\r" + padded)
            self._stream.flush()
            self._line_length = len(text)
        else:
            self._line(text)


def progress_line(event: Progress, elapsed_s: float, width: int = _WIDTH) -> str:
    """Return one line of at most ``width`` characters: stage, bar, percentage, time left or the event's forecast."""
    fraction = min(event.done / event.total, 1.0) if event.total > 0 else 0.0
    left = event.seconds_left
    if left is None and fraction > 0.0 and elapsed_s > 0.5:
        left = elapsed_s * (1.0 - fraction) / fraction
    bar = "#" * round(_BAR * fraction)
    name = event.stage if event.iteration is None else f"Iteration {event.iteration}: {event.stage}"
    ending = f"  {duration(left)} left" if left is not None else ""
    if event.forecast:
        ending = f"  {event.forecast}"
    name = f"{name:.60}" if event.forecast else f"{name:<40.60}"
    return f"{name} [{bar:<{_BAR}}] {100.0 * fraction:3.0f} %{ending}"[:width]


def iteration_block(event: IterationDone) -> str:
    """Return the block of lines shown after an iteration."""
    title = "Last iteration, both halves joined" if event.is_final else f"Iteration {event.iteration}"
    search = "local" if event.is_local else "global"
    field_A = event.voxel_size_A * 2 * (len(event.fsc) - 1)
    finest = 2.0 * field_A / event.current_size if event.current_size else float("inf")
    rows = [f"{title} ({duration(event.seconds)})", f"  resolution   {event.resolution_A:.2f} A"]
    if event.iteration > 0:
        rows += [
            f"  accuracy     {_value(event.accuracy_rot_deg, 'deg')}, {_value(event.accuracy_trans_A, 'A')}",
            f"  sampling     {event.angular_step_deg:.3g} deg {search}, offsets {event.offset_step_A:.2f} A"
            f" within {event.offset_range_A:.2f} A",
            f"  changes      {_value(event.change_rot_deg, 'deg')}, {_value(event.change_trans_A, 'A')}",
            f"  certainty    {event.mean_p_max:.2f} (mean of the largest probabilities),"
            f" images used to {finest:.2f} A ({event.current_size} px)",
        ]
    rows += [f"  {line}" for line in event.summary.splitlines()]
    return "\n".join(rows)


def finished_block(event: Finished) -> str:
    """Return the last lines of a job: what it says and which files it made."""
    width = max((len(name) for name in event.outputs), default=0)
    return "\n".join([event.text, *(f"  {name:<{width}}  {path}" for name, path in event.outputs.items())])


def _value(number: float, unit: str) -> str:
    """Return the number, or a dash for what is not estimated yet (999 in RELION's files)."""
    return "-" if not number < 999.0 else f"{number:.3g} {unit}"
