"""Files that appear complete or not at all, and the sentences for the ways a file can fail."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from napari_autorefine.errors import InputError

_LFS_STAMP = b"version https://git-lfs"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside ``path``; rename it to ``path`` when the block ends without an error.

    The temporary file is removed when the block fails; a missing folder is made. What has its name is on the disc and
    survives a power cut.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        is_of_set = target.name.startswith(f".{os.getpid()}.")  # which brings all its files to the disc at once
        if not is_of_set:
            settle(temporary)
        os.replace(temporary, target)
        if not is_of_set:
            settle_folder(target.parent)
    except OSError as error:
        raise write_error(target, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def settle(path: Path) -> None:
    """Have a file that was written brought to the disc itself, where a power cut cannot tear it any more.

    Raises
    ------
    OSError
        What network file systems only tell now: no space left, quota exceeded, server gone.
    """
    if path.is_file():
        _synchronise(path, os.O_RDWR)


def settle_folder(folder: Path) -> None:
    """Have the names in a folder brought to the disc, where the system can do so."""
    if os.name != "nt":
        _synchronise(folder, os.O_RDONLY)


def _synchronise(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some file systems have nothing to synchronise
            raise
    finally:
        os.close(descriptor)


def write_error(path: Path, error: OSError) -> InputError:
    """Return the sentence for a file that cannot be written; one of a ``FileSet`` has its final name there."""
    path = path.with_name(path.name.removeprefix(f".{os.getpid()}."))
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return InputError(f"{path} cannot be written: no space left on the disc; free some or choose another folder.")
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return InputError(f"{path} cannot be written: no permission; choose another folder.")
    return InputError(f"{path} cannot be written: {error.strerror or error}.")


def existing_folder(path: str | os.PathLike[str]) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise unless files can be written to a folder, which need not exist yet."""
    folder = existing_folder(path)
    if not folder.is_dir():
        raise InputError(f"{path} cannot be a folder, as {folder} is a file; choose another --o.")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{path} cannot be written: no permission in {folder}; choose another --o.")


def read_error(path: str | os.PathLike[str], error: OSError) -> InputError:
    """Return the sentence for a file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path} does not exist; check the name and the folder the command is started in.")
    if isinstance(error, IsADirectoryError):
        return InputError(f"{path} is a folder, not a file.")
    if isinstance(error, PermissionError):
        return InputError(f"{path} cannot be read: no permission.")
    return InputError(f"{path} cannot be read: {error.strerror or error}.")


def printable(text: str) -> str:
    """Return text that any terminal takes, with ``?`` for bytes that are not UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def first_bytes(path: str | os.PathLike[str], n_byte: int = 1024) -> bytes:
    """Return the first bytes of a file that is neither missing, empty nor a git-LFS pointer."""
    try:
        if stat.S_IFMT(os.stat(path).st_mode) not in {stat.S_IFREG, stat.S_IFDIR}:
            raise InputError(f"{path} is a device or a pipe, not a file.")
        with open(path, "rb") as file:
            head = file.read(n_byte)
    except OSError as error:
        raise read_error(path, error) from error
    if not head:
        raise InputError(f"{path} is empty (0 bytes); copy or make it again.")
    if head.startswith(_LFS_STAMP):
        raise InputError(f"{path} is a git-LFS pointer, not the file itself; run `git lfs pull` in its repository.")
    return head


@contextmanager
def _failing_as(target: Path) -> Iterator[None]:
    """Let what fails be told as the sentence for a file that cannot be written."""
    try:
        yield
    except OSError as failure:
        raise write_error(target, failure) from failure


class FileSet:
    """Files that belong together: written under temporary names, renamed in order once all of them are complete.

    Used as a context manager; when the block fails nothing appears under its final name. All files are on the disc
    before the first has its name, and the names of all but the last before the last.
    """

    def __init__(self) -> None:
        self._files: list[tuple[Path, Path]] = []

    def __enter__(self) -> FileSet:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            if error is None:
                self._publish()
        finally:
            for temporary, _target in self._files:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)

    def _publish(self) -> None:
        """Bring all files to the disc, then rename them: the last one when the names of the others are on the disc."""
        for temporary, target in self._files:
            with _failing_as(target):
                settle(temporary)
        for number, (temporary, target) in enumerate(self._files, start=1):
            with _failing_as(target):
                if number == len(self._files):
                    settle_folder(target.parent)
                os.replace(temporary, target)
        for folder in dict.fromkeys(target.parent for _, target in self._files):
            with _failing_as(folder):
                settle_folder(folder)

    def new(self, path: str | os.PathLike[str]) -> Path:
        """Return the temporary name under which to write ``path``."""
        target = Path(path)
        temporary = target.with_name(f".{os.getpid()}.{target.name}")
        self._files.append((temporary, target))
        return temporary

    def temporary(self, path: str | os.PathLike[str]) -> Path:
        """Return the temporary name that a file of the set has."""
        return next(temporary for temporary, target in self._files if target == Path(path))

    @property
    def targets(self) -> tuple[Path, ...]:
        """Final names in the order in which they appear."""
        return tuple(target for _, target in self._files)
