"""Saving layers: maps and images as MRC files, coordinates as STAR files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pint

from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import write_image, write_stack, write_volume
from napari_autorefine.io.tables import Table, write_star
from napari_autorefine.ui.notices import show_warning
from napari_autorefine.ui.world import UNIT, world_frame

_STACK_ENDING = ".mrcs"
_LENGTH_TOLERANCE, _SHIFT_TOLERANCE_PX = 1e-3, 0.01


def write_mrc(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write an image layer: a map (z, y, x), a micrograph (y, x) or a series (n, 1, y, x), as float32.

    The pixel size is the layer's scale in angstrom. The header's origin is 0: the center of the box is voxel n // 2.

    Raises
    ------
    InputError
        Voxels that are not cubes, more axes than a file has, or a series under a name that does not end with ``.mrcs``.
    """
    if meta.get("multiscale"):  # whatever is shown of it from afar
        data = data[0]
    shape, sizes_A = tuple(data.shape), _sizes_A(meta, data.ndim)
    n_spatial = min(3, data.ndim)
    if len(shape) > 3 and (len(shape) > 4 or shape[1] != 1):
        raise InputError(f"The layer has {len(shape)} axes; an MRC file takes a map, an image or a series of images.")
    size_A = _one_size(sizes_A[-2:] if len(shape) == 4 else sizes_A[-n_spatial:], meta)
    is_stack = path.endswith(_STACK_ENDING)
    if len(shape) == 4 and not is_stack:
        raise InputError(f"A series of images is a stack: give it a name that ends with {_STACK_ENDING}.")
    values = np.asarray(data, np.float32)
    if len(shape) == 2:
        write_image(path, values, size_A)
    elif is_stack:
        write_stack(path, values.reshape(-1, *shape[-2:]), size_A)
    else:
        _tell_shift(shape, size_A, meta)
        write_volume(path, values, size_A)
    return [path]


def _sizes_A(meta: dict[str, Any], n_axis: int) -> list[float]:
    """Return the scale in angstrom per axis; axes without a unit of length count as angstrom."""
    sizes = []
    for step, unit in zip(meta.get("scale", (1.0,) * n_axis), meta.get("units") or ("pixel",) * n_axis, strict=True):
        quantity = pint.Quantity(float(step), str(unit))
        sizes.append(float(quantity.to(UNIT).magnitude) if quantity.is_compatible_with(UNIT) else float(step))
    return sizes


def _one_size(sizes_A: list[float], meta: dict[str, Any]) -> float:
    if max(sizes_A) - min(sizes_A) > _LENGTH_TOLERANCE * max(sizes_A):
        text = " x ".join(f"{size:g}" for size in sizes_A)
        raise InputError(f"The layer {meta.get('name', '')} has voxels of {text} Å; only cubes can be written.")
    return sizes_A[-1]


def _tell_shift(shape: tuple[int, ...], size_A: float, meta: dict[str, Any]) -> None:
    """Say that a layer that was moved is written where its box is."""
    centered = np.asarray(world_frame(shape, size_A)["translate"])
    moved = np.asarray(meta.get("translate", centered), np.float64) - centered
    is_ours = "autorefine" in (meta.get("metadata") or {})
    if is_ours and np.abs(moved).max() > _SHIFT_TOLERANCE_PX * size_A:
        text = ", ".join(f"{shift:.2f}" for shift in moved[::-1])
        show_warning(f"The layer was moved by ({text}) Å in x, y, z; the file holds the map without this shift.")


def write_coordinates(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write a points layer as a coordinate STAR file; its features become columns.

    Points (y, x) or (micrograph, z, y, x) become rlnCoordinateX/Y in pixels of the micrograph, counted from 0; points
    in a tomogram become rlnCenteredCoordinateX/Y/ZAngst.

    Raises
    ------
    InputError
        No points, or points with another number of axes.
    """
    points = np.asarray(data, np.float64)
    if not len(points):
        raise InputError("The layer has no points; there is nothing to write.")
    if not path.lower().endswith(".star"):
        path = f"{path}.star"
    own = (meta.get("metadata") or {}).get("autorefine", {})
    features = pd.DataFrame(meta.get("features", {}))
    follower = own.get("follower")
    if follower is not None:
        points, features = _with_the_others(points, features, follower)
    names = own.get("names", ())
    is_3d = own.get("kind") == "coordinates_3d" or points.shape[1] == 3
    columns = _centered_columns(points, meta) if is_3d else _pixel_columns(points)
    name_label = "rlnTomoName" if is_3d else "rlnMicrographName"
    has_series = points.shape[1] == 4
    if has_series and names:
        columns[name_label] = _names_of(points[:, 0], names, Path(path))
    kept = {str(label): features[label].to_numpy() for label in features.columns if str(label).startswith("rln")}
    if own.get("has_origins"):  # points are where particles are: their origins are in the coordinates
        kept |= {label: np.zeros(len(features)) for label in kept if label.startswith("rlnOrigin")}
    table = pd.DataFrame({**kept, **columns}) if len(features) == len(points) else pd.DataFrame(columns)
    tables: dict[str, Table] = {"": table}
    optics = own.get("optics")
    if isinstance(optics, pd.DataFrame) and len(optics) and "rlnOpticsGroup" in table:
        tables = {"optics": optics, "particles": table}
    write_star(path, tables)
    return [path]


def _pixel_columns(points: np.ndarray) -> dict[str, Any]:
    if points.shape[1] not in {2, 4}:
        raise InputError(
            f"The points have {points.shape[1]} axes; coordinates have 2, or 4 on a series of micrographs."
        )
    return {"rlnCoordinateX": points[:, -1], "rlnCoordinateY": points[:, -2]}


def _centered_columns(points: np.ndarray, meta: dict[str, Any]) -> dict[str, Any]:
    if points.shape[1] not in {3, 4}:
        raise InputError(f"The points have {points.shape[1]} axes; coordinates in a tomogram have 3.")
    sizes_A = np.asarray(_sizes_A(meta, points.shape[1]))
    world_A = points * sizes_A + np.asarray(meta.get("translate", np.zeros(points.shape[1])))
    axes = ("Z", "Y", "X")
    return {f"rlnCenteredCoordinate{axis}Angst": world_A[:, at - 3] for at, axis in enumerate(axes)}


def _names_of(items: np.ndarray, names: tuple[str, ...], path: Path) -> np.ndarray:
    """Return the micrograph or tomogram of every point."""
    number = np.rint(items).astype(np.int64)
    bad = np.flatnonzero((number < 0) | (number >= len(names)))
    if len(bad):
        raise InputError(
            f"{path.name}: point {bad[0] + 1} lies on image {number[bad[0]] + 1} of {len(names)}; move it."
        )
    found = np.empty(len(number), object)
    found[:] = [names[one] for one in number]
    return found


def _with_the_others(points: np.ndarray, features: pd.DataFrame, follower: Any) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the points shown and those of all other micrographs, which the layer shows one at a time."""
    shown = np.flatnonzero(np.rint(points[:, 0]) == follower.item)
    others = np.flatnonzero(np.rint(follower.data[:, 0]) != follower.item)
    own = features.iloc[shown] if len(features) == len(points) else features
    both = pd.concat([own, follower.features(others)], ignore_index=True)
    return np.concatenate([points[shown], follower.data[others]]), both
