"""Colours of particles by a column of their table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from napari_autorefine.ui.layers_of_micrographs import POINT_COLOR

PLAIN = "one color"
_KNOWN = {
    "rlnTomoName": "tomogram",
    "rlnClassNumber": "class",
    "rlnRandomSubset": "half-set",
    "rlnOpticsGroup": "optics group",
    "rlnMaxValueProbDistribution": "certainty (Pmax)",
    "rlnLogLikeliContribution": "log-likelihood",
    "rlnAutopickFigureOfMerit": "correlation (figure of merit)",
    "rlnLCCmax": "correlation (LCCmax)",
    "rlnAverageNrOfFrames": "frames",
}
_CYCLE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")
_MOST_KINDS, _DARKEST = 64, 0.3
_KINDS = frozenset({"rlnTomoName", "rlnClassNumber", "rlnRandomSubset", "rlnOpticsGroup"})


def columns_to_color_by(features: pd.DataFrame) -> dict[str, str]:
    """Return columns that tell particles apart, label by what it is called: known ones first, then all with numbers."""
    known = [label for label in _KNOWN if label in features and features[label].nunique() > 1]
    others = [
        str(label)
        for label in features
        if label not in _KNOWN and features[label].dtype.kind in "if" and features[label].nunique() > 1
    ]
    named = {_KNOWN[label]: label for label in known if features[label].nunique() <= _MOST_KINDS or label not in _KINDS}
    return named | {label.removeprefix("rln"): label for label in others}


def color_of(features: pd.DataFrame, label: str) -> Any:
    """Return the colours (n, 4) of particles by a column, or the one colour of all.

    Parameters
    ----------
    features : columns
    label : of the column; empty for one colour
    """
    if not label or label not in features:
        return POINT_COLOR
    values = features[label]
    if label in _KINDS or values.dtype.kind not in "if":
        kinds = {kind: _CYCLE[at % len(_CYCLE)] for at, kind in enumerate(dict.fromkeys(values))}
        return np.array([_rgba(kinds[value]) for value in values])
    low, high = np.nanpercentile(values.to_numpy(np.float64), [1, 99])
    return _graded((values.to_numpy(np.float64) - low) / max(high - low, 1e-30))


def _rgba(color: str) -> tuple[float, ...]:
    return (*(int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)), 1.0)


def _graded(fraction: np.ndarray) -> np.ndarray:
    """Return colours from blue to yellow, without the dark end that is lost on a black canvas."""
    from napari.utils.colormaps import ensure_colormap

    seen = np.nan_to_num(np.clip(fraction, 0.0, 1.0))
    return np.asarray(ensure_colormap("viridis").map(_DARKEST + (1.0 - _DARKEST) * seen))
