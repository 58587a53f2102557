"""Maps of a refinement in the viewer, replaced in place at every iteration.

Files are read and surfaces computed by a worker that only knows the newest request; the window's thread hands one map
per turn to napari, so that it draws and answers in between. Camera, contrast, thresholds, colors and eyes stay as the
user left them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from napari.components import ViewerModel
from napari.layers import Image, Layer
from psygnal import Signal
from qtpy.QtCore import QTimer

from napari_autorefine.ui.latest_worker import Failure, LatestWorker
from napari_autorefine.ui.layer_style import Role, is_software_rendering
from napari_autorefine.ui.map_frames import ROLES, Contour, Frame, MapSet, read_beside, read_maps, with_mesh
from napari_autorefine.ui.map_layers import Kind, MapLayers
from napari_autorefine.ui.run_steps import RunFacts, Step
from napari_autorefine.ui.surfaces import BESIDE_FACES, CELL_FACES, LIVE_FACES
from napari_autorefine.ui.world import fit_view, prepare_viewer

Arrangement = Literal["grid", "overlay"]

_TURN_MS = 15
_LAID_OUT_MS = 200
_TURNED_ZOOM = 1.25
"""napari fits the box around a turned box, in which a molecule looks small."""
_BESIDE: tuple[Role, ...] = ("reference", "mask")


class LiveMaps:
    """The layers of one refinement.

    Attributes
    ----------
    shown : emitted with the ``MapSet`` whose maps are all in the viewer
    failed : emitted with the sentence on maps that cannot be read
    arrangement : cells beside each other with one camera, or all in one place
    """

    shown = Signal(object)
    failed = Signal(str)

    def __init__(self, viewer: ViewerModel, worker: LatestWorker) -> None:
        self.viewer = viewer
        self.arrangement: Arrangement = "grid"
        self.n_sigma: float | None = None
        self.maps: dict[Role, MapLayers] = {}
        self.current: MapSet | None = None
        self._worker = worker
        self._beside: dict[Role, Frame] = {}
        self._waiting: dict[Role, Frame] = {}
        self._is_running = False
        self._is_arranged = False
        self._timer = QTimer()
        self._timer.setInterval(_TURN_MS)
        self._timer.timeout.connect(self._next)
        self._fit_timer = QTimer()
        self._fit_timer.setSingleShot(True)
        self._fit_timer.setInterval(_LAID_OUT_MS)
        self._fit_timer.timeout.connect(self._fit)
        self._fitted: tuple[object, ...] | None = None
        self._n_cell = 0
        viewer.layers.events.removed.connect(self._on_removed)
        viewer.dims.events.ndisplay.connect(self._on_display)
        viewer.scene.camera.events.orientation.connect(self._on_orientation)

    @property
    def kind(self) -> Kind:
        """What maps are drawn as at present."""
        return "surface" if self.viewer.dims.ndisplay == 3 and self.uses_surfaces else "image"

    @property
    def uses_surfaces(self) -> bool:
        """Whether triangles stand for volumes in 3D, as they do without a graphics card."""
        return is_software_rendering()

    @property
    def is_busy(self) -> bool:
        """Whether maps wait to be handed to napari."""
        return self._timer.isActive()

    @property
    def layers(self) -> list[Layer]:
        """Layers of the run that are in the viewer."""
        return [layer for role in ROLES if role in self.maps for layer in self.maps[role].layers.values()]

    def begin(self, facts: RunFacts) -> None:
        """Show reference and mask of a run, and take over the layers with which its files were opened.

        The first time the viewer turns to 3D, and the eyes of layers that have nothing to do with the run are closed.
        """
        self._adopt(facts)
        if not self._is_arranged:
            own = self.layers
            for layer in self.viewer.layers:
                if layer not in own:
                    layer.visible = False
            prepare_viewer(self.viewer)
            self.viewer.dims.ndisplay = 3
        paths: dict[Role, Path] = {}
        if facts.reference is not None:
            paths["reference"] = facts.reference
        if facts.mask is not None:
            paths["mask"] = facts.mask
        if paths:
            self._worker.ask(
                "beside",
                partial(read_beside, paths, replace(self._contour(), most_faces=BESIDE_FACES)),
                self._take_beside,
            )

    def show(self, step: Step) -> None:
        """Read the maps of an iteration and show them; what was asked before and has not come is dropped."""
        self._worker.forget("contours")
        self._worker.ask("maps", partial(read_maps, step, self._contour()), self._take_maps)

    def set_running(self, running: bool) -> None:
        """Lock the layers of a running job; surfaces are finer when it has ended."""
        was_running, self._is_running = self._is_running, running
        for one in self.maps.values():
            one.set_locked(running)
        if was_running and not running and self.current is not None:
            self._draw_again()

    def set_contour(self, n_sigma: float | None) -> None:
        """Draw all surfaces at so many sigmas above the mean; None to follow each map again."""
        self.n_sigma = n_sigma
        for one in self.maps.values():
            one.follow_map_again()
        self._draw_again()

    def contour_in_sigma(self) -> float | None:
        """Return where the surface of the first map is, in sigmas above its mean."""
        if self.n_sigma is not None:
            return self.n_sigma
        frames = [self.maps[role].frame for role in ("joined", "half1") if role in self.maps]
        frame = next((frame for frame in frames if frame is not None), None)
        return None if frame is None else frame.in_sigma(self._contour().level(frame))

    def arrange(self, arrangement: Arrangement) -> None:
        """Put maps side by side with one camera, or over each other: the half-maps, or the final map with the mask."""
        self.arrangement = arrangement
        grid = self.viewer.canvas.grid
        grid.stride = 1
        grid.enabled = arrangement == "grid"
        for role, one in self.maps.items():
            one.set_visible(self._is_wanted(role), self.kind)
        self._fit_soon()

    def _is_wanted(self, role: Role) -> bool:
        """Tell whether a map is seen in the present arrangement: over each other only what can be told apart."""
        if self.arrangement == "grid":
            return True
        has_final = self.current is not None and "joined" in self.current.frames
        return role == "joined" if has_final else role in {"half1", "half2"}

    def close(self) -> None:
        """Let go of the viewer; the layers stay in it, unlocked."""
        for timer in (self._timer, self._fit_timer):
            with suppress(RuntimeError):  # Qt may be gone before this
                timer.stop()
        self._forget_requests()
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        self.viewer.dims.events.ndisplay.disconnect(self._on_display)
        self.viewer.scene.camera.events.orientation.disconnect(self._on_orientation)
        for one in self.maps.values():
            one.leave()
        self.maps.clear()

    def remove_layers(self) -> None:
        """Take the layers of the run out of the viewer, for those of another run."""
        layers = self.layers
        self._forget_requests()
        for one in self.maps.values():
            one.leave()
        self.maps.clear()
        self._waiting.clear()
        self._beside.clear()
        self.current, self._is_arranged, self.n_sigma = None, False, None
        self._fitted, self._n_cell = None, 0
        for layer in layers:
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)

    def _forget_requests(self) -> None:
        for topic in ("maps", "beside", "contours"):
            self._worker.forget(topic)

    def _contour(self) -> Contour:
        chosen = {role: one.chosen_level for role, one in self.maps.items()}
        return Contour(
            wanted=self.uses_surfaces,
            n_sigma=self.n_sigma,
            levels={role: level for role, level in chosen.items() if level is not None},
            most_faces=LIVE_FACES if self._is_running else CELL_FACES,
        )

    def _take_maps(self, result: MapSet | Failure) -> None:
        if isinstance(result, Failure):
            self.failed.emit(result.text)
            return
        self.current = result
        for role, one in self.maps.items():
            if role in _BESIDE:
                continue
            one.is_there = role in result.frames
            if self.arrangement == "overlay":
                one.is_visible = self._is_wanted(role)
            if not one.is_there:
                one.switch(self.kind)
        self._put(result.frames)

    def _take_beside(self, result: Mapping[Role, Frame | str] | Failure) -> None:
        if isinstance(result, Failure):
            self.failed.emit(result.text)
            return
        for text in result.values():
            if isinstance(text, str):
                self.failed.emit(text)
        self._beside = {role: frame for role, frame in result.items() if isinstance(frame, Frame)}
        self._put(self._beside)

    def _put(self, frames: Mapping[Role, Frame]) -> None:
        """Hand maps to napari one by one."""
        self._waiting |= frames
        self._timer.start()

    def _next(self) -> None:
        role = next((role for role in ROLES if role in self._waiting), None)
        if role is None:  # all have been shown, in turns of their own
            self._timer.stop()
            self._all_shown()
            return
        frame = self._waiting.pop(role)
        if frame.note:
            self.failed.emit(frame.note)
        self._show(role, frame)

    def _show(self, role: Role, frame: Frame) -> None:
        kind = self.kind
        if kind == "surface" and frame.mesh is None:
            frame = with_mesh(frame, self._contour())
        one = self.maps.get(role)
        if one is None:
            one = self.maps[role] = MapLayers(self.viewer, role, lambda frame: self._contour().level(frame))
            one.is_visible = self._is_wanted(role)
        is_new = kind not in one.layers
        one.show(frame, kind)
        one.set_locked(self._is_running)
        if is_new:
            self._sort()

    def _all_shown(self) -> None:
        if not self._is_arranged and self.maps:
            self._is_arranged = True
            self.arrange(self.arrangement)
        self._fit_soon()
        if self.current is not None:
            self.shown.emit(self.current)

    def _fit_soon(self) -> None:
        """Fit the view to the cells when their number has changed, unless the user has moved or zoomed."""
        n_cell = sum(layer.visible for layer in self.layers) if self.arrangement == "grid" else 1
        if n_cell != self._n_cell and self._fitted in (None, self._camera()):
            self._n_cell = n_cell
            self._fit_timer.start()

    def _fit(self) -> None:
        if self._fitted in (None, self._camera()):
            shown = [layer for layer in self.layers if layer.visible]
            is_first = self._fitted is None
            camera = self.viewer.scene.camera
            if is_first and self.viewer.dims.ndisplay == 3:
                camera.angles = (0.0, 0.0, 0.0)
            fit_view(self.viewer, shown)
            if not is_first and any(camera.angles):
                camera.zoom *= _TURNED_ZOOM
            self._fitted = self._camera()

    def _camera(self) -> tuple[object, ...]:
        camera = self.viewer.scene.camera
        return (*camera.center, camera.zoom)

    def _sort(self) -> None:
        """Put the layers into the order of the cells, where they are: first those that were there before."""
        layers = self.viewer.layers
        own = self.layers
        others = [layer for layer in layers if layer not in own]
        for index, layer in enumerate([*others, *own]):
            at = layers.index(layer)
            if at != index:
                layers.move(at, index)

    def _draw_again(self) -> None:
        """Compute the surfaces of what is shown once more."""
        frames = {role: one.frame for role, one in self.maps.items() if one.frame is not None}
        self._worker.ask("contours", partial(_with_meshes, frames, self._contour()), self._take_again)

    def _take_again(self, result: Mapping[Role, Frame] | Failure) -> None:
        if isinstance(result, Failure):
            self.failed.emit(result.text)
            return
        self._put({role: frame for role, frame in result.items() if role in self.maps})

    def _on_removed(self, event: Any) -> None:
        lost = [one for one in self.maps.values() if one.lost(event.value)]
        for one in lost:
            if self._is_running and one.frame is not None:
                self._put({one.role: one.frame})
            elif not one.layers:
                del self.maps[one.role]

    def _on_display(self) -> None:
        """Change between surfaces and slices; a view that was fitted to one is fitted to the other."""
        if self._fitted is not None and self._fitted[-1] == self.viewer.scene.camera.zoom:
            self._fitted, self._n_cell = self._camera(), 0
        for one in self.maps.values():
            if one.frame is not None:
                one.switch(self.kind)
        self._put({role: one.frame for role, one in self.maps.items() if one.frame is not None})

    def _on_orientation(self) -> None:
        if self.kind == "surface":
            self._put({role: one.frame for role, one in self.maps.items() if one.frame is not None})

    def _adopt(self, facts: RunFacts) -> None:
        beside = {str(facts.reference): "reference", str(facts.mask): "mask"}
        for layer in list(self.viewer.layers):
            about = layer.metadata.get("autorefine", {})
            role = beside.get(about.get("path", ""), about.get("kind"))
            is_of_run = (about.get("run") or {}).get("prefix") == str(facts.prefix)
            is_known = is_of_run or about.get("path") in beside
            if isinstance(layer, Image) and is_known and role in ROLES and role not in self.maps:
                one = MapLayers(self.viewer, role, lambda frame: self._contour().level(frame))
                one.adopt(layer)
                one.is_visible = True
                self.maps[role] = one


def _with_meshes(frames: Mapping[Role, Frame], contour: Contour) -> dict[Role, Frame]:
    """Return maps with surfaces at other densities; those beside a run are never fine, they are looked at less."""
    coarse = replace(contour, most_faces=BESIDE_FACES)
    return {role: with_mesh(frame, coarse if role in _BESIDE else contour) for role, frame in frames.items()}
