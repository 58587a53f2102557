"""First pass of a batch of images or volumes at once, the counterpart of ``first_pass`` on devices.

A batch is cut into parts whose slices fit into the room there is; of each part comes a :class:`FirstFound`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from napari_autorefine.engine.batch_candidates import BatchCandidates, FlaggedCandidates, ListedCandidates
from napari_autorefine.engine.batch_pose import ResidentGrid, kernel_matrices
from napari_autorefine.engine.batch_shifts import Trials, correlations, log_likelihoods
from napari_autorefine.engine.batch_weights import Kept, keep, only_winners, ranking, significant
from napari_autorefine.engine.context import SamplePart
from napari_autorefine.engine.expectation import make_slices
from napari_autorefine.engine.first_pass import CROWDED, PARENT_REACH, reach_of
from napari_autorefine.engine.images import PreparedImages
from napari_autorefine.engine.search import Search
from napari_autorefine.engine.slices import SharedSlices
from napari_autorefine.kernels.positions import set_positions
from napari_autorefine.kernels.residuals import Compared
from napari_autorefine.xp import array_module, beside, to_host

SPARE_BYTES = 256 << 20  # what a GPU works through while the launches of a group are made
_N_RANKED = 16  # particles that are scored in both ways before TF32 is used


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A block that is searched as a whole, and what that needs where the block is.

    Attributes
    ----------
    room : bytes that slices and what is made from them may take at a time
    fast : products of the first pass in TF32
    priors : (n, n_trans) float32, log priors of the coarse shifts
    compared : the images and what their residuals are summed with
    """

    search: Search
    grid: ResidentGrid
    room: int
    fast: bool
    priors: Any
    compared: Compared

    @property
    def images(self) -> PreparedImages:
        """Images of the block."""
        images = self.search.block.images
        assert images is not None
        return images

    @property
    def xp(self) -> Any:
        """Module of the block's arrays."""
        return array_module(self.images.masked)

    def score_weight(self, rows: Any, part: SamplePart) -> Any:
        """Inverse noise variances (n, n_sample) of some images' samples as they are scored."""
        weight = self.search.block.model.score_weight[None, part.where]
        if self.search.settings.is_cc:
            weight = (weight > 0).astype(np.float32)
        if self.images.precision is not None:
            return weight * self.images.precision[rows, part.where]
        return self.xp.repeat(weight, len(rows), axis=0)


def make_batch(search: Search, grid: ResidentGrid, *, room: int) -> Batch:
    """Return a block as a batch; see ``Batch``."""
    block = search.block
    total = block.old_origin_A[:, None] + search.grid.shifts_A - block.origin_prior_A[:, None]
    priors = (-0.5 * (total**2).sum(axis=2) / block.half.sigma_offset_A**2).astype(np.float32)
    if search.settings.is_cc:
        priors[:] = 0.0
    like, images, half = block.geometry.background, block.images, block.half
    assert images is not None
    compared = Compared(
        masked=images.masked,
        contrast=images.contrast,
        ctf=images.model_ctf,
        score_weight=block.model.score_weight,
        precision=images.precision,
        shell=beside(block.geometry.model_shell.astype(np.int32), like),
        use_for_scale=beside(half.use_for_scale, like),
        use_for_intensity=beside(half.use_for_intensity, like),
    )
    return Batch(search=search, grid=grid, room=room, fast=False, priors=beside(priors, like), compared=compared)


