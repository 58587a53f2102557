"""STAR files about micrographs: the list of micrographs with their optics and CTF, and particle coordinates."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from napari_autorefine.errors import InputError
from napari_autorefine.io.columns import Columns
from napari_autorefine.io.names import find_image_file, search_folders
from napari_autorefine.io.optics import renumber_optics
from napari_autorefine.io.relion30 import upgrade_relion_3_0
from napari_autorefine.io.star import read_star
from napari_autorefine.io.tables import StarFile

CTF_DEFAULTS: dict[str, float | None] = {
    "rlnCtfMaxResolution": None,
    "rlnCtfFigureOfMerit": None,
    "rlnDefocusU": 0.0,
    "rlnDefocusV": None,
    "rlnDefocusAngle": 0.0,
    "rlnCtfBfactor": 0.0,
    "rlnCtfScalefactor": 1.0,
    "rlnPhaseShift": 0.0,
}
"""CTF columns of a micrograph that its particles get, in RELION's order; None: only where the file has the column."""

_JOB = re.compile(r"^(?:.*?/)?job\d+/")
_MOVED_TO_OPTICS = (
    "rlnAmplitudeContrast",
    "rlnBeamTiltX",
    "rlnBeamTiltY",
    "rlnSphericalAberration",
    "rlnVoltage",
    "rlnDetectorPixelSize",
    "rlnMagnification",
    "rlnMicrographPixelSize",
    "rlnImagePixelSize",
)
_PIXEL_SIZES = ("rlnMicrographPixelSize", "rlnImagePixelSize")
_COORDINATES = ("rlnCoordinateX", "rlnCoordinateY")
_LISTED = "rlnMicrographCoordinates"


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrographTable:
    """The micrographs of one STAR file.

    Attributes
    ----------
    file : name of the file
    names : (m,) object, as written
    optics_index : (m,) int64, row of ``optics``
    optics : optics table, sorted and renumbered 1..G
    pixel_size_A : (G,) float64
    ctf : CTF columns (m rows), empty without a CTF
    """

    file: str
    names: np.ndarray
    optics_index: np.ndarray
    optics: pd.DataFrame
    pixel_size_A: np.ndarray
    ctf: pd.DataFrame

    def __len__(self) -> int:
        return len(self.names)

    @property
    def has_ctf(self) -> bool:
        """Whether the file gives a defocus."""
        return "rlnDefocusU" in self.ctf


def without_job(name: str) -> str:
    """Return the part of a path behind RELION's ``Type/jobNNN/``; a path without it as it is."""
    return _JOB.sub("", name)


def read_micrographs(path: str | os.PathLike[str], *, pixel_size_A: float | None = None) -> MicrographTable:
    """Read a micrograph STAR file of RELION 3.0 to 5.

    Parameters
    ----------
    path : str or path
        Micrograph STAR file.
    pixel_size_A : float
        Used instead of what the file says.

    Raises
    ------
    InputError
        No micrographs, one listed twice, an unknown pixel size.
    """
    star = read_star(path)
    name, table = _table_with(star, "rlnMicrographName", path)
    if "rlnImageName" in table:
        raise InputError(
            f"{path} lists particles, not micrographs; give it with --reextract_data_star, and the micrographs that"
            " they were cut from with --i."
        )
    columns = Columns(table=table, file=str(path), name=name)
    if not len(columns):
        raise columns.error("there is no micrograph")
    names = columns.texts("rlnMicrographName")
    _check_unique(columns, names)
    optics = star.loop("optics")
    if optics is None:
        optics_index, optics = _optics_of_3_0(columns)
    else:
        optics_index, optics = renumber_optics(columns, optics, str(path))
    return MicrographTable(
        file=str(path),
        names=names,
        optics_index=optics_index,
        optics=optics,
        pixel_size_A=_pixel_sizes(optics, str(path), pixel_size_A),
        ctf=ctf_columns(columns),
    )


def _table_with(star: StarFile, label: str, path: str | os.PathLike[str]) -> tuple[str, pd.DataFrame]:
    """Return the first loop that has a column."""
    for name in star.tables:
        table = star.loop(name)
        if table is not None and label in table.columns:
            return name, table
    raise InputError(f"{path} has no column {label}, so it is not the STAR file that is needed here.")


def _check_unique(columns: Columns, names: np.ndarray) -> None:
    double = np.flatnonzero(pd.Series(names, dtype=object).duplicated())
    if len(double):
        raise columns.error(f"the micrograph {names[double[0]]} of row {double[0] + 1} is listed twice; remove one")


