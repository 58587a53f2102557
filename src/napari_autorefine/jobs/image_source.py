"""Where a refinement takes its images from: their files, copies on a fast disc, or memory."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack
from typing import Protocol

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.events import Message, Progress
from napari_autorefine.io.particle_images import SubtomogramImages
from napari_autorefine.io.stack import ParticleStack
from napari_autorefine.jobs.free_space import free_memory
from napari_autorefine.jobs.refine_params import RefineParams
from napari_autorefine.jobs.scratch import copy_to_scratch, scratch_folder


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
    stack: ParticleStack | SubtomogramImages, params: RefineParams, resources: ExitStack
) -> Generator[Progress | Message, None, ImageSource]:
    """Return where images are read from, as the options say; copies are removed when ``resources`` close."""
    if params.preread_images:
        return SubtomogramsInMemory(stack) if isinstance(stack, SubtomogramImages) else ImagesInMemory(stack)
    if params.scratch_dir is not None:
        folder = resources.enter_context(scratch_folder(params.scratch_dir))
        copies = yield from copy_to_scratch(stack.files, folder, keep_free=params.keep_free_scratch_GB)
        return stack.with_copies(copies)
    return stack.watched() if isinstance(stack, SubtomogramImages) else stack


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
