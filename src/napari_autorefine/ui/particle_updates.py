"""Coordinates in tomograms that change: poses of a newer iteration, one layer per tomogram."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from napari.layers import Points

from napari_autorefine.errors import InputError
from napari_autorefine.io.tables import read_star
from napari_autorefine.ui.layers_of_maps import LayerData
from napari_autorefine.ui.layers_of_micrographs import points_style
from napari_autorefine.ui.layers_of_tomograms import tomo_coordinate_layers
from napari_autorefine.ui.live_results import DOCK_NAME
from napari_autorefine.ui.star_tables import StarRows, rows_with

_DATA = re.compile(r"(?P<prefix>.+?)(?:_it(?P<n>\d+))?_data\.star$")
_NAMES = ("rlnTomoParticleName", "rlnImageName")


def own_metadata(layer: Points) -> dict[str, Any]:
    """Return what this plugin knows of a layer, to be read and changed."""
    known: dict[str, Any] = layer.metadata.setdefault("autorefine", {})
    return known


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a layer shows, for a thread that reads newer poses.

    Attributes
    ----------
    name : of the layer
    tomograms : names of its tomograms, in the order of its slider
    is_whole : all its tomograms are shown along a slider
    scale : A per pixel of its data
    features : columns of the particles that are shown
    """

    name: str
    tomograms: tuple[str, ...]
    is_whole: bool
    scale: np.ndarray
    features: pd.DataFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPoses:
    """Where another table has the particles of a layer.

    Attributes
    ----------
    path : of the table
    points : data of the layer
    features : columns of the table
    has_origins : whether origins were added to the coordinates
    """

    path: Path
    points: np.ndarray
    features: pd.DataFrame
    has_origins: bool


def shown(layer: Points) -> Shown:
    """Return what a layer shows."""
    return Shown(
        name=layer.name,
        tomograms=tuple(own_metadata(layer).get("names", ())),
        is_whole=layer.ndim == 4,
        scale=np.array(layer.scale),
        features=layer.features,
    )


def candidates(viewer: Any, layer: Points) -> list[Path]:
    """Return the particle files of newest iterations: of the run in the live results, and of the layer's own run."""
    return [*_of_dashboard(viewer), *_of_run(Path(str(own_metadata(layer).get("path", ""))))]


def newest_poses(paths: list[Path], layer: Shown) -> NewPoses:
    """Return the poses of the first table that has particles of the layer; it may be called in a thread.

    Raises
    ------
    InputError
        None has, one cannot be read, or it has other tomograms.
    """
    mine = _names(layer.features)
    for path in paths:
        rows = rows_with(read_star(path), path, "rlnTomoName")
        if rows is not None and (not mine or mine & _names(rows.table)):
            return _poses(rows, layer)
    raise InputError("No refinement of these particles is known: run one, or open it in Live results.")


def _names(table: Any) -> set[str]:
    label = next((label for label in _NAMES if label in table), None)
    return set() if label is None else {str(name) for name in table[label]}


def _of_dashboard(viewer: Any) -> list[Path]:
    place = viewer.window.dock_widgets.get(DOCK_NAME) if hasattr(viewer, "window") else None
    dashboard = getattr(place, "native", place)
    steps = [] if dashboard is None else dashboard.follower.steps
    return [step.files["data"] for step in reversed(steps) if "data" in step.files][:1]


def _of_run(path: Path) -> list[Path]:
    """Return the newest table of the run that a ``PREFIX_itNNN_data.star`` belongs to."""
    match = _DATA.fullmatch(path.name)
    if match is None:
        return []
    final = path.with_name(f"{match['prefix']}_data.star")
    found = sorted(path.parent.glob(f"{match['prefix']}_it*_data.star"))
    return [final] if final.is_file() else found[-1:]


def _poses(rows: StarRows, layer: Shown) -> NewPoses:
    """Return where a table has the particles of a layer, with the table's columns."""
    path, names = rows.path, layer.tomograms
    if rest := sorted(set(rows.texts("rlnTomoName")) - set(names)):
        if layer.is_whole:
            raise InputError(f"{path.name} has particles in {rest[0]}, which {layer.name} does not show; open it.")
        chosen = rows.table["rlnTomoName"].astype(str).isin(names).to_numpy()
        table = rows.table[chosen].reset_index(drop=True)
        rows = StarRows(path=path, name=rows.name, table=table, optics=rows.optics, version=rows.version)
    (data, arguments, _), *_ = tomo_coordinate_layers(rows, names=names) or [(None, {}, "")]
    if data is None:
        raise InputError(f"{path.name} holds no coordinates.")
    return NewPoses(
        path=path,
        points=np.asarray(data) * np.asarray(arguments["scale"]) / layer.scale,
        features=arguments["features"],
        has_origins=arguments["metadata"]["autorefine"]["has_origins"],
    )


def take_poses(layer: Points, poses: NewPoses) -> None:
    """Put the particles of a layer where newer poses have them."""
    own = own_metadata(layer)
    follower = own.get("follower")
    if follower is not None:
        follower.put(layer, poses.points, poses.features)
    else:
        layer.selected_data = set()
        layer.data, layer.features = poses.points, poses.features
    own["path"], own["has_origins"] = str(poses.path), poses.has_origins


def split_by_tomogram(layer: Points) -> list[LayerData]:
    """Return layer data of three axes for every tomogram of a layer with a slider; the first one is visible."""
    data, arguments, kind = layer.as_layer_data_tuple()
    own = own_metadata(layer)
    follower = own.get("follower")
    points, features = (data, layer.features) if follower is None else (follower.data, follower.table)
    pieces: list[LayerData] = []
    for at, name in enumerate(own.get("names", ())):
        rows = np.flatnonzero(np.rint(points[:, 0]) == at)
        if not len(rows):
            continue
        known = {key: value for key, value in own.items() if key not in {"follower", "color"}}
        frame = {key: tuple(arguments[key])[1:] for key in ("scale", "units", "axis_labels")}
        piece = {
            "name": str(name),
            **frame,
            **points_style(float(np.max(arguments["size"]))),
            "features": features.iloc[rows].reset_index(drop=True),
            "visible": not pieces,
            "metadata": {"autorefine": {**known, "names": (str(name),)}},
        }
        pieces.append((points[rows, 1:], piece, kind))
    return pieces
