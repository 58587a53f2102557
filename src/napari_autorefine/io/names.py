"""Image names of STAR files: ``000001@folder/stack.mrcs`` and where that file is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from napari_autorefine.errors import InputError

_NUMBER = re.compile(r"[0-9]{1,18}")
_SEPARATORS = re.compile(r"[/\\]")


def split_image_name(name: str) -> tuple[int | None, str]:
    """Return the 1-based image number, None for a whole file, and the path without RELION's ``:mrcs`` ending."""
    number, at, path = name.partition("@")
    if at and _NUMBER.fullmatch(number.strip()):
        return int(number), path.removesuffix(":mrcs").removesuffix(":mrc")
    return None, name.removesuffix(":mrcs").removesuffix(":mrc")


def search_folders(
    star_path: str | os.PathLike[str] | None, project_dir: str | os.PathLike[str] | None = None
) -> tuple[Path, ...]:
    """Return the folders that image paths are relative to: the project's (working directory), then the STAR file's."""
    project = Path(project_dir) if project_dir is not None else Path()
    return (project,) if star_path is None else (project, Path(star_path).parent)


def find_image_file(path: str, folders: Iterable[Path]) -> Path | None:
    """Return the first existing file, or None."""
    return next((folder / path for folder in folders if os.path.isfile(folder / path)), None)


def inner_path(name: str) -> str:
    """Return what is left of a path of a STAR file when nothing of it may lead out of a folder; maybe nothing.

    Drives, roots, ``.`` and ``..`` are left out. A backslash separates folders on Windows only.
    """
    parts = _SEPARATORS.split(name) if os.name == "nt" else name.split("/")
    drives = re.compile(r"[A-Za-z]:") if os.name == "nt" else None
    return "/".join(p for p in parts if p not in {"", ".", ".."} and not (drives and drives.fullmatch(p)))


def check_inner(name: str, place: str) -> str:
    """Return a name of a STAR file that files are named after.

    Raises
    ------
    InputError
        The files would not lie below the output folder; ``place`` says which name it is.
    """
    if not name.strip() or inner_path(name) != name or "\0" in name:
        raise InputError(
            f"{place} '{name[:200]}' cannot be the name of a file below the output folder; rename it, without a / at"
            " its beginning or end and without '.' and '..' as folders."
        )
    return name
