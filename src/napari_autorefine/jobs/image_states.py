"""Sizes, times and, on request, checksums of image files: noted when a run begins, compared when it goes on."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from napari_autorefine.errors import InputError
from napari_autorefine.events import Message, Progress
from napari_autorefine.io.stack import FileState
from napari_autorefine.jobs.record import checksum

_MOST_NOTED = 20_000

Noted = dict[str, dict[str, Any]]


def note_images(files: Sequence[Path], *, has_checksums: bool) -> Generator[Progress, None, Noted]:
    """Return size, time of change (ns) and perhaps SHA-256 of every file; nothing for very many files without it."""
    if len(files) > _MOST_NOTED and not has_checksums:
        return {}
    noted: Noted = {}
    for number, path in enumerate(files):
        state = FileState.of(path)
        noted[str(path)] = {"size": state.size, "mtime_ns": state.mtime_ns}
        if has_checksums:
            yield Progress(stage="checksums of images", done=number, total=len(files))
            noted[str(path)]["sha256"] = checksum(path)
    return noted


def compare_images(noted: Mapping[str, Mapping[str, Any]], files: Sequence[Path]) -> Generator[Progress | Message]:
    """Compare files with what was noted of them.

    Raises
    ------
    InputError
        A file with another checksum than before.
    """
    changed = []
    for number, path in enumerate(files):
        before = noted.get(str(path))
        if before is None:
            continue
        state = FileState.of(path)
        if "sha256" in before:
            yield Progress(stage="checksums of images", done=number, total=len(files))
            if checksum(path) != before["sha256"]:
                raise InputError(
                    f"{path} is not what it was when the run began (SHA-256); bring the old file back, or start anew."
                )
        elif state != FileState(size=int(before["size"]), mtime_ns=int(before["mtime_ns"])):
            changed.append((path, before, state))
    if changed:
        path, before, state = changed[0]
        what = (
            f"{before['size']} bytes then, {state.size} now" if before["size"] != state.size else "its time of change"
        )
        text = f"{len(changed)} of {len(files)} files of images were changed since the run began, the first is {path}"
        yield Message(text=f"{text} ({what}); the run goes on with what they hold now.", level="warning")
