"""Values of STAR tables: text to numbers and back without losing a digit or a name."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from napari_autorefine.errors import InputError

_TEXT_LABEL = re.compile(r"Name|(File|Image|Path|Directory|Label|SymmetryGroup|Scheme|Value|Variable|Comment)$")
_NAN = frozenset({"nan", "NaN", "-nan", "<NA>"})
_INT64 = np.iinfo(np.int64)
_MAY_NEED_QUOTES = re.compile(r"[^\S\n]|[\"'#]|^[_;]|^data_|^loop_|^$", re.MULTILINE)
_MUST_QUOTE = re.compile(r"\s|^[\"'#_;]|^data_|^loop_|^$")


def is_text_label(label: str) -> bool:
    """Tell whether a column holds names, so that ``0012`` stays ``0012``."""
    return bool(_TEXT_LABEL.search(label))


def _float_of(text: str) -> float:
    return math.nan if text in _NAN else float(text)


def _integers(column: Sequence[str]) -> np.ndarray | None:
    """Return int64 values when every text is the plain form of its integer."""
    try:
        values = list(map(int, column))
    except ValueError:
        return None
    if list(map(str, values)) != list(column) or min(values) < _INT64.min or max(values) > _INT64.max:
        return None
    return np.array(values, np.int64)


def _floats(column: Sequence[str]) -> np.ndarray | None:
    """Return float64 values, or None when a text is no number or has needless leading zeros."""
    try:
        values = np.array(list(map(float, column)))
    except ValueError:
        try:
            values = np.array(list(map(_float_of, column)))
        except ValueError:
            return None
    joined = "".join(column)
    if "_" in joined:  # float takes 1_000, STAR does not
        return None
    if joined.count(".") < len(column):  # a number has one point at most, so some have none
        whole = [text.lstrip("+-") for text in column if "." not in text]
        if any(text[:1] == "0" and text[1:2].isdigit() for text in whole):
            return None
    return values


def parse_column(label: str, column: Sequence[str], *, as_text: bool = False) -> np.ndarray:
    """Return a column as int64, float64 or object (text).

    Parameters
    ----------
    label : str
        Label without the leading underscore.
    column : (n_row,) texts
        Values as they stand in the file.
    as_text : bool
        Keep the texts whatever they are.
    """
    if not as_text and not is_text_label(label):
        values = _integers(column) if "." not in column[0] else None
        if values is None and label.startswith("rln"):
            values = _floats(column)
        if values is not None:
            return values
    shared: dict[str, str] = {}
    texts = np.empty(len(column), object)
    texts[:] = [shared.setdefault(text, text) for text in column]
    return texts


def parse_value(label: str, text: str) -> str | int | float:
    """Return one value of a list table."""
    value: str | int | float = parse_column(label, (text,)).tolist()[0]
    return value


def format_column(column: np.ndarray) -> tuple[str, list[Any]]:
    """Return a ``%`` format and the values it takes, aligned as RELION does."""
    if column.dtype.kind == "f":
        return _format_floats(column)
    if column.dtype.kind in "iub":
        return "%12d", column.tolist()
    values = column.tolist()
    if set(map(type, values)) == {str} and not _needs_care(values):
        return "%10s", values
    return "%10s", [format_value(value) for value in values]


def _format_floats(column: np.ndarray) -> tuple[str, list[Any]]:
    """Six decimals where they keep the value, else the shortest text that reads back as the same number."""
    values = column.astype(np.float64)
    size = np.abs(values)
    with np.errstate(invalid="ignore", over="ignore"):
        plain = (np.rint(values * 1e6) / 1e6 == values) & (size <= 1e5) & ((size >= 1e-3) | (size == 0))
    if plain.all():
        return "%12.6f", values.tolist()
    texts = column.astype(str).tolist() if column.dtype != np.float64 else map(repr, values.tolist())
    rows = zip(values.tolist(), plain.tolist(), texts, strict=True)
    return "%12s", [f"{value:.6f}" if is_plain else text for value, is_plain, text in rows]


def _needs_care(texts: list[str]) -> bool:
    joined = "\n".join(texts)
    return joined.count("\n") >= len(texts) or bool(_MAY_NEED_QUOTES.search(joined))


def format_value(value: Any) -> str:
    """Return the text of one value."""
    if isinstance(value, (bool, np.bool_, int, np.integer)):
        return f"{int(value):12d}"
    if isinstance(value, (float, np.floating)):
        form, texts = _format_floats(np.array([value]))
        return str(form % texts[0])
    text = str(value)
    if not _MUST_QUOTE.search(text):
        return f"{text:>10}"
    if "\n" in text or "\r" in text or ('"' in text and "'" in text):
        raise InputError(f"the text {text!r} cannot be written to a STAR file: it has a line break or both quotes.")
    return f"'{text}'" if '"' in text else f'"{text}"'
