"""Command lines that programs leave in their files, read back as parameters."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from napari_autorefine.params import FieldRecord, ForeignOption, describe


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedLine:
    """What a command line says: ``values`` by parameter name; options that are refused here, with why; unknown ones."""

    values: Mapping[str, Any] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def words_of(line: str) -> list[str]:
    """Return the words of a line, at blanks where its quotation marks do not match."""
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


def read_line(
    words: Sequence[str], cls: type[BaseModel], foreign: Mapping[str, ForeignOption] | None = None
) -> RecordedLine:
    """Return the parameters that a command line gives.

    Parameters
    ----------
    words : of the line; what stands before the first option is left out
    cls : parameter class
    foreign : options that are no parameters, by name
    """
    records = {flag: record for record in describe(cls) for flag in record.flags}
    switched_off = {name: r for flag, r in records.items() for name in (f"no_{flag}", *r.param.off_flags)}
    values: dict[str, Any] = {}
    refused, unknown = [], []
    for name, following in _options(words):
        if name in records:
            values[records[name].name] = _value(records[name], following)
        elif name in switched_off and switched_off[name].base_type is bool:
            values[switched_off[name].name] = False
        elif foreign is not None and name in foreign:
            option = foreign[name]
            if option.is_refused and not (following and following[0] in option.harmless):
                refused.append(f"--{name}: {option.reason}")
        else:
            unknown.append(f"--{name}")
    return RecordedLine(values=values, refused=tuple(refused), unknown=tuple(unknown))


def _options(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return the options of a line, each with the words up to the next one."""
    options: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            options.append((name.replace("-", "_"), [value] if equals else []))
        elif options:
            options[-1][1].append(word)
    return options


def _value(record: FieldRecord, following: list[str]) -> Any:
    if record.base_type is bool:
        return True
    if record.is_sequence:
        return tuple(following)
    return following[0] if following else record.param.bare_value
