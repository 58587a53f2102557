"""The dock for particles in their tomograms: colours by a column, orientations as arrows, the newest poses."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

import numpy as np
from napari.layers import Layer, Points, Vectors
from qtpy.QtCore import QSignalBlocker, QSize
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_autorefine.errors import InputError
from napari_autorefine.ui.endings import when_destroyed
from napari_autorefine.ui.fields import GREY, plain_label, say, small_label
from napari_autorefine.ui.file_fields import layer_kind
from napari_autorefine.ui.latest_worker import Failure, LatestWorker
from napari_autorefine.ui.notices import show_error
from napari_autorefine.ui.orientations import ARROW_COLOR, arrows_on_points
from napari_autorefine.ui.particle_colors import PLAIN, color_of, columns_to_color_by
from napari_autorefine.ui.particle_updates import (
    NewPoses,
    candidates,
    newest_poses,
    own_metadata,
    shown,
    split_by_tomogram,
    take_poses,
)

if TYPE_CHECKING:
    from napari.viewer import Viewer

_DOT = 0.25
_EMPTY = "Open an optimisation set or a particle file with coordinates in tomograms."


class ParticlesDock(QWidget):
    """Looks of one layer of coordinates in tomograms.

    Attributes
    ----------
    layers, colors : lists to choose from
    arrows : whether orientations are shown
    newest : button that takes the poses of the newest iteration
    split : button that makes a layer of every tomogram
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.layers, self.colors = QComboBox(), QComboBox()
        self.arrows = QCheckBox("Orientations as arrows")
        self.newest, self.split = QPushButton("Newest iteration"), QPushButton("Layer per tomogram")
        self.words = small_label(GREY)
        self._arrows_of: dict[Points, Vectors] = {}
        self._worker = LatestWorker()
        self._prepare()
        self._lay_out()
        events = napari_viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered):
            event.connect(self._list)
        napari_viewer.dims.events.current_step.connect(self._say)
        own = WeakMethod(self._list), WeakMethod(self._say)
        when_destroyed(self, partial(_let_go, napari_viewer, self._worker, *own))
        self._list()

    def sizeHint(self) -> QSize:
        """Return a size that leaves the list of layers its place."""
        return QSize(240, 170)

    def _prepare(self) -> None:
        self.layers.currentIndexChanged.connect(lambda *_: self._on_layer())
        self.colors.currentIndexChanged.connect(lambda *_: self._paint())
        self.arrows.setToolTip("The z axis of the reference in the tomogram: the subtomogram's rotation times its own")
        self.arrows.toggled.connect(self._show_arrows)
        self.newest.setToolTip("Take positions and orientations of the last iteration of the refinement")
        self.newest.clicked.connect(lambda: self.take_newest())
        self.split.setToolTip("A layer of its own for every tomogram in place of the slider; the first is shown")
        self.split.clicked.connect(lambda: self.split_up())
        for box in (self.layers, self.colors):
            box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            box.setMinimumContentsLength(8)

    def _lay_out(self) -> None:
        grid = QGridLayout()
        grid.setVerticalSpacing(4)
        rows: tuple[tuple[str, QWidget], ...] = (("Particles", self.layers), ("Color", self.colors))
        for row, (text, widget) in enumerate(rows):
            label: QLabel = plain_label(text)
            grid.addWidget(label, row, 0)
            grid.addWidget(widget, row, 1)
        grid.setColumnStretch(1, 1)
        buttons = QHBoxLayout()
        buttons.setSpacing(3)
        buttons.addWidget(self.newest, 1)
        buttons.addWidget(self.split, 1)
        content = QWidget()
        layout = QVBoxLayout(content)
        layout.setContentsMargins(6, 4, 6, 4)
        layout.setSpacing(5)
        layout.addLayout(grid)
        layout.addWidget(self.words)
        layout.addWidget(self.arrows)
        layout.addLayout(buttons)
        layout.addStretch(1)
        area = QScrollArea()  # on a low screen the dock must not push the window over its edge
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setWidget(content)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.addWidget(area)

    @property
    def layer(self) -> Points | None:
        """The layer that is chosen."""
        found = self.layers.currentData()
        return found if isinstance(found, Points) and found in self.viewer.layers else None

    def choose(self, layer: Points) -> None:
        """Choose a layer."""
        at = self.layers.findData(layer)
        if at >= 0:
            self.layers.setCurrentIndex(at)

    def take_newest(self) -> None:
        """Move particles and arrows to where the newest iteration has them; what is wrong becomes a notification.

        The table is read by a thread, as it may be large.
        """
        layer = self.layer
        if layer is not None:
            paths = candidates(self.viewer, layer)
            self._worker.ask("poses", partial(newest_poses, paths, shown(layer)), partial(self._take, layer))

    def _take(self, layer: Points, found: NewPoses | Failure) -> None:
        if isinstance(found, Failure):
            show_error(found.text)
        elif layer in self.viewer.layers:
            take_poses(layer, found)
            self._on_layer()  # there may be other columns
            self._paint()

    def split_up(self) -> None:
        """Replace the layer by one per tomogram."""
        layer = self.layer
        if layer is None:
            return
        self.arrows.setChecked(False)
        pieces = [self.viewer.add_layer(Layer.create(*piece)) for piece in split_by_tomogram(layer)]
        self.viewer.layers.remove(layer)
        self.choose(pieces[0])

    def _list(self, *_: object) -> None:
        """Show which layers there are, and stay with the one that is chosen."""
        found = [one for one in self.viewer.layers if isinstance(one, Points) and layer_kind(one) == "coordinates_3d"]
        before = self.layers.currentData()
        self._arrows_of = {one: arrows for one, arrows in self._arrows_of.items() if arrows in self.viewer.layers}
        blocker = QSignalBlocker(self.layers)
        self.layers.clear()
        for one in found:
            self.layers.addItem(one.name, one)
        at = found.index(before) if before in found else len(found) - 1
        self.layers.setCurrentIndex(at)
        blocker.unblock()
        self._on_layer()

    def _on_layer(self) -> None:
        layer = self.layer
        columns = {} if layer is None else columns_to_color_by(layer.features)
        chosen = "" if layer is None else str(own_metadata(layer).get("color", ""))
        blockers = QSignalBlocker(self.colors), QSignalBlocker(self.arrows)
        self.colors.clear()
        for text, label in {PLAIN: "", **columns}.items():
            self.colors.addItem(text, label)
        self.colors.setCurrentIndex(max(self.colors.findData(chosen), 0))
        self.arrows.setChecked(layer in self._arrows_of)
        for blocker in blockers:
            blocker.unblock()
        names = () if layer is None else own_metadata(layer).get("names", ())
        has_angles = layer is not None and all(f"rlnAngle{name}" in layer.features for name in ("Rot", "Tilt", "Psi"))
        self.arrows.setEnabled(has_angles)
        self.colors.setEnabled(layer is not None)
        self.newest.setEnabled(has_angles)
        self.split.setEnabled(len(names) > 1)
        self._say()

    def _paint(self) -> None:
        """Give the points, and their arrows, the colours of a column."""
        layer = self.layer
        if layer is None:
            return
        label = str(self.colors.currentData() or "")
        own_metadata(layer)["color"] = label
        layer.border_color = color_of(layer.features, label)
        if layer in self._arrows_of:
            self._point()

    def _show_arrows(self, is_on: bool) -> None:
        layer = self.layer
        if layer is None:
            return
        if not is_on:
            arrows = self._arrows_of.pop(layer, None)
            if arrows in self.viewer.layers:
                self.viewer.layers.remove(arrows)
            layer.size, layer.face_color = 1.0, "transparent"
            return
        self._point()

    def _point(self) -> None:
        """Make the arrows of the layer, in place of earlier ones; the circles shrink to dots at their feet."""
        layer = self.layer
        assert layer is not None
        try:
            meta = {**layer.as_layer_data_tuple()[1], "size": 1.0}
            data, arguments, kind = arrows_on_points(layer.data, meta)
        except InputError as error:
            show_error(str(error))
            self.arrows.setChecked(False)
            return
        label = str(own_metadata(layer).get("color", ""))
        arrows = self._arrows_of.get(layer)
        if arrows is None:
            arrows = self.viewer.add_layer(Layer.create(data, arguments, kind))
            self._arrows_of[layer] = arrows
        else:
            arrows.data = data
        arrows.features = layer.features
        arrows.edge_color = color_of(layer.features, label) if label else ARROW_COLOR
        layer.size, layer.face_color = _DOT, layer.border_color
        with QSignalBlocker(self.arrows):
            self.arrows.setChecked(True)

    def _say(self, *_: object) -> None:
        """Say how many particles there are, where, and of which file."""
        layer = self.layer
        if layer is None:
            say(self.words, _EMPTY)
            return
        own = own_metadata(layer)
        names, file = own.get("names", ()), Path(str(own.get("path", ""))).name
        if layer.ndim != 4:
            say(self.words, f"{names[0] if names else layer.name}: {len(layer.data)} particles of {file}")
            return
        at = int(self.viewer.dims.current_step[self.viewer.dims.ndim - 4])
        here = int(np.count_nonzero(np.rint(layer.data[:, 0]) == at))
        name = names[at] if 0 <= at < len(names) else "no tomogram"
        say(self.words, f"{name}: {here} of {len(layer.data)} particles of {file}")


def _let_go(viewer: Any, worker: LatestWorker, on_layers: WeakMethod[Any], on_step: WeakMethod[Any]) -> None:
    """Leave nothing connected to a dock that is gone, and no thread."""
    worker.stop(wait=False)
    events = viewer.layers.events
    if (slot := on_layers()) is not None:
        for event in (events.inserted, events.removed, events.reordered):
            event.disconnect(slot)
    if (slot := on_step()) is not None:
        viewer.dims.events.current_step.disconnect(slot)
