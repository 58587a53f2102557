"""One field of a form: a magicgui widget, what was typed as a value, and a message beside it when it is none."""

from __future__ import annotations

from typing import Any

from magicgui.widgets import CheckBox, ComboBox, LineEdit
from magicgui.widgets.bases import ValueWidget
from psygnal import Signal
from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtWidgets import QHBoxLayout, QLabel, QLineEdit, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from napari_autorefine.errors import InputError
from napari_autorefine.model.symmetry import point_group
from napari_autorefine.params import FieldRecord
from napari_autorefine.ui.presentation import Look, label_of, look_of, tooltip_of, unit_of

RED, ORANGE, GREY, BLUE = "#e5484d", "#d97b12", "#8b8d98", "#3f6fd1"
NARROW = 128
_EMPTY_WORDS = frozenset({"", "auto", "none"})


class BadValue(ValueError):
    """What was typed is no value of the field; the text says why."""


class Field:
    """Base of all fields.

    Attributes
    ----------
    record : parameter that the field is for
    widget : magicgui widget that holds what is shown
    row : Qt widget to put into the form
    changed : emitted after each change by the user or by ``set_value``
    """

    changed = Signal()

    def __init__(self, job: str, record: FieldRecord) -> None:
        self.record = record
        self.look: Look = look_of(job, record)
        self.label = label_of(job, record)
        self.tooltip = tooltip_of(job, record)
        self.widget: ValueWidget[Any] = self.make_widget()
        self.row = QWidget()
        self._message = small_label(RED)
        self._hint = small_label(GREY)
        layout = QVBoxLayout(self.row)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        self.lay_out(layout)
        layout.addWidget(self._hint)
        layout.addWidget(self._message)
        self.row.setToolTip(self.tooltip)
        self.widget.changed.connect(self._on_change)

    def make_widget(self) -> ValueWidget[Any]:
        """Return the magicgui widget."""
        raise NotImplementedError

    def lay_out(self, layout: QVBoxLayout) -> None:
        """Put label and widget into the row."""
        line = QHBoxLayout()
        line.setSpacing(8)
        label = plain_label(self.label)
        native = self.widget.native
        native.setFixedWidth(NARROW)
        line.addWidget(label, 1)
        line.addWidget(native, 0)
        layout.addLayout(line)

    def read(self) -> Any:
        """Return the value.

        Raises
        ------
        BadValue
            What was typed is none.
        """
        raise NotImplementedError

    def show_value(self, value: Any) -> None:
        """Show a value."""
        raise NotImplementedError

    def set_value(self, value: Any) -> None:
        """Show a value and tell the others."""
        self.show_value(value)
        self._on_change()

    def reset(self) -> None:
        """Go back to the default."""
        self.set_value(self.record.default)

    @property
    def problem(self) -> str:
        """What is wrong with the field, or nothing."""
        try:
            self.read()
        except BadValue as error:
            return str(error)
        return ""

    def hint(self, text: str) -> None:
        """Show what the value comes to."""
        say(self._hint, text)

    def show_problem(self) -> None:
        """Show what is wrong beside the field."""
        say(self._message, self.problem)

    def _on_change(self, *_: object) -> None:
        self.show_problem()
        self.changed.emit()


class CheckField(Field):
    """Yes or no, also for values that stand for yes and no."""

    widget: CheckBox

    def make_widget(self) -> ValueWidget[Any]:
        """Return a check box with the label as its text."""
        return CheckBox(text=self.label)

    def lay_out(self, layout: QVBoxLayout) -> None:
        """Put the box alone; its text is the label."""
        layout.addWidget(self.widget.native)

    @property
    def _values(self) -> tuple[Any, Any]:
        return self.look.check or (False, True)

    def read(self) -> Any:
        """Return the value for what is checked."""
        return self._values[bool(self.widget.value)]

    def show_value(self, value: Any) -> None:
        """Check the box when the value is that of yes."""
        with self.widget.changed.blocked():
            self.widget.value = value == self._values[1]


class ChoiceField(Field):
    """One of a few values."""

    widget: ComboBox

    def _choices(self) -> dict[str, Any]:
        if self.look.choices:
            return dict(self.look.choices)
        choices = {str(choice): choice for choice in self.record.choices}
        if self.record.base_type is bool:
            choices = {"yes": True, "no": False}
        return ({self.look.empty or "auto": None} if self.record.is_optional else {}) | choices

    def make_widget(self) -> ValueWidget[Any]:
        """Return a list to choose from that a turning mouse wheel does not change."""
        box = ComboBox(choices=list(self._choices()))
        _without_wheel(box.native)
        return box

    def read(self) -> Any:
        """Return the chosen value."""
        return self._choices()[str(self.widget.value)]

    def show_value(self, value: Any) -> None:
        """Choose a value."""
        text = next((name for name, one in self._choices().items() if one == value), None)
        with self.widget.changed.blocked():
            if text is not None:
                self.widget.value = text


