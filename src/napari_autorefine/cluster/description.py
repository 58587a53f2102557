"""Files that describe the processes of a run: YAML or JSON with a few known entries."""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_autorefine.errors import InputError

_LARGEST_BYTES = 1 << 20


class ClusterDescription(BaseModel):
    """Which processes to start for a run.

    Attributes
    ----------
    kind : ``local``, processes on this computer, or ``slurm``, one job per process
    n_workers, cores : processes, and threads of each
    memory : of each, as ``64GB``; with ``local`` no limit when it is left out
    tls : encrypt connections with certificates made for this run
    queue, account, walltime : of the jobs
    interface : network interface by which jobs reach this process, as ``ib0``
    directives : more lines for the head of a job, without ``#SBATCH``
    prologue : commands before the process starts
    python : program of the jobs; this one when it is left out
    local_directory, log_directory, shared_folder : for temporary files, logs, certificates
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["local", "slurm"]
    n_workers: int = Field(ge=1, le=4096)
    cores: int = Field(default=1, ge=1, le=1024)
    memory: str | None = None
    tls: bool = False
    queue: str | None = None
    account: str | None = None
    walltime: str | None = None
    interface: str | None = None
    directives: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    python: str | None = None
    local_directory: str | None = None
    log_directory: str | None = None
    shared_folder: str | None = None
    source: str = ""


def read_description(path: str) -> ClusterDescription:
    """Read a description.

    Raises
    ------
    InputError
        The file cannot be read, or an entry is unknown, missing or wrong.
    """
    values = _parsed(path)
    known = [name for name in ClusterDescription.model_fields if name != "source"]
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, 1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}."
            raise InputError(f"{path}: {name!r} is not an entry of a cluster file; {hint}")
    try:
        found = ClusterDescription(**values, source=path)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: {place}: {first['msg'][0].lower()}{first['msg'][1:]}.") from error
    if found.kind == "slurm":
        if found.memory is None:
            raise InputError(f"{path}: kind slurm needs memory, of each job, such as 64GB.")
        if found.interface is None:
            raise InputError(
                f"{path}: kind slurm needs interface, the network by which jobs reach this computer, such as ib0 or"
                " eth0; nothing listens beyond this computer unless it is named."
            )
    return found


def _parsed(path: str) -> dict[str, Any]:
    try:
        if Path(path).stat().st_size > _LARGEST_BYTES:
            raise InputError(f"{path} is too large for a cluster file; give a YAML or JSON file with a few entries.")
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"--cluster {path} cannot be read: {reason}.") from error
    yaml = importlib.import_module("yaml")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f", line {mark.line + 1}"
        raise InputError(f"{path}{place}: neither YAML nor JSON; see docs/scaling.md for an example.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no entries such as kind: local and n_workers: 4.")
    return {str(name): value for name, value in values.items()}
