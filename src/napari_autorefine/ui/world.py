"""The world that all layers share: angstroms, the center of a box at the origin, and the view of ChimeraX.

Voxel ``n // 2`` of a map, its center of rotation in RELION, lies at world 0 on every axis. Maps of any box and voxel
size therefore overlay, and a world point is an offset from the center. Layers are indexed (z, y, x), so the world is
too. Micrographs and tomograms whose coordinates count from the first pixel have that pixel at world 0 instead.

napari draws the axes (z, y, x) by default as (towards the viewer, down, right): the mirror image of the molecule.
``match_chimerax`` turns y up, after which x, y, z are a right-handed frame on the screen, as in ChimeraX.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np

from napari_autorefine.ui.notices import show_info
from napari_autorefine.ui.settings import orientation_was_told, read_settings

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

UNIT = "angstrom"
NO_UNIT = "dimensionless"
CHIMERAX_ORIENTATION = ("towards", "up", "right")
_THIN_A = 1e-6

_seen: WeakSet[Any] = WeakSet()


def world_frame(shape: Sequence[int], voxel_size_A: float | Sequence[float]) -> dict[str, Any]:
    """Return the layer arguments that put the center voxel of a map at world 0.

    Parameters
    ----------
    shape : (n_z, n_y, n_x), or (n_y, n_x) for an image
    voxel_size_A : edge of a voxel; one value per axis where they differ, in the order of ``shape``
    """
    size_A = np.broadcast_to(np.asarray(voxel_size_A, np.float64), (len(shape),))
    return {
        "scale": tuple(size_A.tolist()),
        "translate": tuple((-(np.asarray(shape) // 2) * size_A).tolist()),
        "units": (UNIT,) * len(shape),
        "axis_labels": ("z", "y", "x")[-len(shape) :],
    }


def series_frame(names: Sequence[str], shape: Sequence[int], pixel_size_A: float, *, centered: bool) -> dict[str, Any]:
    """Return the layer arguments of a series of images: leading axes, one plane z, y, x.

    The plane is as deep as the image is wide, so that it stays in sight wherever a map beside it is cut, and so that
    a change to the 3D view asks for one image, not for the whole series.

    Parameters
    ----------
    names : labels of the leading axes (``"particle"``), counted from 0, without unit
    shape : (n_y, n_x) of an image
    pixel_size_A : edge of a pixel
    centered : world 0 is the center of the image, else its first pixel
    """
    n_y, n_x = shape
    shift = (-(n_y // 2) * pixel_size_A, -(n_x // 2) * pixel_size_A) if centered else (0.0, 0.0)
    return {
        "scale": (*(1.0 for _ in names), max(n_y, n_x) * pixel_size_A, pixel_size_A, pixel_size_A),
        "translate": (*(0.0 for _ in names), 0.0, *shift),
        "units": (*(NO_UNIT for _ in names), UNIT, UNIT, UNIT),
        "axis_labels": (*names, "z", "y", "x"),
    }


def voxel_size_A_of(layer: Layer) -> tuple[float, ...]:
    """Edges of a voxel of a layer in angstrom, per axis; layers without a unit of length count as angstrom."""
    sizes = []
    for step, unit in zip(layer.scale, layer.units, strict=True):
        is_length = unit.is_compatible_with(UNIT)
        sizes.append(float((step * unit).to(UNIT).magnitude) if is_length else float(step))
    return tuple(sizes)


def match_chimerax(viewer: ViewerModel) -> None:
    """Turn the camera so that x points to the right, y up and z towards the viewer."""
    viewer.scene.camera.orientation = CHIMERAX_ORIENTATION


def prepare_viewer(viewer: ViewerModel | None) -> None:
    """Orient a viewer when its first layer or dock of this plugin comes, and tell the user the first time.

    A viewer is turned once; what the user does to it afterwards stays.
    """
    if viewer is None or viewer in _seen:
        return
    _seen.add(viewer)
    if hasattr(viewer, "window"):
        from napari_autorefine.ui.idle_sliders import hide_idle_sliders  # needs Qt

        hide_idle_sliders(viewer)
    viewer.canvas.overlays.scale_bar.visible = True
    settings = read_settings()
    if not settings.match_chimerax or tuple(viewer.scene.camera.orientation) == CHIMERAX_ORIENTATION:
        return
    match_chimerax(viewer)
    if settings.tell_orientation:
        show_info(
            "The view now matches ChimeraX: x right, y up, z towards you; napari's own orientation shows the mirror"
            " image of a map. Preferences > Auto-refine switches this off."
        )
        orientation_was_told()


def _corners_A(layer: Layer) -> np.ndarray:
    """Return the corners (2, 3) of what is seen of a layer in the world, whole voxels of volumes included."""
    faces = getattr(layer, "faces", None)
    if faces is not None:  # a surface
        seen = np.asarray(layer.data[0])[np.unique(faces)]
        scale, translate = np.asarray(layer.scale, np.float64), np.asarray(layer.translate, np.float64)
        ends = np.stack([seen.min(axis=0), seen.max(axis=0)]) * scale + translate
        return np.sort(ends, axis=0)[:, -3:]
    extent = layer.extent
    edge = np.abs(np.asarray(extent.step)) / 2 if hasattr(layer, "rendering") else 0.0
    corners = np.asarray(extent.world, np.float64) + np.array([[-1.0], [1.0]]) * edge
    return corners[:, -3:]


def fit_view(viewer: ViewerModel, layers: Sequence[Layer], *, margin: float = 0.05) -> None:
    """Fit the camera to layers of three axes and nothing else, in all cells of a grid; the angles stay.

    napari's own ``fit_to_view`` cannot do that while a series of images gives the viewer more axes than they have.

    Parameters
    ----------
    layers : layers in angstrom; without any nothing happens
    margin : share of the canvas that stays free
    """
    if not layers:
        return
    corners = np.stack([_corners_A(layer) for layer in layers])
    low, high = corners[:, 0].min(axis=0), corners[:, 1].max(axis=0)
    camera, dims = viewer.scene.camera, viewer.dims
    axes = [axis - (dims.ndim - 3) for axis in dims.displayed]
    size = np.maximum((high - low)[axes], _THIN_A)
    middle = ((low + high) / 2)[axes]
    if dims.ndisplay == 3:
        up, view = np.asarray(camera.up_direction), np.asarray(camera.view_direction)
        size = np.array([np.abs(up) @ size, np.abs(np.cross(view, up)) @ size])
    else:
        middle = np.concatenate([[0.0], middle])
    camera.center = tuple(middle.tolist())
    camera.zoom = float((1 - margin) * np.min(np.asarray(viewer.canvas.viewbox_size(viewer.layers)) / size))
