"""Whether the files of an iteration are as they were written, and which iteration a run can go on from.

A power cut can leave files whose names are there and whose contents are not. The optimiser file therefore lists size
and checksum of the other files of its iteration, and says in its first line how it ends.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from napari_autorefine.errors import InputError
from napari_autorefine.io.files import FileSet, read_error
from napari_autorefine.io.tables import read_star

FILE_TABLE = "autorefine_files"
RECORD = "_params.json"
ENDS_WITH = "# end of file"
_PROMISE = b"its last line is '# end of file'"
_NAME, _SIZE, _SUM = "autorefineFileName", "autorefineFileSize", "autorefineFileCrc32"
_OPTIMISER = re.compile(r"(?P<name>.+?)(?:_it(?P<iteration>\d{3,}))?_optimiser\.star")
_CONTINUED = re.compile(r"(?P<name>.+)_ct(?P<iteration>\d+)")
_PIECE = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundIteration:
    """The iteration to go on from, and what is wrong with newer ones that cannot be used."""

    optimiser: Path
    damages: tuple[str, ...] = ()


def promise(program: str) -> str:
    """Return the first comment of an optimiser file, which says how the file ends."""
    return f"RELION optimiser; written by {program}; {_PROMISE.decode()}"


def file_table(files: FileSet) -> pd.DataFrame:
    """Return names, sizes (bytes) and checksums of the files that a set holds so far, without the run's record."""
    rows = []
    for target in files.targets:
        if target.name.endswith(RECORD):  # which may be written again
            continue
        written = files.temporary(target)
        rows.append({_NAME: target.name, _SIZE: written.stat().st_size, _SUM: _checksum(written)})
    return pd.DataFrame(rows).astype({_NAME: object})


def close_optimiser(path: Path) -> None:
    """Write the line that an optimiser file ends with."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{ENDS_WITH}\n")


def damage_of(optimiser: Path) -> str:
    """Return what is wrong with an iteration's files, nothing when they are as written or made by another program."""
    try:
        content = optimiser.read_bytes()
        if not content or b"\0" in content:
            return f"{optimiser} is damaged: it is empty or holds zeros"
        if _PROMISE in content.split(b"\n", 1)[0] and not content.rstrip().endswith(ENDS_WITH.encode()):
            return f"{optimiser} is damaged: its end is missing"
        table = read_star(optimiser).loop(FILE_TABLE)
        for row in () if table is None else table.to_dict("records"):
            found = _damage_of_file(optimiser.with_name(str(row[_NAME])), int(row[_SIZE]), int(row[_SUM]))
            if found:
                return found
    except OSError as error:
        return str(read_error(optimiser, error)).rstrip(".")
    except (InputError, KeyError, ValueError) as error:
        return str(error).rstrip(".")
    return ""


def _damage_of_file(path: Path, size: int, checksum: int) -> str:
    if not path.is_file():
        return f"{path} is missing"
    now = path.stat().st_size
    if now != size:
        return f"{path} is damaged: it has {now} bytes instead of {size}"
    return "" if _checksum(path) == checksum else f"{path} is damaged: its contents are not those that were written"


def _checksum(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            value = zlib.crc32(piece, value)
    return value


def prefix_to_go_on(place: str | os.PathLike[str]) -> Path:
    """Return what the names of the run's files start with, of one of its optimiser files or of its folder."""
    path = Path(place)
    if path.is_dir():
        path = _newest(path)
    match = _OPTIMISER.fullmatch(path.name)
    return path.with_name(match["name"]) if match else path


def iteration_to_go_on(place: str | os.PathLike[str]) -> FoundIteration:
    """Return the iteration to go on from: the newest of a folder's newest run, or the one that is named.

    When the newest files of a run are damaged, as by a power cut, the iteration before them is taken: what follows is
    the same.

    Raises
    ------
    InputError
        A folder without a run, a finished run, or no iteration that is whole.
    """
    path = Path(place)
    if path.is_dir():
        path = _newest(path)
        match = _OPTIMISER.fullmatch(path.name)
        final = path.with_name(f"{match['name'] if match else ''}_optimiser.star")
        if final.is_file() and not damage_of(final):
            raise InputError(
                f"The run in {place} is finished; to go on all the same name the optimiser file of one of its"
                " iterations (_itNNN_optimiser.star)."
            )
    candidates = tuple(_back_from(path))
    if len(candidates) < 2 or path != _newest_of(path):  # only the newest can have been torn
        reason = damage_of(path) if candidates else ""
        if reason:
            raise InputError(f"{reason}; {_hint(path)}.")
        return FoundIteration(optimiser=path)
    damages: list[str] = []
    for candidate in candidates:
        reason = damage_of(candidate)
        if not reason:
            return FoundIteration(optimiser=candidate, damages=tuple(damages))
        damages.append(reason)
    raise InputError(f"{damages[0]}, and no earlier iteration is whole; start the run again.")


def has_whole_iteration_after(prefix: Path, iteration: int) -> bool:
    """Tell whether a run has files after an iteration that are whole, those of a finished run included."""
    later = [path for number, path in _iterations(prefix) if number > iteration]
    final = prefix.with_name(f"{prefix.name}_optimiser.star")
    return any(not damage_of(path) for path in (*([final] if final.is_file() else []), *later))


def _newest(folder: Path) -> Path:
    """Return the optimiser file of the last iteration of the run of a folder that was written to last."""
    runs: dict[str, list[tuple[int, Path]]] = {}
    for path in folder.iterdir():
        match = _OPTIMISER.fullmatch(path.name)
        if match and match["iteration"] and not path.name.startswith("."):
            runs.setdefault(match["name"], []).append((int(match["iteration"]), path))
    if not runs:
        raise InputError(f"{folder} holds no iteration of a refinement to go on from (no _itNNN_optimiser.star).")
    newest = max(runs.values(), key=lambda run: max(path.stat().st_mtime for _, path in run))
    return max(newest)[1]


def _newest_of(path: Path) -> Path:
    """Return the optimiser file of the last iteration of the run that a file belongs to."""
    match = _OPTIMISER.fullmatch(path.name)
    found = _iterations(path.with_name(match["name"])) if match else []
    return max(found)[1] if found else path


def _iterations(prefix: Path) -> list[tuple[int, Path]]:
    """Return number and optimiser file of the iterations of a run."""
    found = []
    for path in prefix.parent.iterdir() if prefix.parent.is_dir() else ():
        match = _OPTIMISER.fullmatch(path.name)
        if match and match["name"] == prefix.name and match["iteration"]:
            found.append((int(match["iteration"]), path))
    return found


def _back_from(path: Path) -> Iterator[Path]:
    """Yield the optimiser files of an iteration and of those before it, newest first, across continuations."""
    match = _OPTIMISER.fullmatch(path.name)
    if match is None or not match["iteration"]:
        return
    prefix, iteration = path.with_name(match["name"]), int(match["iteration"])
    while True:
        for _, found in sorted(((n, one) for n, one in _iterations(prefix) if n <= iteration), reverse=True):
            yield found
        before = _CONTINUED.fullmatch(prefix.name)
        if before is None:
            return
        prefix, iteration = prefix.with_name(before["name"]), int(before["iteration"])


def _hint(path: Path) -> str:
    """Say which iteration can be taken instead of one whose files are not all there."""
    for candidate in _back_from(_newest_of(path)):
        if candidate != path and not damage_of(candidate):
            return f"go on from {candidate}"
    return "start the run again"
