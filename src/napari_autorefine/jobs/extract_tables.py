"""Tables of extracted particles: coordinates and origins, optics groups, CTF columns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from napari_autorefine.errors import InputError
from napari_autorefine.io.columns import Columns
from napari_autorefine.io.micrograph_tables import Coordinates, MicrographTable, ctf_columns
from napari_autorefine.io.optics import optics_groups
from napari_autorefine.jobs.extract_params import ExtractParams, even
from napari_autorefine.model.geometry import euler_to_matrix, round_half_away
from napari_autorefine.model.optics import OpticsGroup

_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_AXES = "XYZ"
_SAME_PIXEL = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Refined:
    """Refined particles (n rows) in the order of the micrographs, with the optics groups of their file.

    Attributes
    ----------
    optics_index : (n,) int64, row of ``optics``
    optics : optics table, numbered 1..G
    file : for messages
    """

    coordinates: Coordinates
    optics_index: np.ndarray
    optics: pd.DataFrame
    file: str

    def kept(self, keep: np.ndarray) -> Refined:
        """Return the rows where ``keep`` (n,) is True."""
        return replace(self, coordinates=self.coordinates.kept(keep), optics_index=self.optics_index[keep])


@dataclass(frozen=True, slots=True, kw_only=True)
class CtfSource:
    """What transfer functions are made of.

    Attributes
    ----------
    groups : optics groups with the pixel size of the micrographs
    group : (n,) int64, index into ``groups``
    parameters : (n, 6) float64, defocus U and V, angle, phase shift, B-factor, scale
    """

    groups: tuple[OpticsGroup, ...]
    group: np.ndarray
    parameters: np.ndarray


def recentered(refined: Refined, micrographs: MicrographTable, params: ExtractParams) -> Refined:
    """Return the particles with the coordinates and origins that were asked for.

    Re-centering moves coordinates by ROUND(o) with o = (origin - A c) / a, in pixels of the micrograph, A the rotation
    of the particle, c the point of the reference, a the pixel size of the micrograph; the rest stays as the origin.

    Raises
    ------
    InputError
        Origins or angles that are needed are missing.
    """
    table = refined.coordinates.table
    columns = Columns(table=table, file=refined.file, name="particles")
    has_depth = "rlnOriginZAngst" in columns
    if params.reset_offsets:
        new = {f"rlnOrigin{axis}Angst": np.zeros(len(table)) for axis in _AXES[: 3 if has_depth else 2]}
    elif params.recenter:
        new = _moved(columns, refined, micrographs, params)
    else:
        new = {}
    return replace(refined, coordinates=replace(refined.coordinates, table=table.assign(**new)))


def _moved(
    columns: Columns, refined: Refined, micrographs: MicrographTable, params: ExtractParams
) -> dict[str, np.ndarray]:
    """Return new coordinates and origins, Z alike where there is an origin in Z."""
    labels = [f"rlnOrigin{axis}Angst" for axis in _AXES]
    if labels[0] not in columns or labels[1] not in columns:
        raise columns.error("there are no origins (rlnOriginXAngst, rlnOriginYAngst) to re-center by")
    pixel_A = micrographs.pixel_size_A[micrographs.optics_index[refined.coordinates.micrograph]]
    image_A = _image_pixel_sizes(refined, pixel_A)
    shift = _projected_point(columns, refined, params)
    if params.ref_pixel_size_A is not None:
        shift = shift * (params.ref_pixel_size_A / image_A)[:, None]
    new: dict[str, np.ndarray] = {}
    for axis, label in enumerate(labels):
        if label in columns:
            offset = (columns.numbers(label) / image_A - shift[:, axis]) * (image_A / pixel_A)
            whole = round_half_away(offset)
            place = f"rlnCoordinate{_AXES[axis]}"
            new[place] = columns.numbers(place, 0.0) - whole
            new[label] = pixel_A * (offset - whole)
    return new


def _image_pixel_sizes(refined: Refined, pixel_A: np.ndarray) -> np.ndarray:
    """Return the pixel size (n,) that particles had; that of their micrograph where the file does not say."""
    columns = Columns(table=refined.optics, file=refined.file, name="optics")
    if "rlnImagePixelSize" not in columns:
        return pixel_A
    sizes = columns.numbers("rlnImagePixelSize")
    if (sizes <= 0).any():
        raise columns.error(f"rlnImagePixelSize must be positive, not {sizes.min():g}")
    return sizes[refined.optics_index]


def _projected_point(columns: Columns, refined: Refined, params: ExtractParams) -> np.ndarray:
    """Return the point of the reference in the view of each particle, (n, 3), in pixels of the reference."""
    point = np.array(params.point_px)
    if not point.any():
        return np.zeros((len(columns), 3))
    columns.require(*_ANGLES)
    sizes = np.unique(_image_pixel_sizes(refined, np.zeros(len(columns))))
    if params.ref_pixel_size_A is None and (len(sizes) > 1 and np.ptp(sizes) > _SAME_PIXEL * sizes[0]):
        raise InputError(
            f"{refined.file}: the optics groups have different pixel sizes ({sizes[0]:g} to {sizes[-1]:g} Å), so the"
            " pixel size of the point to re-center on is unclear; give it with --ref_angpix."
        )
    if params.ref_pixel_size_A is None and not sizes.any():
        raise InputError(f"{refined.file} has no rlnImagePixelSize; give that of the point with --ref_angpix.")
    moved: np.ndarray = np.einsum("nij,j->ni", euler_to_matrix(columns.stacked(_ANGLES)), point)
    return moved


def fresh_tables(
    coordinates: Coordinates, micrographs: MicrographTable, params: ExtractParams
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return particles (image names to be set) and optics of a first extraction."""
    table = _with_names(coordinates, micrographs)
    table["rlnOpticsGroup"] = micrographs.optics_index[coordinates.micrograph] + 1
    for label in micrographs.ctf.columns:
        table[label] = micrographs.ctf[label].to_numpy()[coordinates.micrograph]
    optics = micrographs.optics.drop(columns=["rlnMicrographPixelSize"], errors="ignore")
    return table, _sized(optics, micrographs.pixel_size_A, params)