def _optics_of_3_0(columns: Columns) -> tuple[np.ndarray, pd.DataFrame]:
    """Return groups of micrographs that share all optics columns, as RELION 3.1 converts older files."""
    moved = [label for label in _MOVED_TO_OPTICS if label in columns]
    values = pd.DataFrame({label: columns.numbers(label) for label in moved}, index=range(len(columns)))
    if not moved:
        values["none"] = 0.0
    keys = list(values.columns)
    index = values.groupby(keys, sort=False).ngroup().to_numpy()
    optics = values.drop_duplicates().reset_index(drop=True)
    if "rlnDetectorPixelSize" in optics and "rlnMagnification" in optics:
        if (optics["rlnMagnification"] <= 0).any():
            raise columns.error("rlnMagnification must be positive")
        if not any(label in optics for label in _PIXEL_SIZES):
            pixel_A = 1e4 * optics["rlnDetectorPixelSize"] / optics["rlnMagnification"]
            optics = optics.assign(rlnMicrographPixelSize=pixel_A, rlnMicrographOriginalPixelSize=pixel_A)
    optics = optics.drop(columns=["none", "rlnDetectorPixelSize", "rlnMagnification"], errors="ignore")
    optics.insert(0, "rlnOpticsGroup", np.arange(1, len(optics) + 1))
    optics.insert(1, "rlnOpticsGroupName", pd.Series([f"opticsGroup{n + 1}" for n in range(len(optics))], dtype=object))
    return index.astype(np.int64), optics


def _pixel_sizes(optics: pd.DataFrame, file: str, pixel_size_A: float | None) -> np.ndarray:
    if pixel_size_A is not None:
        return np.full(len(optics), pixel_size_A)
    columns = Columns(table=optics, file=file, name="optics")
    for label in _PIXEL_SIZES:
        if label in columns:
            sizes = columns.numbers(label)
            if (sizes <= 0).any():
                raise columns.error(f"{label} must be positive, not {sizes.min():g}")
            return sizes
    raise InputError(f"{file}: the pixel size is unknown, as rlnMicrographPixelSize is missing; give it with --angpix.")


def ctf_columns(columns: Columns) -> pd.DataFrame:
    """Return the CTF columns of a table with RELION's defaults filled in; none without ``rlnDefocusU``."""
    found: dict[str, np.ndarray] = {}
    if "rlnDefocusU" not in columns:
        return pd.DataFrame(index=range(len(columns)))
    for label, default in CTF_DEFAULTS.items():
        if label in columns or default is not None:
            found[label] = columns.numbers(label, default)
        elif label == "rlnDefocusV":
            found[label] = columns.numbers("rlnDefocusU")
    return pd.DataFrame(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinates:
    """Particle coordinates from one or many STAR files, sorted by micrograph.

    Attributes
    ----------
    table : all columns of the files (n rows)
    micrograph : (n,) int64, row of the micrograph table, ascending
    file, row : (n,) name of the file and 1-based row in it, for messages
    without : micrographs for which there is nothing
    """

    table: pd.DataFrame
    micrograph: np.ndarray
    file: np.ndarray
    row: np.ndarray
    without: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.table)

    def place(self, index: int) -> str:
        """Return file and row of one particle."""
        return f"{self.file[index]}, row {self.row[index]}"

    def xy(self) -> np.ndarray:
        """Return the coordinates (n, 2) float64 in pixels of the micrographs."""
        return self.table[list(_COORDINATES)].to_numpy(np.float64)

    def kept(self, keep: np.ndarray) -> Coordinates:
        """Return the rows where ``keep`` (n,) is True."""
        return Coordinates(
            table=self.table[keep].reset_index(drop=True),
            micrograph=self.micrograph[keep],
            file=self.file[keep],
            row=self.row[keep],
            without=self.without,
        )


