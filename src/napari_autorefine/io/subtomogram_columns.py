"""Columns that only particles of tomograms have: tomogram, rotation of the subtomogram, coordinate, visible tilts."""

from __future__ import annotations

import numpy as np
import pandas as pd

from napari_autorefine.io.columns import Columns
from napari_autorefine.io.tables import VERSION_5_0
from napari_autorefine.model.optics import OpticsGroup
from napari_autorefine.model.particles import CoordinateUnit, SubtomogramRows

SUBTOMOGRAM_EULER = ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi")
CENTERED = ("rlnCenteredCoordinateXAngst", "rlnCenteredCoordinateYAngst", "rlnCenteredCoordinateZAngst")
PIXELS = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")
VISIBLE = "rlnTomoVisibleFrames"
TWO_D_STACKS = "rlnTomoSubTomosAre2DStacks"


def are_marked_tilt_stacks(general: object) -> bool:
    """Tell whether the table ``general`` of a particle file says that images are stacks of tilts (RELION 5)."""
    if isinstance(general, pd.DataFrame):
        return bool(len(general)) and str(general.get(TWO_D_STACKS, pd.Series([0])).iloc[0]) == "1"
    return isinstance(general, dict) and general.get(TWO_D_STACKS, 0) == 1


def subtomogram_rows(
    columns: Columns,
    optics: tuple[OpticsGroup, ...],
    optics_index: np.ndarray,
    *,
    general: object,
    version: int,
    tomogram_names: np.ndarray,
) -> SubtomogramRows | None:
    """Return what particles of tomograms have besides poses; None for single particles.

    Parameters
    ----------
    columns : particle table
    optics, optics_index : groups, and the group of every particle
    general : table ``general`` of the file, or None
    version : number of the file's ``# version`` line, which tells RELION 4 from 5
    tomogram_names : (n,) names for files without ``rlnTomoName``

    Raises
    ------
    InputError
        2D and 3D images in one file; a list of visible tilts that is none.
    """
    dimensions = np.array([group.dimensionality for group in optics])[optics_index]
    is_3d = dimensions == 3
    are_stacks = are_marked_tilt_stacks(general)
    if is_3d.any() and (are_stacks or not is_3d.all()):
        row, group = int(np.argmax(is_3d)), optics[int(optics_index[np.argmax(is_3d)])]
        other = f"{TWO_D_STACKS} is 1" if are_stacks else f"row {int(np.argmin(is_3d)) + 1} is a 2D image"
        raise columns.error(
            f"2D and 3D particles are mixed: row {row + 1} is a volume (optics group '{group.name}') but {other};"
            " refine them in separate files"
        )
    if not (are_stacks or is_3d.any()):
        return None
    coordinate, unit = coordinates(columns, version)
    return SubtomogramRows(
        is_tilt_stack=are_stacks,
        tomogram_name=columns.texts("rlnTomoName") if "rlnTomoName" in columns else tomogram_names,
        rotation_deg=columns.stacked(SUBTOMOGRAM_EULER),
        coordinate=coordinate,
        coordinate_unit=unit,
        weights_name=columns.texts("rlnCtfImage") if "rlnCtfImage" in columns and not are_stacks else None,
        visible=_visible(columns) if are_stacks and VISIBLE in columns else None,
    )


def coordinates(columns: Columns, version: int) -> tuple[np.ndarray | None, CoordinateUnit]:
    """Return coordinates (n, 3) in tomograms, None without them, and their unit; RELION 5's come first."""
    if all(label in columns for label in CENTERED):
        return columns.stacked(CENTERED), "A_from_center"
    if all(label in columns for label in PIXELS):
        return columns.stacked(PIXELS), "px_from_0" if version >= VERSION_5_0 else "px_from_1"
    return None, "A_from_center"


def _visible(columns: Columns) -> np.ndarray:
    """Return one bool array per row from lists like ``[0,1,1,0]``; equal lists share one array."""
    known: dict[str, np.ndarray] = {}
    result = np.empty(len(columns), object)
    for row, text in enumerate(columns.texts(VISIBLE).tolist()):
        if text not in known:
            known[text] = _flags(columns, text, row)
        result[row] = known[text]
    return result


def _flags(columns: Columns, text: str, row: int) -> np.ndarray:
    words = text[1:-1].split(",")
    if text[:1] != "[" or text[-1:] != "]" or not {word.strip() for word in words} <= {"0", "1"}:
        raise columns.error(f"the value '{text}' of {VISIBLE} in row {row + 1} is not a list of 0 and 1 like [0,1,1]")
    flags = np.array([word.strip() == "1" for word in words])
    if not flags.any():
        raise columns.error(f"{VISIBLE} in row {row + 1} has no visible tilt; remove the particle")
    return flags
