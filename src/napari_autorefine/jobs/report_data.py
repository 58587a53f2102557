"""What is in the folder of a refinement, ours or RELION's: read for a report, whatever is missing left out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.io.columns import Columns
from napari_autorefine.io.tables import ListTable, StarFile
from napari_autorefine.jobs.record import JobRecord

UNKNOWN = 999.0
"""RELION's value of an accuracy or a change that was not determined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A ``_model.star``: one half-set after an iteration, or all particles at the end."""

    path: Path
    star: StarFile

    def number(self, label: str) -> float:
        """Return a value of the table ``model_general``, NaN where it is missing."""
        return number(self.star.pairs("model_general"), label, self.path)

    def of_class(self, label: str) -> float:
        """Return a value of the first class, NaN where it is missing."""
        return number(self.star.pairs("model_classes"), label, self.path)

    def spectrum(self, label: str) -> np.ndarray | None:
        """Return a column of ``model_class_1``, (n_shell,), or None."""
        return column(self.star, "model_class_1", label, self.path)

    @property
    def noise(self) -> dict[str, np.ndarray]:
        """Noise variance by group, (2, n): frequency in 1/Å and variance; optics groups, in RELION 3.1 scale groups."""
        found = {}
        for name in self.star.tables:
            match = re.fullmatch(r"model_(optics_)?group_(\d+)", name)
            values = column(self.star, name, "rlnSigma2Noise", self.path) if match else None
            frequency = column(self.star, name, "rlnResolution", self.path) if match else None
            if match and values is not None and frequency is not None:
                kind = "optics group" if match[1] else "scale group"
                found[f"{kind} {match[2]}"] = np.stack([frequency, values])
        return found

    @property
    def groups(self) -> Columns | None:
        """Table of the scale groups."""
        table = self.star.loop("model_groups")
        return None if table is None else Columns(table=table, file=str(self.path), name="model_groups")

    @property
    def direction_weight(self) -> np.ndarray | None:
        """Share of the particles per direction of the sampling file, (n_direction,)."""
        return column(self.star, "model_pdf_orient_class_1", "rlnOrientationDistribution", self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """One iteration in numbers, NaN where a file is missing; ``number`` is None for the last one, of all particles.

    Steps are those of the fine search (after oversampling once), half of what the sampling file says.
    """

    number: int | None
    resolution_A: float = math.nan
    accuracy_rot_deg: float = math.nan
    accuracy_trans_A: float = math.nan
    healpix_order: float = math.nan
    angular_step_deg: float = math.nan
    offset_range_A: float = math.nan
    offset_step_A: float = math.nan
    is_local: bool = False
    change_rot_deg: float = math.nan
    change_trans_A: float = math.nan
    p_max: float = math.nan
    image_size_px: float = math.nan
    log_likelihood: float = math.nan
    no_gain: float = math.nan
    no_change: float = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A refinement as far as its files are there.

    Attributes
    ----------
    prefix : what all names of files start with
    is_final : whether a file of the finished run is there
    iterations : in order, the final one last
    models : the newest model files: of all particles when the run is finished, else one per half-set
    half_models : model files of both half-sets of the newest iteration
    fsc_history : iteration -> (n_shell,) of half 1
    optimiser, optimiser_comments, sampling : of the newest iteration, empty without the file
    directions_deg : (n, 2) rot and tilt of the sampling grid
    particles : table of the newest data file
    maps : files of maps that exist, by kind
    files : files that were read, by kind
    """

    prefix: Path
    is_final: bool
    iterations: tuple[Iteration, ...]
    models: tuple[Model, ...]
    half_models: tuple[Model, ...]
    fsc_history: Mapping[int, np.ndarray]
    optimiser: ListTable
    optimiser_comments: tuple[str, ...]
    sampling: ListTable
    directions_deg: np.ndarray | None
    particles: Columns | None
    optics: Columns | None
    maps: Mapping[str, Path]
    record: JobRecord | None
    excluded: Columns | None
    files: Mapping[str, Path] = field(default_factory=dict)

    @property
    def voxel_size_A(self) -> float:
        """Voxel size of the reference, NaN without a model file."""
        return self.models[0].number("rlnPixelSize") if self.models else math.nan

    @property
    def symmetry(self) -> str:
        """Point group by name, C1 where it is not recorded."""
        return str(self.sampling.get("rlnSymmetryGroup") or self.parameter("symmetry") or "C1")

    @property
    def is_tomography(self) -> bool:
        """Whether the particles are of tomograms, whose images have no single direction of view."""
        is_3d = any(model.number("rlnDataDimensionality") == 3 for model in self.models)
        return is_3d or (self.particles is not None and "rlnTomoName" in self.particles)

    def option(self, label: str) -> float:
        """Return a number of the optimiser file, NaN where it is missing."""
        return number(self.optimiser, label, self.files.get("optimiser", self.prefix))

    def parameter(self, name: str) -> object:
        """Return a parameter of this package's record, None without it."""
        return None if self.record is None else self.record.parameters.get(name)


def number(pairs: Mapping[str, object] | None, label: str, path: Path) -> float:
    """Return a value of a list table, NaN where it is missing.

    Raises
    ------
    InputError
        When it is not a number.
    """
    value = (pairs or {}).get(label, math.nan)
    try:
        return float(str(value))
    except ValueError:
        raise InputError(f"{path}: the value '{value}' of {label} is not a number.") from None


def column(star: StarFile, name: str, label: str, path: Path) -> np.ndarray | None:
    """Return a column of a table, (n,) float64, or None where table or column is missing."""
    table = star.loop(name)
    if table is None or label not in table:
        return None
    return values_of(Columns(table=table, file=str(path), name=name), label)


def values_of(columns: Columns, label: str) -> np.ndarray:
    """Return a column as (n,) float64 with NaN for what is not finite: RELION writes nan and inf for empty shells.

    Raises
    ------
    InputError
        When a value is not a number.
    """
    try:
        values = columns.table[label].to_numpy().astype(np.float64)
    except ValueError:
        values = columns.numbers(label)  # names the row
    return np.where(np.isfinite(values), values, np.nan)
