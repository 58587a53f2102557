"""Fields for files: typed, chosen in a dialog, dropped, or taken from an open layer; with what the file is below."""

from __future__ import annotations

import html
import re
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import LineEdit
from magicgui.widgets.bases import ValueWidget
from psygnal import Signal
from qtpy.QtCore import QEvent, QObject, QTimer
from qtpy.QtGui import QDropEvent
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLineEdit, QMenu, QPushButton, QVBoxLayout
from superqt.utils import create_worker

from napari_autorefine.io.mrc import write_volume
from napari_autorefine.jobs.record import Kind
from napari_autorefine.params import FieldRecord
from napari_autorefine.ui.facts import Facts, file_facts, needed_facts, place_facts
from napari_autorefine.ui.fields import (
    GREY,
    ORANGE,
    BadValue,
    Field,
    as_text,
    plain_label,
    say,
    small_button,
    small_label,
)
from napari_autorefine.ui.presentation import kind_of_file
from napari_autorefine.ui.project import Project
from napari_autorefine.ui.set_facts import set_facts
from napari_autorefine.ui.set_filling import SET
from napari_autorefine.ui.thread_manners import beside_the_window, start_worker

if TYPE_CHECKING:
    from napari.components import LayerList
    from napari.layers import Layer

LAYER = "layer: "
LAYER_FOLDER = "Layers"
_WRITTEN_FOLDERS = frozenset({"scratch_dir", "output", "part_dir"})
_DELAY_MS, _AGAIN_MS = 250, 2000
_KINDS: dict[str, Kind] = {"star": "particles", "map": "map", "mask": "mask"}
_FILTERS = {
    "star": "STAR files (*.star)",
    "map": "Maps (*.mrc *.map *.ccp4 *.mrc.gz *.map.gz)",
    "mask": "Masks (*.mrc *.map *.ccp4 *.mrc.gz *.map.gz)",
    "table": "STAR files (*.star)",
    "any": "All files (*)",
}


