"""Large STAR files: read by a thread, shown when ready; coordinates of one micrograph at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Layer, Points
from napari.qt.threading import create_worker
from qtpy.QtCore import QTimer

from napari_autorefine.errors import InputError
from napari_autorefine.ui.notices import shortened, show_error, show_info
from napari_autorefine.ui.thread_manners import beside_the_window, hold_garbage, release_garbage, start_worker

if TYPE_CHECKING:
    import napari
    import pandas as pd

    from napari_autorefine.ui.layers_of_maps import LayerData

_MANY_POINTS = 50_000
_SETTLED_MS = 2000


def read_in_background(read: Callable[[Path], list[LayerData]], path: Path, viewer: napari.viewer.Viewer) -> Any:
    """Read a file in a thread and add its layers to the viewer when they are ready; return the worker."""
    show_info(f"Reading {path.name} ({path.stat().st_size / 1e6:.0f} MB); it appears when it is ready.")
    worker = create_worker(
        _read, read, path, _start_thread=False, _progress={"total": 0, "desc": f"reading {path.name}"}
    )
    worker.returned.connect(lambda result: _show(result, viewer))
    worker.finished.connect(lambda: QTimer.singleShot(_SETTLED_MS, partial(release_garbage, path)))
    hold_garbage(path)
    start_worker(worker)
    return worker


def _read(read: Callable[[Path], list[LayerData]], path: Path) -> list[LayerData] | str:
    """Return layers, or the sentence to tell; a worker must not raise, some errors would be lost."""
    try:
        with beside_the_window():
            return [_thinned(layer) for layer in read(path)]
    except InputError as error:
        return shortened(str(error), path)
    except Exception as error:
        return f"{path.name} cannot be shown: {error}."


def _show(result: list[LayerData] | str, viewer: napari.viewer.Viewer) -> None:
    if isinstance(result, str):
        show_error(result)
    else:
        _make(list(result), viewer)


def _make(waiting: list[LayerData], viewer: napari.viewer.Viewer) -> None:
    """Make the first of some layers; the window has a turn before it is added, and before the next one is made."""
    if waiting:
        data, arguments, kind = waiting.pop(0)
        QTimer.singleShot(0, partial(_add, Layer.create(data, arguments, kind), waiting, viewer))


def _add(layer: Layer, waiting: list[LayerData], viewer: napari.viewer.Viewer) -> None:
    try:
        viewer.add_layer(layer)
    except RuntimeError:
        if hasattr(viewer.window, "_qt_window"):
            raise
        return  # the window has been closed
    follower = layer.metadata["autorefine"].get("follower")
    if follower is not None:
        follower.attach(layer, viewer)
    QTimer.singleShot(0, partial(_make, waiting, viewer))


def _thinned(layer: LayerData) -> LayerData:
    """Return a layer of many coordinates with those of its first micrograph only, and what shows the others."""
    data, arguments, kind = layer
    if kind != "points" or len(data) <= _MANY_POINTS or data.shape[1] != 4:
        return layer
    follower = PointsOfItem(data, arguments["features"])
    own = {**arguments["metadata"]["autorefine"], "follower": follower}
    rows = follower.shown_rows(0)
    return (
        data[rows],
        {**arguments, "features": follower.features(rows), "metadata": {"autorefine": own}},
        kind,
    )


class PointsOfItem:
    """All coordinates of a series, of which a layer shows those of the micrograph on the slider, ``item``.

    A layer of a million points takes a second to add and a fifth of a second per step of the slider.
    """

    def __init__(self, data: np.ndarray, table: pd.DataFrame) -> None:
        self.item = 0
        self._take(data, table)

    def _take(self, data: np.ndarray, table: pd.DataFrame) -> None:
        self.data, self.table = data, table
        item = data[:, 0].astype(np.int64)
        self._order = np.argsort(item, kind="stable")
        self._starts = np.searchsorted(item[self._order], np.arange(int(item.max()) + 2))

    def rows(self, item: int) -> np.ndarray:
        """Return the rows of one micrograph."""
        if not 0 <= item < len(self._starts) - 1:
            return np.empty(0, np.int64)
        return self._order[self._starts[item] : self._starts[item + 1]]

    def features(self, rows: np.ndarray) -> pd.DataFrame:
        """Return the columns of these rows."""
        return self.table.iloc[rows].reset_index(drop=True)

    def put(self, layer: Points, data: np.ndarray, table: pd.DataFrame) -> None:
        """Replace all coordinates; the layer stays at its micrograph."""
        self._take(data, table)
        self._show(layer)

    def shown_rows(self, item: int) -> np.ndarray:
        """Return the rows of one micrograph and one of the first and of the last, which keep the slider's range."""
        ends = self._order[[0, -1]] if len(self._order) else self._order
        return np.union1d(self.rows(item), ends)

    def _show(self, layer: Points) -> None:
        rows = self.shown_rows(self.item)
        layer.selected_data = set()
        layer.data = self.data[rows]
        layer.features = self.features(rows)

    def attach(self, layer: Points, viewer: napari.viewer.Viewer) -> None:
        """Let the layer follow the slider until it is removed."""

        def follow() -> None:
            item = int(viewer.dims.current_step[viewer.dims.ndim - 4])
            if item != self.item:
                self.item = item
                self._show(layer)

        def forget(event: Any) -> None:
            if event.value is layer:
                viewer.dims.events.current_step.disconnect(follow)
                viewer.layers.events.removed.disconnect(forget)

        viewer.dims.events.current_step.connect(follow)
        viewer.layers.events.removed.connect(forget)
