"""A particle set: poses, defocus and half-sets as arrays, with every STAR column kept untouched."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from napari_autorefine.model.optics import OpticsGroup

Form = Literal["image", "volume", "tilt_stack"]
CoordinateUnit = Literal["A_from_center", "px_from_0", "px_from_1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubtomogramRows:
    """What n particles of tomograms have besides poses, row by row.

    The frame of a subtomogram is turned against its tomogram by the matrix A_sub of ``rotation_deg``: with A the matrix
    of the particle's own angles, ``x_tomogram = A_sub A x_reference``, and an origin ``o`` in the frame of the
    subtomogram moves the particle to ``coordinate - A_sub o``.

    Attributes
    ----------
    is_tilt_stack : each image is a stack of tilt images (RELION 5), else a volume
    tomogram_name : (n,) object
    rotation_deg : (n, 3) float64, ``rlnTomoSubtomogramRot/Tilt/Psi`` in degrees; zeros where the file has none
    coordinate : (n, 3) float64, x y z as in the file, or None
    coordinate_unit : of ``coordinate``: A from the tomogram's center (RELION 5), or unbinned pixels counted from 0
        (RELION 5) or 1 (RELION 4)
    weights_name : (n,) object, file of the CTF and multiplicity volumes (``rlnCtfImage``), or None
    visible : (n,) object, bool arrays (n_tilt,) that tell which tilts of the series the stack holds, or None
    """

    is_tilt_stack: bool
    tomogram_name: np.ndarray
    rotation_deg: np.ndarray
    coordinate: np.ndarray | None = None
    coordinate_unit: CoordinateUnit = "A_from_center"
    weights_name: np.ndarray | None = None
    visible: np.ndarray | None = None

    def selected(self, rows: np.ndarray) -> SubtomogramRows:
        """Return some of the rows, in the order of ``rows``."""
        return replace(self, **_chosen(self, rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class Particles:
    """n particles in the order of the file they came from.

    Attributes
    ----------
    image_name : (n,) object, ``000001@stack.mrcs`` as written in the file
    micrograph_name : (n,) object; the scale group is ``group_name``
    group_name : (n,) object, ``rlnGroupName`` or the micrograph without its job prefix
    optics_index : (n,) int64, 0-based index into ``optics``
    euler_deg : (n, 3) float64, rot tilt psi
    origin_A : (n, 2) or (n, 3) float64, x y (z)
    defocus_A : (n, 2) float64, U and V; NaN without defocus columns
    defocus_angle_deg, phase_shift_deg, ctf_bfactor_A2, ctf_scale : (n,) float64
    half : (n,) int8, 1 or 2; 0 = not assigned
    norm_correction : (n,) float64
    euler_prior_deg, origin_prior_A : priors of the file or None
    optics : optics groups, renumbered 1..G
    table : the particle table with every column of the file as read (text kept as text)
    optics_table : the optics table as read (or as made from a RELION 3.0 file)
    other_tables : further tables of the file by name, passed through
    version : file generation, ``"3.0"``, ``"3.1"``, ``"5.0"`` …
    subtomograms : what only particles of tomograms have; None for images of single particles
    """

    image_name: np.ndarray
    micrograph_name: np.ndarray
    group_name: np.ndarray
    optics_index: np.ndarray
    euler_deg: np.ndarray
    origin_A: np.ndarray
    defocus_A: np.ndarray
    defocus_angle_deg: np.ndarray
    phase_shift_deg: np.ndarray
    ctf_bfactor_A2: np.ndarray
    ctf_scale: np.ndarray
    half: np.ndarray
    norm_correction: np.ndarray
    optics: tuple[OpticsGroup, ...]
    table: pd.DataFrame
    optics_table: pd.DataFrame
    euler_prior_deg: np.ndarray | None = None
    origin_prior_A: np.ndarray | None = None
    other_tables: dict[str, object] = field(default_factory=dict)
    version: str = "3.1"
    subtomograms: SubtomogramRows | None = None

    def __len__(self) -> int:
        return len(self.image_name)

    @property
    def form(self) -> Form:
        """What one particle is: a 2D image, a 3D volume or a stack of 2D tilt images."""
        if self.subtomograms is None:
            return "image"
        return "tilt_stack" if self.subtomograms.is_tilt_stack else "volume"

    def selected(self, rows: np.ndarray) -> Particles:
        """Return some of the particles, in the order of ``rows``; optics groups stay, also those left empty."""
        chosen = _chosen(self, rows)
        chosen["table"] = self.table.iloc[rows].reset_index(drop=True)
        if self.subtomograms is not None:
            chosen["subtomograms"] = self.subtomograms.selected(rows)
        return replace(self, **chosen)


def _chosen(rows_of: SubtomogramRows | Particles, rows: np.ndarray) -> dict[str, Any]:
    """Return the arrays of a record at ``rows``: every array there has one entry per particle."""
    values = {one.name: getattr(rows_of, one.name) for one in fields(rows_of)}
    return {name: value[rows] for name, value in values.items() if isinstance(value, np.ndarray)}