class FileField(Field):
    """Name of a file or a folder.

    Attributes
    ----------
    facts : what is known of the file that stands in the field; None while it is not known
    facts_changed : emitted when ``facts`` is another one
    show_wanted : emitted when the user wants to see what is in the optimisation set that stands in the field
    """

    widget: LineEdit
    facts_changed = Signal()
    show_wanted = Signal()

    def __init__(self, job: str, record: FieldRecord, project: Project, layers: LayerList | None = None) -> None:
        self.kind = kind_of_file(record)
        self.is_input = record.param.file_kind == "read"
        self.is_set = record.name == SET
        self.facts: Facts | None = None
        self.remark = ""
        self._project = project
        self._layers = layers
        self._asked = 0
        super().__init__(job, record)
        self._timer = QTimer(self.row)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_DELAY_MS)
        self._timer.timeout.connect(self._ask)
        self._again = QTimer(self.row)
        self._again.setSingleShot(True)
        self._again.setInterval(_AGAIN_MS)
        self._again.timeout.connect(self._ask)
        project.changed.connect(self._on_project)
        self.row.destroyed.connect(self._let_go)

    def make_widget(self) -> ValueWidget[Any]:
        """Return a line to type in that takes dropped files."""
        line = LineEdit()
        native: QLineEdit = line.native
        native.setPlaceholderText(self.look.empty or ("none" if self.record.is_optional else ""))
        native.setAcceptDrops(True)
        native.installEventFilter(_DropTarget(native, self))
        return line

    def lay_out(self, layout: QVBoxLayout) -> None:
        """Put the label above a line as wide as the form, its buttons right of it, facts below."""
        line = QHBoxLayout()
        line.setSpacing(3)
        line.addWidget(self.widget.native, 1)
        if self.is_input and self._layers is not None and self.kind in {"star", "map", "mask"}:
            line.addWidget(self._layer_button())
        if self.is_set and self._layers is not None:
            show = small_button("Show", "Show the particles in their tomograms, with orientations as arrows")
            show.clicked.connect(lambda: self.show_wanted.emit())
            line.addWidget(show)
        is_folder = self.record.param.file_kind == "folder"
        browse = small_button("…", "Choose a folder" if is_folder else "Choose a file")
        browse.clicked.connect(self.browse)
        line.addWidget(browse)
        self._facts = small_label(GREY)
        layout.addWidget(plain_label(self.label))
        layout.addLayout(line)
        layout.addWidget(self._facts)

    def _layer_button(self) -> QPushButton:
        button = small_button("Layer ▾", "Take an open layer")
        menu = QMenu(button)
        menu.aboutToShow.connect(lambda: self._fill(menu))
        button.setMenu(menu)
        return button

    def _fill(self, menu: QMenu) -> None:
        menu.clear()
        for layer in self.suitable_layers():
            action = menu.addAction(layer.name)
            if action is not None:
                action.triggered.connect(lambda _=False, chosen=layer: self.take_layer(chosen))
        if not menu.actions():
            nothing = menu.addAction("No suitable layer is open")
            if nothing is not None:
                nothing.setEnabled(False)

    def suitable_layers(self) -> list[Layer]:
        """Return the open layers that hold what the field takes, masks first in fields for masks."""
        layers = [layer for layer in self._layers or () if self._suits(layer)]
        if self.kind == "mask":
            layers.sort(key=lambda layer: layer_kind(layer) != "mask")
        return layers

    def _suits(self, layer: Layer) -> bool:
        if self.is_set:
            return set_of_layer(layer) is not None
        if self.kind == "star":
            path = layer_path(layer)
            return path is not None and path.suffix == ".star"
        return is_volume(layer)

    def take_layer(self, layer: Layer) -> None:
        """Put the file of a layer into the field, or the layer itself when it has none."""
        path = set_of_layer(layer) if self.is_set else layer_path(layer)
        self.set_value(LAYER + layer.name if path is None else self._as_shown(self._project.relative(path)))

    def take_file(self, path: str) -> None:
        """Put a file into the field, relative to the project when it is inside."""
        self.set_value(self._as_shown(self._project.relative(path)))

    def _as_shown(self, path: str) -> Any:
        return (path,) if self.record.is_sequence else path

    def browse(self) -> None:
        """Let the user choose in a dialog."""
        start = str(self._project.absolute(self.text or "."))
        title = self.label.rstrip("?")
        if self.record.param.file_kind == "folder":
            path = QFileDialog.getExistingDirectory(self.row, title, start)
        elif self.record.is_sequence:
            paths, _ = QFileDialog.getOpenFileNames(self.row, title, start, f"{_FILTERS[self.kind]};;All files (*)")
            if paths:
                self.set_value([self._project.relative(one) for one in paths])
            return
        elif self.is_input:
            path, _ = QFileDialog.getOpenFileName(self.row, title, start, f"{_FILTERS[self.kind]};;All files (*)")
        else:
            path, _ = QFileDialog.getSaveFileName(
                self.row, title, start, options=QFileDialog.Option.DontConfirmOverwrite
            )
        if path:
            self.take_file(path)

    @property
    def text(self) -> str:
        """What stands in the field."""
        return str(self.widget.value).strip()

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of a field for several; names with blanks stand in quotation marks."""
        try:
            return tuple(shlex.split(self.text))
        except ValueError as error:
            raise BadValue("A quotation mark is missing.") from error

    def read(self) -> Any:
        """Return the path, None when it is optional and empty."""
        text = self.text
        if self.facts is not None and self.facts.is_problem:
            raise BadValue(self.facts.text)
        if self.record.is_sequence:
            return (text,) if text.startswith(LAYER) else self.paths
        if not text:
            return None if self.record.is_optional else ""
        return text

    def show_value(self, value: Any) -> None:
        """Show a path; none as nothing."""
        with self.widget.changed.blocked():
            if self.record.is_sequence and value is not None and not str(value).startswith(LAYER):
                value = shlex.join(map(str, (value,) if isinstance(value, str) else value))
            self.widget.value = as_text(value)
        self.widget.native.setCursorPosition(0)

    def warn(self, text: str) -> None:
        """Show a remark on how the file fits the others; nothing takes it back."""
        self.remark = text
        self._show_facts()

    def resolved(self) -> Any:
        """Return the path to hand to a job; a layer without a file is written to one in the project first."""
        value = self.read()
        if isinstance(value, tuple) and self.text.startswith(LAYER):
            return (self._file_of_layer(self.text),)
        return self._file_of_layer(value) if isinstance(value, str) and value.startswith(LAYER) else value

    def _file_of_layer(self, value: str) -> str:
        """Write the data of a layer into the project, and return the file."""
        layer = self._layer(value)
        if layer is None:
            raise BadValue(f"The layer {value.removeprefix(LAYER)} is not open any more.")
        path = self._project.folder / LAYER_FOLDER / (re.sub(r"[^\w.-]+", "_", layer.name) + ".mrc")
        write_volume(path, np.asarray(layer.data, np.float32), float(layer.scale[-1]))
        return self._project.relative(path)

    def _layer(self, text: str) -> Layer | None:
        name = text.removeprefix(LAYER)
        return next((layer for layer in self._layers or () if layer.name == name), None)

    def _on_change(self, *_: object) -> None:
        self.facts = None
        self.remark = ""
        self.widget.native.setToolTip(f"<p>{html.escape(self.text)}</p>{self.tooltip}" if self.text else "")
        self._asked += 1
        self._again.stop()
        self._timer.start()
        self._show_facts()
        super()._on_change()

    def _on_project(self, *_: object) -> None:
        if self.text:
            self._on_change()

    def _let_go(self, *_: object) -> None:
        """Drop answers that are still on their way when the form is gone."""
        self._asked = -1
        self._project.changed.disconnect(self._on_project, missing_ok=True)

    def _ask(self) -> None:
        """Look at the file in a thread; an answer to an earlier question is dropped."""
        text, number = self.text, self._asked
        if not text:
            return
        if text.startswith(LAYER):
            self._answer(number, self._facts_of_layer(text))
            return
        try:
            first = self.paths[0] if self.record.is_sequence else text
        except BadValue:
            return
        path = self._project.absolute(first)
        worker = create_worker(_found_out, self._question(path), _start_thread=False)
        worker.returned.connect(lambda facts: self._answer(number, facts))
        worker.errored.connect(lambda _: self._answer(number, Facts(text="")))
        start_worker(worker)

    def _question(self, path: Path) -> Callable[[], Facts]:
        """Return what a thread is to find out: what a file is, or whether it can be written."""
        if self.is_set:
            return partial(set_facts, path, self._project.folder)
        if self.is_input:
            return partial(needed_facts, path, _KINDS.get(self.kind))
        name, is_file = self.record.name, self.record.param.file_kind == "write"
        if is_file or name in _WRITTEN_FOLDERS:
            return partial(place_facts, path, is_folder=not is_file, tell_space=name == "scratch_dir")
        return partial(file_facts, path)

    def _facts_of_layer(self, text: str) -> Facts:
        layer = self._layer(text)
        if layer is None:
            return Facts(text="This layer is not open any more.", is_problem=True)
        size, pixel = int(layer.data.shape[-1]), float(layer.scale[-1])
        name = re.sub(r"[^\w.-]+", "_", layer.name)
        where = f"has no file: Run writes {LAYER_FOLDER}/{name}.mrc first"
        return Facts(text=f"{size} px, {pixel:.4g} Å/px; {where}", box_px=size, pixel_A=pixel)

    def _answer(self, number: int, facts: Facts) -> None:
        if number != self._asked:
            return
        if facts.is_problem:  # the job that makes the file may be running
            self._again.start()
        if facts == self.facts:
            return
        self.facts = facts
        self._show_facts()
        self.show_problem()
        self.facts_changed.emit()

    def _show_facts(self) -> None:
        if self.remark:
            say(self._facts, self.remark, ORANGE)
        else:
            text = "" if self.facts is None or self.facts.is_problem else self.facts.text
            say(self._facts, text, GREY)


def _found_out(question: Callable[[], Facts]) -> Facts:
    """Answer a question in a thread beside the window's."""
    with beside_the_window():
        return question()


