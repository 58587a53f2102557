"""The optics table of a particle file: groups, their numbers and their sizes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from napari_autorefine.errors import InputError
from napari_autorefine.io.columns import Columns
from napari_autorefine.io.mrc import read_header
from napari_autorefine.io.names import find_image_file, split_image_name
from napari_autorefine.model.optics import OpticsGroup

_MAGNIFICATION = ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")
_PIXEL_SIZE_LABELS = (
    "rlnImagePixelSize",
    "rlnMicrographPixelSize",
    "rlnMicrographOriginalPixelSize",
    "rlnTomoTiltSeriesPixelSize",
)


def renumber_optics(particles: Columns, optics: pd.DataFrame, file: str) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the 0-based group of every particle and the optics table sorted and renumbered 1..G.

    Raises
    ------
    InputError
        A group defined twice, or a particle that points to an undefined one.
    """
    columns = Columns(table=optics, file=file, name="optics")
    if not len(columns):
        raise columns.error("there is no optics group")
    numbers = columns.integers("rlnOpticsGroup")
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    if len(np.unique(ordered)) < len(ordered):
        raise columns.error(f"the optics group {ordered[:-1][np.diff(ordered) == 0][0]} is defined twice")
    if "rlnOpticsGroup" not in particles and len(ordered) == 1:
        wanted = np.full(len(particles), ordered[0])
    else:
        wanted = particles.integers("rlnOpticsGroup")
    index = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    undefined = np.flatnonzero(ordered[index] != wanted)
    if len(undefined):
        row = undefined[0]
        raise particles.error(
            f"row {row + 1} belongs to optics group {wanted[row]}, which the table 'data_optics' does not define"
        )
    table = optics.iloc[order].reset_index(drop=True)
    return index, table.assign(rlnOpticsGroup=np.arange(1, len(ordered) + 1))


def complete_optics(
    table: pd.DataFrame, names: np.ndarray, optics_index: np.ndarray, folders: tuple[Path, ...]
) -> pd.DataFrame:
    """Return the optics table with box size and dimensionality, looked up in the first image of each group.

    An image that cannot be found leaves box size 0; opening the stack says so.
    """
    if "rlnImageSize" in table and "rlnImageDimensionality" in table:
        return table
    sizes, dimensions = [], []
    for group in range(len(table)):
        members = np.flatnonzero(optics_index == group)
        size, dimension = _first_image_size(names[members[0]], folders) if len(members) else (0, 2)
        sizes.append(size)
        dimensions.append(dimension)
    found = {"rlnImageSize": sizes, "rlnImageDimensionality": dimensions}
    return table.assign(**{label: values for label, values in found.items() if label not in table})


def _first_image_size(name: str, folders: tuple[Path, ...]) -> tuple[int, int]:
    index, path = split_image_name(name)
    dimension = 2 if index is not None or path.endswith(".mrcs") else 3
    found = find_image_file(path, folders)
    return (0 if found is None else read_header(found).shape[2]), dimension


def optics_groups(table: pd.DataFrame, file: str) -> tuple[OpticsGroup, ...]:
    """Return the groups of a completed optics table.

    Raises
    ------
    InputError
        Missing voltage, spherical aberration or pixel size; a box that is no positive number.
    """
    columns = Columns(table=table, file=file, name="optics")
    columns.require("rlnVoltage", "rlnSphericalAberration")
    pixel_size = _pixel_sizes(columns)
    return tuple(_group(columns, row, float(pixel_size[row])) for row in range(len(table)))


def _pixel_sizes(columns: Columns) -> np.ndarray:
    """RELION's order: image, micrograph, original micrograph, tilt series."""
    for label in _PIXEL_SIZE_LABELS:
        if label in columns:
            sizes = columns.numbers(label)
            if (sizes <= 0).any():
                raise columns.error(f"{label} must be positive, not {sizes.min()}")
            return sizes
    raise columns.error("the column rlnImagePixelSize is missing")


def _group(columns: Columns, row: int, pixel_size_A: float) -> OpticsGroup:
    def number(label: str, default: float) -> float:
        return float(columns.numbers(label, default)[row])

    magnification = None
    if _MAGNIFICATION[0] in columns:
        m00, m01, m10, m11 = (float(columns.numbers(label)[row]) for label in _MAGNIFICATION)
        magnification = (m00, m01, m10, m11)
    voltage = number("rlnVoltage", 0.0)
    if voltage <= 0:
        raise columns.error(f"rlnVoltage must be positive, not {voltage}")
    original = number("rlnMicrographOriginalPixelSize", 0.0)
    return OpticsGroup(
        number=row + 1,
        name=_text(columns, "rlnOpticsGroupName", row) or f"opticsGroup{row + 1}",
        pixel_size_A=pixel_size_A,
        box_size=int(number("rlnImageSize", 0.0)),
        voltage_kV=voltage,
        cs_mm=number("rlnSphericalAberration", 0.0),
        amplitude_contrast=number("rlnAmplitudeContrast", 0.0),
        dimensionality=int(number("rlnImageDimensionality", 2.0)),
        is_premultiplied=number("rlnCtfDataAreCtfPremultiplied", 0.0) != 0.0,
        beam_tilt_mrad=(number("rlnBeamTiltX", 0.0), number("rlnBeamTiltY", 0.0)),
        odd_zernike=_vector(columns, "rlnOddZernike", row),
        even_zernike=_vector(columns, "rlnEvenZernike", row),
        magnification=magnification,
        mtf_path=_text(columns, "rlnMtfFileName", row) or None,
        original_pixel_size_A=original if original > 0 else None,
    )


def _text(columns: Columns, label: str, row: int) -> str:
    text = str(columns.texts(label)[row]) if label in columns else ""
    return "" if text in {"None", '""'} else text


def _vector(columns: Columns, label: str, row: int) -> tuple[float, ...]:
    text = _text(columns, label, row)
    if not text:
        return ()
    if not re.fullmatch(r"\[.*\]", text):
        raise columns.error(f"the value '{text}' of {label} in row {row + 1} is not a list like [1,2,3]")
    try:
        return tuple(float(value) for value in text[1:-1].split(",") if value)
    except ValueError:
        raise columns.error(f"the value '{text}' of {label} in row {row + 1} is not a list of numbers") from None


def check_pixel_size(group: OpticsGroup, header_A: float, place: str) -> None:
    """Raise when the pixel size of a sane header contradicts the optics group by more than 0.1 %."""
    if abs(header_A / group.pixel_size_A - 1.0) > 1e-3:
        raise InputError(
            f"{place}: the header says {header_A:g} A per pixel but the optics group '{group.name}' says"
            f" {group.pixel_size_A:g}; correct rlnImagePixelSize or the header."
        )
