"""Both passes of a batch of images or volumes at once, the counterpart of ``block`` on devices.

Weighted images are added to the device's sums at once; of every particle only numbers come back.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from napari_autorefine.engine.batch_fine import fine_pass, posteriors
from napari_autorefine.engine.batch_first import Batch, FirstFound, first_pass_of_batch, similar
from napari_autorefine.engine.batch_sums import sums_of_group
from napari_autorefine.engine.device_sums import DeviceSums
from napari_autorefine.engine.grids import N_CHILD
from napari_autorefine.engine.second_pass import ParticleResult


def search_batch(batch: Batch, sums: DeviceSums) -> Iterator[dict[int, ParticleResult]]:
    """Search a batch and add its images to the sums; yields results by row, those of a group when it has been added."""
    for found in first_pass_of_batch(batch):
        geometry, n_fine_shift = batch.search.block.geometry, batch.grid.n_child_shift
        n_o = N_CHILD * found.kept.n_rotation
        n_t = n_fine_shift * found.kept.n_shift
        n_byte = 32 * (n_o + n_t) * geometry.samples.n_sample + 24 * n_o * n_t + 600 * n_o
        for places in similar(n_o, n_byte, batch.room):
            yield _search_group(batch, found, places, sums)


def _search_group(batch: Batch, found: FirstFound, places: np.ndarray, sums: DeviceSums) -> dict[int, ParticleResult]:
    fine = fine_pass(batch, found, places)
    numbers, weighted = sums_of_group(batch, fine, posteriors(batch, fine))
    results = numbers.results(batch, fine, found.kept.count[places])
    sums.add_group(batch.search.block.geometry.index, weighted)
    return results
