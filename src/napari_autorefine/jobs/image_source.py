"""Where a refinement takes its images from: their files, copies on a fast disc, or memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.events import Message
from napari_autorefine.io.names import split_image_name
from napari_autorefine.io.particle_images import SubtomogramImages
from napari_autorefine.io.stack import ParticleStack
from napari_autorefine.jobs.refine_params import RefineParams
from napari_autorefine.model.particles import Particles


class ImageSource(Protocol):
    """Reads the images of particles by rows of the particle file."""

    def read(self, indices: np.ndarray) -> np.ndarray | Sequence[np.ndarray]:
        """Return the images of some particles."""


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


class SubtomogramsInMemory:
    """All volumes with their weights, or all tilt stacks, as float32, read once."""

    def __init__(self, images: SubtomogramImages) -> None:
        each = [np.array([row]) for row in range(len(images))]
        self._is_volume = images.is_volume
        self._images = [images.read(row)[0] for row in each]
        self._weights = [images.read_weights(row) for row in each] if images.has_weights else []

    def read(self, indices: np.ndarray) -> np.ndarray | Sequence[np.ndarray]:
        """Return volumes (n, N, N, N) of one box size, or n tilt stacks."""
        chosen = [self._images[row] for row in np.asarray(indices, np.int64).tolist()]
        return np.stack(chosen) if self._is_volume else chosen

    def read_weights(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return CTF² and multiplicity of volumes."""
        chosen = [self._weights[row] for row in np.asarray(indices, np.int64).tolist()]
        multiplicities = [one[1][0] for one in chosen if one[1] is not None]
        return np.stack([one[0][0] for one in chosen]), np.stack(multiplicities) if multiplicities else None


def open_images(
    particles: Particles, stack: ParticleStack | SubtomogramImages, params: RefineParams, resources: ExitStack
) -> ImageSource:
    """Return where images are read from, as the options say; copies are removed when ``resources`` close."""
    if params.scratch_dir is not None and not params.preread_images:
        stack = resources.enter_context(scratch_copy(particles, stack, params.scratch_dir))
    if not params.preread_images:
        return stack
    return SubtomogramsInMemory(stack) if isinstance(stack, SubtomogramImages) else ImagesInMemory(stack)


@contextmanager
def scratch_copy(
    particles: Particles, stack: ParticleStack | SubtomogramImages, scratch_dir: str
) -> Iterator[ParticleStack | SubtomogramImages]:
    """Copy all files into a new folder below ``scratch_dir``; read from them; remove them at the end."""
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
        copies: dict[Path, Path] = {}
        for number, path in enumerate(stack.files):
            ending = path.suffix if isinstance(stack, SubtomogramImages) else ".mrcs"
            copies[path] = folder / f"{number:06d}{ending}"
            shutil.copyfile(path, copies[path])
        if isinstance(stack, SubtomogramImages):
            yield stack.with_copies(copies)
        else:
            names = [_renamed(stack, row, name, copies) for row, name in enumerate(particles.image_name)]
            yield ParticleStack(replace(particles, image_name=np.array(names, object)), project_dir=folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _renamed(stack: ParticleStack, row: int, name: str, copies: dict[Path, Path]) -> str:
    number, _ = split_image_name(name)
    copy = copies[Path(stack.place(row).file)].name
    return copy if number is None else f"{number:06d}@{copy}"


def memory_notes(stack: ParticleStack | SubtomogramImages, params: RefineParams) -> list[Message]:
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