def read_coordinate_file(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read one coordinate STAR file (manual picks, auto-picks); an empty one gives no rows.

    Raises
    ------
    InputError
        Not a STAR file, no coordinates, or a coordinate that is no number.
    """
    star = read_star(path)
    loops = [star.loop(name) for name in star.tables]
    if all(loop is None or not len(loop.columns) for loop in loops):
        return pd.DataFrame()
    name, table = _table_with(star, _COORDINATES[0], path)
    return _checked(Columns(table=table, file=str(path), name=name))


def _checked(columns: Columns) -> pd.DataFrame:
    """Return a table whose coordinates are finite numbers."""
    columns.require(*_COORDINATES)
    if not len(columns):
        return columns.table
    return columns.table.assign(**{label: columns.numbers(label) for label in _COORDINATES})


def join_tables(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Join tables row by row; columns that some lack are filled with 0 or, for text, ``None``, as RELION does."""
    if not tables:
        return pd.DataFrame()
    columns: dict[str, list[np.ndarray]] = {label: [] for table in tables for label in table.columns}
    for label, parts in columns.items():
        found = [table[label].to_numpy() for table in tables if label in table]
        is_text = any(part.dtype.kind == "O" for part in found)
        for table in tables:
            nothing = np.full(len(table), "None", object) if is_text else np.zeros(len(table), found[0].dtype)
            parts.append(table[label].to_numpy() if label in table else nothing)
    return pd.DataFrame({label: np.concatenate(parts) for label, parts in columns.items()}, copy=False)


def match_micrographs(names: np.ndarray, micrographs: MicrographTable) -> np.ndarray:
    """Return the row of the micrograph table for each name, -1 where it has none.

    Names match as they are, else by what follows the job folder, in whole; RELION takes any name that contains it.
    """
    exact = {name: row for row, name in enumerate(micrographs.names.tolist())}
    short = {without_job(name): row for name, row in exact.items()}
    known = {name: exact.get(name, short.get(without_job(name), -1)) for name in set(names.tolist())}
    return np.array([known[name] for name in names.tolist()], np.int64)


def gather(tables: dict[int, tuple[str, pd.DataFrame]], without: tuple[str, ...] = ()) -> Coordinates:
    """Join tables of single micrographs, given with their files by row of the micrograph table."""
    order = sorted(tables)
    counts = [len(tables[row][1]) for row in order]
    files = np.repeat(np.array([tables[row][0] for row in order], object), counts)
    rows = np.concatenate([np.arange(1, count + 1) for count in counts]) if counts else np.empty(0, np.int64)
    return Coordinates(
        table=join_tables([tables[row][1] for row in order if len(tables[row][1])]),
        micrograph=np.repeat(np.array(order, np.int64), counts),
        file=files,
        row=rows,
        without=without,
    )


def read_coordinate_list(
    path: str | os.PathLike[str], micrographs: MicrographTable
) -> dict[int, str] | tuple[Coordinates, list[str]]:
    """Read one STAR file that lists coordinate files, or that holds the coordinates themselves.

    Returns
    -------
    dict
        Coordinate file (``rlnMicrographCoordinates``) by row of the micrograph table, or
    coordinates, unknown
        The coordinates, and the micrograph names of rows that are left out.
    """
    star = read_star(path)
    if any(table is not None and _LISTED in table for table in map(star.loop, star.tables)):
        return _listed_files(star, path, micrographs)
    name, table = _table_with(star, _COORDINATES[0], path)
    columns = Columns(table=table, file=str(path), name=name)
    columns.require("rlnMicrographName")
    return by_micrograph(_checked(columns), columns.texts("rlnMicrographName"), micrographs, str(path))


def _listed_files(star: StarFile, path: str | os.PathLike[str], micrographs: MicrographTable) -> dict[int, str]:
    name, table = _table_with(star, _LISTED, path)
    columns = Columns(table=table, file=str(path), name=name)
    index = match_micrographs(columns.texts("rlnMicrographName"), micrographs)
    folders = search_folders(path)
    files = (str(find_image_file(file, folders) or file) for file in columns.texts(_LISTED).tolist())
    return {row: file for row, file in zip(index.tolist(), files, strict=True) if row >= 0}


def by_micrograph(
    table: pd.DataFrame, names: np.ndarray, micrographs: MicrographTable, file: str
) -> tuple[Coordinates, list[str]]:
    """Sort a table by the micrographs that its rows name; also return the names of the rows that are left out."""
    index = match_micrographs(names, micrographs)
    order = np.argsort(index, kind="stable")
    order = order[index[order] >= 0]
    counts = np.bincount(index[order], minlength=len(micrographs))
    coordinates = Coordinates(
        table=table.iloc[order].reset_index(drop=True),
        micrograph=index[order],
        file=np.full(len(order), file, object),
        row=order + 1,
        without=tuple(micrographs.names[counts == 0].tolist()),
    )
    return coordinates, names[index < 0].tolist()


def found_files(
    micrographs: MicrographTable, folder: str | None, suffix: str, star_path: str | os.PathLike[str]
) -> dict[int, str]:
    """Name the coordinate file of each micrograph as RELION does.

    In ``folder`` it is the path behind the job folder without its extension, then ``suffix``; without a folder it lies
    beside the micrograph.
    """
    files = {}
    folders = search_folders(star_path)
    for row, name in enumerate(micrographs.names.tolist()):
        root = os.path.splitext(name if folder is None else without_job(name).lstrip("/"))[0] + suffix
        path = root if folder is None else os.path.join(folder, root)
        files[row] = str(find_image_file(path, folders) or path)
    return files


def read_refined(path: str | os.PathLike[str]) -> tuple[Columns, np.ndarray, pd.DataFrame]:
    """Read a particle file for re-extraction without opening its images.

    Returns
    -------
    columns : the particles; coordinates are finite numbers
    optics_index : (n,) int64
    optics : optics table, sorted and renumbered 1..G
    """
    star = read_star(path)
    if star.loop("optics") is None:
        star = upgrade_relion_3_0(star, path)
    particles, optics = star.loop("particles"), star.loop("optics")
    if particles is None or optics is None:
        raise InputError(f"{path} holds no particles: it has no table 'data_particles'.")
    columns = Columns(table=particles, file=str(path), name="particles")
    if not len(columns):
        raise columns.error("there is no particle")
    columns.require("rlnMicrographName")
    index, optics = renumber_optics(columns, optics, str(path))
    return Columns(table=_checked(columns), file=str(path), name="particles"), index, optics
