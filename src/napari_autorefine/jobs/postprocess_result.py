"""What post-processing found, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from napari_autorefine.engine.half_map_fsc import HalfMapCurves
from napari_autorefine.engine.sharpening import LineFit


@dataclass(frozen=True, slots=True, kw_only=True)
class PostprocessResult:
    """What post-processing found.

    Attributes
    ----------
    frequency2 : (n_shell,) squared frequency, 1 / A^2
    guinier : ln of the mean amplitude, (n_shell,), after each step: original, mtf, weighted, sharpened
    fit : line through the Guinier plot; None when it was not asked for or not possible
    fraction_of_mask, fraction_of_mass : box over particle, from the mask and from the mass
    """

    curves: HalfMapCurves
    resolution_A: float
    b_factor_A2: float
    fit: LineFit | None
    frequency2: np.ndarray
    guinier: Mapping[str, np.ndarray]
    fraction_of_mask: float | None
    fraction_of_mass: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharpening:
    """What the average map is multiplied by, by squared radius, and what is told about it."""

    table: np.ndarray
    result: PostprocessResult
