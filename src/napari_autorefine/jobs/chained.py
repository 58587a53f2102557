"""Jobs that run one after the other inside another one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

from napari_autorefine.events import Event, Finished, Message
from napari_autorefine.params import JobParams, command_line


def step(job: str, function: Callable[[Any], Iterator[Event]], values: JobParams) -> Generator[Event, None, Finished]:
    """Tell the command line of a job, run it, and return its last event."""
    yield Message(text=f"$ {command_line(job, values)}")
    return (yield from told(function(values)))


def told(events: Iterator[Event]) -> Generator[Event, None, Finished]:
    """Pass events on, the last one as a message; return it."""
    for event in events:
        if isinstance(event, Finished):
            yield Message(text=event.text)
            return event
        yield event
    raise RuntimeError("a job ended without its last event")
