"""Events of a job as lines of text, so that another process can follow it: no arrays, names of files instead."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from napari_autorefine.events import Event, Finished, IterationDone, Message, Progress

State = Literal["starting", "running", "paused", "finished", "failed", "cancelled", "died"]
ENDED: tuple[State, ...] = ("finished", "failed", "cancelled", "died")
"""States from which a job does not come back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IterationWritten:
    """An iteration whose files are on the disc: the figures of ``IterationDone``, names of files for its maps.

    ``fsc`` goes from shell 0 to half the box; ``files`` has the kinds ``half1``, ``half2``, ``optimiser`` and, in the
    last iteration, ``map`` and ``particles``, each a path relative to the job's working folder or absolute.
    """

    iteration: int
    is_final: bool
    voxel_size_A: float
    fsc: tuple[float, ...]
    resolution_A: float
    accuracy_rot_deg: float
    accuracy_trans_A: float
    angular_step_deg: float
    offset_step_A: float
    offset_range_A: float
    healpix_order: int
    is_local: bool
    change_rot_deg: float
    change_trans_A: float
    mean_p_max: float
    current_size: int
    seconds: float
    summary: str = ""
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged:
    """The job went on or was paused."""

    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnded:
    """Last event: how the job ended, one sentence, and details such as a traceback."""

    state: State
    text: str
    details: str = ""


JobEvent = Progress | Message | IterationWritten | Finished | StateChanged | JobEnded


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedEvent:
    """An event and when it was written, in seconds since 1970."""

    time: float
    event: JobEvent


_TYPES: dict[str, type[Any]] = {
    one.__name__: one for one in (Progress, Message, IterationWritten, Finished, StateChanged, JobEnded)
}


def without_arrays(event: Event, prefix: str) -> JobEvent:
    """Return an event that can be written as text; ``prefix`` is the output of the job."""
    if not isinstance(event, IterationDone):
        return event
    names = {one.name for one in dataclasses.fields(IterationWritten)} - {"files", "fsc"}
    return IterationWritten(
        **{name: getattr(event, name) for name in names},
        fsc=tuple(round(float(value), 6) for value in event.fsc),
        files=iteration_files(prefix, None if event.is_final else event.iteration),
    )


def iteration_files(prefix: str, iteration: int | None) -> dict[str, str]:
    """Return the files of one iteration that exist, by kind; of the finished run for None.

    A run that was continued may have added ``_ctN`` to its name: the newest files are the ones that count.
    """
    path = Path(prefix)
    middle = "" if iteration is None else f"_it{iteration:03d}"
    half = "class001" if iteration is not None else "class001_unfil"
    endings = {"half1": f"half1_{half}.mrc", "half2": f"half2_{half}.mrc", "optimiser": "optimiser.star"}
    if iteration is None:
        endings |= {"map": "class001.mrc", "particles": "data.star"}
    found = {kind: _newest(path, f"{middle}_{ending}") for kind, ending in endings.items()}
    return {kind: str(name) for kind, name in found.items() if name is not None}


def _newest(prefix: Path, ending: str) -> Path | None:
    """Return the newest of ``PREFIX<ending>`` and ``PREFIX_ctN<ending>``."""
    if not prefix.parent.is_dir():
        return None
    pattern = re.compile(re.escape(prefix.name) + r"(_ct\d+)?" + re.escape(ending))
    matching = [path for path in prefix.parent.iterdir() if pattern.fullmatch(path.name)]
    return max(matching, key=lambda path: path.stat().st_mtime, default=None)


def to_line(timed: TimedEvent) -> str:
    """Return one line of JSON, without its end."""
    values = {one.name: getattr(timed.event, one.name) for one in dataclasses.fields(timed.event)}
    record = {"time": round(timed.time, 3), "type": type(timed.event).__name__, **values}
    return json.dumps(record, default=_plain)


def from_line(line: str) -> TimedEvent | None:
    """Return the event of a line, or None when the line is damaged or of a later version."""
    try:
        values = json.loads(line)
        time, kind = float(values.pop("time")), _TYPES[values.pop("type")]
        if kind is IterationWritten:
            values["fsc"] = tuple(values["fsc"])
        return TimedEvent(time=time, event=kind(**values))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _plain(value: Any) -> Any:
    """Return numbers of NumPy as numbers, anything else as text."""
    return value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else str(value)