def refined_tables(
    refined: Refined, micrographs: MicrographTable, params: ExtractParams
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return particles (image names to be set) and optics of a re-extraction.

    Optics groups are those of the particles, or those of the micrographs when their CTF is wanted.
    """
    coordinates = refined.coordinates
    table = _with_names(coordinates, micrographs)
    if "rlnDefocusU" not in table or params.keep_ctfs_micrographs:
        for label in micrographs.ctf.columns:
            table[label] = micrographs.ctf[label].to_numpy()[coordinates.micrograph]
    if params.keep_ctfs_micrographs:
        table["rlnOpticsGroup"] = micrographs.optics_index[coordinates.micrograph] + 1
        optics = micrographs.optics
        if "rlnMicrographPixelSize" in optics:
            optics = optics.assign(rlnMicrographPixelSize=micrographs.pixel_size_A)
        return table, _sized(optics, micrographs.pixel_size_A, params)
    pixel_A = _pixel_size_of_groups(refined, micrographs)
    kept = np.flatnonzero(~np.isnan(pixel_A))
    number = np.zeros(len(pixel_A), np.int64)
    number[kept] = np.arange(1, len(kept) + 1)
    table["rlnOpticsGroup"] = number[refined.optics_index]
    optics = refined.optics.iloc[kept].reset_index(drop=True).assign(rlnOpticsGroup=number[kept])
    return table, _sized(optics, pixel_A[kept], params)


def _with_names(coordinates: Coordinates, micrographs: MicrographTable) -> pd.DataFrame:
    """Return a copy of the table with a place for image names, and the micrographs as they are called now."""
    table = coordinates.table.copy()
    table["rlnImageName"] = ""
    table["rlnMicrographName"] = micrographs.names[coordinates.micrograph]
    return table


def _pixel_size_of_groups(refined: Refined, micrographs: MicrographTable) -> np.ndarray:
    """Return the micrograph pixel size of each optics group of the particles; NaN for one that is dropped.

    It is that of the micrographs of its particles; a group without particles is kept when the micrographs know its
    name.
    """
    sizes = np.full(len(refined.optics), np.nan)
    of_particles = micrographs.pixel_size_A[micrographs.optics_index[refined.coordinates.micrograph]]
    known = dict(zip(_group_names(micrographs.optics), micrographs.pixel_size_A.tolist(), strict=True))
    for group, name in enumerate(_group_names(refined.optics)):
        found = of_particles[refined.optics_index == group]
        if len(found) and np.ptp(found) > _SAME_PIXEL * found[0]:
            raise InputError(
                f"{refined.file}: particles of the optics group '{name}' come from micrographs of different pixel sizes"
                f" ({found.min():g} to {found.max():g} Å); split the group, or use --keep_ctfs_micrographs."
            )
        sizes[group] = found[0] if len(found) else known.get(name, np.nan)
    return sizes


def _group_names(optics: pd.DataFrame) -> list[str]:
    if "rlnOpticsGroupName" in optics:
        return [str(name) for name in optics["rlnOpticsGroupName"]]
    return [f"opticsGroup{number}" for number in optics["rlnOpticsGroup"]]


def _sized(optics: pd.DataFrame, micrograph_pixel_A: np.ndarray, params: ExtractParams) -> pd.DataFrame:
    """Return an optics table for the new images."""
    assert params.box_size_px is not None
    scaled = even(params.scale_size_px or params.box_size_px)
    return optics.assign(
        rlnImagePixelSize=micrograph_pixel_A * params.box_size_px / scaled,
        rlnImageSize=even(params.window_px or scaled),
        rlnImageDimensionality=2,
        rlnCtfDataAreCtfPremultiplied=int(params.premultiply_ctf),
    )


def ctf_source(
    table: pd.DataFrame,
    optics: pd.DataFrame,
    micrographs: MicrographTable,
    coordinates: Coordinates,
    params: ExtractParams,
) -> CtfSource | None:
    """Return what is needed to multiply images by their CTF, None when that is not wanted.

    Raises
    ------
    InputError
        No defocus, voltage, spherical aberration or amplitude contrast.
    """
    if not (params.premultiply_ctf or params.phase_flip):
        return None
    flag = "--premultiply_ctf" if params.premultiply_ctf else "--phase_flip"
    ctf = ctf_columns(Columns(table=table, file=params.micrographs, name="particles"))
    if "rlnDefocusU" not in ctf:
        raise InputError(f"{flag} needs a CTF, but neither the micrographs nor the particles have rlnDefocusU.")
    Columns(table=optics, file=params.micrographs, name="optics").require("rlnAmplitudeContrast")
    pixel_A = micrographs.pixel_size_A[micrographs.optics_index[coordinates.micrograph]]
    numbers = table["rlnOpticsGroup"].to_numpy() - 1
    groups = []
    for index, group in enumerate(optics_groups(optics, params.micrographs)):
        members = pixel_A[numbers == index]
        groups.append(replace(group, pixel_size_A=float(members[0])) if len(members) else group)
    labels = ["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift", "rlnCtfBfactor", "rlnCtfScalefactor"]
    return CtfSource(groups=tuple(groups), group=numbers, parameters=ctf[labels].to_numpy(np.float64))
