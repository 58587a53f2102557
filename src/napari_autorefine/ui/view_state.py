"""What a viewer looks like, kept to be put back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

_OF_LAYERS = ("visible", "opacity", "blending", "colormap", "rendering", "iso_threshold", "translate")
_OF_GRID = ("stride", "shape", "spacing", "enabled")
_OF_CAMERA = ("center", "zoom", "angles")


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewState:
    """Looks of layers, displayed axes, grid, camera and selection of a viewer."""

    layers: tuple[tuple[Layer, dict[str, Any]], ...]
    active: Layer | None
    n_display: int
    order: tuple[int, ...]
    point: tuple[float, ...]
    grid: dict[str, Any]
    camera: dict[str, Any]

    @classmethod
    def of(cls, viewer: ViewerModel) -> ViewState:
        """Return how a viewer looks now."""
        return cls(
            layers=tuple((layer, _look(layer)) for layer in viewer.layers),
            active=viewer.layers.selection.active,
            n_display=viewer.dims.ndisplay,
            order=tuple(viewer.dims.order),
            point=tuple(viewer.dims.point),
            grid={name: getattr(viewer.canvas.grid, name) for name in _OF_GRID},
            camera={name: getattr(viewer.scene.camera, name) for name in _OF_CAMERA},
        )

    def restore(self, viewer: ViewerModel) -> None:
        """Put it back; layers that are gone are left out, those that came later stay as they are."""
        for layer, look in self.layers:
            if layer in viewer.layers:
                for name, value in look.items():
                    owner = layer.name_overlay if name == "name_overlay" else layer
                    setattr(owner, "visible" if name == "name_overlay" else name, value)
        for name, value in self.grid.items():
            setattr(viewer.canvas.grid, name, value)
        viewer.dims.ndisplay = self.n_display
        if len(self.order) == viewer.dims.ndim:
            viewer.dims.order = self.order
            viewer.dims.point = self.point
        for name, value in self.camera.items():
            setattr(viewer.scene.camera, name, value)
        if self.active is not None and self.active in viewer.layers:
            viewer.layers.selection.active = self.active


def _look(layer: Layer) -> dict[str, Any]:
    """Return the properties of a layer that others change for a while."""
    look = {name: getattr(layer, name) for name in _OF_LAYERS if hasattr(layer, name)}
    look["translate"] = np.array(layer.translate)
    look["affine"] = np.array(layer.affine.affine_matrix)
    look["name_overlay"] = layer.name_overlay.visible
    return look