class TextField(Field):
    """Text or numbers, with the unit inside the field; empty means what the grey text says."""

    widget: LineEdit

    def make_widget(self) -> ValueWidget[Any]:
        """Return a line to type in."""
        line = LineEdit()
        native: QLineEdit = line.native
        if self.record.is_optional or self.record.is_sequence or self.look.blank is not None:
            native.setPlaceholderText(self.look.empty or "auto")
        elif self.record.is_required or self.record.default == "":
            native.setPlaceholderText(self.look.empty)
        unit = unit_of(self.record)
        if unit:
            _put_inside(native, unit)
        return line

    def read(self) -> Any:
        """Return what was typed as a value of the parameter's type, within its bounds."""
        text = str(self.widget.value).strip()
        if self.record.is_sequence:
            words = text.replace(",", " ").split()
            if not words and self.record.is_optional:
                return None
            return tuple(self._one(word) for word in words)
        if self.record.is_optional and text.lower() in {*_EMPTY_WORDS, self.look.empty.lower()}:
            return None
        if self.look.blank is not None and text.lower() in {"", self.look.empty.lower()}:
            return self.look.blank
        return self._one(text)

    def _one(self, text: str) -> Any:
        kind = self.record.base_type
        if kind is str:
            return check_text(self.record.name, text)
        if not text:
            raise BadValue("A number is needed.")
        try:
            number = kind(text)
        except ValueError as error:
            what = "a whole number" if kind is int else "a number; write decimals with a point"
            raise BadValue(f"{text} is not {what}.") from error
        if not abs(number) < float("inf"):
            raise BadValue(f"{text} is not a number to compute with.")
        return self._within(number)

    def _within(self, number: float) -> float:
        param = self.record.param
        if param.minimum is not None and (
            number < param.minimum or (param.is_above_minimum and number == param.minimum)
        ):
            raise BadValue(f"Must be {'above' if param.is_above_minimum else 'at least'} {param.minimum:g}.")
        if param.maximum is not None and number > param.maximum:
            raise BadValue(f"Must be at most {param.maximum:g}.")
        return number

    def show_value(self, value: Any) -> None:
        """Show a value as text; none as nothing."""
        with self.widget.changed.blocked():
            self.widget.value = "" if value is not None and value == self.look.blank else as_text(value)


def check_text(name: str, text: str) -> str:
    """Return the text of a parameter whose syntax is known.

    Raises
    ------
    BadValue
        It is not what the parameter takes.
    """
    if name == "symmetry" and text:
        try:
            point_group(text)
        except InputError as error:
            raise BadValue(str(error)) from error
    return text


def as_text(value: Any) -> str:
    """Return a value as it is typed."""
    if value is None:
        return ""
    if isinstance(value, (tuple, list)):
        return " ".join(as_text(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def plain_label(text: str) -> QLabel:
    """Return a label that begins where the fields begin."""
    label = QLabel(text)
    label.setWordWrap(True)
    label.setStyleSheet("QLabel { padding: 0px; margin: 0px; }")
    label.setIndent(0)
    return label


def small_button(text: str, tooltip: str) -> QPushButton:
    """Return a button just as wide as its text, without an arrow when it has a menu."""
    button = QPushButton(text)
    button.setToolTip(tooltip)
    button.setStyleSheet("QPushButton { padding: 3px 7px; } QPushButton::menu-indicator { image: none; width: 0px; }")
    button.setFixedWidth(button.fontMetrics().horizontalAdvance(text) + 18)
    return button


def small_label(color: str) -> QLabel:
    """Return a label for remarks below a field, hidden while it has no text."""
    label = QLabel()
    label.setWordWrap(True)
    label.setStyleSheet(f"QLabel {{ color: {color}; font-size: 11px; padding: 0px; margin: 0px; }}")
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setIndent(0)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    label.hide()
    return label


def say(label: QLabel, text: str, color: str | None = None) -> None:
    """Show a remark, or hide its label when there is none."""
    if color is not None:
        label.setStyleSheet(f"QLabel {{ color: {color}; font-size: 11px; padding: 0px; margin: 0px; }}")
    label.setText(text)
    label.setVisible(bool(text))


def _put_inside(line: QLineEdit, unit: str) -> None:
    """Show a unit at the right end of a line."""
    label = QLabel(unit, line)
    label.setStyleSheet(f"QLabel {{ color: {GREY}; background: transparent; }}")
    label.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
    layout = QHBoxLayout(line)
    layout.setContentsMargins(0, 0, 7, 0)
    layout.addStretch(1)
    layout.addWidget(label)
    margins = line.textMargins()
    line.setTextMargins(margins.left(), margins.top(), label.sizeHint().width() + 8, margins.bottom())


class _WheelBlocker(QObject):
    """Lets the form scroll when the mouse wheel turns over a list."""

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        if event is not None and event.type() == QEvent.Type.Wheel:
            event.ignore()
            return True
        return super().eventFilter(watched, event)


def _without_wheel(widget: QWidget) -> None:
    widget.installEventFilter(_WheelBlocker(widget))
