"""Columns of a STAR table as arrays, with sentences that name file, table, column and row when they cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from napari_autorefine.errors import InputError
from napari_autorefine.io.files import printable

_LARGEST_INTEGER = 2.0**53


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Access to one loop table of ``file``."""

    table: pd.DataFrame
    file: str
    name: str

    def __contains__(self, label: str) -> bool:
        return label in self.table.columns

    def __len__(self) -> int:
        return len(self.table)

    def error(self, what: str) -> InputError:
        """Return an InputError that starts with the place."""
        return InputError(printable(f"{self.file}, table 'data_{self.name}': {what}."))

    def require(self, *labels: str) -> None:
        """Raise when one of ``labels`` is missing."""
        missing = [label for label in labels if label not in self]
        if missing:
            words = ("the column", "is") if len(missing) == 1 else ("the columns", "are")
            raise self.error(f"{words[0]} {', '.join(missing)} {words[1]} missing")

    def texts(self, label: str) -> np.ndarray:
        """Return a column as (n,) object array of texts."""
        self.require(label)
        column = self.table[label].to_numpy()
        if column.dtype == object:
            return column
        texts = np.empty(len(column), object)
        texts[:] = [str(value) for value in column.tolist()]
        return texts

    def numbers(self, label: str, default: float | None = None) -> np.ndarray:
        """Return a column as (n,) float64; ``default`` fills a missing one."""
        if label not in self:
            if default is not None:
                return np.full(len(self), default)
            self.require(label)
        column = self.table[label].to_numpy()
        if column.dtype == object:
            column = self._converted(label, column)
        values = column.astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise self.error(f"the value {values[bad[0]]} of {label} in row {bad[0] + 1} is not a finite number")
        return values

    def _converted(self, label: str, column: np.ndarray) -> np.ndarray:
        values = np.empty(len(column))
        for row, value in enumerate(column.tolist()):
            try:
                values[row] = float(value)
            except (TypeError, ValueError):
                raise self.error(f"the value '{value}' of {label} in row {row + 1} is not a number") from None
        return values

    def integers(self, label: str, default: int | None = None) -> np.ndarray:
        """Return a column as (n,) int64."""
        values = self.numbers(label, default)
        bad = np.flatnonzero((values != np.rint(values)) | (np.abs(values) > _LARGEST_INTEGER))
        if len(bad):
            raise self.error(f"the value {values[bad[0]]:.15g} of {label} in row {bad[0] + 1} is not a whole number")
        return values.astype(np.int64)

    def stacked(self, labels: Sequence[str]) -> np.ndarray:
        """Return columns as (n, len(labels)) float64, zeros where missing."""
        return np.stack([self.numbers(label, 0.0) for label in labels], axis=1)

    def stacked_or_none(self, labels: Sequence[str]) -> np.ndarray | None:
        """Return columns as (n, len(labels)) float64 with NaN for missing ones, or None when all are missing."""
        if not any(label in self for label in labels):
            return None
        nothing = np.full(len(self), np.nan)
        return np.stack([self.numbers(label) if label in self else nothing for label in labels], axis=1)
