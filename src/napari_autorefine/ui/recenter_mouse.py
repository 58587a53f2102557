"""Mouse and keys of a viewer while a map is moved by hand: drags, steps, clicks on points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image
from psygnal import Signal

from napari_autorefine.ui.recenter_model import first_hit, in_plane
from napari_autorefine.ui.world import voxel_size_A_of

if TYPE_CHECKING:
    from napari.components import ViewerModel

_KEYS = {
    "Shift-Right": ("across", 1),
    "Shift-Left": ("across", -1),
    "Shift-Up": ("up", 1),
    "Shift-Down": ("up", -1),
    "Shift-PageUp": ("depth", 1),
    "Shift-PageDown": ("depth", -1),
}
_NAMES = "zyx"
_CLICK_PX = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Click:
    """Where the canvas was clicked.

    Attributes
    ----------
    position : world position in angstrom, all axes of the viewer
    direction : of view, all axes; ``None`` in slices
    displayed : axes on the screen
    """

    position: np.ndarray
    direction: np.ndarray | None
    displayed: tuple[int, ...]


class Hand:
    """Turns drags, keys and clicks into movements while it holds a viewer.

    In slices a plain drag moves the map when ``drags_freely``; Shift-drag moves it always, in 3D in the plane of view.

    Attributes
    ----------
    dragged : emitted with the way (z, y, x) in angstrom since the button was pressed
    dropped : emitted when it is released
    stepped : emitted with the direction (x, y, z) of a key, one of its components 1 or -1
    clicked : emitted with a ``Click`` while ``is_picking``
    undo_wanted : emitted with 1 to go back by a step, -1 to take it again
    """

    dragged = Signal(object)
    dropped = Signal()
    stepped = Signal(object)
    clicked = Signal(Click)
    undo_wanted = Signal(int)

    def __init__(self, viewer: ViewerModel) -> None:
        self.viewer = viewer
        self.drags_freely = True
        self.is_picking = False
        self._replaced: dict[str, Any] | None = None

    @property
    def is_holding(self) -> bool:
        """Whether mouse and keys are taken."""
        return self._replaced is not None

    def hold(self) -> None:
        """Take mouse and keys."""
        if self.is_holding:
            return
        self.viewer.mouse_drag_callbacks.append(self._on_press)
        keys: dict[str, Callable[[], None]] = {name: partial(self._step, *how) for name, how in _KEYS.items()}
        keys["Control-Z"] = partial(self.undo_wanted.emit, 1)
        keys["Control-Shift-Z"] = partial(self.undo_wanted.emit, -1)
        self._replaced = {}
        for key, action in keys.items():
            self._replaced[key] = self.viewer.bind_key(key, _ignoring_viewer(action), overwrite=True)

    def let_go(self) -> None:
        """Give mouse and keys back."""
        replaced, self._replaced = self._replaced, None
        if replaced is None:
            return
        self.viewer.mouse_drag_callbacks.remove(self._on_press)
        for key, before in replaced.items():
            self.viewer.bind_key(key, before, overwrite=True)

    def axes(self) -> dict[str, int]:
        """Return the axes (0 z, 1 y, 2 x) that the keys move along: across and up on the screen, and in depth."""
        if self.viewer.dims.ndisplay == 3 or self.viewer.dims.ndim < 3:
            return {"across": 2, "up": 1, "depth": 0}
        depth, up, across = (axis - (self.viewer.dims.ndim - 3) for axis in self.viewer.dims.order[-3:])
        return {"across": across, "up": up, "depth": depth}

    def axis_names(self) -> dict[str, str]:
        """Return the same axes by name."""
        return {where: _NAMES[axis] for where, axis in self.axes().items()}

    def _step(self, where: str, sign: int) -> None:
        """Move along an axis, in the direction of the arrow where the view is flipped, too."""
        if self.viewer.dims.ndisplay == 2:
            _, vertical, horizontal = self.viewer.scene.camera.orientation
            flipped = {"up": str(vertical) == "down", "across": str(horizontal) == "left"}
            sign = -sign if flipped.get(where) else sign
        direction = np.zeros(3)
        direction[2 - self.axes()[where]] = sign
        self.stepped.emit(direction)

    def _on_press(self, viewer: Any, event: Any) -> Iterator[None]:
        if event.button != 1 or any(key != "Shift" for key in event.modifiers):
            return
        is_3d = len(event.dims_displayed) == 3
        if self.is_picking:
            yield from self._click(event)
        elif "Shift" in event.modifiers or (self.drags_freely and not is_3d):
            yield from self._drag(viewer, event)

    def _click(self, event: Any) -> Iterator[None]:
        """Tell a click from a drag that turns the view."""
        pressed = np.array(event.pos, np.float64)
        yield
        while event.type == "mouse_move":
            yield
        if np.abs(np.array(event.pos, np.float64) - pressed).max() <= _CLICK_PX:
            direction = None if event.view_direction is None else np.array(event.view_direction)
            is_3d = len(event.dims_displayed) == 3
            self.clicked.emit(
                Click(
                    position=np.array(event.position),
                    direction=direction if is_3d else None,
                    displayed=tuple(event.dims_displayed),
                )
            )

    def _drag(self, viewer: Any, event: Any) -> Iterator[None]:
        """Follow the mouse; the camera stays where it is."""
        camera = viewer.scene.camera
        before, camera.mouse_pan = camera.mouse_pan, False
        start = np.array(event.position)[-3:]
        try:
            yield
            while event.type == "mouse_move":
                way = np.array(event.position)[-3:] - start
                if len(event.dims_displayed) == 3:
                    way = in_plane(way, np.array(event.view_direction)[-3:])
                self.dragged.emit(way)
                event.handled = True
                yield
        finally:
            camera.mouse_pan = before
        self.dropped.emit()


def point_of_click(layer: Image, level: float, click: Click) -> np.ndarray | None:
    """Return the point of a volume that was clicked: on the slice, or in 3D where its surface is first met.

    Parameters
    ----------
    layer : volume, wherever it was moved
    level : density of its surface
    click : where

    Returns
    -------
    point : (z, y, x) from the middle of the box in angstrom, where the file has it; ``None`` beside the volume
    """
    if click.direction is None:
        voxel: np.ndarray | None = np.array(layer.world_to_data(click.position))[-3:]
    else:
        start, end = layer.get_ray_intersections(click.position, click.direction, list(click.displayed), world=True)
        if start is None or end is None:
            return None
        voxel = first_hit(np.asarray(layer.data), np.array(start)[-3:], np.array(end)[-3:], level)
    if voxel is None or (voxel < -0.5).any() or (voxel > np.array(layer.data.shape) - 0.5).any():
        return None
    return np.asarray((voxel - np.array(layer.data.shape) // 2) * np.array(voxel_size_A_of(layer)))


def _ignoring_viewer(action: Callable[[], None]) -> Callable[[Any], None]:
    def called(_: Any) -> None:
        action()

    return called
