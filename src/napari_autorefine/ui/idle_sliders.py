"""Sliders of axes that only hidden layers have: napari keeps them below the view, where they do nothing.

A series of micrographs that is hidden beside a map leaves its slider; it comes back with the eye of its layer.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication, QWidget

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

_SLIDER = "QtDimSliderWidget"


def hide_idle_sliders(viewer: ViewerModel) -> None:
    """Show the sliders of a viewer only while a layer that is seen has their axis; from now on."""
    later = partial(_soon, ref(viewer))
    for layer in viewer.layers:
        layer.events.visible.connect(later)
    viewer.layers.events.inserted.connect(partial(_on_inserted, later))
    viewer.layers.events.removed.connect(later)
    for event in (viewer.dims.events.ndim, viewer.dims.events.ndisplay, viewer.dims.events.range):
        event.connect(later)
    later()


def _on_inserted(later: Any, event: Any) -> None:
    event.value.events.visible.connect(later)
    later()


def _soon(viewer: ref[ViewerModel], _event: Any = None) -> None:
    """Look when napari has done what it does at the same event."""
    QTimer.singleShot(0, partial(_look, viewer))


def _look(reference: ref[ViewerModel]) -> None:
    viewer = reference()
    if viewer is None:
        return
    dims = viewer.dims
    seen = [layer for layer in viewer.layers if layer.visible]
    for slider in _sliders(viewer):
        axis = slider.axis
        if axis >= dims.ndim or axis in dims.displayed or dims.nsteps[axis] <= 1:
            continue
        is_used = not seen or any(_reaches(layer, axis - (dims.ndim - layer.ndim)) for layer in seen)
        if slider.isHidden() is is_used:
            slider.setVisible(is_used)


def _sliders(viewer: ViewerModel) -> list[Any]:
    """Return the slider widgets of a viewer; napari leaves those that it has done with among the children."""
    widgets = [widget for window in QApplication.topLevelWidgets() for widget in window.findChildren(QWidget)]
    found: list[Any] = [one for one in widgets if type(one).__name__ == _SLIDER]
    return [one for one in found if one.dims is viewer.dims and one in getattr(one.parent(), "slider_widgets", ())]


def _reaches(layer: Layer, axis: int) -> bool:
    """Tell whether a layer has more than one place along one of its axes."""
    if axis < 0:
        return False
    first, last = layer.extent.world[:, axis]
    return bool(last > first)
