"""Image names of STAR files: ``000001@folder/stack.mrcs`` and where that file is."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def split_image_name(name: str) -> tuple[int | None, str]:
    """Return the 1-based image number, None for a whole file, and the path without RELION's ``:mrcs`` ending."""
    number, at, path = name.partition("@")
    if at and number.strip().isdigit():
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
    return next((folder / path for folder in folders if (folder / path).is_file()), None)
