"""The form of a job, made from its parameter class: tabs, fields, checks while typing, the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psygnal import Signal
from pydantic import BaseModel
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_autorefine.errors import InputError
from napari_autorefine.jobs import JOBS
from napari_autorefine.jobs.saved_params import SavedParameters, load_parameters
from napari_autorefine.params import FieldRecord, command_line, describe, make_params
from napari_autorefine.ui.cross_checks import hints, misfits
from napari_autorefine.ui.fields import GREY, BadValue, CheckField, ChoiceField, Field, TextField, say, small_label
from napari_autorefine.ui.file_fields import FileField
from napari_autorefine.ui.flow_tabs import FlowTabs
from napari_autorefine.ui.fold import Fold
from napari_autorefine.ui.presentation import NOTES, in_labels, look_of, tabs_of
from napari_autorefine.ui.project import Project
from napari_autorefine.ui.set_filling import SET, SetFilling

if TYPE_CHECKING:
    from napari.components import LayerList


class JobForm(QWidget):
    """Fields of one job in the tabs of its parameter groups.

    ``values`` holds what differs from the defaults, as the command line does; ``problem`` is the reason why the job
    cannot be run with what stands in the fields, or nothing.

    Attributes
    ----------
    job : name of the job
    fields : by parameter name
    changed : emitted after each change of a value, and when more is known of a file
    """

    changed = Signal()

    def __init__(
        self, job: str, project: Project, layers: LayerList | None = None, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.job = job
        self.project = project
        self._class = JOBS[job].params()
        self._records = describe(self._class)
        self.fields: dict[str, Field] = {
            record.name: make_field(job, record, project, layers) for record in self._records
        }
        self._groups = tabs_of(self._records)
        self.tabs = FlowTabs(self._groups)
        for group in self._groups:
            self.tabs.add_page(self._page(group))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.tabs)
        layout.addStretch(1)
        self._is_filling = False
        self.set_filling = SetFilling(self) if SET in self.fields else None
        for field in self.fields.values():
            field.changed.connect(lambda one=field: self._on_change(one))
            if isinstance(field, FileField):
                field.facts_changed.connect(self._on_facts)
        self.reset()

    def _page(self, group: str) -> QWidget:
        page = QWidget()
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 4, 0, 4)
        layout.setSpacing(8)
        mine = [record for record in self._records if record.param.group == group]
        plain = [record for record in mine if not record.param.is_advanced] or mine
        for record in plain:
            layout.addWidget(self.fields[record.name].row)
        advanced = [record for record in mine if record not in plain]
        if advanced:
            layout.addWidget(self._fold(advanced))
        if (self.job, group) in NOTES:
            note = small_label(GREY)
            say(note, NOTES[self.job, group])
            layout.addWidget(note)
        layout.addStretch(1)
        return page

    def _fold(self, records: list[FieldRecord]) -> QWidget:
        content = QWidget()
        layout = QVBoxLayout(content)
        layout.setContentsMargins(12, 2, 0, 2)
        layout.setSpacing(8)
        for record in records:
            layout.addWidget(self.fields[record.name].row)
        return Fold("More options", content)

    def add_last(self, widget: QWidget) -> None:
        """Put a widget below the fields of the last tab."""
        page = self.tabs.pages.widget(self.tabs.pages.count() - 1)
        layout = None if page is None else page.layout()
        if isinstance(layout, QVBoxLayout):
            layout.insertWidget(layout.count() - 1, widget)

    def values(self, *, resolve: bool = False) -> dict[str, Any]:
        """Return the values that differ from the defaults; fields with a problem are left out.

        With ``resolve`` open layers become files, and a field with a problem raises.

        Raises
        ------
        InputError
            Only with ``resolve``: a field has a problem, or a layer cannot be written.
        """
        found = {}
        for name, field in self.fields.items():
            try:
                value = field.resolved() if resolve and isinstance(field, FileField) else field.read()
            except BadValue as error:
                if resolve:
                    raise InputError(f"{field.label}: {error}") from error
                continue
            is_given = value not in ("", ()) if field.record.is_required else value != field.record.default
            if is_given:
                found[name] = value
        return found

    def params(self) -> BaseModel:
        """Return the parameters to run the job with; layers without a file are written.

        Raises
        ------
        InputError
            What is wrong, in the words of the form.
        """
        try:
            return make_params(self._class, self.values(resolve=True))
        except InputError as error:
            raise InputError(self._in_labels(str(error))) from error

    @property
    def problem(self) -> str:
        """Why the job cannot be run, or nothing."""
        for field in self.fields.values():
            if field.problem:
                return f"{field.label}: {field.problem}"
        try:
            make_params(self._class, self.values())
        except InputError as error:
            return self._in_labels(str(error))
        return ""

    def _in_labels(self, text: str) -> str:
        text = in_labels(self.job, text.removeprefix("Parameters: "), self._records)
        return text[:1].upper() + text[1:]

    def command(self) -> str:
        """Return the equivalent command line, or nothing while there is a problem."""
        try:
            return command_line(self.job, make_params(self._class, self.values()))
        except InputError:
            return ""

    def set_values(self, values: Mapping[str, Any]) -> None:
        """Show values by parameter name; unknown names are left out, other fields stay."""
        self._is_filling = True
        try:
            for name, value in values.items():
                if name in self.fields:
                    self.fields[name].set_value(value)
        finally:
            self._is_filling = False
        self._after_change()

    def reset(self) -> None:
        """Show the defaults of the job, and the next free output of the project."""
        self.set_values({record.name: record.default for record in self._records})
        if "output" in self.fields:
            self.fields["output"].set_value(self.project.next_output(self.job))

    def load(self, path: str | Path) -> SavedParameters:
        """Show the parameters of a job.star or of an earlier run; the output stays.

        Raises
        ------
        InputError
            The file cannot be read, or belongs to another job.
        """
        saved = load_parameters(path)
        if saved.job != self.job:
            raise InputError(
                f"{path} holds the parameters of {JOBS[saved.job].title[0].lower()}"
                f"{JOBS[saved.job].title[1:]}, not of this job."
            )
        output = self.fields["output"].read() if "output" in self.fields else ""
        self.set_values({record.name: record.default for record in self._records} | dict(saved.values))
        if "output" in self.fields:
            self.fields["output"].set_value(output)
        return saved

    def _on_change(self, field: Field) -> None:
        if self._is_filling:
            return
        for name in look_of(self.job, field.record).twins:
            twin = self.fields[name]
            if not field.problem and twin.problem == "" and twin.read() != field.read():
                twin.set_value(field.read())
        self._after_change()

    def _on_facts(self) -> None:
        self._after_change()

    def _after_change(self) -> None:
        files = {name: field for name, field in self.fields.items() if isinstance(field, FileField)}
        if self.set_filling is not None:
            self.set_filling.update()
        facts, values = {name: field.facts for name, field in files.items()}, self.values()
        if self.set_filling is not None:
            facts = self.set_filling.facts(facts)
        remarks = misfits(self.job, facts, values) | ({} if self.set_filling is None else self.set_filling.remarks())
        for name, text in remarks.items():
            files[name].warn(text)
        for name, text in hints(self.job, facts, values).items():
            self.fields[name].hint(text)
        for index, group in enumerate(self._groups):
            mine = (field for field in self.fields.values() if field.record.param.group == group)
            self.tabs.mark(index, is_wrong=any(field.problem for field in mine))
        self.changed.emit()


def make_field(job: str, record: FieldRecord, project: Project, layers: LayerList | None) -> Field:
    """Return the field that suits a parameter."""
    look = look_of(job, record)
    if record.param.file_kind:
        return FileField(job, record, project, layers)
    if look.check is not None or (record.base_type is bool and not record.is_optional and not record.is_sequence):
        return CheckField(job, record)
    if look.choices or record.choices or record.base_type is bool:
        return ChoiceField(job, record)
    return TextField(job, record)
