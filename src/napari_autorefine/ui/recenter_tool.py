"""Moving a map onto its mask by hand: in slices, in 3D, by keys, numbers, picked points, or by a suggestion.

The tool holds the viewer while it is shown and has a map and a mask to show; then it puts everything back. What it is
for is the center of the particles, ``model.center_px``; maps are only moved on the screen.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image
from psygnal import Signal

from napari_autorefine.engine.registration import MaskOffset, MaskOverlap, mask_offset
from napari_autorefine.errors import InputError
from napari_autorefine.jobs.map_inputs import InputMap, check_cubic, check_mask
from napari_autorefine.model.symmetry import point_group
from napari_autorefine.ui.fields import ORANGE, say
from napari_autorefine.ui.job_docks import open_dock
from napari_autorefine.ui.latest_worker import Failure, LatestWorker
from napari_autorefine.ui.pair_view import Look, Mode, PairView, roles_of
from napari_autorefine.ui.project import Project
from napari_autorefine.ui.project import project as shared_project
from napari_autorefine.ui.recenter_model import RecenterModel, center_of_points, center_of_shift, shift_of_center
from napari_autorefine.ui.recenter_mouse import Click, Hand, point_of_click
from napari_autorefine.ui.recenter_panel import RecenterPanel
from napari_autorefine.ui.volume_choice import is_mask, map_and_mask, mismatch, rebox_values
from napari_autorefine.ui.world import voxel_size_A_of, world_frame

if TYPE_CHECKING:
    from napari.viewer import Viewer

_LOW_SCORE = 0.7
_TURNED = 1e-6


class RecenterTool(RecenterPanel):
    """Map and mask of a viewer, and the center that brings one onto the other.

    Attributes
    ----------
    moved : emitted when the center is another one, not while a drag is under way
    map_changed : emitted when another map is chosen, with its pixel size in angstrom or None
    """

    moved = Signal()
    map_changed = Signal(object)

    def __init__(self, viewer: Viewer, *, project: Project = shared_project) -> None:
        super().__init__(viewer.layers, RecenterModel())
        self.viewer = viewer
        self.project = project
        self.view = PairView(viewer)
        self.hand = Hand(viewer)
        self._base_A = np.zeros(3)
        self._picked: np.ndarray | None = None
        self._worker: LatestWorker | None = None
        self._searcher: LatestWorker | None = None
        self._overlap: MaskOverlap | None = None
        self._is_filling = False
        self._connect()
        self.choose_defaults()

    def _connect(self) -> None:
        for combo in (self.map_choice, self.mask_choice):
            combo.chosen.connect(self._on_choice)
        self.editor.edited.connect(self._on_center)
        self.look_chosen.connect(self.look)
        self.mode_chosen.connect(self._set_mode)
        self.stop_button.clicked.connect(lambda: self.stop())
        self.rebox_button.clicked.connect(lambda: self.open_rebox())
        self.suggest_button.clicked.connect(lambda: self.suggest())
        self.pick_button.toggled.connect(self._set_picking)
        self.preview.toggled.connect(lambda _: self._refresh())
        self.drag_box.toggled.connect(self._set_free_drag)
        for index, slider in enumerate(self.levels):
            slider.changed.connect(partial(self._set_level, index))
        self.hand.dragged.connect(self._on_drag)
        self.hand.dropped.connect(self._on_drop)
        self.hand.stepped.connect(self._on_step)
        self.hand.clicked.connect(self._on_click)
        self.hand.undo_wanted.connect(self._on_undo)
        self.view.ended.connect(self._on_ended)
        self.viewer.layers.events.inserted.connect(self._on_inserted)
        self.viewer.dims.events.order.connect(self._on_axes)
        self.viewer.dims.events.ndisplay.connect(self._on_axes)

    # Which map and mask

    @property
    def pair(self) -> tuple[Image, Image] | None:
        """Map and mask, when both are chosen."""
        map_, mask = self.map_choice.layer, self.mask_choice.layer
        return None if map_ is None or mask is None or map_ is mask else (map_, mask)

    @property
    def voxel_size_A(self) -> float | None:
        """Pixel size of the map, None without a map."""
        return None if self.map_choice.layer is None else voxel_size_A_of(self.map_choice.layer)[-1]

    def choose_defaults(self) -> None:
        """Choose the selected map and mask, else the last ones."""
        map_, mask = map_and_mask(self.viewer)
        self._is_filling = True
        self.map_choice.choose(map_)
        self.mask_choice.choose(mask)
        self._is_filling = False
        self._on_choice()

    def problem(self) -> str:
        """Say why map and mask cannot be compared, or nothing."""
        map_, mask = self.map_choice.layer, self.mask_choice.layer
        if map_ is None or mask is None:
            missing = " and ".join(name for name, one in (("map", map_), ("mask", mask)) if one is None)
            return f"Open a {missing} to move it by hand, or type X, Y and Z."
        if map_ is mask:
            return "Map and mask are the same layer; choose another one."
        if misfit := mismatch(map_, mask):
            return misfit
        if is_mask(map_) and not is_mask(mask):
            return f"{map_.name} is a mask and {mask.name} a map; exchange them."
        turned = next((layer.name for layer in (map_, mask) if _is_turned(layer)), "")
        if turned:
            return f"{turned} was turned or stretched in the viewer; open it again."
        try:
            inputs = [InputMap(path=one.name, data=np.asarray(one.data), voxel_size_A=None) for one in (map_, mask)]
            check_cubic(inputs[0], "comparing it with a mask")
            check_mask(inputs[1])
        except InputError as error:
            return str(error)
        flat = next((one.path for one in inputs if one.data.min() == one.data.max()), "")
        return f"{flat} has the same value everywhere; choose another one." if flat else ""

    def open_rebox(self) -> None:
        """Open the form that puts the mask on the grid of the map."""
        if self.pair is not None:
            open_dock(self.viewer, "rebox", rebox_values(*self.pair, self.project))

    def _on_choice(self, *_: object) -> None:
        if self._is_filling:
            return
        was_on = self.view.is_on
        self.stop()
        self._overlap = None
        self.editor.set_voxel_size(self.voxel_size_A)
        problem = self.problem()
        say(self.message, problem)
        self.rebox_button.setVisible(self.pair is not None and bool(mismatch(*self.pair)))
        self.set_ready(not problem)
        self.map_changed.emit(self.voxel_size_A)
        if was_on and not problem:
            self.start()

    def _on_inserted(self, *_: object) -> None:
        if not self.view.is_on and self.pair is None:
            self.choose_defaults()
            if self.isVisible():
                self.start()

    # The viewer

    def start(self, look: Look | None = None) -> None:
        """Show map and mask and take mouse and keys, when there are both."""
        if self.view.is_on or self.pair is None or self.problem():
            return
        map_, mask = self.pair
        self.view.start(map_, mask, "overlay", look or "z")
        size_A = voxel_size_A_of(map_)[-1]
        shift_A = _middle_A(map_) - _middle_A(mask)
        for layer in (map_, mask):
            layer.affine = np.eye(4)
            layer.translate = world_frame(layer.data.shape, size_A)["translate"] if _is_in_A(layer) else layer.translate
        self._base_A = np.array(mask.translate)
        if np.abs(shift_A).max() > 1e-3 * size_A and self.model.is_zero:  # it was moved with napari's own tools
            self.model.move_to(center_of_shift(shift_A, size_A))
        self.view.cut_at(_middle_A(mask))
        for slider, layer, role in zip(self.levels, self.pair, roles_of(map_, mask), strict=True):
            slider.show_volume(layer, role)
        self._worker = LatestWorker()
        self.hand.hold()
        self._on_axes()
        self._set_state()
        self._refresh()

    def stop(self) -> None:
        """Put layers and viewer back; the center stays."""
        self.pick_button.setChecked(False)
        self.hand.let_go()
        self.view.stop()
        workers, self._worker, self._searcher = (self._worker, self._searcher), None, None
        for worker in workers:
            if worker is not None:
                worker.stop(wait=False)
        self.set_searching(False)
        self._set_state()

    def look(self, look: Look) -> None:
        """Show 3D or slices along an axis."""
        if self.view.is_on:
            self.view.look(look)
        else:
            self.start(look)

    def show_in_place(self) -> None:
        """Take the map back to where its file has it; the center stays in the fields."""
        self.preview.setChecked(False)

    def _set_mode(self, mode: Mode) -> None:
        if self.view.is_on:
            self.view.set_mode(mode)

    def _set_level(self, index: int, level: float) -> None:
        if self.view.is_on:
            self.view.solids[index].set_level(level)

    def _set_free_drag(self, is_free: bool) -> None:
        self.hand.drags_freely = is_free
        self._on_axes()

    def _on_ended(self, reason: str) -> None:
        self.stop()
        if reason:
            self.tell(reason, ORANGE)

    def _on_axes(self, *_: object) -> None:
        if self.view.is_on:
            is_3d = self.viewer.dims.ndisplay == 3
            self.show_axes(self.hand.axis_names(), is_3d=is_3d, drags_freely=self.hand.drags_freely)
            self._set_state()

    def _set_state(self) -> None:
        is_3d = self.viewer.dims.ndisplay == 3
        self.show_state(
            is_on=self.view.is_on, mode=self.view.mode, axis="" if is_3d else self.hand.axis_names()["depth"]
        )

    # Ways to move

    def set_center(self, center_px: Any) -> None:
        """Make a point the center, as one step."""
        self.model.move_to(center_px)
        self._on_center()

    def set_symmetry(self, symmetry: str) -> None:
        """Keep the center on the axes of a group; what is no group counts as none."""
        try:
            allowed = point_group(symmetry or "C1").operators.mean(axis=0)
        except InputError:
            allowed = np.eye(3)
        if not np.allclose(allowed, self.model.allowed):
            self.model.allowed = allowed
            self.set_center(self.model.center_px)

    def _on_step(self, direction: np.ndarray) -> None:
        """Move the map by a step: its center goes the other way."""
        self.model.move_by(-direction * self.editor.step_px)
        self._on_center()

    def _on_drag(self, way_A: np.ndarray) -> None:
        if self.voxel_size_A is None:
            return
        self.preview.setChecked(True)
        self.model.pass_through(self.model.settled_px + center_of_shift(way_A, self.voxel_size_A))
        self._refresh()

    def _on_drop(self) -> None:
        self.model.settle()
        self._on_center()

    def _on_undo(self, n: int) -> None:
        (self.model.undo if n > 0 else self.model.redo)()
        self._on_center()

    def _on_center(self) -> None:
        if not self.preview.isChecked():
            self.preview.setChecked(True)
        self._refresh()
        self.moved.emit()

    def _refresh(self) -> None:
        """Show the center everywhere."""
        self.editor.refresh()
        self._place()
        self._ask_score()

    def _place(self) -> None:
        """Move the map on the screen to where its center would put it, or back."""
        if not self.view.is_on or self.pair is None or self.voxel_size_A is None:
            return
        is_moved = self.preview.isChecked()
        shift_A = shift_of_center(self.model.center_px, self.voxel_size_A) if is_moved else np.zeros(3)
        self.pair[0].translate = self._base_A + shift_A
        self.view.follow()

    # Points

    def _set_picking(self, is_on: bool) -> None:
        if is_on and not self.view.is_on:
            self.start()
        is_on = is_on and self.view.is_on
        self._picked = None
        self.hand.is_picking = is_on
        if self.view.is_on:
            self.view.show_only(0 if is_on else None)
        if is_on and self.pair is not None:
            self.tell(f"Click a point of the map, {self.pair[0].name}.")
        elif not is_on:
            self.tell("")

    def _on_click(self, click: Click) -> None:
        if self.pair is None or self.voxel_size_A is None:
            return
        index = 0 if self._picked is None else 1
        solid = self.view.solids[index]
        point = point_of_click(solid.layer, solid.level, click)
        if point is None:
            self.tell(f"There is nothing of {solid.layer.name} here; click on it.", ORANGE)
        elif self._picked is None:
            self._picked = point
            self.view.show_only(1)
            self.tell(f"Now click the same point of the mask, {self.pair[1].name}.")
        else:
            center = center_of_points(self._picked, point, self.voxel_size_A)
            self.pick_button.setChecked(False)
            self.set_center(center)

    # Score and suggestion

    def _ask_score(self) -> None:
        if self._worker is None or self.pair is None:
            return
        if self._overlap is None:
            self.show_score(None)
            maps = (np.asarray(layer.data) for layer in self.pair)
            self._worker.ask("overlap", partial(MaskOverlap, *maps), self._take_overlap)
        else:
            shown = self.model.center_px if self.preview.isChecked() else np.zeros(3)
            self._worker.ask("score", partial(self._overlap.score, shown), self._take_score)

    def _take_overlap(self, overlap: MaskOverlap | Failure) -> None:
        if isinstance(overlap, MaskOverlap):
            self._overlap = overlap
            self._ask_score()

    def _take_score(self, score: float | Failure) -> None:
        self.show_score(None if isinstance(score, Failure) else score)

    def suggest(self) -> None:
        """Look for the center by cross-correlation, in a thread."""
        if self.pair is None or self.problem():
            return
        self.start()
        if self._searcher is None:
            self._searcher = LatestWorker()
        self.set_searching(True)
        maps = (np.asarray(layer.data) for layer in self.pair)
        self._searcher.ask("offset", partial(mask_offset, *maps), self._take_suggestion)

    def _take_suggestion(self, found: MaskOffset | Failure) -> None:
        self.set_searching(False)
        if isinstance(found, Failure):
            self.tell(f"No offset could be found: {found.text}", ORANGE)
            return
        self.set_center(found.shift_px)
        lost_px = float(np.linalg.norm(found.shift_px - self.model.center_px))
        if found.score < _LOW_SCORE:
            self.tell(f"Map and mask differ in shape (correlation {found.score:.2f}): look closely.", ORANGE)
        elif lost_px > 1.0:
            self.tell(f"The mask also lies {lost_px:.1f} px off the symmetry axis, where the map cannot go.", ORANGE)
        else:
            self.tell("Found by correlation.")


def _middle_A(layer: Image) -> np.ndarray:
    """Return where the middle of a box lies in the world, whatever moved it there."""
    return np.array(layer.data_to_world(np.array(layer.data.shape) // 2))


def _is_in_A(layer: Image) -> bool:
    return all(unit.is_compatible_with("angstrom") for unit in layer.units)


def _is_turned(layer: Image) -> bool:
    """Whether a layer is more than shifted in the viewer."""
    return any(np.abs(np.array(one) - np.eye(3)).max() > _TURNED for one in (layer.affine.linear_matrix, layer.rotate))
