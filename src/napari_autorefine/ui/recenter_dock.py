"""The dock that recentres particles: the map is moved onto its mask by hand, and Apply runs the job."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_autorefine.errors import InputError
from napari_autorefine.jobs.job_events import JobEnded
from napari_autorefine.jobs.record import output_of
from napari_autorefine.ui.endings import when_destroyed
from napari_autorefine.ui.file_fields import layer_path
from napari_autorefine.ui.fold import Fold
from napari_autorefine.ui.job_docks import ManifestDock, open_dock
from napari_autorefine.ui.next_steps import NextStep
from napari_autorefine.ui.presence import Presence
from napari_autorefine.ui.recenter_tool import RecenterTool
from napari_autorefine.ui.set_facts import SetFacts, set_facts
from napari_autorefine.ui.volume_choice import volumes

if TYPE_CHECKING:
    from napari.viewer import Viewer

_CENTER = ("center_x_px", "center_y_px", "center_z_px")
_FOUND_OTHERWISE: dict[str, Any] = {"center_A": (), "mask": "", "map": "", "apply": False}
_SHOWN = ("particles", "optimisation_set", "output", "overwrite")
_FOLDED = ("ref_angpix", "symmetry")


class RecenterDock(ManifestDock):
    """Centre of particles.

    The tool stands in place of the fields that hold the center; values, checks and command line are those of the form.
    """

    job_name = "recenter"

    def __init__(self, napari_viewer: Viewer) -> None:
        self.tool: RecenterTool | None = None
        super().__init__(napari_viewer)
        self.tool = RecenterTool(napari_viewer, project=self.project)
        self._put_in(self.tool)
        self.panel.run_button.setText("Apply")
        self.tool.moved.connect(self._take_center)
        self.tool.map_changed.connect(self._take_pixel_size)
        self.form.fields["symmetry"].changed.connect(self._take_symmetry)
        self.presence = Presence(self)
        self.presence.changed.connect(self._on_presence)
        self.presence.closed.connect(self.tool.stop)
        when_destroyed(self, partial(_let_go, self.tool))
        self._take_pixel_size(self.tool.voxel_size_A)
        self._on_change()

    def _put_in(self, tool: RecenterTool) -> None:
        """Put the tool above the fields of the form that it does not replace."""
        place = self.form.parentWidget()
        layout = None if place is None else place.layout()
        assert isinstance(layout, QVBoxLayout)
        self.form.hide()
        folded = QWidget()
        inner = QVBoxLayout(folded)
        inner.setContentsMargins(12, 2, 0, 2)
        for name in _FOLDED:
            inner.addWidget(self.form.fields[name].row)
        widgets = [tool, *(self.form.fields[name].row for name in _SHOWN), Fold("More options", folded)]
        for index, widget in enumerate(widgets):
            layout.insertWidget(index, widget)

    def _on_presence(self, is_present: bool) -> None:
        """Show map and mask when there are both; put the viewer back when another dock is raised or this one closed."""
        if self.tool is not None and is_present:
            self.tool.start()
        elif self.tool is not None:
            self.tool.stop()

    def recall(self) -> None:
        """Show the values of the last run, but no center: that was of another map."""
        super().recall()
        self.form.set_values(dict.fromkeys(_CENTER) | _FOUND_OTHERWISE)
        if self.tool is not None:
            self._take_center()
            self._take_pixel_size(self.tool.voxel_size_A)

    def fill(self, values: Mapping[str, Any]) -> None:
        """Show values; a map and a mask are opened as layers and chosen."""
        super().fill({name: value for name, value in values.items() if name not in _FOUND_OTHERWISE})
        self._open_maps(values)
        self._adopt(values)

    def take_set(self, path: str | Path) -> None:
        """Show an optimisation set; the map of its job, else its first half-map, and its mask are opened and chosen."""
        super().take_set(path)
        facts = set_facts(Path(path), self.project.folder)
        files = facts.files if isinstance(facts, SetFacts) else {}
        try:
            map_ = output_of(Path(path).parent, "map")
        except InputError:
            map_ = str(files.get("map1", ""))
        self._open_maps({"map": map_, "mask": str(files.get("mask", ""))})

    def load(self, path: str | Path) -> None:
        """Show the parameters of a file; a map and a mask are opened as layers and chosen."""
        super().load(path)
        values = self.form.values()
        self.form.set_values(_FOUND_OTHERWISE)
        self._open_maps(values)
        self._adopt(values)

    def _open_maps(self, values: Mapping[str, Any]) -> None:
        """Open files of map and mask that are not open yet, and choose them."""
        if self.tool is None or self.viewer is None:
            return
        for name, combo in (("map", self.tool.map_choice), ("mask", self.tool.mask_choice)):
            if not values.get(name):
                continue
            path = self.project.absolute(values[name])
            if _layer_of(self.viewer, path) is None:
                self._open(str(path))
            combo.choose(_layer_of(self.viewer, path))

    def _adopt(self, values: Mapping[str, Any]) -> None:
        """Move the tool to a center that came with values."""
        if self.tool is None:
            return
        size_A = values.get("ref_angpix") or self.tool.voxel_size_A
        if values.get("center_A") and size_A:
            self.tool.set_center([value / size_A for value in values["center_A"]])
        elif any(name in values for name in _CENTER):
            self.tool.set_center([values.get(name) or 0.0 for name in _CENTER])

    def _take_center(self) -> None:
        """Write the center of the tool into the form."""
        assert self.tool is not None
        given = [value or None for value in self.tool.model.center_px.tolist()]
        self.form.set_values(dict(zip(_CENTER, given, strict=True)))

    def _take_pixel_size(self, voxel_size_A: float | None) -> None:
        """Count the center in pixels of the map that is chosen."""
        if voxel_size_A is not None:
            self.form.set_values({"ref_angpix": round(voxel_size_A, 6)})

    def _take_symmetry(self) -> None:
        if self.tool is not None:
            self.tool.set_symmetry(str(self.form.values().get("symmetry", "C1")))

    def _on_change(self) -> None:
        super()._on_change()
        if self.tool is not None and self.tool.model.is_zero:
            self.panel.set_problem("Move the map onto the mask, or type its offset.")

    def _take_step(self, step: NextStep) -> None:
        """Open the next form; particles are extracted again at their new center."""
        values: dict[str, Any] = {"recenter": True} if step.job == "extract" else {}
        if step.job != self.job and self.viewer is not None:
            open_dock(self.viewer, step.job, {**step.values, **values})

    def _on_finished(self, event: JobEnded) -> None:
        """Take the map back to its place: what moves now are the particles."""
        super()._on_finished(event)
        if event.state == "finished" and self.tool is not None:
            self.tool.show_in_place()


def _layer_of(viewer: Any, path: Path) -> Any:
    """Return the volume that a file was opened as, or that of a job's folder."""
    for layer in reversed(volumes(viewer.layers)):
        known = layer_path(layer)
        if known is not None and (known.resolve() == path.resolve() or known.resolve().parent == path.resolve()):
            return layer
    return None


def _let_go(tool: RecenterTool) -> None:
    """Leave the viewer as it was."""
    with suppress(RuntimeError):  # the window is being taken apart
        tool.stop()
