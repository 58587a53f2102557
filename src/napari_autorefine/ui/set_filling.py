"""An optimisation set fills a form: what stands in it, what is left empty because the set names it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QLineEdit

from napari_autorefine.io.optimisation_set import Kind
from napari_autorefine.ui.facts import Facts
from napari_autorefine.ui.presentation import look_of
from napari_autorefine.ui.set_facts import SetFacts

if TYPE_CHECKING:
    from napari_autorefine.ui.forms import JobForm

SET = "optimisation_set"
_NAMED: Mapping[str, Kind] = {"particles": "particles", "tomograms": "tomograms"}
"""Fields that stay empty: the job takes the files from the set."""
_FILLED: Mapping[str, Kind] = {"reference": "map1", "mask": "mask"}
"""Fields that are filled in: maps, which another program may not take from the set."""
_TAKES_MAPS, _TAKES_SIZES = "refine", "reconstruct_particle"
_SIZES = {"box_size_px": 0, "binning": 2}
"""Fields that are filled in with the decimals they get: how the particles of the set were cut."""
_OVERRIDING = (*_NAMED, "trajectories")


def cleared_for(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values that go with these: a set stands for particles and tomograms, and particles alone for no set."""
    if values.get(SET):
        return dict.fromkeys(_OVERRIDING, "") | dict(values)
    return {SET: ""} | dict(values) if values.get("particles") else dict(values)


class SetFilling:
    """Keeps the fields of a form beside its optimisation set up to date.

    Attributes
    ----------
    form : with a field for the set
    """

    def __init__(self, form: JobForm) -> None:
        self.form = form
        self._filled: dict[str, str] = {}
        self._known: SetFacts | None = None
        self._filled_sizes: dict[str, float] = {}

    def update(self) -> None:
        """Take what has been found out about the set: grey names in empty fields, maps where there are none yet."""
        facts = getattr(self.form.fields[SET], "facts", None)
        known = facts if isinstance(facts, SetFacts) else None
        if known == self._known or (facts is None and self._text(SET)):
            return  # nothing new, or still being looked at
        self._known = known
        files = {} if known is None else known.files
        for name, kind in (*_NAMED.items(), *_FILLED.items()):
            self._show_name(name, files.get(kind))
        if self.form.job == _TAKES_MAPS:
            self._fill(files)
        if self.form.job == _TAKES_SIZES and known is not None:
            self._fill_sizes(known)

    def _fill(self, files: Mapping[Kind, Path]) -> None:
        """Fill fields that are empty or still hold what an earlier set has put there."""
        values = {}
        for name, kind in _FILLED.items():
            before, path = self._text(name), files.get(kind)
            if before and before != self._filled.get(name):
                continue
            after = "" if path is None else self.form.project.relative(path)
            self._filled[name] = after
            if after != before:
                values[name] = after or None
        if values:
            self.form.set_values(values)

    def _fill_sizes(self, known: SetFacts) -> None:
        """Fill box and binning that nobody has chosen."""
        found = {"box_size_px": known.box_px, "binning": known.binning}
        shown = self.form.values()
        values: dict[str, Any] = {}
        for name, decimals in _SIZES.items():
            field, value = self.form.fields[name], found[name]
            before = shown.get(name, field.record.default)
            is_free = not field.problem and before in (field.record.default, self._filled_sizes.get(name))
            if value is None or not is_free:
                continue
            rounded = round(value, decimals) if decimals else round(value)
            self._filled_sizes[name] = rounded
            if rounded != before:
                values[name] = rounded
        if values:
            self.form.set_values(values)

    def _show_name(self, name: str, path: Path | None) -> None:
        """Say in an empty field which file of the set stands for it."""
        field = self.form.fields.get(name)
        native = None if field is None else field.widget.native
        if field is None or not isinstance(native, QLineEdit):
            return
        empty = look_of(self.form.job, field.record).empty or ("none" if field.record.is_optional else "")
        native.setPlaceholderText(empty if path is None else f"of the set: {self.form.project.relative(path)}")

    def facts(self, facts: Mapping[str, Facts | None]) -> dict[str, Facts | None]:
        """Return facts by field in which the set stands for particles that are not given."""
        known = dict(facts)
        if isinstance(known.get(SET), SetFacts) and not self._text("particles"):
            known["particles"] = known[SET]
        return known

    def remarks(self) -> dict[str, str]:
        """Return remarks on fields whose file is taken in place of that of the set."""
        if self._known is None:
            return {}
        found = {}
        for name, kind in _NAMED.items():
            text, path = self._text(name), self._known.files.get(kind)
            if text and path is not None and self.form.project.absolute(text).resolve() != path.resolve():
                found[name] = f"Taken in place of {self.form.project.relative(path)}, which the set names."
        return found

    def _text(self, name: str) -> str:
        return str(getattr(self.form.fields.get(name), "text", ""))
