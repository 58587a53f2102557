"""Where a refinement takes its images from: the stacks themselves, a copy on a fast disc, or memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.events import Message
from napari_autorefine.io.names import split_image_name
from napari_autorefine.io.stack import ParticleStack
from napari_autorefine.jobs.refine_params import RefineParams
from napari_autorefine.model.particles import Particles


class ImagesInMemory:
    """All images of a stack as float32, read once."""

    def __init__(self, stack: ParticleStack) -> None:
        self._place = np.empty(len(stack), np.int64)
        self._box = stack.box_sizes
        self._images: dict[int, np.ndarray] = {}
        for size in np.unique(self._box).tolist():
            rows = np.flatnonzero(self._box == size)
            self._place[rows] = np.arange(len(rows))
            self._images[size] = stack.read(rows)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return images (n, n_y, n_x) float32 of one box size."""
        rows = np.asarray(indices, np.int64)
        return self._images[int(self._box[rows[0]])][self._place[rows]]


@contextmanager
def scratch_copy(particles: Particles, stack: ParticleStack, scratch_dir: str) -> Iterator[ParticleStack]:
    """Copy all stacks into a new folder below ``scratch_dir``; give them as a stack; remove them at the end."""
    try:
        os.makedirs(scratch_dir, exist_ok=True)
        needed, free = sum(path.stat().st_size for path in stack.files), shutil.disk_usage(scratch_dir).free
        if needed > free:
            raise InputError(
                f"No space in --scratch_dir {scratch_dir}: the stacks have {needed / 1e9:.2f} GB,"
                f" {free / 1e9:.2f} GB are free; leave the option out or give another folder."
            )
        folder = Path(tempfile.mkdtemp(prefix="autorefine_", dir=scratch_dir))
    except OSError as error:
        raise InputError(f"--scratch_dir {scratch_dir} cannot be used: {error.strerror}.") from error
    try:
        copies: dict[str, Path] = {}
        for number, path in enumerate(stack.files):
            copies[str(path)] = folder / f"{number:06d}.mrcs"
            shutil.copyfile(path, copies[str(path)])
        names = np.array([_renamed(stack, row, name, copies) for row, name in enumerate(particles.image_name)], object)
        yield ParticleStack(replace(particles, image_name=names), project_dir=folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _renamed(stack: ParticleStack, row: int, name: str, copies: dict[str, Path]) -> str:
    number, _ = split_image_name(name)
    copy = copies[stack.place(row).file].name
    return copy if number is None else f"{number:06d}@{copy}"


def memory_notes(stack: ParticleStack, params: RefineParams) -> list[Message]:
    """Check that images to be kept in memory fit; say what is not used because of them."""
    if not params.preread_images:
        return []
    needed, free = stack.n_byte, free_memory()
    if free is not None and needed > free:
        raise InputError(
            f"--preread_images needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free;"
            " leave the option out."
        )
    notes = [Message(text=f"All images are kept in memory: {needed / 1e9:.2f} GB.")]
    if params.scratch_dir is not None:
        notes.append(Message(text="--scratch_dir is not used, because all images are kept in memory."))
    return notes


def free_memory() -> int | None:
    """Return the bytes of memory that new data can take, None where the system does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
