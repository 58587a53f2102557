"""Orientations as arrows: on coordinates, in tomograms, or around the map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from napari_autorefine.errors import InputError
from napari_autorefine.io.columns import Columns
from napari_autorefine.model.geometry import euler_to_matrix, view_direction
from napari_autorefine.ui.layers_of_maps import LayerData
from napari_autorefine.ui.notices import show_info
from napari_autorefine.ui.world import UNIT

ARROW_COLOR = "#d55e00"
_EULER = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_SUBTOMOGRAM = ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi")
_MOST_ARROWS = 5000


def arrows_on_points(points: np.ndarray, meta: dict[str, Any]) -> LayerData:
    """Return arrows along the reference's z axis at every coordinate, as long as a particle is wide.

    On micrographs they lie in the plane: the shorter, the more the axis points at the viewer. In tomograms they are
    A_sub A e_z (RELION's angles of the subtomogram and of the particle in it).

    Parameters
    ----------
    points : (n, 2), (n, 3) or (n, 4), as in the layer
    meta : arguments of the points layer, with ``features``

    Raises
    ------
    InputError
        The columns of the angles are missing.
    """
    features = pd.DataFrame(meta["features"])
    matrix = euler_to_matrix(_angles(features, _EULER, str(meta.get("name", "points"))))
    if all(label in features for label in _SUBTOMOGRAM):
        matrix = euler_to_matrix(_angles(features, _SUBTOMOGRAM, str(meta.get("name", "points")))) @ matrix
    axis_zyx = matrix[:, ::-1, 2]
    size = np.broadcast_to(np.asarray(meta.get("size", 20.0), np.float64), (len(points),))
    direction = np.zeros(points.shape)
    n_spatial = min(3, points.shape[1])
    direction[:, -n_spatial:] = axis_zyx[:, -n_spatial:]
    if _is_flat(meta):
        direction[:, :-2] = 0.0
    vectors = np.stack([points, direction * size[:, None]], axis=1)
    return vectors, {**_frame(meta), **_style(float(size.max(initial=1.0)))}, "vectors"


def arrows_around_map(meta: dict[str, Any]) -> LayerData:
    """Return the viewing directions of a particle layer as arrows on a sphere about the box centre.

    Directions are in the frame of the map, so that they belong around it; of many particles 5000 are shown, evenly
    chosen.

    Parameters
    ----------
    meta : arguments of the image layer of a particle set

    Raises
    ------
    InputError
        The layer is of no particle set with orientations.
    """
    own = (meta.get("metadata") or {}).get("autorefine", {})
    table = own.get("table")
    if own.get("kind") != "particles" or not isinstance(table, pd.DataFrame):
        raise InputError("Choose a layer of particles or of coordinates that was opened from a STAR file.")
    euler = _angles(table, _EULER, str(meta.get("name", "particles")))
    chosen = np.unique(np.linspace(0, len(euler) - 1, min(len(euler), _MOST_ARROWS)).astype(int))
    if len(chosen) < len(euler):
        show_info(f"{len(chosen)} of {len(euler)} viewing directions are shown.")
    direction = view_direction(euler[chosen, 0], euler[chosen, 1])[:, ::-1]
    radius_A = 0.5 * float(own["box"]) * float(own["voxel_size_A"])
    vectors = np.stack([direction * radius_A, direction * (0.15 * radius_A)], axis=1)
    frame = {"units": (UNIT,) * 3, "axis_labels": ("z", "y", "x"), "name": f"{meta.get('name', '')} views"}
    return vectors, {**frame, **_style(0.15 * radius_A)}, "vectors"


def _angles(table: pd.DataFrame, labels: tuple[str, ...], name: str) -> np.ndarray:
    if not all(label in table.columns for label in labels):
        raise InputError(f"{name}: the columns {', '.join(labels)} are missing; refine the particles first.")
    return Columns(table=table, file=name, name="particles").stacked(labels)


def _is_flat(meta: dict[str, Any]) -> bool:
    return bool((meta.get("metadata") or {}).get("autorefine", {}).get("kind") != "coordinates_3d")


def _frame(meta: dict[str, Any]) -> dict[str, Any]:
    kept = ("scale", "translate", "units", "axis_labels")
    return {**{key: meta[key] for key in kept if key in meta}, "name": f"{meta.get('name', '')} orientations"}


def _style(length: float) -> dict[str, Any]:
    return {
        "edge_color": ARROW_COLOR,
        "edge_width": 0.06 * length,
        "vector_style": "arrow",
        "metadata": {"autorefine": {"kind": "orientations"}},
    }
