"""Two volumes of a viewer side by side or one over the other, in 3D as surfaces, and the way back.

On a graphics card a surface is the volume itself, drawn as ``iso``. On software OpenGL that takes seconds per redraw:
there a mesh beside each volume stands for it in 3D, computed by a thread, and the volume is hidden meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Image, Layer, Surface
from napari.utils import Colormap
from psygnal import Signal
from qtpy.QtCore import QTimer

from napari_autorefine.ui.latest_worker import Failure, LatestWorker
from napari_autorefine.ui.layer_style import COLORS, Role, colormap, is_software_rendering
from napari_autorefine.ui.surfaces import (
    FINE_FACES,
    LIVE_FACES,
    Mesh,
    is_mirrored,
    iso_mesh,
    surface_data,
    surface_style,
)
from napari_autorefine.ui.view_state import ViewState
from napari_autorefine.ui.volume_choice import is_mask, start_level
from napari_autorefine.ui.world import fit_view, prepare_viewer

if TYPE_CHECKING:
    from napari.components import ViewerModel

Mode = Literal["side by side", "overlay"]
Look = Literal["3d", "z", "y", "x"]

ORDERS: dict[Look, tuple[int, int, int]] = {"z": (0, 1, 2), "y": (1, 0, 2), "x": (2, 0, 1)}
"""Axes (z, y, x) of slices: the one looked along, upwards, to the right."""

_FINER_MS = 350
_N_AXIS = 3
_SPACING_PX = 4
_VEIL_OPACITY = 0.4

_shown: WeakKeyDictionary[Any, PairView] = WeakKeyDictionary()


class PairView:
    """View of two volumes; one per viewer at a time.

    Attributes
    ----------
    ended : emitted when the view ends by itself, with the reason or nothing: a layer was closed, another view began
    """

    ended = Signal(str)

    def __init__(self, viewer: ViewerModel, *, as_meshes: bool | None = None) -> None:
        self.viewer = viewer
        self.mode: Mode = "overlay"
        self.solids: tuple[Solid, ...] = ()
        self._before: ViewState | None = None
        self._worker: LatestWorker | None = None
        self._as_meshes = as_meshes
        self._only: int | None = None

    @property
    def is_on(self) -> bool:
        """Whether two volumes are shown."""
        return self._before is not None

    def start(self, first: Image, second: Image, mode: Mode, look: Look | None = None) -> None:
        """Show two volumes and nothing else; in 3D, unless a view is given or the viewer shows slices.

        Parameters
        ----------
        first, second : layers of the viewer, the second over the first or right of it
        mode : how
        look : 3D, or slices along an axis; ``None`` for 3D
        """
        self.stop()
        other = _shown.get(self.viewer)
        if other is not None and other is not self:
            other._end("")
        _shown[self.viewer] = self
        prepare_viewer(self.viewer)
        self._before = ViewState.of(self.viewer)
        self._worker = LatestWorker()
        roles = roles_of(first, second)
        as_meshes = is_software_rendering() if self._as_meshes is None else self._as_meshes
        for layer in self.viewer.layers:
            layer.visible = False
        self.solids = tuple(
            Solid(self.viewer, layer, role, worker=self._worker, as_mesh=as_meshes, changed=self._arrange)
            for layer, role in zip((first, second), roles, strict=True)
        )
        self.viewer.layers.selection.active = first
        self.viewer.dims.events.ndisplay.connect(self._on_display)
        self.viewer.layers.events.removed.connect(self._on_removed)
        self.mode, self._only = mode, None
        self.look("3d" if look is None else look)

    def set_mode(self, mode: Mode) -> None:
        """Show them side by side or one over the other."""
        self.mode = mode
        self._arrange()
        fit_view(self.viewer, [solid.layer for solid in self.solids])

    def show_only(self, index: int | None) -> None:
        """Show one of the two while they lie one over the other; ``None`` for both."""
        self._only = index
        self._arrange()

    def look(self, look: Look) -> None:
        """Show 3D, or slices along an axis through the middle of the box."""
        dims = self.viewer.dims
        if look == "3d":
            dims.order = tuple(range(dims.ndim))
            dims.ndisplay = 3
        else:
            leading = dims.ndim - 3
            dims.ndisplay = 2
            dims.order = (*range(leading), *(leading + axis for axis in ORDERS[look]))
        self._arrange()
        fit_view(self.viewer, [solid.layer for solid in self.solids])  # napari fits hidden micrographs, too

    def cut_at(self, point_A: np.ndarray) -> None:
        """Cut slices through a world point (z, y, x)."""
        dims = self.viewer.dims
        dims.point = (*dims.point[: dims.ndim - 3], *map(float, point_A))

    def follow(self) -> None:
        """Take surfaces to where their volumes were moved."""
        for solid in self.solids:
            solid.follow()

    def stop(self) -> None:
        """Put the viewer back to what it was."""
        before, self._before = self._before, None
        if before is None:
            return
        self.viewer.dims.events.ndisplay.disconnect(self._on_display)
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        solids, self.solids = self.solids, ()
        for solid in solids:
            solid.close()
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.stop(wait=False)
        if _shown.get(self.viewer) is self:
            del _shown[self.viewer]
        before.restore(self.viewer)

    def _end(self, reason: str) -> None:
        self.stop()
        self.ended.emit(reason)

    def _on_display(self, *_: object) -> None:
        self._arrange()
        if self.viewer.dims.ndim > _N_AXIS:
            fit_view(self.viewer, [solid.layer for solid in self.solids])

    def _on_removed(self, event: Any) -> None:
        for solid in self.solids:
            if event.value is solid.layer:
                self._end(f"{solid.layer.name} was closed.")
                return
            if event.value is solid.mesh:
                solid.mesh = None

    def _arrange(self) -> None:
        """Let the right layers be seen, in one view or in two."""
        if not self.is_on or len(self.solids) != 2:
            return
        alone = self.mode == "side by side"
        for index, solid in enumerate(self.solids):
            is_hidden = not alone and self._only not in {None, index}
            solid.show(
                is_3d=self.viewer.dims.ndisplay == 3,
                over=not alone and self._only is None,
                named=alone,
                hidden=is_hidden,
            )
        places = [self.viewer.layers.index(solid.front) for solid in self.solids]
        grid = self.viewer.canvas.grid
        grid.shape, grid.spacing = (1, 2), _SPACING_PX
        grid.stride = 1 if places[0] < places[1] else -1
        grid.enabled = self.mode == "side by side"


class Solid:
    """A volume, and in 3D its surface.

    Attributes
    ----------
    layer : the volume
    level : density of the surface
    mesh : layer that stands for the volume in 3D, ``None`` without
    front : layer that is seen
    """

    def __init__(
        self,
        viewer: ViewerModel,
        layer: Image,
        role: Role,
        *,
        worker: LatestWorker,
        as_mesh: bool,
        changed: Callable[[], None],
    ) -> None:
        self.layer, self.role = layer, role
        self.level = start_level(layer)
        self.mesh: Surface | None = None
        self.front: Layer = layer
        self._viewer, self._worker, self._as_mesh, self._changed = viewer, worker, as_mesh, changed
        self._topic = f"surface of {id(layer)}"
        self._timer = QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(_FINER_MS)
        self._timer.timeout.connect(partial(self._compute, FINE_FACES))
        self.set_level(self.level)

    def set_level(self, level: float) -> None:
        """Move the surface to another density."""
        self.level = level
        if self._as_mesh:
            self._compute(LIVE_FACES)
            self._timer.start()
        else:
            self.layer.iso_threshold = level

    def follow(self) -> None:
        """Move the surface to where the volume is."""
        if self.mesh is not None:
            self.mesh.translate = self.layer.translate

    def show(self, *, is_3d: bool, over: bool, named: bool = False, hidden: bool = False) -> None:
        """Show volume or surface, or neither; a mask over a map is a veil in 3D and an outline in slices."""
        is_veil = self.role == "mask" and over
        is_outline = is_veil and not is_3d
        self.layer.colormap = _outline() if is_outline else colormap(self.role)
        self.layer.opacity = _VEIL_OPACITY if is_veil and is_3d else 1.0
        self.layer.blending = self._blending(is_3d)
        if not self._as_mesh and is_3d:
            self.layer.rendering = "iso"
        if self.mesh is not None:
            self.mesh.opacity = _VEIL_OPACITY if is_veil else 1.0
        self.front = self.mesh if is_3d and self.mesh is not None else self.layer
        for layer in (self.layer, self.mesh):
            if layer is not None:
                layer.visible = layer is self.front and not hidden
                layer.name_overlay.visible = named

    def close(self) -> None:
        """Remove the surface."""
        self._timer.stop()
        self._worker.forget(self._topic)
        mesh, self.mesh = self.mesh, None
        if mesh is not None and mesh in self._viewer.layers:
            self._viewer.layers.remove(mesh)

    def _blending(self, is_3d: bool) -> str:
        if self.role == "mask":
            return "translucent_no_depth"
        return "additive" if self.role != "map" and not is_3d else "translucent"

    def _compute(self, most_faces: int) -> None:
        task = partial(iso_mesh, np.asarray(self.layer.data), self.level, most_faces=most_faces)
        self._worker.ask(self._topic, task, self._take)

    def _take(self, mesh: Mesh | Failure) -> None:
        if isinstance(mesh, Failure):
            return
        mirrored = is_mirrored(tuple(self._viewer.scene.camera.orientation))
        data = surface_data(mesh, mirrored=mirrored)
        if self.mesh is not None:
            self.mesh.data = data
            return
        active = self._viewer.layers.selection.active
        depth, *plane = self.layer.scale
        self.mesh = Surface(
            data,
            name=f"{self.layer.name} (surface)",
            scale=(-depth if mirrored else depth, *plane),
            translate=self.layer.translate,
            units=self.layer.units,
            axis_labels=("z", "y", "x"),
            **surface_style(self.role),
        )
        self._viewer.add_layer(self.mesh)
        self._viewer.layers.selection.active = active
        self._changed()


@lru_cache(maxsize=1)
def _outline() -> Colormap:
    """Return colors that draw a mask as a line where it is 0.5, with a faint veil inside."""
    red, green, blue = (int(COLORS["mask"][at : at + 2], 16) / 255 for at in (1, 3, 5))
    stops = [(0.0, 0.0), (0.38, 0.0), (0.46, 1.0), (0.54, 1.0), (0.64, 0.1), (1.0, 0.1)]
    colors = [(red, green, blue, alpha) for _, alpha in stops]
    controls = [at for at, _ in stops]
    return Colormap(colors, controls=controls, name="autorefine mask outline", display_name="auto-refine mask outline")


def roles_of(first: Image, second: Image) -> tuple[Role, Role]:
    """Return the colors of two volumes: a map and its mask, or two maps that are to be told apart."""
    if is_mask(second) and not is_mask(first):
        return "map", "mask"
    if is_mask(first) and not is_mask(second):
        return "mask", "map"
    return "half1", "half2"
