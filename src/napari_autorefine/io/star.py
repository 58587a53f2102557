"""Particle sets in STAR files: RELION's labels on one side, :class:`Particles` on the other."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from napari_autorefine.errors import InputError
from napari_autorefine.io.columns import Columns
from napari_autorefine.io.names import search_folders
from napari_autorefine.io.optics import complete_optics, optics_groups, renumber_optics
from napari_autorefine.io.relion30 import upgrade_relion_3_0
from napari_autorefine.io.subtomogram_columns import are_marked_tilt_stacks, subtomogram_rows
from napari_autorefine.io.tables import (
    VERSION_3_1,
    VERSION_5_0,
    ListTable,
    StarFile,
    Table,
    read_star,
    write_star,
)
from napari_autorefine.model.optics import OpticsGroup
from napari_autorefine.model.particles import Particles

__all__ = [
    "ListTable",
    "StarFile",
    "Table",
    "are_tilt_stacks",
    "missing_ctf_columns",
    "read_particles",
    "read_star",
    "updated_tables",
    "write_particles",
    "write_star",
]

_JOB_PREFIX = re.compile(r"^[^/]+/job\d+/")
_EULER = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_EULER_PRIOR = ("rlnAngleRotPrior", "rlnAngleTiltPrior", "rlnAnglePsiPrior")
_ORIGIN = ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst")
_ORIGIN_PRIOR = ("rlnOriginXPriorAngst", "rlnOriginYPriorAngst", "rlnOriginZPriorAngst")


def read_particles(path: str | os.PathLike[str], *, project_dir: str | os.PathLike[str] | None = None) -> Particles:
    """Read a particle STAR file of RELION 3.0, 3.1, 4 or 5 (single particles or subtomograms).

    Parameters
    ----------
    path : str or path
        Particle STAR file.
    project_dir : str, path or None
        Folder that image names are relative to; the working directory if None. Images are only opened for their box
        size, and only where the file does not give it.

    Raises
    ------
    InputError
        A missing column or table, an undefined optics group, a value that cannot be used; names file, table and row.
    """
    star = read_star(path)
    version = {VERSION_5_0: "5.0"}.get(star.version, "3.1")
    if "optics" not in star.tables:
        star, version = upgrade_relion_3_0(star, path), "3.0"
    particles, optics_table = star.loop("particles"), star.loop("optics")
    if particles is None or optics_table is None:
        raise InputError(f"{path} holds no particles: it has no table 'data_particles'.")
    columns = Columns(table=particles, file=str(path), name="particles")
    if not len(columns):
        raise columns.error("there is no particle")
    names = columns.texts("rlnImageName")
    optics_index, optics_table = renumber_optics(columns, optics_table, str(path))
    optics_table = complete_optics(optics_table, names, optics_index, search_folders(path, project_dir))
    return _particles(
        columns,
        optics=optics_groups(optics_table, str(path)),
        optics_index=optics_index,
        optics_table=optics_table,
        other_tables={name: table for name, table in star.tables.items() if name not in {"optics", "particles"}},
        version=(version, star.version),
    )


def _particles(
    columns: Columns,
    *,
    optics: tuple[OpticsGroup, ...],
    optics_index: np.ndarray,
    optics_table: pd.DataFrame,
    other_tables: dict[str, object],
    version: tuple[str, int],
) -> Particles:
    micrographs = _micrograph_names(columns)
    subtomograms = subtomogram_rows(
        columns,
        optics,
        optics_index,
        general=other_tables.get("general"),
        version=version[1],
        tomogram_names=micrographs,
    )
    n_axis = 2 if subtomograms is None else 3
    defocus_u = columns.stacked_or_none(["rlnDefocusU"])
    if defocus_u is None:
        defocus_A = np.full((len(columns), 2), np.nan)
    else:
        v = columns.numbers("rlnDefocusV")[:, None] if "rlnDefocusV" in columns else defocus_u
        defocus_A = np.concatenate([defocus_u, v], axis=1)
    return Particles(
        image_name=columns.texts("rlnImageName"),
        micrograph_name=micrographs,
        group_name=columns.texts("rlnGroupName") if "rlnGroupName" in columns else _without_job(micrographs),
        optics_index=optics_index,
        euler_deg=columns.stacked(_EULER),
        origin_A=columns.stacked(_ORIGIN[:n_axis]),
        defocus_A=defocus_A,
        defocus_angle_deg=columns.numbers("rlnDefocusAngle", 0.0),
        phase_shift_deg=columns.numbers("rlnPhaseShift", 0.0),
        ctf_bfactor_A2=columns.numbers("rlnCtfBfactor", 0.0),
        ctf_scale=columns.numbers("rlnCtfScalefactor", 1.0),
        half=_halves(columns),
        norm_correction=columns.numbers("rlnNormCorrection", 1.0),
        optics=optics,
        table=columns.table.assign(rlnOpticsGroup=optics_index + 1),
        optics_table=optics_table,
        euler_prior_deg=columns.stacked_or_none(_EULER_PRIOR),
        origin_prior_A=columns.stacked_or_none(_ORIGIN_PRIOR[:n_axis]),
        other_tables=other_tables,
        version=version[0],
        subtomograms=subtomograms,
    )


def _micrograph_names(columns: Columns) -> np.ndarray:
    """Names of micrographs, else of tomograms, else of the stacks."""
    for label in ("rlnMicrographName", "rlnTomoName"):
        if label in columns:
            return columns.texts(label)
    return _mapped(columns.texts("rlnImageName"), lambda name: name.partition("@")[2] or name)


def _without_job(names: np.ndarray) -> np.ndarray:
    return _mapped(names, lambda name: _JOB_PREFIX.sub("", name))


def _mapped(texts: np.ndarray, change: Callable[[str], str]) -> np.ndarray:
    known: dict[str, str] = {}
    result = np.empty(len(texts), object)
    result[:] = [known[text] if text in known else known.setdefault(text, change(text)) for text in texts.tolist()]
    return result


def _halves(columns: Columns) -> np.ndarray:
    halves = columns.integers("rlnRandomSubset", 0)
    bad = np.flatnonzero((halves < 0) | (halves > 2))
    if len(bad):
        raise columns.error(f"rlnRandomSubset in row {bad[0] + 1} is {halves[bad[0]]}, but only 1 and 2 are half-sets")
    if (halves == 0).any() and (halves != 0).any():
        row = int(np.flatnonzero(halves == 0)[0]) + 1
        raise columns.error(f"rlnRandomSubset is 0 in row {row} but set elsewhere; set all to 1 or 2, or remove it")
    return halves.astype(np.int8)


def are_tilt_stacks(particles: Particles) -> bool:
    """Tell whether every image of the set is a stack of tilt images (RELION 5 tomography)."""
    return are_marked_tilt_stacks(particles.other_tables.get("general"))


def missing_ctf_columns(particles: Particles) -> tuple[str, ...]:
    """Return the labels that CTF correction needs and the file lacks."""
    missing = []
    if np.isnan(particles.defocus_A).any():
        missing.append("rlnDefocusU")
    if "rlnAmplitudeContrast" not in particles.optics_table and "rlnAmplitudeContrast" not in particles.table:
        missing.append("rlnAmplitudeContrast")
    return tuple(missing)


def updated_tables(
    particles: Particles,
    *,
    euler_deg: np.ndarray,
    origin_A: np.ndarray,
    columns: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Table]:
    """Return the tables of a particle file with new poses; every other column stays as it was read.

    Parameters
    ----------
    particles : n particles
        As read; not changed.
    euler_deg : (n, 3)
        Rot, tilt, psi.
    origin_A : (n, 2) or (n, 3)
        Shift that brings the particle to the box centre.
    columns : label to (n,)
        Further columns to set.
    """
    new = dict(zip(_EULER, np.asarray(euler_deg, np.float64).T, strict=True))
    new.update(zip(_ORIGIN, np.asarray(origin_A, np.float64).T, strict=False))
    new.update(columns or {})
    tables: dict[str, Table] = {}
    others = {name: table for name, table in particles.other_tables.items() if isinstance(table, (dict, pd.DataFrame))}
    if "general" in others:
        tables["general"] = others.pop("general")
    tables["optics"] = particles.optics_table
    tables["particles"] = particles.table.assign(**new)
    return {**tables, **others}


def write_particles(
    path: str | os.PathLike[str], particles: Particles, tables: Mapping[str, Table] | None = None
) -> None:
    """Write a particle file in the layout of RELION 3.1, or 5.0 if it came from there."""
    if tables is None:
        tables = updated_tables(particles, euler_deg=particles.euler_deg, origin_A=particles.origin_A)
    write_star(path, tables, version=VERSION_5_0 if particles.version == "5.0" else VERSION_3_1)
