"""Where particles are in their tomograms, leniently: what a viewer can show without reading any tilt series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from napari_autorefine.io.subtomogram_columns import CENTERED, PIXELS, SUBTOMOGRAM_EULER
from napari_autorefine.io.tables import VERSION_5_0
from napari_autorefine.io.tomograms import SIZES
from napari_autorefine.model.geometry import euler_to_matrix
from napari_autorefine.ui.notices import show_info, show_warning
from napari_autorefine.ui.star_tables import StarRows

ORIGIN = ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst")


def positions_A(
    rows: StarRows, tomograms: StarRows | None, names: Sequence[str], codes: np.ndarray
) -> np.ndarray | None:
    """Return where particles are, (n, 3) x y z in angstrom from the center of their tomogram.

    That is the coordinate less the origin, turned by the rotation of the subtomogram; see ``model.tomography``.

    Parameters
    ----------
    rows : particles or picks
    tomograms : table of the tomograms, for their sizes and the pixel size of coordinates in pixels
    names, codes : distinct tomograms, and the index (n,) of each row's among them

    Returns
    -------
    positions : None without coordinates
    """
    if rows.has(*CENTERED):
        coordinate = _stacked(rows, CENTERED)
    elif rows.has(*PIXELS):
        coordinate = _of_pixels(rows, tomograms, names, codes)
    else:
        return None
    return coordinate - origins_A(rows)


def origins_A(rows: StarRows) -> np.ndarray:
    """Return the origins (n, 3) in the frame of the tomogram, 0 without them."""
    if not rows.has(*ORIGIN):
        return np.zeros((len(rows), 3))
    origin = _stacked(rows, ORIGIN)
    if not rows.has(*SUBTOMOGRAM_EULER):
        return origin
    return np.einsum("nij,nj->ni", euler_to_matrix(_stacked(rows, SUBTOMOGRAM_EULER)), origin)


def _stacked(rows: StarRows, labels: Sequence[str]) -> np.ndarray:
    return np.stack([rows.numbers(label) for label in labels], axis=1)


def _of_pixels(rows: StarRows, tomograms: StarRows | None, names: Sequence[str], codes: np.ndarray) -> np.ndarray:
    label = "rlnTomoTiltSeriesPixelSize"
    size_A = rows.optics_number(label) or (None if tomograms is None else tomograms.optics_number(label))
    if size_A is None:
        show_warning(f"{rows.path.name}: the pixel size of the tilt series is unknown; coordinates are in pixels.")
    first = 0.0 if rows.version >= VERSION_5_0 else 1.0  # RELION 4 adds 1 when it reads coordinates
    return (_stacked(rows, PIXELS) + first - _middle_px(rows, tomograms, names)[codes]) * (size_A or 1.0)


def _middle_px(rows: StarRows, tomograms: StarRows | None, names: Sequence[str]) -> np.ndarray:
    """Return the center of every tomogram (n_tomogram, 3) in unbinned pixels, x y z; 0 where its size is unknown."""
    if tomograms is None or not tomograms.has(*SIZES):
        show_info(
            f"{rows.path.name}: the sizes of the tomograms are unknown; coordinates count from their first pixel."
        )
        return np.zeros((len(names), 3))
    sizes = _stacked(tomograms, SIZES)
    by_name: dict[str, Any] = dict(zip(tomograms.texts("rlnTomoName"), sizes, strict=True))
    return np.stack([np.asarray(by_name.get(name, np.zeros(3)), np.float64) / 2 for name in names])
