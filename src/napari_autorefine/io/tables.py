"""STAR syntax: text files of named tables, read and written without losing a value.

The ``starfile`` package is not used to read or write because its parser cannot be configured out of losing data: it
replaces every apostrophe by a quotation mark, cuts values at ``#``, fills short rows with NaN, turns numbers in name
columns into integers and refuses unquoted blanks in lists; its writer rounds ``1e-9`` to ``0.000000``. The tests show
each loss, and that both agree where ``starfile`` is right.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TextIO

import numpy as np
import pandas as pd

from napari_autorefine.errors import InputError
from napari_autorefine.io.files import first_bytes, printable, read_error, replacing
from napari_autorefine.io.values import format_column, format_value, is_text_label, parse_column, parse_value

Value = str | int | float
ListTable = dict[str, Value]
Table = pd.DataFrame | ListTable

VERSION_3_0, VERSION_3_1, VERSION_5_0 = 30000, 30001, 50001
_VERSION = re.compile(r"#\s*version\s+(\d+)\s*$")
_TOKEN = re.compile(r'"([^"]*)"(?=\s|$)|\'([^\']*)\'(?=\s|$)|(\S+)')
_CHUNK_ROWS = 4_096
_SPECIAL = frozenset("#dl_;")


@dataclass(frozen=True, slots=True, kw_only=True)
class StarFile:
    """The tables of one file in the order of the file.

    Attributes
    ----------
    tables : block name (without ``data_``) to a loop (DataFrame) or a list (dict)
    version : number of the ``# version`` line; 30000 without one
    comments : comment lines before the first table, without ``#``
    """

    tables: dict[str, Table]
    version: int = VERSION_3_0
    comments: tuple[str, ...] = field(default_factory=tuple)

    def loop(self, name: str) -> pd.DataFrame | None:
        """Return loop ``name``, a list table as one row, or None."""
        table = self.tables.get(name)
        if not isinstance(table, dict):
            return table
        return pd.DataFrame({label: pd.Series([value], dtype=_dtype(value)) for label, value in table.items()})

    def pairs(self, name: str) -> ListTable | None:
        """Return list ``name``, the first row of a loop, or None."""
        table = self.tables.get(name)
        if not isinstance(table, pd.DataFrame):
            return table
        return {str(label): table[label].iloc[0] for label in table.columns} if len(table) else {}


def _dtype(value: Value) -> type:
    return object if isinstance(value, str) else type(value)


class _MixedColumnError(Exception):
    """A column that looked numeric in one chunk holds text in a later one."""

    def __init__(self, key: tuple[str, str]) -> None:
        super().__init__(key)
        self.key = key


def read_star(path: str | os.PathLike[str]) -> StarFile:
    """Read every table of a STAR file.

    Columns of names stay text; integers in their plain form become int64; other numbers under RELION's own labels
    become float64; columns under unknown labels stay text unless they are plain integers.

    Raises
    ------
    InputError
        Not a STAR file, or a line that does not fit its table; the sentence names file and line.
    """
    head = first_bytes(path, 65536)
    if b"\0" in head:
        raise InputError(f"{path} is a binary file, not a STAR file.")
    text_columns: set[tuple[str, str]] = set()
    while True:
        try:
            with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
                return _Reader(file, str(path), text_columns).read()
        except _MixedColumnError as mixed:
            text_columns.add(mixed.key)
        except OSError as error:
            raise read_error(path, error) from error


def _split(line: str) -> list[str]:
    """Return the values of a line; quotation marks count only around a whole value."""
    if '"' not in line and "'" not in line:
        return line.split()
    return [next(group for group in match.groups() if group is not None) for match in _TOKEN.finditer(line)]


class _Reader:
    """One pass over the lines of a file."""

    def __init__(self, file: TextIO, path: str, text_columns: set[tuple[str, str]]) -> None:
        self.lines = enumerate(file, start=1)
        self.path = path
        self.text_columns = text_columns
        self.tables: dict[str, Table] = {}
        self.comments: list[str] = []
        self.version = VERSION_3_0
        self.number = 0
        self.pending: str | None = None

    def read(self) -> StarFile:
        while (line := self.next_line()) is not None:
            name = self.block_name(line)
            if name is None:
                raise self.error("text outside of any table; this is not a STAR file or it is damaged")
            if name in self.tables:
                raise self.error(f"the table 'data_{name}' occurs twice; remove one of them")
            self.tables[name] = self.read_block(name)
        if not self.tables:
            raise InputError(f"{self.path} is not a STAR file: it has no line that starts with 'data_'.")
        return StarFile(tables=self.tables, version=self.version, comments=tuple(self.comments))

    def error(self, what: str) -> InputError:
        return InputError(printable(f"{self.path}, line {self.number}: {what}."))

    def next_line(self) -> str | None:
        """Return the next line that is neither blank nor a comment, stripped."""
        if self.pending is not None:
            line, self.pending = self.pending, None
            return line
        for number, raw in self.lines:
            self.number, line = number, raw.strip()
            if line.startswith("#"):
                self.note_comment(line)
            elif line:
                if "\0" in line:
                    raise self.error("binary data; this is not a STAR file or it is damaged")
                return line
        return None

    def note_comment(self, line: str) -> None:
        version = _VERSION.match(line)
        if version:
            self.version = max(self.version, int(version[1]))
        elif not self.tables:
            self.comments.append(line[1:].strip())

    @staticmethod
    def block_name(line: str) -> str | None:
        """Return the name of the block that this line opens, or None."""
        if not line.startswith("data_"):
            return None
        words = line.split()
        return words[0][5:] if len(words) == 1 or words[1].startswith("#") else None

    def read_block(self, name: str) -> Table:
        line = self.next_line()
        if line is not None and line.split()[0] == "loop_":
            return self.read_loop(name)
        table: ListTable = {}
        while line is not None and self.block_name(line) is None:
            if not line.startswith("_"):
                raise self.error(f"'{line[:40]}' is not a label of the table 'data_{name}'")
            label, value = self.read_pair(line)
            self.check_label(label, name, table)
            table[label] = parse_value(label, value)
            line = self.next_line()
        self.pending = line
        return table

    def check_label(self, label: str, name: str, known: Container[str]) -> None:
        if not label.isascii() or not label.isprintable():
            raise self.error(f"the label {label!a} of the table 'data_{name!s}' is damaged")
        if label in known:
            raise self.error(f"the label {label} occurs twice in the table 'data_{name}'")

    @staticmethod
    def read_pair(line: str) -> tuple[str, str]:
        """Return label and value; unquoted blanks belong to the value, a comment does not."""
        label, rest = [*line.split(None, 1), ""][:2]
        token = _TOKEN.match(rest)
        if token is None or rest[0] == "#":
            return label[1:], ""
        tail = rest[token.end() :].strip()
        return label[1:], _split(token[0])[0] if not tail or tail[0] == "#" else rest

    def read_loop(self, name: str) -> pd.DataFrame:
        labels: list[str] = []
        while (line := self.next_line()) is not None:
            words = line.split()
            if not line.startswith("_") or not (len(words) == 1 or words[1].startswith("#")):
                break
            label = words[0][1:]
            self.check_label(label, name, labels)
            labels.append(label)
        if not labels:
            raise self.error(f"the loop of the table 'data_{name}' has no labels")
        self.pending = line
        chunks: list[list[np.ndarray]] = [[] for _ in labels]
        for rows in self.row_chunks(name, len(labels)):
            for chunk, label, column in zip(chunks, labels, zip(*rows, strict=True), strict=True):
                chunk.append(parse_column(label, column, as_text=(name, label) in self.text_columns))
        return pd.DataFrame(
            {label: self.join(name, label, chunk) for label, chunk in zip(labels, chunks, strict=True)}, copy=False
        )

    def join(self, name: str, label: str, chunk: list[np.ndarray]) -> pd.Series:
        """Return one column; ask for a second pass when its chunks disagree about what it holds."""
        kinds = {array.dtype.kind for array in chunk}
        if len(kinds) > 1 and ("O" in kinds or is_text_label(label)):
            raise _MixedColumnError((name, label))
        data = np.concatenate(chunk) if chunk else np.empty(0, object)
        return pd.Series(data, dtype=data.dtype, copy=False)

    def row_chunks(self, name: str, n_column: int) -> Iterator[list[list[str]]]:
        rows: list[list[str]] = []
        for line in self.row_lines(name, n_column):
            words = _split(line)
            if len(words) != n_column:
                words = self.fit(words, n_column, name)
            rows.append(words)
            if len(rows) == _CHUNK_ROWS:
                yield rows
                rows = []
        if rows:
            yield rows

    def fit(self, words: list[str], n_column: int, name: str) -> list[str]:
        """Return the row without a comment at its end."""
        if len(words) > n_column and words[n_column].startswith("#"):
            return words[:n_column]
        raise self.error(
            f"this row of the table 'data_{name}' has {len(words)} values but the table has {n_column} columns"
        )

    def row_lines(self, name: str, n_column: int) -> Iterator[str]:
        """Yield the rows of a loop up to the next block, which is left pending."""
        if self.pending is not None:
            first, self.pending = self.pending, None
            if self.ends_loop(first, n_column):
                self.pending = first
                return
            yield first
        for number, raw in self.lines:
            self.number, line = number, raw.strip()
            if not line:
                continue
            if line[0] in _SPECIAL:
                if line[0] == "#":
                    self.note_comment(line)
                    continue
                if self.ends_loop(line, n_column):
                    self.pending = line
                    return
            yield line

    def ends_loop(self, line: str, n_column: int) -> bool:
        words = line.split()
        if n_column > 1 and len(words) == n_column:
            return False
        if words[0] == "loop_":
            raise self.error("a second loop in one table; every loop needs its own 'data_' line")
        return self.block_name(line) is not None


def write_star(
    path: str | os.PathLike[str],
    tables: Mapping[str, Table],
    *,
    version: int = VERSION_3_1,
    comments: Iterable[str] = (),
) -> None:
    """Write tables in RELION's layout under a temporary name, then rename.

    Numbers are written with RELION's six decimals when these keep the value, else with the fewest digits that do.
    """
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
        for comment in comments:
            file.write(f"# {comment}\n")
        for name, table in tables.items():
            head = f"\n# version {version}\n" if version > VERSION_3_0 else ""
            file.write(f"{head}\ndata_{name}\n\n")
            if isinstance(table, pd.DataFrame):
                _write_loop(file, table)
            else:
                file.writelines(f"_{label:<40} {format_value(value)}\n" for label, value in table.items())
            file.write(" \n")


def _write_loop(file: TextIO, table: pd.DataFrame) -> None:
    file.write("loop_ \n")
    file.writelines(f"_{label} #{number} \n" for number, label in enumerate(table.columns, start=1))
    for start in range(0, len(table), _CHUNK_ROWS):
        part = table.iloc[start : start + _CHUNK_ROWS]
        forms, columns = zip(*(format_column(part.iloc[:, n].to_numpy()) for n in range(part.shape[1])), strict=True)
        file.writelines(map((" ".join(forms) + " \n").__mod__, zip(*columns, strict=True)))
