"""Jobs that run one after the other inside another one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Finished, Message
from napari_autorefine.params import JobParams, command_line


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Where each of the jobs puts its files: a folder of its name below ``root``."""

    root: Path

    @classmethod
    def fresh(cls, root: str, *, first: str, overwrite: bool) -> Self:
        """Return the folders below ``root``; an InputError when the ``first`` job has run there before."""
        folders = cls(root=Path(root))
        if Path(folders.of(first)).exists() and not overwrite:
            raise InputError(f"Output {folders.root} exists; choose another --o or add --overwrite.")
        return folders

    def of(self, job: str, name: str = "") -> str:
        """Return the folder of a job, or a file in it."""
        return str(self.root / job / name) if name else str(self.root / job)


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
