"""What a job leaves beside its outputs: how it was made; and how the next job finds the file it needs in a folder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from napari_autorefine.errors import InputError
from napari_autorefine.io.files import check_writable, replacing
from napari_autorefine.io.run_tables import software_version
from napari_autorefine.params import command_line, describe

Kind = Literal["particles", "map", "half1", "half2", "mask", "optimiser", "optimisation_set"]

_ENDING = "_params.json"
_KNOWN_NAMES: dict[str, tuple[str, ...]] = {
    "particles": (r"particles\.star", r".*(?<!_it\d{3})_data\.star", r".*_it\d{3}_data\.star"),
    "map": (r".*(?<!half1)(?<!half2)(?<!_it\d{3})_class001\.mrc", r"postprocess\.mrc"),
    "half1": (r".*(?<!_it\d{3})_half1_class001_unfil\.mrc", r"half1\.mrc"),
    "half2": (r".*(?<!_it\d{3})_half2_class001_unfil\.mrc", r"half2\.mrc"),
    "mask": (r"mask\.mrc", r".*_mask\.mrc"),
    "optimiser": (r".*(?<!_it\d{3})_optimiser\.star", r".*_it\d{3}_optimiser\.star"),
    "optimisation_set": (
        r"optimisation_set\.star",
        r".*(?<!_it\d{3})_optimisation_set\.star",
        r".*_it\d{3}_optimisation_set\.star",
    ),
}
"""Names of a kind of file in RELION's job folders and ours, the preferred first; of one pattern the last by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """One input as it was: checksum and size in bytes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """How outputs were made; ``inputs`` by parameter name, ``outputs`` by kind."""

    job: str
    version: str
    command: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, InputFile] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)


def record_values(job: str, params: BaseModel, outputs: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of a record as plain values, checksums of the input files included."""
    return {
        "job": job,
        "version": software_version(),
        "command": command_line(job, params),
        "parameters": params.model_dump(mode="json"),
        "inputs": input_files(params),
        "outputs": dict(outputs),
    }


def write_record(prefix: str | Path, job: str, params: BaseModel, outputs: Mapping[str, str]) -> str:
    """Write ``PREFIX_params.json``: version, command, parameters, inputs with checksums, outputs by kind."""
    path = Path(f"{prefix}{_ENDING}")
    text = json.dumps(record_values(job, params, outputs), indent=2, default=str)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return str(path)


def read_record(path: str | Path) -> JobRecord:
    """Read ``PREFIX_params.json``.

    Raises
    ------
    InputError
        When the file cannot be read or is not a record.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        inputs = {name: InputFile(**one) for name, one in values.get("inputs", {}).items()}
        return JobRecord(
            job=values.get("job", "refine"),
            version=values["version"],
            command=values["command"],
            parameters=values["parameters"],
            inputs=inputs,
            outputs=values.get("outputs", {}),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not the record of a job ({error}).") from error


def input_files(params: BaseModel) -> dict[str, dict[str, Any]]:
    """Return path, checksum and size of every file that the parameters name as an input and that exists."""
    found: dict[str, dict[str, Any]] = {}
    for item in describe(type(params)):
        value = getattr(params, item.name)
        if item.param.file_kind != "read" or not value:
            continue
        values = value if item.is_sequence else (value,)
        for number, one in enumerate(values, start=1):
            if Path(one).is_file():
                name = item.name if len(values) == 1 else f"{item.name}_{number}"
                found[name] = {"path": str(one), "sha256": checksum(one), "size": Path(one).stat().st_size}
    return found


def checksum(path: str | Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_free(path: str | Path, overwrite: bool) -> None:
    """Raise when ``path`` exists and must not be replaced, or cannot be written."""
    if Path(path).exists() and not overwrite:
        raise InputError(f"Output {path} exists; choose another --o or add --overwrite.")
    check_writable(Path(path).parent)


def check_not_input(path: str | Path | None, inputs: Iterable[str | Path | None]) -> None:
    """Raise when an output is one of the files that the job reads; no option allows that."""
    if path and any(one and Path(one).resolve() == Path(path).resolve() for one in inputs):
        raise InputError(f"The output {path} is one of the inputs; choose another --o.")


def output_of(path: str | Path, kind: Kind) -> str:
    """Return the file of one kind in a job's folder; ``path`` itself when it is not a folder.

    Records of this package are asked first, then the names that RELION's jobs give their outputs.

    Raises
    ------
    InputError
        When the folder holds no such file.
    """
    folder = Path(path)
    if not folder.is_dir():
        return str(path)
    return _recorded(folder, kind) or _named(folder, kind) or _missing(folder, kind)


def _recorded(folder: Path, kind: Kind) -> str | None:
    """Return the output of the newest record of the folder that has one of this kind."""
    records = sorted(folder.glob(f"*{_ENDING}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in records:
        try:
            found = read_record(path).outputs.get(kind)
        except InputError:
            continue
        for candidate in () if found is None else (Path(found), folder / Path(found).name):
            if candidate.is_file():
                return str(candidate)
    return None


def _named(folder: Path, kind: Kind) -> str | None:
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    for pattern in _KNOWN_NAMES[kind]:
        matching = [name for name in names if re.fullmatch(pattern, name)]
        if matching:
            return str(folder / matching[-1])
    return None


def _missing(folder: Path, kind: Kind) -> str:
    raise InputError(f"Folder {folder} holds no {kind.replace('_', ' ')} file of a finished job; name the file itself.")
