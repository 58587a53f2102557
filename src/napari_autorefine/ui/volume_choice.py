"""Which two of the open layers: lists of volumes to choose from, and how two volumes differ."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image
from psygnal import Signal
from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QComboBox, QSizePolicy, QWidget

from napari_autorefine.ui.file_fields import LAYER, is_volume, layer_kind, layer_path
from napari_autorefine.ui.layer_style import display_threshold, statistics
from napari_autorefine.ui.project import Project
from napari_autorefine.ui.world import voxel_size_A_of

if TYPE_CHECKING:
    from napari.components import LayerList, ViewerModel


_MASK = re.compile(r"mask(?!ed)", re.IGNORECASE)
_SAME_PIXEL = 1e-3
_LEVEL_OF_MASK = 0.5


def volumes(layers: Iterable[Any]) -> list[Image]:
    """Return the layers that are a map or a mask, in order."""
    return [layer for layer in layers if isinstance(layer, Image) and is_volume(layer)]


def is_mask(layer: Image) -> bool:
    """Tell whether a volume is a mask: by what our readers say of it, else by its values and its name."""
    kind = layer_kind(layer)
    if kind:
        return kind == "mask"
    return statistics(np.asarray(layer.data)).is_mask or _MASK.search(layer.name) is not None


def map_and_mask(viewer: ViewerModel) -> tuple[Image | None, Image | None]:
    """Return the map and the mask that are meant: the selected ones, else the last ones."""
    chosen, every = volumes(viewer.layers.selection), volumes(viewer.layers)
    masks = {layer for layer in every if is_mask(layer)}
    ordered = [*every, *(layer for layer in every if layer in chosen)]
    map_ = next((layer for layer in reversed(ordered) if layer not in masks), None)
    return map_, next((layer for layer in reversed(ordered) if layer in masks), None)


def two_volumes(viewer: ViewerModel) -> tuple[Image | None, Image | None]:
    """Return the volumes to compare: two that are selected, else map and mask, else the last two."""
    every = volumes(viewer.layers)
    chosen = [layer for layer in every if layer in viewer.layers.selection]
    if len(chosen) == 2:
        first, second = sorted(chosen, key=is_mask)
        return first, second
    map_, mask = map_and_mask(viewer)
    if map_ is not None and mask is not None:
        return map_, mask
    last = every[-2:]
    return (last[0], last[1]) if len(last) == 2 else (last[0] if last else None, None)


def start_level(layer: Image) -> float:
    """Return the density at which the surface of a volume is shown first."""
    if is_mask(layer):
        return _LEVEL_OF_MASK
    if layer_kind(layer):
        return float(layer.iso_threshold)
    return display_threshold(np.asarray(layer.data, np.float32))


def grid_text(layer: Image) -> str:
    """Return box and voxel size of a volume in words."""
    n_z, n_y, n_x = layer.data.shape
    box = f"{n_x} px" if n_x == n_y == n_z else f"{n_x} × {n_y} × {n_z} px"
    return f"{box} at {voxel_size_A_of(layer)[-1]:.4g} Å"


def mismatch(first: Image, second: Image) -> str:
    """Say how the grids of two volumes differ, or nothing."""
    if first.data.shape == second.data.shape and _is_same_size(first, second):
        return ""
    return f"{first.name} has {grid_text(first)}, {second.name} {grid_text(second)}."


def rebox_values(reference: Image, other: Image, project: Project) -> dict[str, Any]:
    """Return the values of a form of ``rebox`` that put a volume on the grid of another."""
    path = layer_path(other)
    values: dict[str, Any] = {"input": (project.relative(path),) if path else f"{LAYER}{other.name}"}
    values["rescale_angpix"] = None if _is_same_size(reference, other) else voxel_size_A_of(reference)[-1]
    is_cut = reference.data.shape != other.data.shape or values["rescale_angpix"] is not None
    values["new_box"] = int(reference.data.shape[-1]) if is_cut else None
    return values


def _is_same_size(first: Image, second: Image) -> bool:
    return bool(np.allclose(voxel_size_A_of(first), voxel_size_A_of(second), rtol=_SAME_PIXEL))


class VolumeCombo(QComboBox):
    """List of the open volumes that follows the layers of a viewer.

    Attributes
    ----------
    chosen : emitted with the layer, or None, when another one is chosen by the user or because layers come and go
    """

    chosen = Signal(object)

    def __init__(self, layers: LayerList, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._layers = layers
        self._shown: list[Image] = []
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setMinimumContentsLength(8)
        self.currentIndexChanged.connect(self._tell)
        for event in (layers.events.inserted, layers.events.removed, layers.events.reordered):
            event.connect(self.refresh)
        self.refresh()

    @property
    def layer(self) -> Image | None:
        """The chosen volume."""
        index = self.currentIndex()
        return self._shown[index] if 0 <= index < len(self._shown) else None

    def choose(self, layer: Image | None) -> None:
        """Choose a volume."""
        if layer is None:
            self.setCurrentIndex(-1)
        elif layer in self._shown:
            self.setCurrentIndex(self._shown.index(layer))

    def refresh(self, *_: object) -> None:
        """List the volumes that are open now; the choice stays while its layer does."""
        with suppress(RuntimeError):  # the list is gone, and only waits to be collected
            self._refresh()

    def _refresh(self) -> None:
        before = self.layer
        self._shown = volumes(self._layers)
        blocker = QSignalBlocker(self)
        self.clear()
        for layer in self._shown:
            self.addItem(layer.name)
        self.setCurrentIndex(self._shown.index(before) if before in self._shown else -1)
        blocker.unblock()
        if before is not None and before not in self._shown:
            self.chosen.emit(None)

    def _tell(self, *_: object) -> None:
        self.setToolTip(self.currentText())
        self.chosen.emit(self.layer)
