"""RELION 3.0 particle files, one table with offsets in pixels, turned into the optics and particles of 3.1."""

from __future__ import annotations

import os

import pandas as pd

from napari_autorefine.errors import InputError
from napari_autorefine.io.columns import Columns
from napari_autorefine.io.tables import VERSION_3_0, VERSION_3_1, StarFile

_OPTICS_LABELS = (
    "rlnAmplitudeContrast",
    "rlnBeamTiltX",
    "rlnBeamTiltY",
    "rlnSphericalAberration",
    "rlnVoltage",
    "rlnDetectorPixelSize",
    "rlnMagnification",
)
_PIXEL_LABELS = {
    "rlnOriginX": "rlnOriginXAngst",
    "rlnOriginY": "rlnOriginYAngst",
    "rlnOriginZ": "rlnOriginZAngst",
    "rlnOriginXPrior": "rlnOriginXPriorAngst",
    "rlnOriginYPrior": "rlnOriginYPriorAngst",
    "rlnOriginZPrior": "rlnOriginZPriorAngst",
}


def upgrade_relion_3_0(star: StarFile, path: str | os.PathLike[str]) -> StarFile:
    """Return the tables of a 3.0 file as RELION 3.1 converts them.

    Optics groups are the distinct rows of the columns that moved to the optics table, in order of appearance; the pixel
    size is 10000 * rlnDetectorPixelSize / rlnMagnification; offsets are multiplied by it.

    References
    ----------
    RELION 3.1 star_converter.cpp
    """
    name, table = _particle_table(star, path)
    columns = Columns(table=table, file=str(path), name=name)
    columns.require("rlnImageName")
    is_newer = star.version > VERSION_3_0 or "rlnOpticsGroup" in columns
    if is_newer and "rlnMagnification" not in columns:
        raise InputError(f"{path} has no table 'data_optics', which files of RELION 3.1 and later need.")
    columns.require("rlnDetectorPixelSize", "rlnMagnification", "rlnVoltage", "rlnSphericalAberration")
    moved = [label for label in _OPTICS_LABELS if label in columns]
    values = pd.DataFrame({label: columns.numbers(label) for label in moved})
    group = values.groupby(moved, sort=False).ngroup().to_numpy()
    optics = values.drop_duplicates().reset_index(drop=True)
    if (optics["rlnMagnification"] <= 0).any() or (optics["rlnDetectorPixelSize"] <= 0).any():
        raise columns.error("rlnMagnification and rlnDetectorPixelSize must be positive")
    pixel = 1e4 * optics["rlnDetectorPixelSize"] / optics["rlnMagnification"]
    numbers = range(1, len(optics) + 1)
    optics = optics.drop(columns=["rlnDetectorPixelSize", "rlnMagnification"])
    optics.insert(0, "rlnOpticsGroup", list(numbers))
    optics.insert(1, "rlnOpticsGroupName", pd.Series([f"opticsGroup{number}" for number in numbers], dtype=object))
    optics["rlnImagePixelSize"] = pixel
    particles = table.drop(columns=moved).assign(rlnOpticsGroup=group + 1)
    for old, new in _PIXEL_LABELS.items():
        if old in particles:
            particles[old] = columns.numbers(old) * pixel.to_numpy()[group]
            particles = particles.rename(columns={old: new})
    others = {key: value for key, value in star.tables.items() if key != name}
    tables = {"optics": optics, "particles": particles, **others}
    return StarFile(tables=tables, version=VERSION_3_1, comments=star.comments)


def _particle_table(star: StarFile, path: str | os.PathLike[str]) -> tuple[str, pd.DataFrame]:
    for name in ("particles", "images", ""):
        table = star.loop(name)
        if table is not None:
            return name, table
    found = ", ".join(f"'data_{name}'" for name in star.tables)
    raise InputError(
        f"{path} holds no particles: it needs the tables 'data_optics' and 'data_particles' but has {found}."
    )
