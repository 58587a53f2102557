"""Copies of image stacks on a fast local disc: as many as leave room, removed at the end, also those of killed runs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from napari_autorefine.errors import InputError
from napari_autorefine.events import Message, Progress

_PREFIX, _LOCK = "autorefine_", "in_use"
_GB = 10**9


@contextmanager
def scratch_folder(scratch_dir: str) -> Iterator[Path]:
    """Make a folder below ``scratch_dir``; remove it at the end, and now those of runs that are gone."""
    try:
        os.makedirs(scratch_dir, exist_ok=True)
        for path in Path(scratch_dir).glob(f"{_PREFIX}*"):
            _remove_if_left(path)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=scratch_dir))
    except OSError as error:
        raise InputError(f"--scratch_dir {scratch_dir} cannot be used: {error.strerror}.") from error
    try:
        with open(folder / _LOCK, "wb") as lock:
            _try_lock(lock.fileno())
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _try_lock(descriptor: int) -> bool:
    """Lock a file that other runs look at; False when it is locked already, or where files cannot be locked."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def _remove_if_left(folder: Path) -> None:
    """Remove a folder of copies that no living run holds."""
    try:
        with open(folder / _LOCK, "rb") as lock:
            is_left = _try_lock(lock.fileno())
    except OSError:
        return
    if is_left:
        shutil.rmtree(folder, ignore_errors=True)


def copy_to_scratch(
    files: Sequence[Path], folder: Path, *, keep_free: float
) -> Generator[Progress | Message, None, dict[Path, Path]]:
    """Copy files one after the other as long as ``keep_free`` GB stay free; return the copy of each that has one."""
    copies: dict[Path, Path] = {}
    for number, path in enumerate(files):
        yield Progress(stage="copying to scratch", done=number, total=len(files))
        n_byte = path.stat().st_size
        if shutil.disk_usage(folder).free - n_byte < keep_free * _GB:
            break
        copy = folder / f"{number:06d}{path.suffix}"
        try:
            shutil.copyfile(path, copy)
            is_whole = copy.stat().st_size == n_byte
        except OSError:
            is_whole = False
        if not is_whole:  # no space left after all, or the disc fails
            with suppress(OSError):
                copy.unlink(missing_ok=True)
            break
        copies[path] = copy
    yield Progress(stage="copying to scratch", done=len(files), total=len(files))
    left = len(files) - len(copies)
    size = sum(copy.stat().st_size for copy in copies.values()) / _GB
    text = f"{len(copies)} of {len(files)} files of images ({size:.2f} GB) are copied to {folder.parent}"
    if left:
        text += f"; {keep_free:g} GB are kept free there (--keep_free_scratch), so {left} are read where they are"
    yield Message(text=f"{text}.", level="warning" if left else "info")
    return copies