def layer_path(layer: Layer) -> Path | None:
    """Return the file that a layer was read from and still stands for."""
    known = layer.metadata.get("autorefine", {}) if isinstance(layer.metadata, dict) else {}
    path = known.get("path") or layer.source.path
    return Path(path) if path and Path(path).is_file() else None


def set_of_layer(layer: Layer) -> Path | None:
    """Return the optimisation set that a layer was opened from."""
    known = layer.metadata.get("autorefine", {}) if isinstance(layer.metadata, dict) else {}
    path = known.get("set")
    return Path(path) if path and Path(path).is_file() else None


def layer_kind(layer: Layer) -> str:
    """Return what our readers say a layer is, or nothing."""
    known = layer.metadata.get("autorefine", {}) if isinstance(layer.metadata, dict) else {}
    return str(known.get("kind", ""))


def is_volume(layer: Layer) -> bool:
    """Whether a layer is one map or mask."""
    if layer.__class__.__name__ not in {"Image", "Labels"} or getattr(layer, "rgb", False):
        return False
    return layer.ndim == 3 and not layer.multiscale and layer_kind(layer) not in {"tomogram", "micrograph", "stack"}


class _DropTarget(QObject):
    """Takes files that are dropped on a line."""

    def __init__(self, line: QLineEdit, field: FileField) -> None:
        super().__init__(line)
        self._field = field

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        if isinstance(event, QDropEvent):
            data = event.mimeData()
            urls = [] if data is None else data.urls()
            if urls and urls[0].isLocalFile():
                if event.type() == QEvent.Type.Drop:
                    self._field.take_file(urls[0].toLocalFile())
                event.acceptProposedAction()
                return True
        return super().eventFilter(watched, event)
