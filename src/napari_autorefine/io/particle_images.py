"""Images of a particle set behind one face, whatever one particle is: an image, a volume, or a stack of tilt images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from napari_autorefine.io.stack import FileState, ImagePlace
from napari_autorefine.io.subtomograms import SubtomogramVolumes, TiltStacks


class ParticleImages(Protocol):
    """Images of n particles; may be shared between threads."""

    def __len__(self) -> int:
        """Return the number of particles."""

    @property
    def box_sizes(self) -> np.ndarray:
        """(n,) box size in pixels."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of images, each once."""

    @property
    def n_byte(self) -> int:
        """Memory that all of it takes as float32."""

    def place(self, row: int) -> ImagePlace:
        """Return file and slice of one particle."""

    def file_order(self, rows: np.ndarray) -> np.ndarray:
        """Return rows in the order in which they are read fastest."""

    def read(self, indices: np.ndarray) -> np.ndarray | Sequence[np.ndarray]:
        """Return the images of some particles of one box size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubtomogramImages:
    """Volumes or tilt stacks with a file per particle.

    Attributes
    ----------
    source : reader that fits the form
    copies : files that are read in place of others
    states : files that must stay as they were, and how
    """

    source: SubtomogramVolumes | TiltStacks
    copies: Mapping[Path, Path] = field(default_factory=dict)
    states: Mapping[Path, FileState] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def box_sizes(self) -> np.ndarray:
        """(n,) box size in pixels."""
        return self.source.box_sizes

    @property
    def files(self) -> tuple[Path, ...]:
        """All files, those with CTF and multiplicity included, each once."""
        return tuple(dict.fromkeys((*self.source.files, *self._weight_files)))

    @property
    def n_byte(self) -> int:
        """Memory that images and weights take as float32."""
        if isinstance(self.source, TiltStacks) or self.source.weight_files is None:
            return self.source.n_byte
        n = self.source.box_sizes
        return self.source.n_byte + int((2 * n * n * (n // 2 + 1)).sum()) * 4

    @property
    def n_images(self) -> int:
        """Volumes, or tilt images of all stacks together."""
        return int(self.source.n_images.sum()) if isinstance(self.source, TiltStacks) else len(self)

    @property
    def is_volume(self) -> bool:
        """Whether particles are volumes."""
        return isinstance(self.source, SubtomogramVolumes)

    @property
    def has_weights(self) -> bool:
        """Whether there are volumes of CTF and multiplicity."""
        return bool(self._weight_files)

    @property
    def _weight_files(self) -> Sequence[Path]:
        return () if isinstance(self.source, TiltStacks) else self.source.weight_files or ()

    def place(self, row: int) -> ImagePlace:
        """Return the file of one particle, which is all of it: slice 0."""
        return ImagePlace(file=str(self.source.files[row]), slice=0)

    def file_order(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows as they are."""
        return rows

    def read(self, indices: np.ndarray) -> np.ndarray | Sequence[np.ndarray]:
        """Return volumes (n, N, N, N) of one box size, or n tilt stacks (n_visible, N, N); float32."""
        rows = np.asarray(indices, np.int64).tolist()
        for path in {self.source.files[row] for row in rows} & self.states.keys():
            self.states[path].check(path)
        if isinstance(self.source, TiltStacks):
            return [self.source.read(row, self.copies) for row in rows]
        return self.source.read(rows, self.copies)

    def read_weights(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return CTF² and multiplicity of volumes, (n, N, N, N // 2 + 1) each."""
        if isinstance(self.source, TiltStacks):
            raise ValueError("tilt stacks have no CTF volumes")
        read = self.source.read_weights(np.asarray(indices, np.int64), self.copies)
        return read.ctf2, read.multiplicity

    def with_copies(self, copies: Mapping[Path, Path]) -> SubtomogramImages:
        """Return the same particles, read from copies of their files."""
        return SubtomogramImages(source=self.source, copies=copies)

    def watched(self) -> SubtomogramImages:
        """Return the same particles; a file that is changed from now on is noticed when it is read."""
        return SubtomogramImages(
            source=self.source, copies=self.copies, states={path: FileState.of(path) for path in self.files}
        )
