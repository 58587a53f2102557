"""The layers of one map of a refinement: an image, and where OpenGL is slow a surface that stands for it in 3D.

Data are replaced, layers stay: what the user did to one of them (contrast, threshold, color, opacity, name) is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from napari.components import ViewerModel
from napari.layers import Image, Layer, Surface

from napari_autorefine.ui.layer_style import Role, map_style
from napari_autorefine.ui.map_frames import Frame
from napari_autorefine.ui.surfaces import is_mirrored, surface_data, surface_frame, surface_style
from napari_autorefine.ui.world import world_frame

Kind = Literal["image", "surface"]

NAMES: dict[Role, str] = {
    "half1": "half-map 1",
    "half2": "half-map 2",
    "joined": "final map",
    "reference": "reference",
    "mask": "mask",
    "map": "map",
}


class MapLayers:
    """Layers of one map.

    Attributes
    ----------
    role : which of the maps
    frame : what is shown, None before the first
    layers : by kind, those that are in the viewer
    chosen_level : density of the contour that the user chose in the layer's controls, None without
    is_visible : whether the eye is open
    is_there : whether the iteration that is shown has this map
    """

    def __init__(self, viewer: ViewerModel, role: Role, level: Callable[[Frame], float]) -> None:
        self.viewer = viewer
        self.role = role
        self.frame: Frame | None = None
        self.layers: dict[Kind, Layer] = {}
        self.chosen_level: float | None = None
        self.is_visible = True
        self.is_there = True
        self._level = level
        self._contrast_is_chosen = False
        self._is_own_change = False
        self._shown: dict[Kind, tuple[Frame, bool]] = {}
        self._lost: dict[Kind, Layer] = {}

    def adopt(self, layer: Image) -> None:
        """Take an image layer that is in the viewer already as the image of this map."""
        self.layers["image"] = layer
        self.is_visible = layer.visible
        layer.name_overlay.visible = True
        self._watch(layer)

    def show(self, frame: Frame, kind: Kind) -> None:
        """Put a map into its layer of a kind; the layer is made when there is none, and the other kind is hidden."""
        self.frame = frame
        with self._own_change():
            if kind not in self.layers:
                self._add(frame, kind)
            elif self._shown.get(kind) != (frame, self._mirrored):
                self._update(frame, kind)
            self._shown[kind] = (frame, self._mirrored)
            self.switch(kind)

    def switch(self, kind: Kind) -> None:
        """Let the layer of one kind be seen, if any; the eye that the user closed stays closed."""
        with self._own_change():
            for known, layer in self.layers.items():
                visible = self.is_visible and self.is_there and known == kind
                if layer.visible != visible:  # napari draws again even when nothing changes
                    layer.visible = visible

    def set_visible(self, visible: bool, kind: Kind) -> None:
        """Open or close the eye of the map."""
        self.is_visible = visible
        self.switch(kind)

    def set_locked(self, locked: bool) -> None:
        """Guard the layers against being deleted by hand, or do not."""
        for layer in self.layers.values():
            layer.locked = locked

    def lost(self, layer: Layer) -> bool:
        """Take note that a layer was removed from the viewer; tell whether it was one of these."""
        for kind, own in self.layers.items():
            if own is layer:
                self._lost[kind] = self.layers.pop(kind)
                return True
        return False

    def follow_map_again(self) -> None:
        """Forget the contour that the user chose."""
        self.chosen_level = None

    def leave(self) -> None:
        """Let go of the layers; they stay in the viewer."""
        for layer in self.layers.values():
            layer.locked = False
            layer.events.visible.disconnect(self._on_visible)
            if isinstance(layer, Image):
                layer.events.contrast_limits.disconnect(self._on_contrast)
                layer.events.iso_threshold.disconnect(self._on_level)
        self.layers.clear()
        self._lost.clear()

    @property
    def _mirrored(self) -> bool:
        return is_mirrored(tuple(self.viewer.scene.camera.orientation))

    def _add(self, frame: Frame, kind: Kind) -> None:
        lost = self._lost.pop(kind, None)
        layer = lost or (self._new_image(frame) if kind == "image" else self._new_surface(frame))
        camera = self.viewer.scene.camera
        view = {name: getattr(camera, name) for name in ("center", "zoom", "angles")}
        is_first = not len(self.viewer.layers)
        self.viewer.add_layer(layer)
        if lost is not None and is_first:  # napari turns to the first layer of a viewer
            camera.update(view)
        self.layers[kind] = layer
        if lost is None:
            self._watch(layer)
        else:
            self._update(frame, kind)

    def _new_image(self, frame: Frame) -> Image:
        style = map_style(self.role, frame.measured)
        if self.role in {"half1", "half2"}:
            style["blending"] = "additive"
        name = NAMES[self.role] + (" slices" if "surface" in self.layers else "")
        layer = Image(frame.data, name=name, **world_frame(frame.data.shape, frame.voxel_size_A), **style)
        low, high = frame.measured.full_range
        layer.contrast_limits_range = (min(low, style["contrast_limits"][0]), max(high, style["contrast_limits"][1]))
        layer.iso_threshold = self._level(frame)
        return self._named(layer, frame)

    def _new_surface(self, frame: Frame) -> Surface:
        assert frame.mesh is not None
        place = surface_frame(frame.data.shape, frame.voxel_size_A, mirrored=self._mirrored)
        data = surface_data(frame.mesh, mirrored=self._mirrored, box=frame.data.shape)
        image = self.layers.get("image")
        name = NAMES[self.role]
        if image is not None:
            name += " surface" if image.name.startswith(name) else f" ({image.name})"
        layer = Surface(data, name=name, **place, **surface_style(self.role))
        return self._named(layer, frame)

    def _named(self, layer: Any, frame: Frame) -> Any:
        layer.metadata["autorefine"] = {
            "path": str(frame.path),
            "kind": self.role,
            "voxel_size_A": frame.voxel_size_A,
            "box": frame.data.shape[2],
            "live": True,
        }
        layer.name_overlay.visible = True
        return layer

    def _update(self, frame: Frame, kind: Kind) -> None:
        layer = self.layers[kind]
        if isinstance(layer, Image):
            self._update_image(layer, frame)
        elif isinstance(layer, Surface) and frame.mesh is not None:
            place = surface_frame(frame.data.shape, frame.voxel_size_A, mirrored=self._mirrored)
            layer.data = surface_data(frame.mesh, mirrored=self._mirrored, box=frame.data.shape)
            _place(layer, place)
        layer.metadata.setdefault("autorefine", {})["path"] = str(frame.path)

    def _update_image(self, layer: Image, frame: Frame) -> None:
        layer.data = frame.data
        _place(layer, world_frame(frame.data.shape, frame.voxel_size_A))
        if self.role == "mask":
            return
        if not self._contrast_is_chosen:
            low, high = frame.measured.full_range
            limits = frame.measured.limits
            layer.contrast_limits_range = (min(low, limits[0]), max(high, limits[1]))
            layer.contrast_limits = limits
        if self.chosen_level is None:
            layer.iso_threshold = self._level(frame)

    def _watch(self, layer: Layer) -> None:
        layer.events.visible.connect(self._on_visible)
        if isinstance(layer, Image):
            layer.events.contrast_limits.connect(self._on_contrast)
            layer.events.iso_threshold.connect(self._on_level)

    def _on_visible(self, event: Any) -> None:
        if not self._is_own_change:
            self.is_visible = bool(event.source.visible)

    def _on_contrast(self) -> None:
        self._contrast_is_chosen = self._contrast_is_chosen or not self._is_own_change

    def _on_level(self, event: Any) -> None:
        if not self._is_own_change:
            self.chosen_level = float(event.source.iso_threshold)

    @contextmanager
    def _own_change(self) -> Iterator[None]:
        before, self._is_own_change = self._is_own_change, True
        try:
            yield
        finally:
            self._is_own_change = before


def _place(layer: Layer, place: dict[str, Any]) -> None:
    """Move a layer when the box or the voxels have changed; setting the same place would draw it twice."""
    if tuple(layer.scale) != place["scale"]:
        layer.scale = place["scale"]
    if tuple(layer.translate) != place["translate"]:
        layer.translate = place["translate"]