def can_be_batched(search: Search) -> bool:
    """Tell whether all particles of a block have one form, and tables of shifts."""
    geometry = search.block.geometry
    bases = [geometry.whole.shifts, geometry.screen_shifts, geometry.coarse_shifts]
    bases += [] if geometry.ring_shifts is None else [geometry.ring_shifts]
    return search.block.images is not None and all(b.ramps is not None or b.functions is not None for b in bases)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstFound:
    """What the first pass finds of some particles of a batch.

    Attributes
    ----------
    rows : (n,) particles, on the host
    kept : what is to be refined
    orientations : (n, n_r) int64, orientations of the grid at the kept positions
    log_prior : (n, n_r) float32, of these, and what weights are multiplied by for orientations that were not drawn
    """

    rows: np.ndarray
    kept: Kept
    orientations: Any
    log_prior: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Some particles and the orientations each is compared with; -inf as a prior leaves one out.

    Attributes
    ----------
    rows : (n,) on the host
    orientations : (n, n_rot) int64
    log_prior : (n, n_rot) float32
    """

    rows: np.ndarray
    orientations: Any
    log_prior: Any


def first_pass_of_batch(batch: Batch) -> Iterator[FirstFound]:
    """Coarse search of all particles of a batch."""
    search, xp = batch.search, batch.xp
    priors, shared = batch.priors, search.shared
    candidates: BatchCandidates | None
    if shared is None:
        candidates = ListedCandidates.of_search(search, priors)
    else:
        log_prior = np.repeat(search.block.half.log_pdf_direction, search.grid.orientations.n_psi)
        candidates = _near_parents(batch, shared, log_prior)
        if candidates is None:
            yield _whole_grid(batch, shared, log_prior, priors)
            return
    for part in _parts(batch, candidates):
        rows = xp.asarray(part.rows)
        yield _screened(batch, part, rows, priors[rows])


def _whole_grid(batch: Batch, shared: SharedSlices, log_prior: np.ndarray, priors: Any) -> FirstFound:
    """Compare all particles with the whole grid."""
    search, xp = batch.search, batch.xp
    scores = _table_scores(batch, shared)
    of_rotation = xp.asarray(np.zeros_like(log_prior) if search.settings.is_cc else log_prior)
    n_rot, n, n_trans = scores.shape
    own = xp.empty((n, n_rot, n_trans), dtype=np.float32)
    xp.add(scores.transpose(1, 0, 2), of_rotation[None, :, None], out=own)
    del scores
    own += priors[:, None, :]
    numbers = xp.arange(n_rot, dtype=np.int64)
    kept = _select(own, batch, numbers, np.arange(n))
    return FirstFound(
        rows=np.arange(len(own)),
        kept=kept,
        orientations=kept.positions,
        log_prior=of_rotation[kept.positions] + kept.log_factor,
    )


def ranking_of_batch(batch: Batch) -> tuple[float, float] | None:
    """How scores in TF32 rank the samples of a few particles, see ``ranking``; None where there are no such scores."""
    search, n = batch.search, _N_RANKED
    if search.shared is None or search.settings.is_cc:
        return None
    block, table, shifts = search.block, search.shared.table, search.block.geometry.coarse_shifts
    if search.shared.parents is not None:
        table, shifts = search.shared.parents.table, block.geometry.screen_shifts
    images = replace(
        batch.images,
        masked=batch.images.masked[:n],
        contrast=batch.images.contrast[:n],
        precision=None if batch.images.precision is None else batch.images.precision[:n],
    )
    exact, fast = (
        table.scores(images, block.model, shifts, is_cc=False, fast=fast).transpose(1, 0, 2) + batch.priors[:n, None, :]
        for fast in (False, True)
    )
    return ranking(exact, fast, search.settings.fraction)


def _table_scores(batch: Batch, shared: SharedSlices) -> Any:
    block, settings = batch.search.block, batch.search.settings
    return shared.table.scores(
        batch.images, block.model, block.geometry.coarse_shifts, is_cc=settings.is_cc, fast=batch.fast
    )


def _near_parents(batch: Batch, shared: SharedSlices, log_prior: np.ndarray) -> FlaggedCandidates | None:
    """Orientations worth comparing for each particle; None without parents or when there are too many."""
    block, parents = batch.search.block, shared.parents
    if parents is None:
        return None
    scores = parents.table.scores(batch.images, block.model, block.geometry.screen_shifts, is_cc=False, fast=batch.fast)
    best = (scores + batch.priors[None]).max(axis=2)
    alive = best > best.max(axis=0)[None] - np.float32(PARENT_REACH)
    found = FlaggedCandidates.children(parents, alive, log_prior)
    return None if found.sizes.sum() > CROWDED * len(found.sizes) * len(shared.dir_idx) else found


def _parts(batch: Batch, candidates: BatchCandidates) -> Iterator[_Part]:
    """Cut a batch into parts of particles with about as many candidates, which are compared together."""
    samples, n_trans = batch.search.block.geometry.samples, len(batch.search.grid.shifts_A)
    per_rotation = 8 * max(samples.n_screen, samples.n_coarse - samples.n_screen) + 24 * n_trans + 200
    for rows in similar(candidates.sizes, candidates.sizes * per_rotation, batch.room):
        orientations, log_prior = candidates.of(rows)
        yield _Part(rows=rows, orientations=orientations, log_prior=log_prior)


def similar(sizes: np.ndarray, n_byte: np.ndarray, room: int, *, spare: int = SPARE_BYTES) -> list[np.ndarray]:
    """Group rows so that a group, every row as large as its largest, fits into ``room`` bytes and wastes little.

    Rows of about equal size go together; others do, too, as long as what is added to all of a group to make it equal
    takes less time than the launches of another group.

    Parameters
    ----------
    sizes : (n,) of the rows
    n_byte : (n,) bytes that each needs by itself
    room : bytes; a single row may need more
    spare : bytes that may be added to a group
    """
    groups: list[list[int]] = []
    added = 0
    for row in np.argsort(-sizes, kind="stable").tolist():
        if groups:
            own = groups[-1]
            waste = int(n_byte[own[0]] - n_byte[row])
            is_alike = sizes[row] >= 0.6 * sizes[own[0]] - 4 or added + waste <= spare
            if is_alike and (len(own) + 1) * n_byte[own[0]] <= room:
                own.append(row)
                added += waste
                continue
        groups.append([row])
        added = 0
    return [np.array(own) for own in groups]


def _screened(batch: Batch, part: _Part, rows: Any, priors: Any) -> FirstFound:
    """Compare particles with their candidates on the low frequencies first; see ``first_pass``."""
    search, xp = batch.search, batch.xp
    geometry, settings = search.block.geometry, search.settings
    scores = _part_scores(batch, geometry.screen, rows, part.orientations)
    scores += part.log_prior[:, :, None]
    scores += priors[:, None, :]
    ids, log_prior = part.orientations, part.log_prior
    if geometry.ring is not None and not settings.is_cc:
        best = scores.max(axis=2)
        alive = best > best.max(axis=1)[:, None] - _reach(batch, rows)[:, None]
        chosen = set_positions(alive, int(to_host(alive.sum(axis=1)).max()))
        is_alive = xp.take_along_axis(alive, chosen, axis=1)
        ids = xp.take_along_axis(ids, chosen, axis=1)
        log_prior = xp.where(is_alive, xp.take_along_axis(log_prior, chosen, axis=1), np.float32(-np.inf))
        scores = xp.take_along_axis(scores, chosen[:, :, None], axis=1)
        scores += _part_scores(batch, geometry.ring, rows, ids)
        scores = xp.where(is_alive[:, :, None], scores, np.float32(-np.inf))
    kept = _select(scores, batch, ids, part.rows)
    return FirstFound(
        rows=part.rows,
        kept=kept,
        orientations=xp.take_along_axis(ids, kept.positions, axis=1),
        log_prior=xp.take_along_axis(log_prior, kept.positions, axis=1) + kept.log_factor,
    )


def _reach(batch: Batch, rows: Any) -> Any:
    """How far below the best on the screening disc orientations may lie (n,); see ``first_pass``."""
    block, ring = batch.search.block, batch.search.block.geometry.ring
    assert ring is not None
    power = block.model.expected_power[None, ring.where]
    gain = 0.5 * batch.images.contrast[rows, ring.where] ** 2 * batch.score_weight(rows, ring) * power
    reach = reach_of(gain.sum(axis=1))
    return reach if batch.search.local is not None else batch.xp.minimum(reach, np.float32(PARENT_REACH))


def _part_scores(batch: Batch, part: SamplePart, rows: Any, orientations: Any) -> Any:
    """Log-likelihoods, or correlations, of particles with orientations (n, n_rot) of their own; (n, n_rot, n_trans)."""
    n, n_rot = orientations.shape
    slices = _slices(batch, part, orientations.reshape(-1)).reshape(n, n_rot, -1)
    masked, contrast = batch.images.masked[rows, part.where], batch.images.contrast[rows, part.where]
    trials, weight = Trials.at(part.shifts, masked), batch.score_weight(rows, part)
    if batch.search.settings.is_cc:
        return correlations(slices, trials, masked, contrast, weight)
    return log_likelihoods(slices, trials, contrast, weight)


def _slices(batch: Batch, part: SamplePart, orientations: Any) -> Any:
    """Slices (n, n_sample) of orientations (n,), from the shared table or the reference."""
    search = batch.search
    table = None if search.shared is None else search.shared.coarse
    if table is not None:
        return table[:, part.where][orientations]
    half, geometry = search.block.half, search.block.geometry
    matrices = kernel_matrices(batch.grid.coarse_rotations(orientations), geometry.frequency_matrix)
    return make_slices(half.reference, matrices, part.rows, part.n_sample, half.r2_max)


def _select(scores: Any, batch: Batch, numbers: Any, rows: np.ndarray) -> Kept:
    """Pick what is to be refined by log scores (n, n_rot, n_trans), which are used up, of orientations by number."""
    settings, particles = batch.search.settings, batch.search.block.particles[rows]
    if settings.is_cc:
        weights, _ = only_winners(scores)
    else:
        weights, _, _ = significant(scores, settings.fraction, settings.max_significant)
    return keep(weights, settings.most_rotations, numbers, batch.xp.asarray(particles))
