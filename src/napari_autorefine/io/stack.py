"""Particle images: any number of stacks behind one row number.

Images are read at their places in the files rather than through memory maps: a stack that is cut while it is mapped
ends the process without a word, and so does a network disc that goes away.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.io.files import read_error
from napari_autorefine.io.mrc import MrcHeader, as_float32, check_complete, read_header
from napari_autorefine.io.names import find_image_file, search_folders, split_image_name
from napari_autorefine.io.optics import check_pixel_size
from napari_autorefine.model.particles import Particles


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlace:
    """Where one image is: file and 1-based slice."""

    file: str
    slice: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """What tells whether a file was changed: size in bytes and time of its last change in ns."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """Ask the system; InputError when the file cannot be reached."""
        try:
            status = os.stat(path)
        except OSError as error:
            raise read_error(path, error) from error
        return cls(size=status.st_size, mtime_ns=status.st_mtime_ns)

    def check(self, path: Path) -> None:
        """Raise when a file is not as it was."""
        now = FileState.of(path)
        if now != self:
            what = f"{self.size} to {now.size} bytes" if now.size != self.size else "its time of change"
            raise InputError(f"{path} was changed while it was in use ({what}); see that nothing writes to it.")


class _OpenFile:
    """A file descriptor that is closed when nobody uses it any more."""

    __slots__ = ("_lock", "descriptor")

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    def read_into(self, target: memoryview, offset: int) -> int:
        """Fill bytes from a place in the file; return how many there were."""
        if hasattr(os, "preadv"):
            return os.preadv(self.descriptor, [target], offset)
        with self._lock:  # where files can only be read from their current place
            os.lseek(self.descriptor, offset, os.SEEK_SET)
            content = os.read(self.descriptor, len(target))
        target[: len(content)] = content
        return len(content)


class ParticleStack:
    """The images of a particle set, read from their stacks; safe to share between threads.

    Files are looked up relative to the project folder (the working directory), then to the STAR file's folder and those
    above it. All headers are checked when the stack is opened, so that a missing or damaged file is known before any
    work is done; a file that has changed since then is noticed when it is read.

    Raises
    ------
    InputError
        A stack that is missing, empty, truncated or of another box or pixel size; an image number beyond its stack;
        when reading, a stack that has changed or cannot be read any more.
    """

    def __init__(
        self,
        particles: Particles,
        *,
        star_path: str | os.PathLike[str] | None = None,
        project_dir: str | os.PathLike[str] | None = None,
        max_open: int = 256,
    ) -> None:
        self._star = str(star_path) if star_path is not None else "particles"
        self._max_open = max_open
        self._open: OrderedDict[int, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()
        paths, self._file, self._slice = _parse_names(particles.image_name)
        folders = search_folders(star_path, project_dir)
        first_rows = np.unique(self._file, return_index=True)[1] if len(self._file) else np.empty(0, int)
        self._headers = [
            self._open_header(path, folders, int(row)) for path, row in zip(paths, first_rows, strict=True)
        ]
        self._states = {file: FileState.of(header.path) for file, header in enumerate(self._headers)}
        self._check_slices()
        boxes = np.array([header.shape[2] for header in self._headers], np.int64)
        self._box: np.ndarray = boxes[self._file]
        self._check_optics(particles)

    def __len__(self) -> int:
        return len(self._file)

    def __getstate__(self) -> dict[str, object]:
        """Return what another process needs: names that hold in any folder, no open files."""
        headers = [replace(header, path=header.path.absolute()) for header in self._headers]
        return {**self.__dict__, "_headers": headers, "_open": None, "_lock": None, "_states": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        """Take over what another process sent; files must stay as they are when they are first read."""
        self.__dict__.update(state)
        self._open, self._lock = OrderedDict(), threading.Lock()
        self._states = {}

    def with_copies(self, copies: Mapping[Path, Path]) -> ParticleStack:
        """Return the same images, read from copies of their files; files without a copy are read where they are."""
        state = {**self.__dict__}
        state["_headers"] = [replace(header, path=copies.get(header.path, header.path)) for header in self._headers]
        copied = ParticleStack.__new__(ParticleStack)
        copied.__setstate__(state)
        return copied

    @property
    def box_sizes(self) -> np.ndarray:
        """(n,) box size of every image in pixels."""
        return self._box.copy()

    @property
    def files(self) -> tuple[Path, ...]:
        """The stacks in the order of their first particle."""
        return tuple(header.path for header in self._headers)

    @property
    def n_byte(self) -> int:
        """Memory that all images take as float32."""
        return int((self._box**2).sum()) * 4

    def place(self, row: int) -> ImagePlace:
        """Return file and slice of one image."""
        return ImagePlace(file=str(self._headers[self._file[row]].path), slice=int(self._slice[row]) + 1)

    def file_order(self, rows: np.ndarray) -> np.ndarray:
        """Return rows sorted by file and slice, the order in which they are read fastest."""
        return rows[np.lexsort((self._slice[rows], self._file[rows]))]

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return images (n, n_y, n_x) float32 in the order of ``indices``; all must have one box size."""
        rows = np.asarray(indices, np.int64)
        box = np.unique(self._box[rows])
        if len(box) > 1:
            raise ValueError(f"images of different box sizes {box.tolist()} in one call")
        size = int(box[0]) if len(box) else 0
        images = np.empty((len(rows), size, size), np.float32)
        order = np.lexsort((self._slice[rows], self._file[rows]))
        file, section = self._file[rows[order]], self._slice[rows[order]]
        ends = np.flatnonzero((np.diff(file) != 0) | (np.diff(section) != 1)) + 1
        for begin, end in zip([0, *ends], [*ends, len(rows)], strict=True):
            if end > begin:
                images[order[begin:end]] = self._sections(int(file[begin]), int(section[begin]), end - begin)
        return images

    def read_raw(self, index: int) -> np.ndarray:
        """Return one image (n_y, n_x) with the values and the type of the file."""
        return np.asarray(self._stored(int(self._file[index]), int(self._slice[index]), 1)[0])

    def _sections(self, file: int, first: int, n: int) -> np.ndarray:
        stored = self._stored(file, first, n)
        return stored if stored.dtype == np.float32 else as_float32(stored, self._headers[file])

    def _stored(self, file: int, first: int, n: int) -> np.ndarray:
        """Return n sections as stored: (n, n_y, n_x), or packed bytes of the rows in mode 101."""
        header = self._headers[file]
        n_byte = header.section_bytes * n
        values = np.empty(n_byte, np.uint8)
        target, offset, done = values.data, header.offset + header.section_bytes * first, 0
        if file not in self._states:
            self._states[file] = FileState.of(header.path)
        self._states[file].check(header.path)
        opened = self._opened(file)
        while done < n_byte:
            try:
                got = opened.read_into(target[done:], offset + done)
            except OSError as error:
                raise read_error(header.path, error) from error
            if got == 0:
                raise InputError(f"{header.path} was cut while it was being read; copy or make it again.")
            done += got
        _, n_y, n_x = header.shape
        if n_byte != n * n_y * n_x * header.dtype.itemsize:
            return values.reshape(n, n_y, -1)
        return values.view(header.dtype).reshape(n, n_y, n_x)

    def _opened(self, file: int) -> _OpenFile:
        """Return a file, opening it when it is not among the ones used last."""
        with self._lock:
            if file in self._open:
                self._open.move_to_end(file)
                return self._open[file]
            path = self._headers[file].path
            try:
                opened = _OpenFile(path)
            except OSError as error:
                raise read_error(path, error) from error
            self._open[file] = opened
            if len(self._open) > self._max_open:
                self._open.popitem(last=False)
            return opened

    def _open_header(self, path: str, folders: tuple[Path, ...], row: int) -> MrcHeader:
        found = find_image_file(path, folders) or find_image_file(path, folders[-1].absolute().parents)
        if found is None:
            tried = " and ".join(dict.fromkeys(str(folder.resolve()) for folder in folders))
            raise InputError(f"{self._star}, row {row + 1}: the image file {path} does not exist (looked in {tried}).")
        header = read_header(found)
        if found.suffix in {".gz", ".bz2"}:
            raise InputError(f"{found} is compressed; unpack it, because images are read at random places.")
        _, n_y, n_x = header.shape
        if header.axes != (1, 2, 3):
            raise InputError(f"{found}: the axis order {header.axes} is not that of an image stack.")
        if n_y != n_x:
            raise InputError(f"{found} (row {row + 1} of {self._star}): images of {n_x} x {n_y} pixels are not square.")
        if n_x % 2:
            raise InputError(
                f"{found} (row {row + 1} of {self._star}): the box of {n_x} pixels is odd;"
                f" extract again with an even box, for example {n_x - 1}."
            )
        return check_complete(header)

    def _check_slices(self) -> None:
        n_section = np.array([header.shape[0] for header in self._headers], np.int64)[self._file]
        whole = np.flatnonzero((self._slice < 0) & (n_section > 1))
        if len(whole):
            row = int(whole[0])
            raise InputError(
                f"{self._star}, row {row + 1}: {self._headers[self._file[row]].path} is named without an image number"
                " (a subtomogram or a tilt stack); only 2D particles like 000001@stack.mrcs can be read here."
            )
        self._slice = np.maximum(self._slice, 0)
        beyond = np.flatnonzero(self._slice >= n_section)
        if len(beyond):
            row = int(beyond[0])
            raise InputError(
                f"{self._star}, row {row + 1}: image {self._slice[row] + 1} is beyond the end of"
                f" {self._headers[self._file[row]].path}, which holds {n_section[row]} images."
            )

    def _check_optics(self, particles: Particles) -> None:
        pairs, rows = np.unique(np.stack([self._file, particles.optics_index], axis=1), axis=0, return_index=True)
        for (file, optics), row in zip(pairs.tolist(), rows.tolist(), strict=True):
            header, group = self._headers[file], particles.optics[optics]
            place = f"{header.path} (row {row + 1} of {self._star})"
            if group.box_size not in {0, header.shape[2]}:
                raise InputError(
                    f"{place}: the box is {header.shape[2]} pixels but the optics group '{group.name}' says"
                    f" {group.box_size}; correct rlnImageSize."
                )
            if header.pixel_size_A is not None:
                check_pixel_size(group, header.pixel_size_A, place)


def _parse_names(names: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return unique paths in order of appearance, and file index and 0-based slice (-1: none given) per name."""
    files: dict[str, int] = {}
    file, section = np.empty(len(names), np.int64), np.empty(len(names), np.int64)
    for row, name in enumerate(names.tolist()):
        number, path = split_image_name(name)
        if number == 0:
            raise InputError(f"row {row + 1}: the image name {name} has number 0, but images are counted from 1.")
        file[row] = files.setdefault(path, len(files))
        section[row] = -1 if number is None else number - 1
    return list(files), file, section
