"""What the tables of a STAR file say about its images, leniently: a viewer opens what a refinement refuses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from napari_autorefine.errors import InputError
from napari_autorefine.io.columns import Columns
from napari_autorefine.io.relion30 import upgrade_relion_3_0
from napari_autorefine.io.tables import VERSION_5_0, StarFile


@dataclass(frozen=True, slots=True, kw_only=True)
class StarRows:
    """One table of a STAR file and the optics groups beside it.

    Attributes
    ----------
    path : file
    name : of the table
    table : rows as read
    optics : optics table; empty without one
    version : number of the file's ``# version`` line
    """

    path: Path
    name: str
    table: pd.DataFrame
    optics: pd.DataFrame
    version: int = VERSION_5_0

    def __len__(self) -> int:
        return len(self.table)

    def __contains__(self, label: str) -> bool:
        return label in self.table.columns

    @property
    def columns(self) -> Columns:
        """The table with sentences for what is wrong in it."""
        return Columns(table=self.table, file=str(self.path), name=self.name)

    def has(self, *labels: str) -> bool:
        """Tell whether all of these columns are there."""
        return all(label in self for label in labels)

    def texts(self, label: str) -> list[str]:
        """Return a column as texts."""
        return [str(text) for text in self.columns.texts(label).tolist()]

    def numbers(self, label: str) -> np.ndarray:
        """Return a column as (n,) float64, zeros without it."""
        return self.columns.numbers(label, 0.0)

    def optics_number(self, *labels: str) -> float | None:
        """Return the first of these values of the first optics group, else of the first row; None without any."""
        for label in labels:
            for table in (self.optics, self.table):
                if label in table.columns and len(table):
                    value = float(Columns(table=table, file=str(self.path), name="optics").numbers(label)[0])
                    if value > 0:
                        return value
        return None


def rows_with(star: StarFile, path: Path, *labels: str) -> StarRows | None:
    """Return the first table that has all of these columns, or None."""
    optics = star.loop("optics")
    for name in star.tables:
        table = star.loop(name)
        if table is not None and all(label in table.columns for label in labels):
            if not len(table):
                raise InputError(f"{path}: the table 'data_{name}' has no rows.")
            known = pd.DataFrame() if optics is None else optics
            return StarRows(path=path, name=name, table=table, optics=known, version=star.version)
    return None


def upgraded(rows: StarRows, star: StarFile) -> StarRows:
    """Return the rows of a RELION 3.0 file with an optics table; others, and incomplete ones, as they are."""
    if len(rows.optics) or "rlnMagnification" not in rows or "rlnImageName" not in rows:
        return rows
    try:
        new = upgrade_relion_3_0(star, rows.path)
    except InputError:
        return rows
    optics, table = new.loop("optics"), new.loop("particles")
    if optics is None or table is None:
        return rows
    return StarRows(path=rows.path, name=rows.name, table=table, optics=optics)
