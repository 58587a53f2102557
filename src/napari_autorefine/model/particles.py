"""A particle set: poses, defocus and half-sets as arrays, with every STAR column kept untouched."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from napari_autorefine.model.optics import OpticsGroup


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

    def __len__(self) -> int:
        return len(self.image_name)
