"""How a job declares its parameters: one frozen model, from which command line, window and params.json are made."""

from __future__ import annotations

import os
import re
import shlex
import types
import typing
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, TypeVar, Union

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from napari_autorefine.errors import InputError

SAME: Any = object()
"""``Param.relion_default`` when RELION's own default is the same as ours."""


@dataclass(frozen=True, slots=True)
class Param:
    """What a form, a help text and a command line need to know about one field; sits in its ``Annotated`` type.

    Attributes
    ----------
    label : shown beside the field in a form
    help : one sentence
    group : tab of the form, heading of the help text
    unit : ``"A"``, ``"px"``, ``"deg"`` or empty
    flags : names on the command line, the first is the one shown; without any, the field's name less its unit
    off_flags : names that switch a boolean off, besides ``no_<flag>``
    minimum, maximum : bounds; the minimum itself is not allowed when ``is_above_minimum``
    relion_default : value that RELION's program takes when the option is absent; booleans are then False
    bare_value : value of an option that is given without one
    is_advanced : hidden behind a fold in forms
    file_kind : what a path points at
    """

    label: str
    help: str
    group: str = "Main"
    _: KW_ONLY
    unit: str = ""
    flags: tuple[str, ...] = ()
    off_flags: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    is_above_minimum: bool = False
    relion_default: Any = SAME
    bare_value: Any = None
    is_advanced: bool = False
    file_kind: Literal["", "read", "write", "folder"] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRecord:
    """One parameter as plain values.

    ``base_type`` is the element type; ``is_sequence`` says that the value is a tuple of it, ``is_optional`` that it may
    be None; ``choices`` is empty for a free value.
    """

    name: str
    base_type: type
    is_optional: bool
    is_sequence: bool
    choices: tuple[Any, ...]
    default: Any
    is_required: bool
    param: Param

    @property
    def flags(self) -> tuple[str, ...]:
        """Command-line names without dashes; the field's own name is always one of them."""
        shown = self.param.flags or (re.sub(r"_(A|px|deg|kV|mm)$", "", self.name),)
        return tuple(dict.fromkeys((*shown, self.name)))

    @property
    def relion_default(self) -> Any:
        """Value taken for a line copied from RELION that lacks this option."""
        if self.param.relion_default is not SAME:
            return self.param.relion_default
        return False if self.base_type is bool else self.default


class JobParams(BaseModel):
    """Base of every job's parameters: frozen, no unknown names, bounds taken from ``Param``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _paths_as_texts(cls, values: Any) -> Any:
        """Take ``pathlib.Path`` for the name of a file."""
        return {name: _as_text(value) for name, value in values.items()} if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _check_bounds(self) -> JobParams:
        wrong = []
        for record in describe(type(self)):
            values = getattr(self, record.name)
            for value in values if record.is_sequence and values is not None else (values,):
                wrong += _beyond_bounds(record, value)
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


def _as_text(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_as_text(one) for one in value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _beyond_bounds(record: FieldRecord, value: Any) -> list[str]:
    """Return what is wrong with one value, or nothing."""
    param, flag = record.param, record.flags[0]
    if value is None or isinstance(value, (bool, str)):
        return []
    if param.minimum is not None and (value < param.minimum or (param.is_above_minimum and value == param.minimum)):
        word = "above" if param.is_above_minimum else "at least"
        return [f"{flag} must be {word} {param.minimum:g}, it is {value:g}"]
    if param.maximum is not None and value > param.maximum:
        return [f"{flag} must be at most {param.maximum:g}, it is {value:g}"]
    return []


def describe(cls: type[BaseModel]) -> tuple[FieldRecord, ...]:
    """Return the fields of a parameter class in order, as plain records."""
    records = []
    for name, info in cls.model_fields.items():
        param = next((item for item in info.metadata if isinstance(item, Param)), None) or _plain_param(name, info)
        base_type, is_optional, is_sequence, choices = _unwrap(info.annotation)
        default = None if info.default is PydanticUndefined else info.default
        records.append(
            FieldRecord(
                name=name,
                base_type=base_type,
                is_optional=is_optional,
                is_sequence=is_sequence,
                choices=choices,
                default=default,
                is_required=info.is_required(),
                param=param,
            )
        )
    return tuple(records)


def _plain_param(name: str, info: FieldInfo) -> Param:
    """Make a ``Param`` from an ordinary pydantic field: its description and its bounds."""
    bounds = {type(item).__name__: item for item in info.metadata}
    low = getattr(bounds.get("Ge"), "ge", None)
    above = getattr(bounds.get("Gt"), "gt", None)
    high = getattr(bounds.get("Le"), "le", None)
    return Param(
        name.replace("_", " ").capitalize(),
        info.description or "",
        minimum=low if above is None else above,
        is_above_minimum=above is not None,
        maximum=high,
    )


def _unwrap(annotation: Any) -> tuple[type, bool, bool, tuple[Any, ...]]:
    is_optional = is_sequence = False
    if typing.get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in typing.get_args(annotation) if member is not type(None)]
        is_optional = len(members) < len(typing.get_args(annotation))
        annotation = members[0]
    if typing.get_origin(annotation) is tuple:
        is_sequence = True
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) is Literal:
        choices = typing.get_args(annotation)
        return type(choices[0]), is_optional, is_sequence, choices
    return annotation, is_optional, is_sequence, ()


Model = TypeVar("Model", bound=BaseModel)


def make_params(cls: type[Model], values: dict[str, Any]) -> Model:
    """Build a parameter object; all that is wrong with ``values`` becomes one InputError."""
    try:
        return cls(**values)
    except ValidationError as error:
        raise InputError(_one_sentence(cls, error)) from error


def _one_sentence(cls: type[BaseModel], error: ValidationError) -> str:
    flags = {record.name: record.flags[0] for record in describe(cls)}
    parts = []
    for item in error.errors():
        name = str(item["loc"][0]) if item["loc"] else ""
        flag = flags.get(name, name)
        if item["type"] == "missing":
            parts.append(f"{flag} is missing")
        elif item["type"] == "extra_forbidden":
            parts.append(f"{flag} is not a parameter of this job")
        elif not name:
            parts.append(item["msg"].removeprefix("Value error, "))
        else:
            message = item["msg"].removeprefix("Value error, ")
            parts.append(f"{flag}: {message[0].lower()}{message[1:]} (it is {item['input']!r})")
    return "Parameters: " + "; ".join(parts) + "."


def command_line(job: str, params: BaseModel) -> str:
    """Return the command that runs a job with these parameters, defaults left out."""
    words = ["autorefine", job]
    for record in describe(type(params)):
        value, flag = getattr(params, record.name), record.flags[0]
        if value == record.default and not record.is_required:
            continue
        if record.base_type is bool:
            words.append(f"--{flag}" if value else f"--no_{flag}")
        elif value is None:
            words += [f"--{flag}", "-1"]
        else:
            values = value if record.is_sequence else (value,)
            words += [f"--{flag}", *(shlex.quote(str(one)) for one in values)]
    return " ".join(words)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignOption:
    """An option of another program that has no meaning here.

    ``n_value`` values follow it; ``reason`` is shown to the user. With ``is_refused`` the run would be something else
    without it, so it ends the job, except when its value is one of ``harmless``; others are accepted.
    """

    reason: str
    n_value: int = 0
    is_refused: bool = False
    harmless: tuple[str, ...] = ()
