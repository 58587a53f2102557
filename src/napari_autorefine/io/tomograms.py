"""Tomogram files of RELION 4 and 5: a table of tomograms, and a table of tilts for each of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.io.columns import Columns
from napari_autorefine.io.mrc import read_header
from napari_autorefine.io.names import find_image_file, search_folders, split_image_name
from napari_autorefine.io.tables import StarFile, read_star
from napari_autorefine.model.tomography import Tomogram, projection_matrices

SIZES = ("rlnTomoSizeX", "rlnTomoSizeY", "rlnTomoSizeZ")
_ANGLES = ("rlnTomoXTilt", "rlnTomoYTilt", "rlnTomoZRot")
_SHIFTS = ("rlnTomoXShiftAngst", "rlnTomoYShiftAngst")
_ROWS = ("rlnTomoProjX", "rlnTomoProjY", "rlnTomoProjZ", "rlnTomoProjW")
_PIXEL = "rlnTomoTiltSeriesPixelSize"
_TILT_FILE = "rlnTomoTiltSeriesStarFile"
_DOSE = "rlnMicrographPreExposure"
_DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")


def read_tomograms(
    path: str | os.PathLike[str],
    *,
    names: Iterable[str] | None = None,
    project_dir: str | os.PathLike[str] | None = None,
) -> dict[str, Tomogram]:
    """Read tilt series: geometry, dose and CTF of every tilt.

    Parameters
    ----------
    path : str or path
        ``tomograms.star``; its table ``global`` has one row per tomogram. The tilts are in the file that the row names
        (RELION 5) or in a table of the same file (RELION 4), called like the tomogram.
    names : texts or None
        Tomograms that are wanted; all if None. Files of the others are not opened.
    project_dir : str, path or None
        Folder that names are relative to, then the file's own; the working directory if None. Tilt images are opened
        for their size only, and need not be there.

    Returns
    -------
    tomograms by name, in the order of the file

    Raises
    ------
    InputError
        A tomogram, table, file or column that is missing, or a value that cannot be used.
    """
    star = read_star(path)
    columns = _global_columns(star, str(path))
    listed = [str(name) for name in columns.texts("rlnTomoName")]
    repeated = next((name for row, name in enumerate(listed) if name in listed[:row]), None)
    if repeated is not None:
        raise columns.error(f"the tomogram {repeated} is listed twice")
    wanted = listed if names is None else list(dict.fromkeys(names))
    missing = [name for name in wanted if name not in set(listed)]
    if missing:
        more = "" if len(missing) == 1 else f" and {len(missing) - 1} more"
        raise columns.error(
            f"the tomogram {missing[0]}{more} of the particles is not listed; give the tomograms file of the particles"
        )
    folders = search_folders(path, project_dir)
    return {name: _tomogram(columns, row, star, folders) for row, name in enumerate(listed) if name in set(wanted)}


def _global_columns(star: StarFile, path: str) -> Columns:
    table = star.loop("global")
    if table is None or "rlnTomoName" not in table:
        raise InputError(f"{path} holds no tomograms: it has no table 'data_global' with rlnTomoName.")
    columns = Columns(table=table, file=path, name="global")
    if not len(columns):
        raise columns.error("there is no tomogram")
    columns.require(_PIXEL)
    return columns


def _tomogram(columns: Columns, row: int, star: StarFile, folders: tuple[Path, ...]) -> Tomogram:
    def number(label: str) -> float | None:
        return float(columns.numbers(label)[row]) if label in columns else None

    name, pixel = str(columns.texts("rlnTomoName")[row]), float(columns.numbers(_PIXEL)[row])
    if pixel <= 0:
        raise columns.error(f"{_PIXEL} of {name} must be positive, not {pixel:g}")
    hand, slope = number("rlnTomoHand"), number("rlnTomoDefocusSlope")
    if hand is not None and hand not in {1.0, -1.0}:
        raise columns.error(f"rlnTomoHand of {name} must be 1 or -1, not {hand:g}")
    tilts = _tilt_columns(columns, row, star, folders)
    tilts.require(_DOSE, *_DEFOCUS)
    size = tuple(int(columns.numbers(label)[row]) for label in SIZES) if all(s in columns for s in SIZES) else None
    images = _image_names(columns, row, tilts)
    image_size = _image_size(images, folders)
    return Tomogram(
        name=name,
        optics_name=str(columns.texts("rlnOpticsGroupName")[row]) if "rlnOpticsGroupName" in columns else name,
        pixel_size_A=pixel,
        size_px=None if size is None else (size[0], size[1], size[2]),
        image_size_px=image_size,
        hand=1.0 if hand is None else hand,
        defocus_slope=1.0 if slope is None else slope,
        voltage_kV=number("rlnVoltage"),
        cs_mm=number("rlnSphericalAberration"),
        amplitude_contrast=number("rlnAmplitudeContrast"),
        projection=_projection(tilts, pixel, size, image_size),
        dose_e_A2=_doses(tilts),
        defocus_A=np.stack([tilts.numbers(label) for label in _DEFOCUS[:2]], axis=1),
        defocus_angle_deg=tilts.numbers(_DEFOCUS[2]),
        phase_shift_deg=tilts.numbers("rlnPhaseShift", 0.0),
        ctf_bfactor_A2=tilts.numbers("rlnCtfBfactor", 0.0),
        ctf_scale=tilts.numbers("rlnCtfScalefactor", 1.0),
        bfactor_per_dose_A2=tilts.numbers("rlnCtfBfactorPerElectronDose", 0.0),
        image_name=images,
    )


def _tilt_columns(columns: Columns, row: int, star: StarFile, folders: tuple[Path, ...]) -> Columns:
    """Return the table of tilts of one tomogram, from the same file or from the one that its row names."""
    name, file = str(columns.texts("rlnTomoName")[row]), columns.file
    if _TILT_FILE in columns:
        named = str(columns.texts(_TILT_FILE)[row])
        found = find_image_file(named, folders)
        if found is None:
            tried = " and ".join(dict.fromkeys(str(folder.resolve()) for folder in folders))
            raise columns.error(f"the tilt-series file {named} of {name} does not exist (looked in {tried})")
        star, file = read_star(found), str(found)
    table = star.loop(name)
    if table is None:
        raise InputError(f"{file} has no table 'data_{name}' with the tilts of the tomogram {name}.")
    tilts = Columns(table=table, file=file, name=name)
    if not len(tilts):
        raise tilts.error("there is no tilt")
    return tilts


def _doses(tilts: Columns) -> np.ndarray:
    doses = tilts.numbers(_DOSE)
    if (doses < 0).any():
        row = int(np.argmax(doses < 0))
        raise tilts.error(f"{_DOSE} in row {row + 1} is {doses[row]:g}, but a dose cannot be negative")
    return doses


def _projection(
    tilts: Columns, pixel_size_A: float, size: tuple[int, ...] | None, image_size: tuple[int, int] | None
) -> np.ndarray:
    """Return (n_tilt, 4, 4) matrices from RELION 5's angles and shifts, or RELION 4's rows."""
    if all(label in tilts for label in _ROWS):
        return np.stack([_vectors(tilts, label) for label in _ROWS], axis=1)
    tilts.require("rlnTomoYTilt", "rlnTomoZRot")
    return projection_matrices(
        tilts.stacked(_ANGLES),
        tilts.stacked(_SHIFTS) / pixel_size_A,
        size_px=None if size is None else (size[0], size[1], size[2]),
        image_size_px=image_size,
    )


def _vectors(tilts: Columns, label: str) -> np.ndarray:
    """Return a column of lists of four numbers as (n, 4) float64."""
    result = np.empty((len(tilts), 4))
    for row, text in enumerate(tilts.texts(label).tolist()):
        try:
            values = [float(word) for word in text.strip().removeprefix("[").removesuffix("]").split(",")]
        except ValueError:
            values = []
        if len(values) != 4 or not np.isfinite(values).all():
            raise tilts.error(f"the value '{text}' of {label} in row {row + 1} is not a list of four numbers")
        result[row] = values
    return result


def _image_names(columns: Columns, row: int, tilts: Columns) -> np.ndarray | None:
    """Return the names of the tilt images; RELION 4 names one stack for all of them."""
    if "rlnMicrographName" in tilts:
        return tilts.texts("rlnMicrographName")
    if "rlnTomoTiltSeriesName" not in columns:
        return None
    stack = str(columns.texts("rlnTomoTiltSeriesName")[row])
    return np.array([f"{number:06d}@{stack}" for number in range(1, len(tilts) + 1)], object)


def _image_size(names: np.ndarray | None, folders: tuple[Path, ...]) -> tuple[int, int] | None:
    """Return columns and rows of the first tilt image that is there."""
    if names is None:
        return None
    found = find_image_file(split_image_name(str(names[0]))[1], folders)
    if found is None:
        return None
    _, n_y, n_x = read_header(found).shape
    return n_x, n_y
