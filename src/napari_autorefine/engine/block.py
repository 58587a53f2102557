"""One block of particles through an iteration: search and sum. Pure: the result depends on the block alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from napari_autorefine.engine.first_pass import first_pass
from napari_autorefine.engine.image_search import can_be_compiled, search_images
from napari_autorefine.engine.search import Search
from napari_autorefine.engine.second_pass import ParticleResult, second_pass


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockResult:
    """Results of a block, particle by particle, in the block's order."""

    half: int
    group: int
    particles: np.ndarray
    scale_group: np.ndarray
    norm: np.ndarray
    results: tuple[ParticleResult, ...]


def search_particles(search: Search) -> Iterator[ParticleResult]:
    """Search the particles of a block one after the other, in the block's order."""
    if can_be_compiled(search):
        yield from search_images(search)
        return
    for i, (candidates, kept) in enumerate(first_pass(search)):
        yield second_pass(search, i, candidates, kept)
