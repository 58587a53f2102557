"""Files that STAR tables name: where the project is, and places of images in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.io.names import split_image_name


def project_folder(star_path: Path, named: Iterable[str]) -> Path | None:
    """Return the folder that the names of a STAR file are relative to, or None when none of them is found.

    Asked in turn: the working directory, the file's folder, and its parents up to the root; a window is rarely started
    in the project's folder.
    """
    names = list(named)
    for folder in (Path(), *star_path.absolute().parents):
        if any((folder / name).is_file() for name in names):
            return folder
    return None


def coded(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return the distinct texts in order of appearance and the index (n,) of each text among them."""
    known: dict[str, int] = {}
    codes = np.fromiter((known.setdefault(text, len(known)) for text in texts), np.int64, len(texts))
    return list(known), codes


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlaces:
    """Where n images are: file and 0-based section; section -1 stands for a whole file.

    ``files`` are distinct paths, ``file`` (n,) and ``section`` (n,) say which image is where.
    """

    files: tuple[Path, ...]
    file: np.ndarray
    section: np.ndarray

    def __len__(self) -> int:
        return len(self.file)

    def __getitem__(self, row: int) -> tuple[Path, int]:
        return self.files[self.file[row]], int(self.section[row])

    @property
    def missing(self) -> list[Path]:
        """Files that do not exist."""
        return [path for path in self.files if not path.is_file()]


def image_places(names: Sequence[str], star_path: Path) -> ImagePlaces:
    """Return where the images of a STAR column are, names as in ``000001@folder/stack.mrcs`` or of whole files.

    Raises
    ------
    InputError
        None of the files exists.
    """
    known: dict[str, int] = {}
    file, section = np.empty(len(names), np.int64), np.empty(len(names), np.int64)
    for row, name in enumerate(names):
        number, path = split_image_name(name)
        file[row] = known.setdefault(path, len(known))
        section[row] = -1 if number is None else number - 1
    files = list(known)
    project = project_folder(star_path, files)
    if project is None:
        raise InputError(
            f"{star_path.name}: none of its {len(files)} image files is there, the first is {files[0]};"
            f" the folders from {star_path.absolute().parent} upwards and the working directory were searched."
        )
    return ImagePlaces(files=tuple(project / path for path in files), file=file, section=section)
