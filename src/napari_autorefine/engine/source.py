"""What blocks of particles are made from, how a half-set is cut into them, and what files hold of a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_autorefine.engine.problem import ReadImages, RefineOptions, TomogramData
from napari_autorefine.engine.setup import Setup
from napari_autorefine.engine.state import Poses
from napari_autorefine.engine.tilt_stacks import TiltGeometry
from napari_autorefine.model.particles import Particles
from napari_autorefine.xp import REAL, beside


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSource:
    """Everything blocks are made from; the same for the whole iteration.

    Attributes
    ----------
    tomogram_data : what volumes and tilt stacks bring besides their images
    tilts : how tilt stacks see their particles
    """

    particles: Particles
    poses: Poses
    read_images: ReadImages
    options: RefineOptions
    scale_group: np.ndarray
    tomogram_data: TomogramData | None = None
    tilts: TiltGeometry | None = None

    @classmethod
    def of(cls, setup: Setup, poses: Poses) -> BlockSource:
        """Return the source of a refinement's blocks."""
        problem = setup.problem
        return cls(
            particles=problem.particles,
            poses=poses,
            read_images=problem.read_images,
            options=setup.options,
            scale_group=setup.scale_group,
            tomogram_data=problem.tomogram_data,
            tilts=setup.tilts,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RawParticles:
    """What files hold of some particles: images or volumes in one array, or a stack per particle; and weights."""

    images: Any = None
    ctf: Any | None = None
    multiplicity: Any | None = None

    def part(self, part: slice) -> RawParticles:
        """Return some of them."""
        return RawParticles(
            images=self.images[part],
            ctf=None if self.ctf is None else self.ctf[part],
            multiplicity=None if self.multiplicity is None else self.multiplicity[part],
        )

    def only(self, rows: np.ndarray) -> RawParticles:
        """Return those of some rows, ascending; nothing is copied when these follow each other."""
        if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
            return self.part(slice(int(rows[0]), int(rows[-1]) + 1))
        return RawParticles(
            images=[self.images[i] for i in rows] if isinstance(self.images, list) else _rows_of(self.images, rows),
            ctf=None if self.ctf is None else _rows_of(self.ctf, rows),
            multiplicity=None if self.multiplicity is None else _rows_of(self.multiplicity, rows),
        )


def _rows_of(values: Any, rows: np.ndarray) -> Any:
    return values[beside(rows, values)]


def read_raw(source: BlockSource, indices: np.ndarray) -> RawParticles:
    """Read the images of a block, and the weights of volumes."""
    images = source.read_images(indices)
    if source.tilts is not None:
        return RawParticles(images=[np.asarray(stack, dtype=REAL) for stack in images])
    ctf, multiplicity = read_weights(source, indices)
    return RawParticles(images=np.asarray(images, dtype=REAL), ctf=ctf, multiplicity=multiplicity)


def read_weights(source: BlockSource, indices: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Read CTF and multiplicity volumes of volumes; None for what there is not."""
    data = source.tomogram_data
    if data is None or data.read_weights is None or not source.options.ctf:
        return None, None
    return data.read_weights(indices)


def cut_into_blocks(order: np.ndarray, optics_index: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut particle indices, in the given order, into blocks of one optics group and at most ``size`` particles.

    The cut depends on the order alone, never on the number of threads.
    """
    blocks = []
    for group in np.unique(optics_index[order]):
        own = order[optics_index[order] == group]
        blocks += [own[start : start + size] for start in range(0, len(own), size)]
    return blocks
