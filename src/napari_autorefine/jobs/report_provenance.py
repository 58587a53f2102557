"""Where results come from: versions, command lines, parameters, inputs and outputs with checksums."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from napari_autorefine.errors import InputError
from napari_autorefine.io.tables import ListTable, read_star
from napari_autorefine.jobs import JOBS
from napari_autorefine.jobs.record import JobRecord, checksum
from napari_autorefine.jobs.report_maps import find_beside
from napari_autorefine.jobs.report_page import Block, Section, Table, Text
from napari_autorefine.params import describe

_UNITS = {"A": "Å", "deg": "°"}
_LARGEST_CHECKED = 4_000_000_000
_FILE_OPTIONS = re.compile(r"^--(i|ref|solvent_mask2?|mask|mtf|ios|angpix_ref|coord_list|helical_tilt_prior)$")


def parameter_section(record: JobRecord | None, pairs: ListTable, folder: Path) -> Section | None:
    """Options of a job: its record, what RELION's GUI wrote beside it (job.star), and the optimiser file."""
    blocks: list[Block] = []
    if record is not None:
        blocks += _own_parameters(record)
    options, failure = _job_options(folder)
    if failure:
        blocks.append(Text(text=failure))
    if options:
        blocks.append(Table(title="Options of the job (job.star)", columns=["option", "value"], rows=options,
                            is_folded=record is not None))  # fmt: skip
    if pairs:
        rows = [[name.removeprefix("rln"), str(value)] for name, value in pairs.items()]
        blocks.append(Table(title="Values: optimiser file", columns=["label", "value"], rows=rows, is_folded=True))
    return Section(title="Parameters", blocks=blocks) if blocks else None


def _own_parameters(record: JobRecord) -> list[Block]:
    """Return the parameters that are not at their defaults, and all of them folded."""
    known = {} if record.job not in JOBS else {one.name: one for one in describe(JOBS[record.job].params())}
    changed, every = [], []
    for name, value in record.parameters.items():
        field = known.get(name)
        if field is None:
            row, is_changed = [name, "", _value(value)], True
        else:
            unit = (
                f" {_UNITS.get(field.param.unit, field.param.unit)}" if field.param.unit and value is not None else ""
            )
            row = [field.param.label, f"--{field.flags[0]}", f"{_value(value)}{unit}"]
            is_changed = field.is_required or _value(value) != _value(field.default)
        every.append(row)
        changed += [row] if is_changed else []
    columns = ["parameter", "option", "value"]
    return [
        Table(title="Other than by default", columns=columns, rows=changed),
        Table(title="All parameters", columns=columns, rows=every, is_folded=True),
    ]


def _value(value: object) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _job_options(folder: Path) -> tuple[list[list[str]], str]:
    """Return the options that RELION's GUI wrote, or a sentence on why they cannot be read."""
    path = folder / "job.star"
    try:
        table = read_star(path).loop("joboptions_values") if path.is_file() else None
    except InputError as error:
        return [], f"The options of the job could not be read: {error}"
    names = ("rlnJobOptionVariable", "rlnJobOptionValue")
    if table is None or any(name not in table for name in names):
        return [], ""
    return [[str(name), str(value)] for name, value in zip(*(table[name] for name in names), strict=True)], ""


def provenance_section(
    record: JobRecord | None, program: tuple[str, str], folder: Path, files: Mapping[str, Path]
) -> Section:
    """Program, command line, inputs and the files that the report was made from.

    Parameters
    ----------
    record : this package's own, with checksums from when the job ran
    program : program with version, command line, as a comment of the files says
    folder : of the job
    files : that were read for the report
    """
    rows = [["Program", program[0] or "not recorded"]]
    command = record.command if record is not None else program[1]
    if command:
        rows.append(["Command", command])
    rows.append(["Folder", str(folder.resolve())])
    blocks: list[Block] = [Table(rows=rows)]
    blocks += _inputs_recorded(record) if record is not None and record.inputs else _inputs_named(command, folder)
    read = [[kind, str(path), _size(path), _digest(path)] for kind, path in files.items() if path.is_file()]
    blocks.append(
        Table(title="Files of this report", columns=["kind", "file", "size", "SHA-256"], rows=read, is_folded=True)
    )
    return Section(title="Provenance", blocks=blocks)


def _inputs_recorded(record: JobRecord) -> list[Block]:
    rows = []
    for name, one in record.inputs.items():
        path = Path(one.path)
        now = "gone" if not path.is_file() else "unchanged" if _is_same(path, one.sha256, one.size) else "changed since"
        rows.append([name, one.path, _bytes(one.size), one.sha256, now])
    columns = ["input", "file", "size", "SHA-256 when the job ran", "now"]
    return [Table(title="Inputs", columns=columns, rows=rows)]


def _is_same(path: Path, sha256: str, size: int) -> bool:
    return path.stat().st_size == size and (size > _LARGEST_CHECKED or checksum(path) == sha256)


def _inputs_named(command: str, folder: Path) -> list[Block]:
    """Return the files that a command line names as inputs, with their checksums of today."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    rows = []
    for option, value in pairwise(words):
        if not _FILE_OPTIONS.match(option) or value.startswith("--"):
            continue
        path = find_beside(value, folder)
        known = ["not found here", ""] if path is None else [_size(path), _digest(path)]
        rows.append([option, value, *known])
    if not rows:
        return []
    text = "No checksums were recorded when the job ran; these are of the files as they are now."
    return [Table(title="Inputs", columns=["option", "file", "size", "SHA-256 now"], rows=rows), Text(text=text)]


def _digest(path: Path) -> str:
    return checksum(path) if path.stat().st_size <= _LARGEST_CHECKED else "too large to check"


def _size(path: Path) -> str:
    return _bytes(path.stat().st_size)


def _bytes(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"
