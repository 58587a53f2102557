"""The project folder that relative paths start from, and the values that its forms had last."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psygnal import Signal
from qtpy.QtCore import QStandardPaths

from napari_autorefine.errors import InputError
from napari_autorefine.io.files import replacing

_FILE = "napari-autorefine/projects.json"
_MOST_PROJECTS = 50
_OUTPUTS = {
    "refine": "Refine3D/{job}/run",
    "extract": "Extract/{job}/",
    "subtomo": "Extract/{job}/",
    "rebox": "ReboxRescale/{job}/",
    "recenter": "Recenter/{job}/particles.star",
    "reconstruct": "Reconstruct/{job}/map.mrc",
    "reconstruct_particle": "Reconstruct/{job}/",
    "mask": "MaskCreate/{job}/mask.mrc",
    "postprocess": "PostProcess/{job}/postprocess",
    "report": "Report/{job}/report.html",
}
_JOB = re.compile(r"job(\d{3,})")


class Project:
    """Folder of the project that the forms of a window share."""

    changed = Signal(str)

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = (folder or Path.cwd()).resolve()

    @property
    def folder(self) -> Path:
        """Absolute path of the folder."""
        return self._folder

    def move_to(self, folder: str | Path) -> None:
        """Make another folder the project.

        Raises
        ------
        InputError
            It does not exist.
        """
        path = Path(folder).expanduser().resolve()
        if not path.is_dir():
            raise InputError(f"The project folder {path} does not exist.")
        if path != self._folder:
            self._folder = path
            self.changed.emit(str(path))

    def absolute(self, path: str | Path) -> Path:
        """Return a path as the project means it."""
        return self._folder / Path(path).expanduser()

    def relative(self, path: str | Path) -> str:
        """Return a path as RELION's files name it: relative to the project when it is inside."""
        absolute = Path(path).absolute()
        return str(absolute.relative_to(self._folder)) if absolute.is_relative_to(self._folder) else str(absolute)

    def next_output(self, job: str) -> str:
        """Return the next free output of a job, numbered through all kinds of jobs as RELION's."""
        pattern = _OUTPUTS.get(job, f"{job.capitalize()}/{{job}}/{job}")
        names = (path.name for path in self._folder.glob("*/job*"))
        taken = [int(found[1]) for name in names if (found := _JOB.fullmatch(name))]
        return pattern.format(job=f"job{max(taken, default=0) + 1:03d}")

    def recall(self, job: str) -> dict[str, Any]:
        """Return the values that a form of this project had last, by parameter name."""
        values = _read().get(str(self._folder), {}).get(job, {})
        return dict(values) if isinstance(values, dict) else {}

    def remember(self, job: str, values: Mapping[str, Any]) -> None:
        """Keep the values of a form for the next time; a folder that cannot be written costs only that."""
        everything = _read()
        mine = everything.pop(str(self._folder), {})
        everything[str(self._folder)] = mine | {job: dict(values)}
        kept = dict(list(everything.items())[-_MOST_PROJECTS:])
        try:
            with replacing(_path()) as temporary:
                temporary.write_text(json.dumps(kept, indent=1, default=str), encoding="utf-8")
        except InputError:
            return


def _path() -> Path:
    location = QStandardPaths.writableLocation(QStandardPaths.StandardLocation.GenericConfigLocation)
    return Path(location) / _FILE


def _read() -> dict[str, Any]:
    try:
        values = json.loads(_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


project = Project()
"""The project of this window."""
